"""How widely a commit is held, and how little is sent for it: three nodes as processes, in two sites."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import mcr
from mcr.committing import CommitProgress
from mcr.errors import DurabilityError
from mcr.model import MIB, CommitResult
from mcr.testing import LocalCluster
from tests.support.served import bytes_from

MODEL = "vision/net"
SITES = ("east", "east", "west")


@pytest.fixture
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(3, heartbeat_ms=50, election_ms=500, sites=SITES) as found:
        yield found


def write(folder: Path, data: bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "weights.bin").write_bytes(data)
    return folder


def commit(cluster: LocalCluster, i: int, path: Path, durability: str | int | None = None) -> CommitResult:
    with cluster.connect(i) as client:
        return client.model(MODEL).commit(path, durability=durability)


def check_held_by(cluster: LocalCluster, i: int, path: Path, into: Path) -> None:
    """Read the newest version from one node while the others are dead."""
    with mcr.connect(cluster.nodes[i].address, stale_ok=True) as client:
        client.model(MODEL).checkout("branch:main", into)
    assert (into / "weights.bin").read_bytes() == (path / "weights.bin").read_bytes()


def stored_bytes(cluster: LocalCluster, i: int) -> int:
    folder = cluster.nodes[i].data / "chunks"
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def test_a_commit_in_two_sites_outlives_either_of_them(cluster: LocalCluster, tmp_path: Path) -> None:
    path = write(tmp_path / "in", bytes_from(1, 6 * MIB))
    commit(cluster, 0, path, "cluster")
    cluster.kill(0)
    cluster.kill(1)
    check_held_by(cluster, 2, path, tmp_path / "out")


def test_copies_that_cannot_be_are_refused_and_nothing_is_sent_twice(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    path = write(tmp_path / "in", bytes_from(2, 6 * MIB))
    with pytest.raises(DurabilityError, match="3 nodes in all"):
        commit(cluster, 0, path, 4)
    with cluster.connect(0) as client:
        assert client.status().chunk_count == 0
    cluster.kill(2)
    with pytest.raises(DurabilityError, match="n3 in site west") as caught:
        commit(cluster, 0, path, 3)
    assert (caught.value.wanted, caught.value.available) == ("3 copies", 2)
    with pytest.raises(DurabilityError, match="n3 in site west"):
        commit(cluster, 1, path, "cluster")
    # One node may be away from a commit that asks for nothing.
    assert commit(cluster, 1, path).bytes_sent == 0
    cluster.start(2)
    cluster.wait_ready()
    made = commit(cluster, 0, path, 3)
    assert made.bytes_sent == 0
    cluster.kill(0)
    cluster.kill(1)
    check_held_by(cluster, 2, path, tmp_path / "out")


def test_a_commit_through_another_node_sends_what_changed(cluster: LocalCluster, tmp_path: Path) -> None:
    data = bytearray(bytes_from(3, 40 * MIB))
    first = commit(cluster, 0, write(tmp_path / "in", bytes(data)))
    assert first.bytes_sent >= len(data)
    data[10 * MIB : 12 * MIB] = bytes_from(4, 2 * MIB)
    path = write(tmp_path / "in", bytes(data))
    before = sum(stored_bytes(cluster, i) for i in range(3))
    second = commit(cluster, 2, path)
    # A twentieth changed; chunks at its ends are sent whole.
    assert 2 * MIB <= second.bytes_sent < 5 * MIB
    # Two copies of that, and not one of what was held already.
    assert sum(stored_bytes(cluster, i) for i in range(3)) - before < 2 * second.bytes_sent + MIB
    cluster.kill(0)
    with cluster.connect(1) as client:
        client.model(MODEL).checkout("v2", tmp_path / "out")
    assert (tmp_path / "out" / "weights.bin").read_bytes() == bytes(data)


def test_a_node_killed_in_the_middle_of_an_upload_costs_little(cluster: LocalCluster, tmp_path: Path) -> None:
    path = write(tmp_path / "in", bytes_from(5, 64 * MIB))
    arrived: list[int] = []

    def kill_midway(at: CommitProgress) -> None:
        if not arrived and at.bytes_done >= 40 * MIB:
            arrived.append(at.bytes_done)
            # It has all that arrived; the others share what it forwarded.
            cluster.kill(max(range(3), key=lambda i: stored_bytes(cluster, i)))

    with cluster.connect() as client:
        made = client.model(MODEL).commit(path, progress=kill_midway)
    sent_again = made.bytes_sent - 64 * MIB
    assert sent_again < 0.2 * arrived[0], f"{sent_again} of {arrived[0]} bytes that had arrived"
    with cluster.connect() as client:
        client.model(MODEL).checkout("v1", tmp_path / "out")
    assert (tmp_path / "out" / "weights.bin").read_bytes() == (path / "weights.bin").read_bytes()
