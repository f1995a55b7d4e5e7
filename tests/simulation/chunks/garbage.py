"""What garbage collection keeps on disk, in memory: `ports_garbage.GarbageFolder`."""

from collections.abc import Iterator, Sequence

from mcr.model import ChunkId
from tests.simulation.cluster.world import World


class MemoryIdSet:
    """A set of ids."""

    def __init__(self) -> None:
        self._ids: dict[ChunkId, None] = {}

    def add(self, ids: Sequence[ChunkId]) -> None:
        self._ids |= dict.fromkeys(ids)

    def among(self, ids: Sequence[ChunkId]) -> set[ChunkId]:
        return {one for one in ids if one in self._ids}

    def drop(self) -> None:
        self._ids = {}


class MemoryJournal:
    """What was touched, by round; some of it is gone with the power."""

    def __init__(self) -> None:
        self._rounds: dict[int, list[ChunkId]] = {}

    def append(self, in_round: int, ids: Sequence[ChunkId]) -> None:
        self._rounds.setdefault(in_round, []).extend(ids)

    def read(self, since_round: int) -> Iterator[list[ChunkId]]:
        for in_round, ids in list(self._rounds.items()):
            if in_round >= since_round:
                yield list(ids)

    def forget(self, before_round: int) -> None:
        self._rounds = {key: ids for key, ids in self._rounds.items() if key >= before_round}

    def close(self) -> None:
        """Nothing is open."""

    def crash(self, world: World) -> None:
        if world.happens(500):
            self._rounds = {}


class MemoryGarbage:
    """Both, of one node."""

    def __init__(self) -> None:
        self.journal = MemoryJournal()

    def new_set(self, name: str) -> MemoryIdSet:
        return MemoryIdSet()
