"""What every command carries."""

from mcr.model import RequestId
from mcr.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """What every command carries.

    Attributes:
        request_id: 1 to 64 bytes, chosen by the caller. A retry with the same content returns the first
        outcome. principal: who asks, as authenticated by the node that proposes.
        at_ms: proposal time, milliseconds since 1970 UTC. Log time is the greatest of these so far.
    """

    request_id: RequestId
    principal: str
    at_ms: int
