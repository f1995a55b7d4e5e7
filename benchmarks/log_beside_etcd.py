"""The replicated log beside etcd: three nodes each, row by row in turn, clients in a process of their own.

    python -m benchmarks.log_beside_etcd --repetitions 3 --kills 20

Commits carry no new bytes, so that both systems do the same: agree on some hundred bytes, sync them on a
majority, answer. `etcd` is looked for on the PATH (`apt-get install etcd-server`); its heartbeat and election
times are those of the mcr nodes. While one is measured the other idles, which takes etcd 2 and mcr 3 % of two
cores. A ratio above 1 means that mcr is better; it is the median of those of the repetitions.
"""

import argparse
import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import grpc
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from benchmarks.log_clients import ETCD_KV, bytes_field, unary
from benchmarks.measuring import Spread, table
from mcr.client import Client
from mcr.testing import LocalCluster
from mcr.v1 import versions_pb2 as pb

NODES = 3
HEARTBEAT_MS, ELECTION_MS = 100, 1000
START_S_MAX = 30.0
# One try of a write after a kill; short, so that the client is not what is measured.
TRY_S = 0.1
FAILOVER_S_MAX = 30.0

# How small calls go, of etcd and of mcr. mcr's client library sends what is ready at once as one message of a
# stream ("together"), etcd's each put as a call of its own; puts that are ready at once can share a Txn.
ALONE, LIBRARY, TOGETHER = ("unary", "unary"), ("unary", "together"), ("together", "together")

Row = tuple[str, str, str, int, tuple[str, str]]
"""What is shown, the work, the figure, how many clients, and how the calls go."""
ROWS: tuple[Row, ...] = (
    ("write, one client, p50 ms", "put", "p50_ms", 1, LIBRARY),
    ("write, one client, p99 ms", "put", "p99_ms", 1, LIBRARY),
    ("write, one client, each a call of its own, p50 ms", "put", "p50_ms", 1, ALONE),
    ("writes/s, 64 clients", "put", "per_s", 64, LIBRARY),
    ("writes/s, 64 clients, p99 ms", "put", "p99_ms", 64, LIBRARY),
    ("writes/s, 64 clients, each a call of its own", "put", "per_s", 64, ALONE),
    ("writes/s, 64 clients, those of 8 together", "put", "per_s", 64, TOGETHER),
    ("reports/s, 64 in a call of mcr, 8 clients", "report_many", "per_s", 8, LIBRARY),
    ("linearizable read, follower, one client, p50 ms", "read", "p50_ms", 1, LIBRARY),
    ("linearizable reads/s, follower, 64 clients", "read", "per_s", 64, LIBRARY),
    ("the same, each a call of its own", "read", "per_s", 64, ALONE),
    ("the same, those of 8 together", "read", "per_s", 64, TOGETHER),
    ("watch on a follower, p50 ms", "watch", "p50_ms", 1, LIBRARY),
    ("watch on a follower, p99 ms", "watch", "p99_ms", 1, LIBRARY),
)


class _NotReadyError(Exception):
    """A cluster has no leader yet."""


def _etcd_call(address: str, method: str, request: bytes, timeout_s: float = 1.0) -> bytes:
    with grpc.insecure_channel(address) as channel:
        answer: bytes = unary(channel, method)(request, timeout=timeout_s)
        return answer


def _fields(data: bytes) -> dict[int, int | bytes]:
    """Read the top level of a protobuf message of etcd's."""
    found: dict[int, int | bytes] = {}
    at = 0

    def number() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(data):
        tag = number()
        if tag & 7 == 0:
            found[tag >> 3] = number()
        else:
            length = number()
            found[tag >> 3] = data[at : at + length]
            at += length
    return found


