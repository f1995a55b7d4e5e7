"""Copies come back by themselves: after a node is gone for good, and after a disk changed bytes."""

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

import mcr
from mcr.errors import InvalidArgumentError
from mcr.manifest import drain, walk_ids
from mcr.model import ChunkId
from mcr.testing import LocalCluster
from mcr_node.storage.chunk_store import PackChunkStore
from mcr_node.storage.disk import Disk
from tests.support.served import bytes_from, mcr_command
from tests.support.waiting import until

PATIENCE_S = 60.0
LENGTH_BYTES = 3_000_000
HEARTBEAT_MS, ELECTION_MS = 50, 500


def write(folder: Path, seed: int, length: int = LENGTH_BYTES) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "weights.bin").write_bytes(bytes_from(seed, length))
    return folder


def alarms(cluster: LocalCluster, i: int) -> dict[str, str]:
    with cluster.connect(i) as client:
        return {alarm.code: alarm.message for alarm in client.cluster_status().alarms}


def ids_of(store: PackChunkStore, manifest: ChunkId) -> list[ChunkId]:
    return list(drain(walk_ids(manifest), lambda ids: [store.get(one) for one in ids]))


def copies_on_disk(cluster: LocalCluster, nodes: list[int], manifests: list[ChunkId]) -> dict[ChunkId, int]:
    """Open the stores of stopped nodes and count, of all that manifests name, the copies that can be read."""
    stores = [
        PackChunkStore.open(cluster.nodes[i].data / "chunks", encoding="auto", disk=Disk()) for i in nodes
    ]
    try:
        wanted: dict[ChunkId, int] = {}
        for manifest in manifests:
            holder = next(store for store in stores if not store.missing([manifest]))
            wanted |= dict.fromkeys(ids_of(holder, manifest), 0)
        for store in stores:
            for one in wanted.keys() - store.missing(list(wanted)):
                # Verified against its id.
                store.get(one)
                wanted[one] += 1
        return wanted
    finally:
        for store in stores:
            store.close()


@pytest.mark.parametrize("lost", range(3))
def test_every_chunk_has_its_copies_again_after_a_node_is_gone_for_good(tmp_path: Path, lost: int) -> None:
    # Slow enough that the count is seen before it is zero again.
    settings = {"repair_silence_s": 1, "repair_bytes_per_s": 6_000_000}
    with LocalCluster(3, heartbeat_ms=HEARTBEAT_MS, election_ms=ELECTION_MS, settings=settings) as cluster:
        # given
        manifests: list[ChunkId] = []
        for number in range(4):
            with cluster.connect(number % 3) as client:
                model = client.model(f"repair/net{number % 2}")
                made = model.commit(write(tmp_path / "in", number))
                manifests.append(model.show(made.name).manifest)
        left = [i for i in range(3) if i != lost]
        cluster.wait_ready()

        # when
        cluster.kill(lost)

        # then
        def short() -> int:
            with cluster.connect(left[0]) as client:
                return client.cluster_status().chunks_under_replicated

        until(lambda: short() > 0, PATIENCE_S)
        assert "chunks_under_replicated" in alarms(cluster, left[0])
        until(lambda: short() == 0, PATIENCE_S)
        assert "chunks_under_replicated" not in alarms(cluster, left[0])
        for i in left:
            cluster.stop(i)
        found = copies_on_disk(cluster, left, manifests)
        assert len(found) > len(manifests)
        assert set(found.values()) == {2}


def test_who_is_removed_by_force_is_not_waited_for(tmp_path: Path) -> None:
    with LocalCluster(3, heartbeat_ms=HEARTBEAT_MS, election_ms=ELECTION_MS) as cluster:
        with cluster.connect(0) as client:
            model = client.model("repair/net")
            manifest = model.show(model.commit(write(tmp_path / "in", 1)).name).manifest
        cluster.kill(0)
        left = [1, 2]
        cluster.leader()

        removed = mcr_command("cluster", "remove", "n1", "--force", cluster=cluster.nodes[1].address)
        assert removed.returncode == 0, removed.stderr

        def copied() -> int:
            with cluster.connect(1) as client:
                return sum(worker.counts["chunks_copied"] for worker in client.workers("repair").workers)

        until(lambda: copied() > 0, PATIENCE_S)
        with cluster.connect(1) as client:
            until(lambda: client.cluster_status().chunks_under_replicated == 0, PATIENCE_S)
        for i in left:
            cluster.stop(i)
        assert set(copies_on_disk(cluster, left, [manifest]).values()) == {2}


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    """Three nodes; tests leave them whole."""
    with LocalCluster(
        3, heartbeat_ms=HEARTBEAT_MS, election_ms=ELECTION_MS, options=("--http", "127.0.0.1:0")
    ) as found:
        yield found


def scrubbed(cluster: LocalCluster, i: int) -> dict[str, int]:
    with cluster.connect(i) as client:
        (worker,) = client.workers("scrub", member=cluster.nodes[i].name).workers
        return {**worker.counts, "runs": worker.runs}


