"""A real cluster on loopback, for tests of programs that use one; its nodes can fail in every way.

    with mcr.testing.LocalCluster(nodes=3) as cluster:
        with cluster.connect() as client:
            client.model("vision/resnet50").commit("ckpt/")
        cluster.kill(cluster.leader())
        cluster.partition([0], [1, 2])
        cluster.heal()

or with pytest, in `conftest.py`:

    cluster = mcr.testing.cluster_fixture(nodes=3, scope="module")

The nodes are processes of `mcr node start`; they need the extra `mcr-store[node]`. Everything is in a
temporary folder and gone when the block ends, however it ends. What they say to each other goes through
proxies in this process, which `partition` cuts; clients reach every node directly.
"""

import json
import os
import random
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import field
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Literal, Self, TypeVar

from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from mcr._local_network import LocalNetwork, free_addresses
from mcr.client import Client, connect
from mcr.errors import DeadlineError, FailedError, InvalidArgumentError, McrError
from mcr.model import ClusterStatus
from mcr.values import dataclass

Result = TypeVar("Result")

NODES_MAX = 9
# Generous: a loaded machine starts a process in seconds.
START_S_MAX = 60.0
# A node gives the calls under way 8 s.
STOP_S_MAX = 30.0
READY_S_MAX = 60.0
# One look at one node; a paused one does not answer.
LOOK_S = 3.0
POLL_S = 0.05
_LOG_TAIL_BYTES = 4_000
_CHUNKS_SUFFIX = ".pack"
_LOOPBACK = "127.0.0.1"


class _NotYetError(Exception):
    """What is waited for is not so yet; says what is missing."""


@dataclass(slots=True)
class LocalNode:
    """One node; started again, it listens where it listened before.

    Attributes:
        name: in the cluster.
        address: `host:port` for clients.
        data: its folder.
        log: where its stderr goes.
        environment: what it is told beside this process's own.
    """

    name: str
    address: str
    data: Path
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    process: "subprocess.Popen[str] | None" = field(default=None, repr=False)
    paused: bool = False

    @property
    def pid(self) -> int:
        """Its process id.

        Raises:
            FailedError: it does not run.
        """
        if self.process is None:
            raise FailedError(f"pid of {self.name}", "it does not run; start it first")
        return self.process.pid

    @property
    def is_running(self) -> bool:
        """Whether its process is there and not paused."""
        return self.process is not None and self.process.poll() is None and not self.paused

    def process_signal(self, number: signal.Signals) -> None:
        """Send its process a signal."""
        os.kill(self.pid, number)

    def talk(self) -> str:
        """Return the end of what it said on stderr."""
        return self.log.read_bytes()[-_LOG_TAIL_BYTES:].decode(errors="replace") if self.log.exists() else ""


