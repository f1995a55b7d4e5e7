"""Members that leave: what they hold is with others first, as the files of the nodes show."""

import json
from pathlib import Path
from typing import Any

import pytest

from mcr.model import ChunkId
from mcr.testing import LocalCluster
from tests.support.disks import holders_on_disk
from tests.support.served import bytes_from, mcr_command
from tests.support.waiting import until

pytestmark = pytest.mark.slow

PATIENCE_S = 60.0
LENGTH_BYTES = 3_000_000
# Of a cluster that has just lost a node; they end with the same status as a last copy does.
PASSING = ("no_quorum", "unavailable", "deadline")
HEARTBEAT_MS, ELECTION_MS = 50, 500


def write(folder: Path, seed: int, length: int = LENGTH_BYTES) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "weights.bin").write_bytes(bytes_from(seed, length))
    return folder


def cluster_of(nodes: int) -> LocalCluster:
    return LocalCluster(nodes, heartbeat_ms=HEARTBEAT_MS, election_ms=ELECTION_MS)


def commit(cluster: LocalCluster, i: int, folder: Path, seed: int, model: str = "drain/net") -> ChunkId:
    """Commit through one node, and return the manifest."""
    with cluster.connect(i) as client:
        handle = client.model(model)
        return handle.show(handle.commit(write(folder, seed)).name).manifest


def copies_without(cluster: LocalCluster, gone: int, manifests: list[ChunkId]) -> list[int]:
    """Stop all nodes, and count the copies of each chunk on all but one of them."""
    for i, node in enumerate(cluster.nodes):
        if node.is_running:
            cluster.stop(i)
    folders = [node.data for i, node in enumerate(cluster.nodes) if i != gone]
    return [len(places) for places in holders_on_disk(folders, manifests).values()]


def settled_refusal(*words: str, cluster: str) -> dict[str, Any]:
    """Ask for what must be refused, until the refusal is none of an election that is under way; return it."""
    told: dict[str, Any] = {}

    def is_settled() -> bool:
        refused = mcr_command(*words, "--json", cluster=cluster)
        assert refused.returncode, "it was accepted"
        told.clear()
        told.update(json.loads(refused.stderr))
        return told["error"] not in PASSING

    until(is_settled, PATIENCE_S)
    return told


@pytest.mark.parametrize("is_leader", [True, False], ids=["leader", "follower"])
def test_a_drained_node_holds_nothing_that_others_do_not(tmp_path: Path, is_leader: bool) -> None:
    with cluster_of(4) as cluster:
        # given
        leader = cluster.leader()
        gone = leader if is_leader else (leader + 1) % 4
        name = cluster.nodes[gone].name
        manifests = [commit(cluster, gone, tmp_path / "in", seed) for seed in range(3)]

        # when
        drained = mcr_command("cluster", "drain", name, "--json", cluster=cluster.addresses)

        # then
        assert drained.returncode == 0, drained.stderr
        told = json.loads(drained.stdout)
        assert (told["member"], told["leaving"], told["drained"], told["chunks_left"]) == (
            name,
            True,
            True,
            0,
        )
        assert cluster.leader() != gone
        # It is still asked, and may be written to; what it takes is with others before it is a version.
        manifests.append(commit(cluster, gone, tmp_path / "in", 9))
        with cluster.connect(gone) as client:
            assert client.cluster_status().chunks_under_replicated == 0
        assert min(copies_without(cluster, gone, manifests)) >= 2


def test_a_drain_can_be_taken_back(tmp_path: Path) -> None:
    with cluster_of(3) as cluster:
        commit(cluster, 0, tmp_path / "in", 1)
        with cluster.connect() as client:
            # Nobody copies anything while repair rests.
            client.pause_worker("repair")
            begun = client.drain_member("n2", wait=False)
            assert (begun.is_leaving, begun.is_drained) == (True, False)
            again = mcr_command("cluster", "drain", "n2", "--status", cluster=cluster.addresses)
            assert again.stdout.startswith("n2 is leaving: ")
            back = mcr_command("cluster", "drain", "n2", "--cancel", "--json", cluster=cluster.addresses)
            assert json.loads(back.stdout)["leaving"] is False
            client.start_worker("repair")
            assert not client.drain_progress("n2").is_leaving
        unknown = mcr_command("cluster", "drain", "n9", cluster=cluster.addresses)
        assert unknown.returncode == 3


def test_a_drain_goes_on_when_whoever_asked_and_the_leader_are_gone(tmp_path: Path) -> None:
    with cluster_of(4) as cluster:
        manifests = [commit(cluster, i, tmp_path / "in", i) for i in range(4)]
        leader = cluster.leader()
        gone = (leader + 1) % 4
        with cluster.connect(gone) as client:
            client.drain_member(cluster.nodes[gone].name, wait=False)
        cluster.kill(leader)
        cluster.start(leader)

        def is_drained() -> bool:
            with cluster.connect(gone) as client:
                return client.drain_progress(cluster.nodes[gone].name).is_drained

        until(is_drained, PATIENCE_S)
        assert min(copies_without(cluster, gone, manifests)) >= 2


def test_the_last_voter_that_stays_cannot_be_drained() -> None:
    with cluster_of(2) as cluster:
        first = mcr_command("cluster", "drain", "n1", cluster=cluster.addresses)
        assert first.returncode == 0, first.stderr
        second = mcr_command("cluster", "drain", "n2", cluster=cluster.addresses)
        assert second.returncode == 1
        assert "last voter" in second.stderr


def test_a_removal_that_would_lose_a_last_copy_is_refused_even_by_force(tmp_path: Path) -> None:
    with cluster_of(3) as cluster:
        # given: a version whose two holders are gone, or about to
        with cluster.connect() as client:
            client.pause_worker("repair")
        manifest = commit(cluster, 0, tmp_path / "in", 1)
        cluster.leader()
        for i in range(3):
            cluster.stop(i)
        places = holders_on_disk([node.data for node in cluster.nodes], [manifest]).values()
        held = [i for i in range(3) if any(i in each for each in places)]
        spare = next(iter({0, 1, 2} - set(next(iter(places)))))
        gone = next(i for i in held if i != spare)
        for i in range(3):
            cluster.start(i)
        cluster.wait_ready()
        # Of the other one: its disk is replaced by an empty one, so to speak.
        other = next(i for i in range(3) if i not in (gone, spare))
        cluster.kill(other)

        # when
        where = cluster.nodes[spare].address
        words = ["cluster", "remove", cluster.nodes[gone].name, "--force"]
        told = settled_refusal(*words, cluster=where)

        # then
        assert (told["error"], told["member"]) == ("last_copy", cluster.nodes[gone].name)
        assert told["chunks"] > 0
        assert "drain/net@v1" in told["version"]
        assert mcr_command("cluster", "remove", "n1", "--accept-loss", cluster=where).returncode == 2

        def is_gone() -> bool:
            # Done, or done by a try whose answer was late.
            return mcr_command(*words, "--accept-loss", cluster=where).returncode in (0, 3)

        until(is_gone, PATIENCE_S)
