"""What a cluster promises while its nodes are killed, cut off, damaged and left behind: real processes.

`make laws` runs it with the full sizes: LAWS_ENTRIES missed by a node, LAWS_UPLOAD_MIB in one upload,
LAWS_KILLS of the leader.
"""

import asyncio
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import mcr
from mcr import aio
from mcr.errors import CorruptError, InvalidArgumentError, NoQuorumError
from mcr.testing import LocalCluster
from tests.support.load import PATIENCE_S, Load, check_all_there, check_digests_equal
from tests.support.served import bytes_from

ENTRIES = int(os.environ.get("LAWS_ENTRIES", "500"))
UPLOAD_MIB = int(os.environ.get("LAWS_UPLOAD_MIB", "64"))
KILLS = int(os.environ.get("LAWS_KILLS", "1"))
MODEL = "laws/net"
# A client says so after 8 s of asking (`NO_QUORUM_PATIENCE_S`); the rest is for a loaded machine.
REFUSED_S_MAX = 25.0
WRITERS = 32


def write(folder: Path, seed: int, length: int = 20_000) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "weights.bin").write_bytes(bytes_from(seed, length))
    return folder


def everyone(cluster: LocalCluster) -> range:
    return range(len(cluster.nodes))


@pytest.fixture(scope="module", params=[3, 5], ids=["three nodes", "five nodes"])
def cluster(request: pytest.FixtureRequest) -> Iterator[LocalCluster]:
    with LocalCluster(request.param, heartbeat_ms=100, election_ms=1000) as found:
        yield found


def test_what_any_node_acknowledged_every_other_shows_at_once(cluster: LocalCluster, tmp_path: Path) -> None:
    clients = [cluster.connect(i) for i in everyone(cluster)]
    try:
        for seed, writer in enumerate([*clients, *clients]):
            made = writer.model(MODEL).commit(write(tmp_path / "in", seed), message=f"{seed}")
            writer.model(MODEL).channel("production").set(made.name)
            for reader in clients:
                assert reader.model(MODEL).show().number == made.number
                assert reader.model(MODEL).channel("production").get().number == made.number
    finally:
        for client in clients:
            client.close()