class EtcdCluster:
    """Three members on loopback; a context manager."""

    name = "etcd"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._processes: list[subprocess.Popen[bytes]] = []
        with ExitStack() as held:
            sockets = [held.enter_context(socket.socket()) for _ in range(2 * NODES)]
            for one in sockets:
                one.bind(("127.0.0.1", 0))
            ports = [one.getsockname()[1] for one in sockets]
        self.addresses = [f"127.0.0.1:{port}" for port in ports[:NODES]]
        self._peers = [f"http://127.0.0.1:{port}" for port in ports[NODES:]]

    def __enter__(self) -> "EtcdCluster":
        for i in range(NODES):
            self._processes.append(self._launch(i))
        self.leader()
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
            process.wait()

    def _launch(self, i: int) -> "subprocess.Popen[bytes]":
        client = f"http://{self.addresses[i]}"
        cluster = ",".join(f"m{each}={peer}" for each, peer in enumerate(self._peers))
        command = ["etcd", "--name", f"m{i}", "--data-dir", str(self._folder / f"m{i}")]
        command += ["--listen-client-urls", client, "--advertise-client-urls", client]
        command += ["--listen-peer-urls", self._peers[i], "--initial-advertise-peer-urls", self._peers[i]]
        command += ["--initial-cluster", cluster, "--initial-cluster-state", "new", "--log-level", "error"]
        command += ["--heartbeat-interval", str(HEARTBEAT_MS), "--election-timeout", str(ELECTION_MS)]
        with (self._folder / f"m{i}.log").open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log)

    def leader(self) -> int:
        """Return the member that leads, waiting for one that all know."""

        def look() -> int:
            leaders: list[int] = []
            try:
                for address in self.addresses:
                    status = _fields(_etcd_call(address, "/etcdserverpb.Maintenance/Status", b""))
                    header = status[1]
                    assert isinstance(header, bytes)
                    if not status.get(4):
                        raise _NotReadyError
                    if _fields(header)[2] == status[4]:
                        leaders.append(self.addresses.index(address))
            except grpc.RpcError as error:
                raise _NotReadyError from error
            if len(leaders) != 1:
                raise _NotReadyError
            return leaders[0]

        return _waiting(look)

    def kill(self, i: int) -> None:
        """End a member by SIGKILL."""
        self._processes[i].send_signal(signal.SIGKILL)

    def start(self, i: int) -> None:
        """Start it again."""
        self._processes[i].wait()
        self._processes[i] = self._launch(i)
        self.leader()

    def options(self) -> list[str]:
        """Return what the clients must be told."""
        return []

    def writer(self, channel: grpc.Channel) -> Callable[[float], object]:
        """Return one durable write, given its timeout in seconds."""
        put = unary(channel, ETCD_KV + "Put")
        request = bytes_field(1, b"failover") + bytes_field(2, b"x")
        return lambda timeout_s: put(request, timeout=timeout_s)


