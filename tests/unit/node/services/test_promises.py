"""What a node said it holds is not forgotten before the next mark."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from mcr.errors import OutOfSpaceError
from mcr.model import Chunk, ChunkId
from mcr_node.services import promises as module
from mcr_node.services.promises import Promises, PromisingStore, TooManyPromisesError
from mcr_node.storage.garbage_folder import GarbageFiles
from tests.conformance.memory_chunk_store import MemoryChunkStore

CHUNKS = [Chunk.of(b"%d" % number) for number in range(8)]
IDS = [chunk.id for chunk in CHUNKS]


class Node:
    """A store with promises, in a round that the test turns."""

    def __init__(self, path: Path) -> None:
        self.round = 0
        self.store = MemoryChunkStore()
        self.files = GarbageFiles(path)
        self.promises = Promises(self.store, self.files.journal, lambda: self.round)
        self.put = PromisingStore(self.store, self.promises).put

    def sweep(self, ids: Sequence[ChunkId]) -> list[ChunkId]:
        return self.promises.sweep(self.round, ids, self.store.remove)

    def touched(self, since: int) -> set[ChunkId]:
        return {one for page in self.files.journal.read(since) for one in page}


@pytest.fixture
def node(tmp_path: Path) -> Node:
    made = Node(tmp_path)
    made.store.put(CHUNKS)
    return made


def test_what_was_promised_during_a_sweep_is_left_out_of_it(node: Node) -> None:
    node.promises.begin_sweep(0)

    promise = node.promises.promise(IDS[:2])

    assert (promise.missing, promise.gc_round) == (set(), 0)
    assert node.sweep(IDS[:4]) == IDS[2:4]
    assert node.promises.promise(IDS[:4]).missing == set(IDS[2:4])


def test_what_is_put_again_during_a_sweep_is_left_out_of_it(node: Node) -> None:
    node.promises.begin_sweep(0)

    node.put(CHUNKS[:1])

    assert node.sweep(IDS[:2]) == IDS[1:2]


def test_what_was_promised_before_a_sweep_stands_in_the_journal(node: Node) -> None:
    node.promises.promise(IDS[:2])
    node.round = 1
    node.put(CHUNKS[2:3])

    assert node.touched(0) == set(IDS[:3])
    assert node.touched(1) == set(IDS[2:3])


def test_a_sweep_goes_on_in_the_next_round_and_leaves_out_what_is_promised_there(node: Node) -> None:
    node.promises.begin_sweep(0)
    node.promises.promise(IDS[:1])
    node.round = 1
    node.promises.promise(IDS[1:2])

    assert node.promises.sweep(0, IDS[:3], node.store.remove) == IDS[2:3]


def test_nothing_is_swept_in_a_round_whose_promises_are_not_all_known(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(in_round: int, ids: Sequence[ChunkId]) -> None:
        raise OutOfSpaceError("journal", "full")

    monkeypatch.setattr(node.files.journal, "append", full)
    node.promises.promise(IDS[:1])

    with pytest.raises(TooManyPromisesError):
        node.promises.begin_sweep(0)
    monkeypatch.undo()
    node.round = 1
    node.promises.begin_sweep(1)
    assert node.sweep(IDS[:1]) == IDS[:1]


def test_a_sweep_that_meets_too_many_promises_ends(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RECENT_MAX", 2)
    node.promises.begin_sweep(0)
    node.promises.promise(IDS[:3])

    with pytest.raises(TooManyPromisesError):
        node.sweep(IDS[4:])


class Cluster(RuleBasedStateMachine):
    """Two nodes, one log of marks and commits, sweeps at any time: the whole safety case in small.

    Each node hears of the log when it likes. A commit names the least round that was promised, and is refused
    in another one. A node that restarts forgets what it promised, and sweeps in no round begun before.
    """

    def __init__(self) -> None:
        super().__init__()
        import tempfile

        self._folder = tempfile.TemporaryDirectory()
        self.nodes = [Node(Path(self._folder.name) / str(number)) for number in range(2)]
        self.floors = [-1, -1]
        self.sweeping: list[tuple[int, set[ChunkId]] | None] = [None, None]
        # What the log decided: the present round, and the versions with the round of their acceptance.
        self.log_round = 0
        self.versions: list[tuple[int, ChunkId, tuple[int, ...]]] = []
        self.sealing: tuple[int, ChunkId, tuple[int, ...]] | None = None
        for node in self.nodes:
            node.store.put(CHUNKS)
            node.store.sync()

    def teardown(self) -> None:
        for node in self.nodes:
            node.files.journal.close()
        self._folder.cleanup()

    @rule(at=st.integers(0, 1))
    def hear(self, at: int) -> None:
        self.nodes[at].round = self.log_round

    @rule()
    def mark(self) -> None:
        self.log_round += 1

    @rule(chunk=st.integers(0, 1), on=st.sampled_from([(0,), (1,), (0, 1)]))
    def seal(self, chunk: int, on: tuple[int, ...]) -> None:
        rounds = []
        for at in on:
            promise = self.nodes[at].promises.promise([IDS[chunk]])
            if promise.missing:
                self.nodes[at].put([CHUNKS[chunk]])
                self.nodes[at].store.sync()
            rounds.append(promise.gc_round)
        self.sealing = min(rounds), IDS[chunk], on

    @rule()
    def commit(self) -> None:
        if self.sealing is not None and self.sealing[0] == self.log_round:
            self.versions.append(self.sealing)
        self.sealing = None

    @rule(at=st.integers(0, 1))
    def begin_sweep(self, at: int) -> None:
        node = self.nodes[at]
        if node.round <= self.floors[at]:
            return
        node.promises.begin_sweep(node.round)
        # The state of this node: what was accepted up to the mark that it heard of last, at least.
        keep = {chunk_id for gc_round, chunk_id, _ in self.versions if gc_round < node.round}
        self.sweeping[at] = node.round, keep | node.touched(node.round)

    @rule(at=st.integers(0, 1))
    def sweep(self, at: int) -> None:
        found = self.sweeping[at]
        if found is None:
            return
        in_round, keep = found
        node = self.nodes[at]
        dead = [chunk_id for chunk_id in IDS[:2] if chunk_id not in keep]
        try:
            node.promises.sweep(in_round, dead, node.store.remove)
        except TooManyPromisesError:
            self.sweeping[at] = None

    @rule(at=st.integers(0, 1))
    def hear_and_sweep(self, at: int) -> None:
        self.hear(at)
        self.begin_sweep(at)
        self.sweep(at)

    @rule(at=st.integers(0, 1))
    def restart(self, at: int) -> None:
        node = self.nodes[at]
        node.files.journal.close()
        # Not even the journal need be there still: it is not synced.
        node.files.journal.forget(self.log_round + 1)
        node.promises = Promises(node.store, node.files.journal, lambda: node.round)
        node.put = PromisingStore(node.store, node.promises).put
        self.floors[at] = self.log_round
        self.sweeping[at] = None

    @invariant()
    def versions_have_their_chunks(self) -> None:
        for _, chunk_id, on in self.versions:
            for at in on:
                assert self.nodes[at].store.missing([chunk_id]) == set()


Cluster.TestCase.settings = settings(max_examples=200, stateful_step_count=30, deadline=None)
TestNothingThatIsCountedOnIsSwept = Cluster.TestCase