def metric(cluster: LocalCluster, i: int, name: str) -> float:
    http = json.loads((cluster.nodes[i].data / "node.json").read_text())["http"]
    with urllib.request.urlopen(f"http://{http}/metrics", timeout=PATIENCE_S) as answer:
        lines = answer.read().decode().splitlines()
    return next(float(line.split()[-1]) for line in lines if line.startswith(f"{name} "))


def test_a_scrub_finds_flipped_bits_and_heals_them_from_a_peer(cluster: LocalCluster, tmp_path: Path) -> None:
    # given
    given = write(tmp_path / "in", 11)
    with cluster.connect(0) as client:
        client.model("scrub/net").commit(given)
    before = scrubbed(cluster, 0)
    cluster.corrupt(0, flips=12, seed=3)

    # when
    started = mcr_command("scrub", "start", "--node", "n1", "--now", "--json", cluster=cluster.addresses)
    assert json.loads(started.stdout) == {"started": "scrub", "members": ["n1"], "silent": []}
    until(lambda: scrubbed(cluster, 0)["runs"] > before["runs"], PATIENCE_S)

    # then
    after = scrubbed(cluster, 0)
    damaged = after["chunks_damaged"] - before["chunks_damaged"]
    assert damaged > 0
    assert after["chunks_healed"] - before["chunks_healed"] == damaged
    assert after["chunks_unhealed"] == 0
    assert metric(cluster, 0, "mcr_chunks_damaged_total") == after["chunks_damaged"]
    assert metric(cluster, 0, "mcr_chunks_healed_total") == after["chunks_healed"]
    assert metric(cluster, 0, "mcr_chunks_unhealed") == 0
    with cluster.connect(0) as client:
        client.model("scrub/net").checkout("main", tmp_path / "out")
    assert (tmp_path / "out" / "weights.bin").read_bytes() == (given / "weights.bin").read_bytes()


def test_a_read_finds_flipped_bits_and_heals_them_from_a_peer(cluster: LocalCluster, tmp_path: Path) -> None:
    given = write(tmp_path / "in", 12)
    with cluster.connect(0) as client:
        client.model("read/net").commit(given)
    before = scrubbed(cluster, 0)
    cluster.corrupt(0, flips=40, seed=4)

    with cluster.connect(0) as client:
        client.model("read/net").checkout("main", tmp_path / "out")

    assert (tmp_path / "out" / "weights.bin").read_bytes() == (given / "weights.bin").read_bytes()
    after = scrubbed(cluster, 0)
    damaged = after["chunks_damaged"] - before["chunks_damaged"]
    assert damaged == after["chunks_healed"] - before["chunks_healed"] > 0


def test_any_node_steers_the_work_of_all_of_them(cluster: LocalCluster) -> None:
    def states(*node: str) -> dict[str, str]:
        told = mcr_command("repair", "status", *node, "--json", cluster=cluster.nodes[2].address)
        assert told.returncode == 0, told.stderr
        lines = [json.loads(line) for line in told.stdout.splitlines()]
        assert {line["worker"] for line in lines} == {"repair"}
        return {line["member"]: line["state"] for line in lines}

    paused = mcr_command("repair", "pause", "--json", cluster=cluster.nodes[0].address)
    assert json.loads(paused.stdout) == {"paused": "repair", "members": ["n1", "n2", "n3"], "silent": []}
    assert states() == {"n1": "paused", "n2": "paused", "n3": "paused"}

    started = mcr_command("repair", "start", "--node", "n2", cluster=cluster.nodes[0].address)
    assert started.stdout == "n2\n"
    assert states("--node", "n2").keys() == {"n2"}
    until(lambda: states("--node", "n2") == {"n2": "idle"}, PATIENCE_S)
    assert states()["n1"] == "paused"
    assert mcr_command("repair", "start", cluster=cluster.nodes[1].address).returncode == 0
    until(lambda: "paused" not in states().values(), PATIENCE_S)


def test_what_is_not_there_cannot_be_steered(cluster: LocalCluster, tmp_path: Path) -> None:
    where = cluster.nodes[0].address
    assert mcr_command("scrub", "status", "--node", "n9", cluster=where).returncode == 3
    assert mcr_command("repair", cluster=where).returncode == 2
    assert mcr_command("repair", "--dry-run", "status", cluster=where).returncode == 2
    with cluster.connect(0) as client, pytest.raises(InvalidArgumentError, match="repair, scrub"):
        client.start_worker("tea")
    store = tmp_path / "store"
    mcr.init(store)
    embedded = mcr_command("scrub", "start", cluster=str(store))
    assert embedded.returncode == 1
    assert "mcr doctor" in embedded.stderr


