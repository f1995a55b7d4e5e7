"""Upload sessions as values, and mcr.v1 messages about them."""

from typing import Literal

from mcr.v1 import sessions_pb2 as pb
from mcr.values import dataclass

SessionState = Literal["open", "sealed", "aborted", "expired"]
_STATES: dict[int, SessionState] = {
    pb.SESSION_STATE_OPEN: "open",
    pb.SESSION_STATE_SEALED: "sealed",
    pb.SESSION_STATE_ABORTED: "aborted",
    pb.SESSION_STATE_EXPIRED: "expired",
}


@dataclass(frozen=True, slots=True)
class SessionStatus:
    """An upload session, as it stands at one log index.

    Attributes:
        branch, description: of the version to be.
        expires_at_ms: it takes nothing more after this time, unless a part comes before.
        ended_at_ms: 0 while it is open.
        part_count, file_count, bytes_total: of the parts that were put.
        number: the version it became; 0 = none.
        reason: why it was aborted.
    """

    model: str
    name: str
    state: SessionState
    branch: str
    description: str
    creator: str
    begun_at_ms: int
    expires_at_ms: int
    ended_at_ms: int
    part_count: int
    file_count: int
    bytes_total: int
    number: int
    reason: str


@dataclass(frozen=True, slots=True)
class Part:
    """What one writer put into a session: a file, or a folder with all below it.

    Attributes:
        name: its path in the version.
        bytes_sent: of new chunks handed over by this call; chunks_new: how many. 0 in a list.
        already: it was there before.
    """

    name: str
    is_folder: bool
    file_count: int
    bytes_total: int
    principal: str
    at_ms: int
    bytes_sent: int = 0
    chunks_new: int = 0
    already: bool = False


def session_from_wire(message: pb.Session) -> SessionStatus:
    """Read a session."""
    return SessionStatus(
        model=message.model,
        name=message.name,
        # A newer node may know more states; none of them takes parts.
        state=_STATES.get(message.state, "expired"),
        branch=message.branch,
        description=message.description,
        creator=message.creator,
        begun_at_ms=message.begun_at_ms,
        expires_at_ms=message.expires_at_ms,
        ended_at_ms=message.ended_at_ms,
        part_count=message.part_count,
        file_count=message.file_count,
        bytes_total=message.bytes_total,
        number=message.number,
        reason=message.reason,
    )


def part_from_wire(
    message: pb.Part, *, bytes_sent: int = 0, chunks_new: int = 0, already: bool = False
) -> Part:
    """Read a part, and add what a call did."""
    return Part(
        name=message.name,
        is_folder=message.is_folder,
        file_count=message.file_count,
        bytes_total=message.bytes_total,
        principal=message.principal,
        at_ms=message.at_ms,
        bytes_sent=bytes_sent,
        chunks_new=chunks_new,
        already=already,
    )
