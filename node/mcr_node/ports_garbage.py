"""What nodes promise each other to keep, and what garbage collection has on disk, which only saves work."""

from collections.abc import Iterator, Sequence
from typing import Protocol

from mcr.model import ChunkId
from mcr.values import dataclass


@dataclass(frozen=True, slots=True)
class Promise:
    """What a node says it holds.

    Attributes:
        missing: those of the ids asked for that it lacks; the others it keeps until the round ends.
        gc_round: the round of garbage collection in which that holds.
        life: of its process; another one after a restart, when what was not synced may be lost. 0 = it is of
            a release that does not say.
    """

    missing: set[ChunkId]
    gc_round: int
    life: int = 0


class IdSet(Protocol):
    """A set of chunk ids of any size, in bounded memory. One thread at a time."""

    def add(self, ids: Sequence[ChunkId]) -> None:
        """Add ids.

        Raises:
            OutOfSpaceError, FailedError: the set is not complete; drop it.
        """

    def among(self, ids: Sequence[ChunkId]) -> set[ChunkId]:
        """Return those of `ids` that are in the set; cheap where ids come in order.

        Raises:
            OutOfSpaceError, FailedError: it cannot be told.
        """

    def drop(self) -> None:
        """Forget all, and give the space back."""


class TouchJournal(Protocol):
    """Which ids were brought or counted on, by round of garbage collection. One thread at a time."""

    def append(self, in_round: int, ids: Sequence[ChunkId]) -> None:
        """Note ids; it survives the end of this process, though not always the loss of power.

        Raises:
            OutOfSpaceError, FailedError: some may not be noted.
        """

    def read(self, since_round: int) -> Iterator[list[ChunkId]]:
        """Yield what was noted in a round and all later ones, in any order, as of the call or later.

        Raises:
            FailedError: it cannot be read.
        """

    def forget(self, before_round: int) -> None:
        """Drop what was noted in earlier rounds."""

    def close(self) -> None:
        """Release the files."""


class GarbageFolder(Protocol):
    """Where both are."""

    @property
    def journal(self) -> TouchJournal:
        """The journal."""

    def new_set(self, name: str) -> IdSet:
        """Return an empty set, in the place of one of that name."""