def test_a_node_ends_well_in_the_middle_of_a_run(tmp_path: Path) -> None:
    # One frame takes minutes at this rate.
    with LocalCluster(1, settings={"scrub_bytes_per_s": 1}) as alone:
        with alone.connect(0) as client:
            client.model("end/net").commit(write(tmp_path / "in", 31))
            client.start_worker("scrub")

            def look() -> tuple[str, int]:
                (worker,) = client.workers("scrub").workers
                return worker.state, worker.done

            until(lambda: look() > ("running", 0), PATIENCE_S)
            (_, done) = look()
            client.pause_worker("scrub")
            assert look() == ("paused", done)
            client.start_worker("scrub")
            assert look() == ("running", done)

        alone.stop(0)
        alone.start(0)
        with alone.connect(0) as client:
            assert client.check().problems == ()


def test_a_dry_run_says_what_is_copied_later(tmp_path: Path) -> None:
    with LocalCluster(3, heartbeat_ms=HEARTBEAT_MS, election_ms=ELECTION_MS) as trio:
        # given
        with trio.connect(0) as client:
            made = client.model("plan/net").commit(write(tmp_path / "in", 21))
            for name in ("repair", "scrub"):
                client.pause_worker(name)
        trio.kill(0)
        trio.leader()

        # when
        told = mcr_command("repair", "--dry-run", "--json", cluster=trio.nodes[1].address)

        # then
        assert told.returncode == 0, told.stderr
        plan = json.loads(told.stdout)
        assert plan["silent"] == ["n1"]
        assert plan["chunks"] > 0
        assert plan["chunks_lost"] == 0
        # All of the content and its manifest, but for nodes that were fetched to be read.
        assert LENGTH_BYTES <= plan["bytes_total"] < LENGTH_BYTES * 1.1
        with trio.connect(1) as client:
            assert sum(one.counts["chunks_copied"] for one in client.workers("repair").workers) == 0
            asked = client.start_worker("repair", at_full_speed=True)
            assert (asked.members, asked.silent) == (("n2", "n3"), ("n1",))

            def copied() -> tuple[int, int]:
                counts = [one.counts for one in client.workers("repair").workers]
                return sum(c["chunks_copied"] for c in counts), sum(c["bytes_copied"] for c in counts)

            until(lambda: copied()[1] >= LENGTH_BYTES, PATIENCE_S)
            until(lambda: client.cluster_status().chunks_under_replicated == 0, PATIENCE_S)
            assert plan["chunks"] - 5 <= copied()[0] <= made.chunks_total + 5


def damage(cluster: LocalCluster, i: int, payload: bytes) -> int:
    """Flip a byte of a chunk that stands as it is in the files of a node; return how often it did."""
    times = 0
    for file in sorted((cluster.nodes[i].data / "chunks").rglob("*.pack")):
        place = file.read_bytes().find(payload)
        if place >= 0:
            with file.open("r+b") as opened:
                opened.seek(place)
                opened.write(bytes([payload[0] ^ 1]))
            times += 1
    return times


def test_a_chunk_that_is_damaged_everywhere_is_named_with_who_needs_it(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    # given
    given = write(tmp_path / "in", 13)
    with cluster.connect(0) as client:
        model = client.model("lost/net")
        made = model.commit(given)
        (row,) = [entry for entry in model.files("main") if entry.path == "weights.bin"]
    assert row.size_bytes == LENGTH_BYTES
    payload = bytes_from(13, LENGTH_BYTES)[:2000]
    assert sum(damage(cluster, i, payload) for i in range(3)) >= 2

    # when
    for i in range(3):
        out = tmp_path / f"out{i}"
        read = mcr_command("checkout", "lost/net", str(out), "--json", cluster=cluster.nodes[i].address)

        # then
        assert read.returncode == 13, read.stderr
        error = json.loads(read.stderr.splitlines()[-1])
        assert len(bytes.fromhex(error["chunk_id"])) == 32
        assert not (out / "weights.bin").exists()
    chunk_id = error["chunk_id"]

    mcr_command("repair", "start", "--json", cluster=cluster.nodes[0].address)
    until(lambda: "chunks_lost" in alarms(cluster, 0), PATIENCE_S)
    assert f"chunk {chunk_id}, needed by weights.bin of {made.reference}" in alarms(cluster, 0)["chunks_lost"]
    status = mcr_command("repair", "status", "--json", cluster=cluster.nodes[1].address)
    lines = [json.loads(line) for line in status.stdout.splitlines()]
    assert [line["member"] for line in lines] == ["n1", "n2", "n3"]
    assert sum(line["counts"]["chunks_lost"] for line in lines) == 1
    assert [finding for line in lines for finding in line["findings"] if chunk_id in finding]

    # when it is committed once more, it is there again
    with cluster.connect(0) as client:
        client.model("lost/again").commit(given)
    mcr_command("repair", "start", cluster=cluster.nodes[0].address)
    until(lambda: "chunks_lost" not in alarms(cluster, 0), PATIENCE_S)
    with cluster.connect(0) as client:
        client.model("lost/net").checkout("main", tmp_path / "healed")
    assert (tmp_path / "healed" / "weights.bin").read_bytes() == (given / "weights.bin").read_bytes()
