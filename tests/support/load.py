"""Commits by several clients at once, what was acknowledged of them, and whether all of it is still there."""

import random
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import mcr
from mcr.errors import McrError
from mcr.testing import LocalCluster
from tests.support.served import bytes_from

MODEL = "chaos/net"
# A wait that should never be this long; a loaded machine has room.
PATIENCE_S = 120.0


@dataclass(frozen=True)
class Acknowledged:
    """One commit that a client was told of.

    Attributes:
        text: its description, of this one only.
        seed: of its bytes.
    """

    number: int
    version_id: str
    text: str
    seed: int


class Load:
    """Clients that commit to one model, each one commit after the other, until the block ends."""

    def __init__(
        self, cluster: LocalCluster, folder: Path, *, clients: int = 3, length: int = 20_000
    ) -> None:
        self.acknowledged: list[Acknowledged] = []
        # Commits whose outcome a client does not know, by the text of the error.
        self.unknown: Counter[str] = Counter()
        self.failure: BaseException | None = None
        self._cluster = cluster
        self._folder = folder
        self._length = length
        self._ending = threading.Event()
        self._step = threading.Condition()
        self._seeds = 0
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(clients)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join(PATIENCE_S)
        assert not any(thread.is_alive() for thread in self._threads)
        if self.failure is not None:
            raise self.failure

    def wait_more(self, count: int) -> None:
        """Wait until `count` more commits were acknowledged."""
        with self._step:
            wanted = len(self.acknowledged) + count
            reached = self._step.wait_for(
                lambda: len(self.acknowledged) >= wanted or self.failure is not None, PATIENCE_S
            )
        if self.failure is not None:
            raise self.failure
        assert reached, f"{wanted - len(self.acknowledged)} of {count} commits did not come: {self.unknown}"

    def so_far(self) -> list[Acknowledged]:
        """Return what was acknowledged until now."""
        with self._step:
            return list(self.acknowledged)

    def _next_seed(self) -> int:
        with self._step:
            self._seeds += 1
            return self._seeds

    def _run(self, number: int) -> None:
        folder = self._folder / f"client{number}"
        folder.mkdir(parents=True)
        try:
            with self._cluster.connect() as client:
                while not self._ending.is_set():
                    self._commit(client, folder, number)
        except BaseException as error:  # noqa: BLE001 (told to the test, which raises it)
            with self._step:
                self.failure = error
                self._step.notify_all()

    def _commit(self, client: mcr.Client, folder: Path, number: int) -> None:
        seed = self._next_seed()
        (folder / "weights.bin").write_bytes(bytes_from(seed, self._length))
        text = f"client {number} seed {seed}"
        try:
            made = client.model(MODEL).commit(folder, message=text)
        except McrError as error:
            with self._step:
                self.unknown[type(error).__name__] += 1
            return
        with self._step:
            self.acknowledged.append(Acknowledged(made.number, made.id, text, seed))
            self._step.notify_all()


def check_all_there(
    cluster: LocalCluster,
    nodes: Sequence[int],
    acknowledged: Sequence[Acknowledged],
    folder: Path,
    *,
    length: int = 20_000,
    checkouts: Sequence[Acknowledged] | None = None,
    is_quiet: bool = True,
) -> int:
    """Check that every acknowledged commit is there, once, its bytes too, on each of `nodes`.

    Args:
        cluster: whole.
        nodes: which are asked.
        acknowledged: what must be there.
        folder: scratch room.
        length: of the committed file.
        checkouts: whose bytes are read, each from one node in turn; None = of all.
        is_quiet: nobody commits meanwhile, so all nodes must show the same.

    Returns:
        How many versions there are.
    """
    known: set[tuple[tuple[int, str, str], ...]] = set()
    for i in nodes:
        with cluster.connect(i) as client:
            versions = list(client.model(MODEL).all_versions())
        texts = Counter(version.description for version in versions)
        assert max(texts.values(), default=1) == 1, f"doubled: {texts.most_common(3)}"
        there = {(version.number, version.id, version.description) for version in versions}
        lost = [one for one in acknowledged if (one.number, one.version_id, one.text) not in there]
        assert not lost, f"{cluster.nodes[i].name} lost {len(lost)} of {len(acknowledged)}: {lost[:3]}"
        known.add(tuple(sorted(there)))
    assert len(known) == 1 or not is_quiet, "the nodes do not agree"
    clients = [cluster.connect(i) for i in nodes]
    try:
        for position, one in enumerate(acknowledged if checkouts is None else checkouts):
            client = clients[position % len(clients)]
            client.model(MODEL).checkout(f"v{one.number}", folder / "out", verify=True, delete=True)
            assert (folder / "out" / "weights.bin").read_bytes() == bytes_from(one.seed, length), one
    finally:
        for client in clients:
            client.close()
    return len(next(iter(known)))


def check_digests_equal(cluster: LocalCluster, nodes: Sequence[int]) -> None:
    """Check that the nodes hold one state, by its running digest; nothing may be under way."""
    found = set()
    for i in nodes:
        with cluster.connect(i) as client:
            status = client.status()
            found.add((status.applied_index, status.state_digest))
    assert len(found) == 1, f"states differ: {found}"


def some_of(chance: random.Random, acknowledged: Sequence[Acknowledged], count: int) -> list[Acknowledged]:
    """Return up to `count` of them, the newest always among them."""
    if len(acknowledged) <= count:
        return list(acknowledged)
    return [*chance.sample(list(acknowledged[:-1]), count - 1), acknowledged[-1]]