class McrCluster:
    """Three nodes on loopback; a context manager."""

    name = "mcr"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._cluster = LocalCluster(
            NODES, heartbeat_ms=HEARTBEAT_MS, election_ms=ELECTION_MS, partitions=False
        )
        self._manifest = b""

    def __enter__(self) -> "McrCluster":
        self._cluster.__enter__()
        source = self._folder / "model.bin"
        source.write_bytes(b"weights")
        with self._cluster.connect() as client:
            version = client.model("bench/start").commit(source, message="the bytes of all that follow")
            self._manifest = version.manifest
        self.addresses = [node.address for node in self._cluster.nodes]
        return self

    def __exit__(self, *_: object) -> None:
        self._cluster.close()

    def leader(self) -> int:
        """Return the node that leads, waiting for one that all follow."""
        self._cluster.wait_ready()
        return self._cluster.leader()

    def kill(self, i: int) -> None:
        """End a node by SIGKILL."""
        self._cluster.nodes[i].process_signal(signal.SIGKILL)

    def start(self, i: int) -> None:
        """Start it again."""
        self._cluster.kill(i)
        self._cluster.start(i)
        self._cluster.wait_ready()

    def add(self) -> int:
        """Start one more node."""
        return self._cluster.add()

    def remove(self, i: int) -> None:
        """Take a node out of the cluster, and end it; undrained, for what it holds has other copies."""
        with self._cluster.connect(0) as client:
            client.remove_member(self._cluster.nodes[i].name, force=True, accept_loss=True)
        self._cluster.kill(i)

    def connected(self, i: int) -> Client:
        """Return a client of one node only; the caller closes it."""
        return self._cluster.connect(i)

    def has_vote(self, i: int, client: Client) -> bool:
        """Say whether a node votes, as the node of a client sees it."""
        name = self._cluster.nodes[i].name
        members = client.cluster_status().members
        return any(member.name == name and member.role == "voter" for member in members)

    def status(self, i: int) -> tuple[int, int]:
        """Return what a node has applied, and the most that any has."""
        with self._cluster.connect(i) as client:
            found = client.cluster_status()
        return found.applied_index, max(member.applied_index for member in found.members)

    def options(self) -> list[str]:
        """Return what the clients must be told."""
        return ["--manifest", self._manifest.hex()]

    def writer(self, channel: grpc.Channel) -> Callable[[float], object]:
        """Return one durable write, given its timeout in seconds."""
        report = unary(channel, "/mcr.v1.VersionsService/ReportMetrics")

        def write(timeout_s: float) -> object:
            request = pb.ReportMetricsRequest(
                header=pb.WriteHeader(request_id=os.urandom(16)),
                model="bench/start",
                number=1,
                metrics=[pb.Metric(name="loss", value=1.0)],
            )
            return report(request.SerializeToString(), timeout=timeout_s)

        return write


Cluster = EtcdCluster | McrCluster


def _waiting(look: Callable[[], int]) -> int:
    retrying = Retrying(
        stop=stop_after_delay(START_S_MAX),
        wait=wait_fixed(0.05),
        retry=retry_if_exception_type(_NotReadyError),
        reraise=True,
    )
    return retrying(look)


def run_clients(
    cluster: Cluster, work: str, addresses: list[str], clients: int, seconds: float, way: str = "unary"
) -> dict[str, float]:
    """Run a client process to its end and return its figures."""
    command = [sys.executable, "-m", "benchmarks.log_clients", cluster.name, work, ",".join(addresses)]
    command += ["--clients", str(clients), "--seconds", str(seconds), "--way", way]
    command += cluster.options()
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


class Load:
    """What is measured of one cluster; rows of the same work and clients share a run."""

    def __init__(self, cluster: Cluster, seconds: float) -> None:
        self._cluster = cluster
        self._seconds = seconds
        self._found: dict[tuple[str, int, str], dict[str, float]] = {}

    def figure(self, row: Row) -> float:
        """Return the figure of a row."""
        cluster = self._cluster
        _, work, figure, clients, ways = row
        if work == "report_many" and cluster.name == "etcd":
            # What it is compared with: etcd's puts, of which there are as many under way.
            work, clients = "put", 64
        way = ways[cluster.name == "mcr"]
        key = (work, clients, way)
        if key not in self._found:
            leader = cluster.leader()
            at_leader = cluster.addresses[leader]
            at_follower = cluster.addresses[(leader + 1) % NODES]
            where = {"read": [at_follower], "watch": [at_leader, at_follower]}.get(work, [at_leader])
            self._found[key] = run_clients(cluster, work, where, clients, self._seconds, way)
        return self._found[key][figure]


def failovers(cluster: Cluster, kills: int) -> list[float]:
    """Kill the leader again and again; return the seconds until a later write is answered."""
    found: list[float] = []
    for _ in range(kills):
        leader = cluster.leader()
        others = [address for i, address in enumerate(cluster.addresses) if i != leader]
        own = [("grpc.use_local_subchannel_pool", 1)]
        with ExitStack() as held:
            channels = [held.enter_context(grpc.insecure_channel(each, options=own)) for each in others]
            writes = [cluster.writer(channel) for channel in channels]
            for write in writes:
                write(FAILOVER_S_MAX)
            cluster.kill(leader)
            found.append(_seconds_to_write(writes))
        cluster.start(leader)
    return found