def test_killing_leaders_under_load_loses_and_doubles_no_commit(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    gaps_s = []
    with Load(cluster, tmp_path, clients=4) as load:
        load.wait_more(5)
        for _ in range(KILLS):
            leader = cluster.leader()
            began_s = time.perf_counter()
            cluster.kill(leader)
            load.wait_more(1)
            gaps_s.append(time.perf_counter() - began_s)
            load.wait_more(5)
            cluster.start(leader)
            cluster.wait_ready(PATIENCE_S)
    cluster.wait_ready(PATIENCE_S)
    check_digests_equal(cluster, everyone(cluster))
    total = check_all_there(cluster, everyone(cluster), load.acknowledged, tmp_path)
    print(  # noqa: T201 - the report
        f"{len(cluster.nodes)} nodes, {KILLS} leaders killed: {len(load.acknowledged)} acknowledged, 0 lost,"
        f" 0 doubled, {total} versions; next commit after {sorted(gaps_s)[len(gaps_s) // 2]:.2f} s (median)"
    )


def test_a_minority_refuses_and_a_majority_goes_on_and_healed_they_agree(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    old = cluster.leader()
    # The leader is on the smaller side.
    few = [old, *[i for i in everyone(cluster) if i != old][: len(cluster.nodes) // 2 - 1]]
    many = [i for i in everyone(cluster) if i not in few]
    with cluster.connect(old) as client:
        before = client.model("laws/cut").commit(write(tmp_path / "in", 1), message="before")
    for i in few:
        # What a node holds it gives; so it shall hold this.
        with cluster.connect(i) as client:
            client.model("laws/cut").checkout(before.name, tmp_path / "out", verify=True)

    cluster.partition(few)
    with cluster.connect(many[0]) as client:
        after = client.model("laws/cut").commit(write(tmp_path / "in", 2), message="after")
    for i in few:
        began_s = time.perf_counter()
        with cluster.connect(i) as client, pytest.raises(NoQuorumError):
            client.model("laws/cut").show()
        assert time.perf_counter() - began_s < REFUSED_S_MAX
        with mcr.connect(cluster.nodes[i].address, stale_ok=True) as client:
            assert client.model("laws/cut").show().number == before.number
            client.model("laws/cut").checkout("v1", tmp_path / f"stale{i}", verify=True)
        assert (tmp_path / f"stale{i}" / "weights.bin").read_bytes() == bytes_from(1, 20_000)
    for i in many:
        with cluster.connect(i) as client:
            assert client.model("laws/cut").show().number == after.number

    cluster.heal()
    cluster.wait_ready(PATIENCE_S)
    check_digests_equal(cluster, everyone(cluster))
    for i in everyone(cluster):
        with cluster.connect(i) as client:
            assert client.model("laws/cut").show().number == after.number


def test_groups_of_a_partition_are_of_nodes_that_are_there(cluster: LocalCluster) -> None:
    for groups in ([0, 0], [len(cluster.nodes)], [[0, 1], [1]], [-1]):
        with pytest.raises(InvalidArgumentError):
            cluster.partition(*groups)


def test_a_flipped_bit_is_healed_from_another_node_or_refused(tmp_path: Path) -> None:
    data = write(tmp_path / "in", 7, 3_000_000)
    # Two copies: both nodes hold all there is.
    with LocalCluster(2, heartbeat_ms=100, election_ms=1000) as pair:
        with pair.connect(0) as client:
            client.model(MODEL).commit(data)
        pair.wait_ready(PATIENCE_S)
        for seed in range(3):
            # One bit at one place may hit a frame's head, its bytes, or a frame of an older damage.
            pair.corrupt(0, flips=3, seed=seed)
            with pair.connect(0) as client:
                client.model(MODEL).checkout("v1", tmp_path / "out", verify=True, delete=True)
            assert (tmp_path / "out" / "weights.bin").read_bytes() == (data / "weights.bin").read_bytes()
            (tmp_path / "out" / "weights.bin").unlink()
        # It has good copies of its own again: nobody else is asked.
        pair.stop(1)
        with mcr.connect(pair.nodes[0].address, stale_ok=True) as client:
            client.model(MODEL).checkout("v1", tmp_path / "alone", verify=True)
        assert (tmp_path / "alone" / "weights.bin").read_bytes() == (data / "weights.bin").read_bytes()

        # Where no copy is left: never wrong bytes.
        pair.start(1)
        pair.wait_ready(PATIENCE_S)
        for i in (0, 1):
            pair.corrupt(i, flips=400, seed=9)
        for i in (0, 1):
            with pair.connect(i) as client, pytest.raises(CorruptError):
                client.model(MODEL).checkout("v1", tmp_path / "wrong", verify=True)
        assert not (tmp_path / "wrong" / "weights.bin").exists()


class ShortLogCluster(LocalCluster):
    """Nodes that keep few entries of the log, so that one that was away soon needs a snapshot."""

    kept = 200
    _program = (
        "-c",
        "import sys; from mcr_node.runtime import advancing; advancing.LOG_ENTRIES_KEPT_MAX = 200;"
        "from mcr.cli.main import main; sys.exit(main())",
    )


def fill(cluster: LocalCluster, entries: int) -> None:
    """Make that many entries of the log, by writers at once."""

    async def work() -> None:
        async with await aio.connect(cluster.addresses) as client:

            async def move(name: str, count: int) -> None:
                channel = client.model(MODEL).channel(name)
                for number in range(count):
                    await channel.set(f"v{1 + number % 2}", reason=f"move {number}")

            share = -(-entries // WRITERS)
            await asyncio.gather(*(move(f"channel{number}", share) for number in range(WRITERS)))

    asyncio.run(work())


def exports(cluster: LocalCluster) -> list[str]:
    """Return the snapshots that running nodes made to send them."""
    return [str(path) for node in cluster.nodes for path in (node.data / "snapshots").glob("export-*")]


@pytest.mark.parametrize("kind", [LocalCluster, ShortLogCluster], ids=["by log", "by snapshot"])
def test_a_node_that_was_away_catches_up_to_the_same_state(kind: type[LocalCluster], tmp_path: Path) -> None:
    with kind(3, heartbeat_ms=100, election_ms=1000) as cluster:
        with cluster.connect() as client:
            for seed in (1, 2):
                client.model(MODEL).commit(write(tmp_path / "in", seed))
        cluster.wait_ready(PATIENCE_S)
        away = (cluster.leader() + 1) % 3
        cluster.stop(away)
        with cluster.connect() as client:
            before = client.status().applied_index
        fill(cluster, ENTRIES)
        with cluster.connect() as client:
            missed = client.status().applied_index - before
        assert missed >= ENTRIES
        assert not exports(cluster)

        began_s = time.perf_counter()
        cluster.start(away)
        cluster.wait_ready(PATIENCE_S)
        elapsed_s = time.perf_counter() - began_s

        assert bool(exports(cluster)) is (kind is ShortLogCluster)
        check_digests_equal(cluster, range(3))
        with cluster.connect(away) as client:
            client.model(MODEL).checkout("v2", tmp_path / "out", verify=True)
            assert client.check().problems == ()
        print(f"{kind.__name__}: {missed} entries missed, caught up in {elapsed_s:.1f} s")  # noqa: T201


def test_a_large_upload_causes_no_election(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    chance = random.Random(1)
    with (folder / "weights.bin").open("wb") as file:
        for _ in range(UPLOAD_MIB):
            file.write(chance.randbytes(1 << 20))
    with LocalCluster(3) as cluster:
        with cluster.connect() as client:
            before = client.cluster_status()
        began_s = time.perf_counter()
        with cluster.connect(cluster.leader()) as client:
            client.model(MODEL).commit(folder)
        elapsed_s = time.perf_counter() - began_s
        with cluster.connect() as client:
            after = client.cluster_status()
        print(f"{UPLOAD_MIB} MiB in {elapsed_s:.1f} s, term {before.term} to {after.term}")  # noqa: T201
        assert (after.term, after.leader) == (before.term, before.leader)
