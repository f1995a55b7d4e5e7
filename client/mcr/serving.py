"""The nouns of what a fleet runs: receipts, and what is loaded by them. Pure values."""

from collections.abc import Sequence

from mcr.model import LogIndex
from mcr.values import dataclass


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a consumer said of a version.

    Attributes:
        consumer, rank: the process, or the rank of the job, that said it.
        state: `loaded`; `failed`: it could not be loaded, so what was loaded before stayed; `gone`: the
            consumer ended.
        version_id: 64 hexadecimal characters.
        channel, generation: that told the consumer to load it; "" and 0 when none did.
        log_index: where it stands in the log.
    """

    consumer: str
    rank: int
    state: str
    number: int
    version_id: str
    channel: str
    generation: int
    principal: str
    at_ms: int
    log_index: LogIndex


@dataclass(frozen=True, slots=True)
class Serving:
    """What a consumer has loaded, by its own receipts.

    Attributes:
        number, version_id: what is loaded; 0 and "" when nothing is.
        channel, generation: that told the consumer to load it; "" and 0 when none did.
        since_ms: when that was said first.
        heard_ms: its last sign of life.
        last: its last receipt, which may be that of a version that failed to load.
    """

    consumer: str
    rank: int
    number: int
    version_id: str
    channel: str
    generation: int
    since_ms: int
    heard_ms: int
    last: Receipt


@dataclass(frozen=True, slots=True)
class Served:
    """What the consumers of a model have loaded.

    Attributes:
        servings: by consumer and rank; also of those that have nothing loaded any more.
        complete: nothing that belongs here is known to be forgotten; only the far past can be.
    """

    servings: Sequence[Serving]
    complete: bool
