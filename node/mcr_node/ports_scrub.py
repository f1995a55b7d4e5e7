"""Where the scrub of a node notes how far it came."""

from typing import Protocol

from mcr.model import ChunkId
from mcr.values import dataclass


@dataclass(frozen=True, slots=True)
class ScrubPlace:
    """How far the scrub of a node came. Kept over restarts, of which there may be several in one period.

    Attributes:
        after: where the run that is under way goes on; None = at the start, or none is under way.
        ended_ms: when a run last came to its end, milliseconds since 1970; 0 = never.
    """

    after: ChunkId | None = None
    ended_ms: int = 0


class ScrubPlaces(Protocol):
    """Where that is kept."""

    def read(self) -> ScrubPlace:
        """Return what was kept; a new one when nothing was, or it cannot be read: then all is read again."""

    def write(self, place: ScrubPlace) -> None:
        """Keep it.

        Raises:
            OutOfSpaceError, DestinationError: it cannot be written.
        """