class LocalCluster:
    """Some nodes on loopback: a context manager. Nodes are called n1, n2 … and meant by index, from 0."""

    # What this interpreter runs as `mcr`.
    _program: tuple[str, ...] = ("-m", "mcr.cli.main")

    def __init__(
        self,
        nodes: int = 3,
        *,
        heartbeat_ms: int = 100,
        election_ms: int = 1000,
        options: tuple[str, ...] = (),
        partitions: bool = True,
        settings: Mapping[str, int] | None = None,
        sites: tuple[str, ...] = (),
    ) -> None:
        """Note what to start; nothing runs before the block begins.

        Args:
            nodes: how many, 1 to 9.
            heartbeat_ms: between signs of life of the leader.
            election_ms: silence after which another node asks for votes. Shorter makes a failure over sooner,
                and on a busy machine more often without need.
            options: further ones of `mcr node start`, for every node.
            partitions: nodes reach each other through a proxy in this process, so that `partition` works.
                False for measurements, which it would slow down.
            settings: further keys of their settings file, such as `repair_silence_s`.
            sites: where each node stands; all in one site by default.

        Raises:
            InvalidArgumentError: too few or too many nodes, or not one site for each.
        """
        if sites and len(sites) != nodes:
            raise InvalidArgumentError("sites", f"there are {len(sites)} for {nodes} nodes")
        if not 0 < nodes <= NODES_MAX:
            raise InvalidArgumentError("nodes", f"{nodes} is not between 1 and {NODES_MAX}")
        self._count = nodes
        keys = {"heartbeat_ms": heartbeat_ms, "election_ms": election_ms, **(settings or {})}
        self._config = "".join(f"{key} = {value}\n" for key, value in keys.items())
        self._options = options
        self._has_partitions = partitions
        self._sites = sites
        self._folder: TemporaryDirectory[str] | None = None
        self._network: LocalNetwork | None = None
        self.nodes: list[LocalNode] = []

    @property
    def addresses(self) -> str:
        """All addresses with commas between, as `mcr.connect` and `MCR_CLUSTER` take them."""
        return ",".join(node.address for node in self.nodes)

    @property
    def folder(self) -> Path:
        """The temporary folder: room for a test's own files too."""
        assert self._folder is not None, "inside the with block"
        return Path(self._folder.name)

    def __enter__(self) -> Self:
        self._folder = TemporaryDirectory(prefix="mcr-cluster-")
        try:
            (self.folder / "node.toml").write_text(self._config)
            if self._has_partitions:
                self._network = LocalNetwork()
            for address in free_addresses(self._count):
                self._add(address)
            self.wait_ready()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _add(self, address: str) -> None:
        name = f"n{len(self.nodes) + 1}"
        environment = {} if self._network is None else self._network.join(name, address)
        node = LocalNode(name, address, self.folder / name, self.folder / f"{name}.log", environment)
        others = self.addresses
        self.nodes.append(node)
        self._launch(node, *(["--join", others] if others else ["--bootstrap"]))

    def close(self) -> None:
        """End all nodes at once and remove the folder; may be called twice."""
        for node in self.nodes:
            _end(node, signal.SIGKILL)
        self.nodes = []
        if self._network is not None:
            self._network.close()
            self._network = None
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def connect(self, i: int | None = None, *, timeout_s: float | None = None) -> Client:
        """Connect to the cluster, or to one node only."""
        return connect(self.addresses if i is None else self.nodes[i].address, timeout_s=timeout_s)

    def add(self) -> int:
        """Start one more node, which joins the others; returns its index once it serves.

        It follows and has no vote yet; `wait_ready` waits until it has.
        """
        if len(self.nodes) == NODES_MAX:
            raise InvalidArgumentError("nodes", f"there are {NODES_MAX} already")
        (address,) = free_addresses(1)
        self._add(address)
        return len(self.nodes) - 1

    # ---- failures ----

    def kill(self, i: int) -> None:
        """End a node by SIGKILL: it saves nothing."""
        _end(self.nodes[i], signal.SIGKILL)

    def stop(self, i: int) -> None:
        """End a node in order, by SIGTERM.

        Raises:
            FailedError: its exit status was not 0, or it did not end in time and was killed.
        """
        node = self.nodes[i]
        status = _end(node, signal.SIGTERM)
        if status:
            raise FailedError(f"stopping {node.name}", f"exit status {status}: {node.talk()}")

    def start(self, i: int) -> None:
        """Start a node that was killed or stopped; returns once it serves, perhaps not caught up yet."""
        node = self.nodes[i]
        if node.process is not None and node.process.poll() is None:
            raise FailedError(f"starting {node.name}", "it runs already")
        self._launch(node)

    def pause(self, i: int) -> None:
        """Stop a node's process from running (SIGSTOP): to the others it is silent, its connections stay."""
        self.nodes[i].process_signal(signal.SIGSTOP)
        self.nodes[i].paused = True

    def resume(self, i: int) -> None:
        """Let a paused node run again (SIGCONT)."""
        self.nodes[i].process_signal(signal.SIGCONT)
        self.nodes[i].paused = False

    def partition(self, *groups: int | Sequence[int]) -> None:
        """Cut the network between groups of nodes, in place of an earlier partition.

        Nodes of different groups do not reach each other: what they say waits, connections stay open, new
        ones get no answer. Clients still reach every node.

        Args:
            groups: each a node or several; those that are in none form one more group. `partition(0)` cuts
                off node 0 alone.

        Raises:
            InvalidArgumentError: there is no such node, or it is in two groups; or the cluster was made
                without partitions.
        """
        network = self._network
        if network is None:
            raise InvalidArgumentError("partitions", "this cluster was made without them")
        sides = [[group] if isinstance(group, int) else list(group) for group in groups]
        named = [i for side in sides for i in side]
        if sorted(named) != sorted({i for i in named if 0 <= i < len(self.nodes)}):
            raise InvalidArgumentError(
                "groups", f"{sides} are not groups of nodes 0 to {len(self.nodes) - 1}"
            )
        sides.append([i for i in range(len(self.nodes)) if i not in named])
        names = [[self.nodes[i].name for i in side] for side in sides]
        network.cut(
            (one, other)
            for position, side in enumerate(names)
            for far in names[position + 1 :]
            for one in side
            for other in far
        )

    def heal(self) -> None:
        """End the partition."""
        if self._network is not None:
            self._network.cut(())

    def slow(self, i: int, bytes_per_s: float | None, *, delay_s: float = 0.0) -> None:
        """Let what a node says to the others arrive slowly, on each connection; None = fast again.

        Args:
            i: the node.
            bytes_per_s: of each connection.
            delay_s: before each part of what it says, of up to 256 KiB; holds up what follows, too.

        Raises:
            InvalidArgumentError: the cluster was made without partitions.
        """
        if self._network is None:
            raise InvalidArgumentError("partitions", "this cluster was made without them")
        self._network.limit(self.nodes[i].name, bytes_per_s, delay_s=delay_s)

    def corrupt(self, i: int, *, flips: int = 1, seed: int = 0) -> Path:
        """Flip bits in the chunks of a node, running or not, as a bad disk does; return the file.

        What it serves afterwards is right, from another node's copy if need be, or a CorruptStoreError.

        Args:
            i: the node.
            flips: how many bits, anywhere in the largest of its files of chunks.
            seed: of the places.

        Raises:
            FailedError: it holds no chunks.
        """
        chunks = sorted((self.nodes[i].data / "chunks").rglob(f"*{_CHUNKS_SUFFIX}"))
        file = max(chunks, key=lambda path: path.stat().st_size, default=None)
        if file is None or not file.stat().st_size:
            raise FailedError(f"corrupting {self.nodes[i].name}", "it holds no chunks")
        chance = random.Random(seed)  # noqa: S311 - to be the same again, not secret
        with file.open("r+b") as opened:
            for _ in range(flips):
                bit = chance.randrange(file.stat().st_size * 8)
                opened.seek(bit // 8)
                byte = opened.read(1)[0]
                opened.seek(bit // 8)
                opened.write(bytes([byte ^ 1 << bit % 8]))
        return file

    # ---- what is so ----

    def leader(self, *, timeout_s: float = READY_S_MAX) -> int:
        """Return the index of the node that leads, waiting while there is none.

        Raises:
            DeadlineError: no running node leads.
        """
        return self._wait("a leader", self._leader_now, timeout_s)

    def wait_ready(self, timeout_s: float = READY_S_MAX) -> None:
        """Wait until every running node knows the same running leader and has its vote and all entries.

        Raises:
            DeadlineError: says what is missing.
        """
        self._wait("the cluster to be ready", self._ready_now, timeout_s)

    def _leader_now(self) -> int:
        statuses = [_look(node) for node in self.nodes if node.is_running]
        # An old leader that was cut off may still believe in itself: the newest term decides.
        newest = max(
            (status for status in statuses if status is not None and status.leader),
            key=lambda status: status.term,
            default=None,
        )
        for i, node in enumerate(self.nodes):
            if newest is not None and node.name == newest.leader and node.is_running:
                return i
        raise _NotYetError("no running node leads")

    def _ready_now(self) -> None:
        leader = self.nodes[self._leader_now()].name
        running = {node.name for node in self.nodes if node.is_running}
        for node in self.nodes:
            if not node.is_running:
                continue
            status = _look(node)
            if status is None or status.leader != leader:
                raise _NotYetError(f"{node.name} does not follow {leader}")
            voters = {member.name for member in status.members if member.role == "voter" and member.healthy}
            if not running <= voters:
                raise _NotYetError(f"{', '.join(sorted(running - voters))} has no vote yet")
            if status.applied_index < max(member.applied_index for member in status.members):
                raise _NotYetError(f"{node.name} has not caught up")

    def _wait(self, what: str, look: Callable[[], Result], timeout_s: float) -> Result:
        retrying = Retrying(
            stop=stop_after_delay(timeout_s),
            wait=wait_fixed(POLL_S),
            retry=retry_if_exception_type(_NotYetError),
            reraise=True,
        )
        try:
            return retrying(look)
        except _NotYetError as error:
            raise DeadlineError(f"{timeout_s:g}", f"waiting for {what} ({error})") from error

    def _launch(self, node: LocalNode, *more: str) -> None:
        command = [sys.executable, *self._program, "node", "start", "--json"]
        own = ["--name", node.name, "--data", str(node.data), "--listen", node.address]
        settings = ["--config", str(self.folder / "node.toml"), *self._options, *more]
        if self._sites:
            settings += ["--site", self._sites[self.nodes.index(node)]]
        with node.log.open("ab") as log:
            # In a session of its own: Ctrl-C is for the test, which then ends its nodes.
            node.process = subprocess.Popen(  # noqa: S603 - this very interpreter, arguments of ours
                [*command, *own, *settings],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
                env={**os.environ, **node.environment},
            )
        assert node.process.stdout is not None
        # The line comes when it serves; the end of the pipe when it does not.
        # Not `select`, which knows no descriptor above 1,023: the test around us may hold that many files.
        said = select.poll()
        said.register(node.process.stdout, select.POLLIN)
        ready = said.poll(START_S_MAX * 1000)
        line = node.process.stdout.readline() if ready else ""
        if not line:
            _end(node, signal.SIGKILL)
            raise FailedError(f"starting {node.name}", node.talk() or f"no sign of it in {START_S_MAX:g} s")
        assert json.loads(line)["listen"] == node.address


def cluster_fixture(
    nodes: int = 3,
    *,
    scope: Literal["function", "class", "module", "package", "session"] = "function",
    heartbeat_ms: int = 100,
    election_ms: int = 1000,
    options: tuple[str, ...] = (),
    settings: Mapping[str, int] | None = None,
) -> Callable[..., Iterator[LocalCluster]]:
    """Return a pytest fixture that gives a `LocalCluster`; name it as your tests shall ask for it.

    Args:
        nodes: see LocalCluster.
        scope: how long one cluster is used; starting three nodes takes some seconds.
        heartbeat_ms: see LocalCluster.
        election_ms: see LocalCluster.
        options: see LocalCluster.
        settings: see LocalCluster.
    """
    # Imported late: only tests have it.
    import pytest

    @pytest.fixture(scope=scope)
    def cluster() -> Iterator[LocalCluster]:
        given = LocalCluster(
            nodes, heartbeat_ms=heartbeat_ms, election_ms=election_ms, options=options, settings=settings
        )
        with given as found:
            yield found

    return cluster


def _look(node: LocalNode) -> ClusterStatus | None:
    """Return what a node says of the cluster; None when it does not answer soon."""
    try:
        with connect(node.address, timeout_s=LOOK_S) as client:
            return client.cluster_status()
    except McrError:
        return None


def _end(node: LocalNode, number: signal.Signals) -> int:
    """End a node's process, if there is one, and return its exit status; negative = the signal."""
    process = node.process
    if process is None:
        return 0
    process.send_signal(number)
    if node.paused:
        # A paused process does what it was told only once it runs again.
        process.send_signal(signal.SIGCONT)
        node.paused = False
    try:
        status = process.wait(STOP_S_MAX)
    except subprocess.TimeoutExpired:
        process.kill()
        status = process.wait()
    assert process.stdout is not None
    process.stdout.close()
    node.process = None
    return status