def _seconds_to_write(writes: list[Callable[[float], object]]) -> float:
    start_s = time.perf_counter()
    answered: list[float] = []

    def attempt(write: Callable[[float], object]) -> None:
        while not answered and time.perf_counter() < start_s + FAILOVER_S_MAX:
            try:
                write(TRY_S)
            except grpc.RpcError:
                continue
            answered.append(time.perf_counter() - start_s)

    threads = [threading.Thread(target=attempt, args=(write,)) for write in writes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answered, "no write was answered after the leader was killed"
    return min(answered)


def main() -> int:
    """Run and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each load")
    parser.add_argument(
        "--kills", type=int, default=20, help="of the leader, for each system; 0 leaves them out"
    )
    parser.add_argument("--only", default="", help="a part of the name of the rows to measure")
    parser.add_argument("--systems", default="etcd,mcr")
    options = parser.parse_args()
    kinds: dict[str, type[Cluster]] = {"etcd": EtcdCluster, "mcr": McrCluster}
    names = [name for name in options.systems.split(",") if name == "mcr" or shutil.which("etcd")]
    if "etcd" not in names:
        sys.stdout.write("etcd is left out\n")
    rows = tuple(row for row in ROWS if options.only in row[0])
    values: dict[tuple[str, Row], list[float]] = {}
    kills: dict[str, list[float]] = {}
    for repetition in range(options.repetitions):
        with ExitStack() as held:
            loads = [(name, Load(_started(held, kinds[name]), options.seconds)) for name in names]
            for row in rows:
                # Row by row in turn, for the machine is not equally fast for a minute; the other one idles.
                for name, load in loads if repetition % 2 == 0 else loads[::-1]:
                    values.setdefault((name, row), []).append(load.figure(row))
    for name in names if options.kills else []:
        with ExitStack() as held:
            kills[name] = failovers(_started(held, kinds[name]), options.kills)
    lines = [_line(row, names, values) for row in rows]
    lines += [_kill_line(names, kills)] if kills else []
    # How it was built is a quarter of the time.
    sys.stdout.write(f"mcr runs on {platform.python_implementation()} {sys.version}\n")
    sys.stdout.write(table(["", *names, "ratio"], lines) + "\n")
    for name, seconds in kills.items():
        sys.stdout.write(f"{name}: {' '.join(f'{each:.2f}' for each in sorted(seconds))} s\n")
    return 0


def _started(held: ExitStack, kind: type[Cluster]) -> Cluster:
    cluster = kind(Path(held.enter_context(tempfile.TemporaryDirectory(prefix="mcr-bench-"))))
    held.enter_context(cluster)
    return cluster


def _line(row: Row, names: list[str], values: dict[tuple[str, Row], list[float]]) -> list[str]:
    spreads = [Spread(tuple(values[name, row])) for name in names]
    ratio = "-"
    if len(spreads) == 2:
        pairs = zip(spreads[1].values, spreads[0].values, strict=True)
        better = [mine / theirs if row[2] == "per_s" else theirs / mine for mine, theirs in pairs]
        ratio = Spread(tuple(better)).text()
    return [row[0], *(spread.text() for spread in spreads), ratio]


def _kill_line(names: list[str], kills: dict[str, list[float]]) -> list[str]:
    spreads = [Spread(tuple(kills[name])) for name in names]
    ratio = f"{spreads[0].median / spreads[-1].median:.2f}" if len(spreads) > 1 else "-"
    return [
        f"leader killed to next write, s, {len(kills[names[0]])} kills",
        *(each.text() for each in spreads),
        ratio,
    ]


if __name__ == "__main__":
    sys.exit(main())
