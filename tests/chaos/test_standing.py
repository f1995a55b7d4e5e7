"""What is read from the disks of nodes that stand still is what was committed, however old the states are."""

import shutil
from pathlib import Path

from mcr.model import ChunkId
from mcr.testing import LocalCluster
from tests.support.disks import copied, visible_manifests
from tests.support.served import bytes_from
from tests.support.waiting import until

NODES = 3
WAIT_S = 60.0
# Marks after which what was given up is no root any more.
MARKS = 2
LENGTH_BYTES = 100_000


def _rounds(cluster: LocalCluster) -> list[int]:
    with cluster.connect() as client:
        return [worker.counts["round"] for worker in client.workers("gc").workers]


def _commit(cluster: LocalCluster, source: Path, seed: int) -> tuple[str, ChunkId]:
    (source / "weights.bin").write_bytes(bytes_from(seed, LENGTH_BYTES))
    with cluster.connect() as client:
        handle = client.model("standing/net")
        name = handle.commit(source).name
        return f"standing/net@{name}", handle.show(name).manifest


def test_a_state_that_lags_behind_its_log_shows_neither_what_was_deleted_nor_hides_what_came(
    tmp_path: Path,
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    with LocalCluster(NODES, settings={"garbage_interval_s": 1}) as cluster:
        gone, _ = _commit(cluster, source, 1)
        stays, stays_manifest = _commit(cluster, source, 2)
        for i in range(NODES):
            cluster.stop(i)
        # As after a power loss: states are synced now and then only, logs always.
        for i, node in enumerate(cluster.nodes):
            shutil.copytree(node.data / "state", tmp_path / f"state{i}")
            cluster.start(i)
        cluster.wait_ready()
        with cluster.connect() as client:
            handle = client.model("standing/net")
            handle.delete([gone.rpartition("@")[2]])
            handle.empty_trash([1])
        seen = max(_rounds(cluster))
        until(lambda: min(_rounds(cluster)) >= seen + MARKS, WAIT_S)
        came, came_manifest = _commit(cluster, source, 3)
        for i in range(NODES):
            cluster.kill(i)
        folders = [copied(node.data, tmp_path / str(i)) for i, node in enumerate(cluster.nodes)]
        for i, folder in enumerate(folders):
            shutil.rmtree(folder / "state")
            shutil.copytree(tmp_path / f"state{i}", folder / "state")
        assert visible_manifests(folders) == {stays: stays_manifest, came: came_manifest}
