"""Reads through nodes that lack what is read: from whom it comes, how often it travels, and who may fail."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import mcr
from mcr.errors import LostChunkError
from mcr.model import MIB
from mcr.testing import LocalCluster
from tests.support.served import bytes_from
from tests.support.waiting import until

pytestmark = pytest.mark.slow

MODEL = "vision/net"
SITES = ("east", "east", "west", "west")
SIZE_BYTES = 24 * MIB
# A few MiB in the background of a loaded machine.
PREFETCH_S = 60.0


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


def test_a_holder_that_dies_or_hangs_or_is_slow_does_not_hold_a_reader(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    with cluster.connect(0) as client:
        (tmp_path / "in").mkdir()
        (tmp_path / "in" / "weights.bin").write_bytes(bytes_from(2, SIZE_BYTES))
        name = client.model(MODEL).commit(tmp_path / "in", durability=3).name
    for number, fail in enumerate((cluster.pause, lambda i: cluster.slow(i, 20_000), cluster.kill)):
        # Of the nodes of the west each holds a part; all of it is held by both of the east.
        reader, victim = 2 + number % 2, number % 2
        # A cache would answer by itself.
        restart_without_cache(cluster, reader)
        fail(victim)
        check(cluster, reader, name, tmp_path / "in", tmp_path / f"out{number}")
        with cluster.connect(reader) as client:
            status = client.status()
        assert status.bytes_fetched_near + status.bytes_fetched_far > MIB
        recover(cluster, victim)


def restart_without_cache(cluster: LocalCluster, i: int) -> None:
    cluster.stop(i)
    for file in (cluster.nodes[i].data / "cache").glob("*"):
        file.unlink()
    cluster.start(i)
    cluster.wait_ready()


def recover(cluster: LocalCluster, i: int) -> None:
    cluster.slow(i, None)
    if cluster.nodes[i].process is None:
        cluster.start(i)
    elif cluster.nodes[i].paused:
        cluster.resume(i)
    cluster.wait_ready()


def test_what_a_channel_points_at_is_read_at_a_site_that_was_cut_off_before_anybody_read_it_there(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    name = commit(cluster, 0, tmp_path / "in", 4)
    with cluster.connect(0) as client:
        client.model(MODEL).channel("production").set(name)
    with cluster.connect(2) as client:
        # Counts and state of both nodes of the west.
        until(lambda: all(is_done(client, node) for node in ("n3", "n4")), PREFETCH_S)
    cluster.partition([0, 1], [2, 3])
    try:
        for i in (2, 3):
            with mcr.connect(cluster.nodes[i].address, stale_ok=True) as client:
                client.model(MODEL).checkout("channel:production", tmp_path / f"out{i}")
            made = (tmp_path / f"out{i}" / "weights.bin").read_bytes()
            assert made == (tmp_path / "in" / "weights.bin").read_bytes()
    finally:
        cluster.heal()
        cluster.wait_ready()


def is_done(client: mcr.Client, node: str) -> bool:
    (worker,) = client.workers("prefetch", member=node).workers
    counts = dict(worker.counts)
    return worker.state == "idle" and counts["versions_here"] == 1


def test_when_all_copies_are_damaged_the_error_names_the_chunk_and_who_needs_it(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    name = commit(cluster, 0, tmp_path / "in", 3)
    for node in cluster.nodes:
        damage_all(node.data, (tmp_path / "in" / "weights.bin").read_bytes()[5 * MIB : 5 * MIB + 64])
    with pytest.raises(LostChunkError) as caught:
        check(cluster, 1, name, tmp_path / "in", tmp_path / "out")
    error = caught.value
    assert len(error.chunk_id) == 64
    assert (error.files, error.versions) == ("weights.bin", f"{MODEL}@{name}")
    assert error.exit_status == 13
    assert not (tmp_path / "out" / "weights.bin").exists()


def damage_all(folder: Path, content: bytes) -> None:
    """Flip a bit of some content in every file that holds it."""
    for file in [*folder.rglob("*.pack"), *folder.rglob("*.cache")]:
        data = file.read_bytes()
        at = data.find(content)
        if at >= 0:
            with file.open("r+b") as opened:
                opened.seek(at)
                opened.write(bytes([content[0] ^ 1]))
