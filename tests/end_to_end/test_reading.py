"""Reads through nodes that lack what is read: from whom it comes, how often it travels, and who may fail."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mcr.model import MIB
from mcr.testing import LocalCluster
from tests.support.served import bytes_from

MODEL = "vision/net"
SITES = ("east", "east", "west", "west")
SIZE_BYTES = 24 * MIB


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    # Repair would make copies where these tests want none.
    with LocalCluster(4, heartbeat_ms=50, election_ms=500, sites=SITES) as found:
        yield found


def commit(cluster: LocalCluster, i: int, folder: Path, seed: int) -> str:
    folder.mkdir(parents=True)
    (folder / "weights.bin").write_bytes(bytes_from(seed, SIZE_BYTES))
    with cluster.connect(i) as client:
        made = client.model(MODEL).commit(folder)
    return made.name


def check(cluster: LocalCluster, i: int, name: str, folder: Path, out: Path) -> None:
    with cluster.connect(i) as client:
        client.model(MODEL).checkout(name, out)
    assert (out / "weights.bin").read_bytes() == (folder / "weights.bin").read_bytes()


def far_bytes(cluster: LocalCluster, *nodes: int) -> int:
    total = 0
    for i in nodes:
        with cluster.connect(i) as client:
            total += client.status().bytes_fetched_far
    return total


def test_many_readers_of_a_site_fetch_each_chunk_once_from_the_other(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    name = commit(cluster, 0, tmp_path / "in", 1)
    before = far_bytes(cluster, 2, 3)
    with ThreadPoolExecutor(4) as readers:
        reads = [
            readers.submit(check, cluster, 2 + at % 2, name, tmp_path / "in", tmp_path / f"out{at}")
            for at in range(4)
        ]
        for read in reads:
            read.result()
    crossed = far_bytes(cluster, 2, 3) - before
    assert SIZE_BYTES <= crossed < 1.05 * SIZE_BYTES
    # What came is kept: a later reader crosses nothing.
    check(cluster, 3, name, tmp_path / "in", tmp_path / "again")
    assert far_bytes(cluster, 2, 3) - before == crossed
