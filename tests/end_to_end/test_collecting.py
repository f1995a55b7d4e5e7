"""Garbage collection on real nodes: under commits, across a sweep, with uploads that pause."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

import mcr
from mcr.cli.main import main
from mcr.errors import McrError
from mcr.model import Chunk
from mcr.testing import LocalCluster, cluster_fixture
from tests.support.served import bytes_from
from tests.support.waiting import until

MODEL = "vision/net"
SIZE = 2_000_000
WAIT_S = 120.0

# A mark a second: an hour's worth of what can go wrong in a minute.
cluster = cluster_fixture(
    nodes=3, scope="module", heartbeat_ms=50, election_ms=1000, settings={"garbage_interval_s": 1}
)


def write(folder: Path, seed: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "weights.bin").write_bytes(bytes_from(seed, SIZE))
    return folder


def rounds(cluster: LocalCluster) -> list[int]:
    with cluster.connect() as client:
        return [worker.counts["round"] for worker in client.workers("gc").workers]


def wait_rounds(cluster: LocalCluster, count: int) -> None:
    """Wait until all nodes have seen so many more marks."""
    seen = max(rounds(cluster))
    until(lambda: min(rounds(cluster)) >= seen + count, WAIT_S)


def used(cluster: LocalCluster) -> int:
    with cluster.connect() as client:
        return sum(worker.counts["bytes_used"] for worker in client.workers("gc").workers)


def records(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert main([*arguments, "--json"]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_the_bytes_of_deleted_versions_come_back_on_all_disks(cluster: LocalCluster, tmp_path: Path) -> None:
    with cluster.connect(0) as client:
        model = client.model("space/net")
        made = [model.commit(write(tmp_path / "in", seed)).name for seed in (1, 2, 3, 4)]
        before = used(cluster)
        model.delete(made[:3])
        model.empty_trash([1, 2, 3])

        # Two copies of each of three versions were there.
        until(lambda: used(cluster) < before - 5 * SIZE, WAIT_S)

        model.checkout(made[3], tmp_path / "out")
    assert (tmp_path / "out" / "weights.bin").read_bytes() == bytes_from(4, SIZE)


def test_what_is_in_the_trash_survives_many_rounds(cluster: LocalCluster, tmp_path: Path) -> None:
    with cluster.connect(1) as client:
        model = client.model("trash/net")
        for seed in (11, 12):
            model.commit(write(tmp_path / "in", seed))
        model.delete(["v1"])
        wait_rounds(cluster, 4)

        model.restore([1])

        model.checkout("v1", tmp_path / "out")
    assert (tmp_path / "out" / "weights.bin").read_bytes() == bytes_from(11, SIZE)


def test_commits_race_marks_and_deletions_and_lose_nothing(cluster: LocalCluster, tmp_path: Path) -> None:
    """The same few contents come and go, so that commits count on chunks that are about to be swept."""
    commits = 24

    async def work(i: int) -> list[tuple[str, int]]:
        made: list[tuple[str, int]] = []
        async with await mcr.aio.connect(cluster.nodes[i].address) as client:
            model = client.model(f"race/net{i}")
            for turn in range(commits):
                seed = 100 + turn % 3
                version = await model.commit(write(tmp_path / f"in{i}", seed))
                made.append((version.name, seed))
                if turn > 2:
                    gone = made[-3][0]
                    await model.delete([gone])
                    await model.empty_trash([int(gone[1:])])
        return made[-2:]

    async def all_of_it() -> list[list[tuple[str, int]]]:
        return await asyncio.gather(*map(work, range(3)))

    kept = asyncio.run(all_of_it())
    wait_rounds(cluster, 3)
    for i, versions in enumerate(kept):
        # Read where it was not written.
        with cluster.connect((i + 1) % 3) as client:
            for name, seed in versions:
                client.model(f"race/net{i}").checkout(name, tmp_path / f"out{i}")
                assert (tmp_path / f"out{i}" / "weights.bin").read_bytes() == bytes_from(seed, SIZE)


def test_an_upload_that_pauses_across_sweeps_is_finished(
    cluster: LocalCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its chunks were swept meanwhile, for it held no lease: the client sends them again by itself."""
    write(tmp_path / "in", 21)

    async def story() -> None:
        async with await mcr.aio.connect(cluster.nodes[0].address) as client:
            model = client.model("pause/net")
            seal = model._seal

            async def pause(*given: Any) -> Any:  # noqa: ANN401
                await asyncio.to_thread(wait_rounds, cluster, 4)
                return await seal(*given)

            chunk = Chunk.of(bytes_from(22, 100_000))
            await client._connection.chunks.put([chunk])
            await client._connection.chunks.sync()
            await asyncio.to_thread(wait_rounds, cluster, 4)
            assert await client._connection.chunks.missing([chunk.id]) == {chunk.id}
            monkeypatch.setattr(model, "_seal", pause)
            await model.commit(tmp_path / "in")
            await model.checkout("v1", tmp_path / "out")

    asyncio.run(story())
    assert (tmp_path / "out" / "weights.bin").read_bytes() == bytes_from(21, SIZE)


def test_operators_see_and_steer_it(
    cluster: LocalCluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ("--cluster", cluster.addresses)
    with cluster.connect(0) as client:
        client.model("seen/net").commit(write(tmp_path / "in", 31))

    status = records(capsys, *where, "gc", "status")
    assert [one["member"] for one in status] == ["n1", "n2", "n3"]
    assert records(capsys, *where, "gc", "pause")[0]["members"] == ["n1", "n2", "n3"]
    assert {one["state"] for one in records(capsys, *where, "gc", "status")} == {"paused"}
    plans = records(capsys, *where, "gc", "--dry-run")
    assert [plan["member"] for plan in plans] == ["n1", "n2", "n3"]
    assert records(capsys, *where, "gc", "start")[0]["members"] == ["n1", "n2", "n3"]
    assert main([*where, "gc"]) == 2


def test_a_node_that_restarts_sweeps_after_the_next_mark(cluster: LocalCluster, tmp_path: Path) -> None:
    with cluster.connect(0) as client:
        model = client.model("restart/net")
        for seed in (41, 42):
            model.commit(write(tmp_path / "in", seed))
        model.delete(["v1"])
        model.empty_trash([1])
    cluster.kill(2)
    cluster.start(2)
    cluster.wait_ready()
    with cluster.connect(2) as client:

        def is_swept() -> bool:
            [worker] = client.workers("gc", member="n3").workers
            return worker.error == "" and worker.runs > 0

        until(is_swept, WAIT_S)
        client.model("restart/net").checkout("v2", tmp_path / "out")
    assert (tmp_path / "out" / "weights.bin").read_bytes() == bytes_from(42, SIZE)


def test_an_embedded_store_collects_when_it_is_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = str(tmp_path / "models.mcr")
    mcr.init(store)
    with mcr.connect(store) as client:
        for seed in (1, 2):
            client.model(MODEL).commit(write(tmp_path / "in", seed))
        client.model(MODEL).delete(["v1"])
    capsys.readouterr()

    assert main(["--cluster", store, "gc", "start"]) == 0
    [plan] = records(capsys, "--cluster", store, "gc", "--dry-run")

    assert plan["chunks"] == 0, "it is in the trash"
    with mcr.connect(store) as client, pytest.raises(McrError):
        client.workers("gc")
