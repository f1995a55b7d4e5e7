"""Malformed and hostile messages of peers: no crash, no change of what a node holds or promised.

More: `make hostile MESSAGES=1000000`, or MESSAGES and HOSTILE_SEED in the environment.
"""

import os

import pytest

from mcr.testing import LocalCluster
from mcr_node.assembly import node_id_of
from mcr_node.core.raft import validation
from mcr_node.core.raft.messages import Message
from mcr_node.core.raft.raft import Raft
from mcr_node.storage.node_folder import read as read_node
from mcr_node.storage.store_folder import read as read_store
from tests.hostile.attack import attack
from tests.hostile.messages import LAWS
from tests.hostile.wire import Enemy, Victim

SEED = int(os.environ.get("HOSTILE_SEED", "20261126"))
MESSAGES = int(os.environ.get("MESSAGES", "20000"))
# Over a network each costs a thousand times as much.
MESSAGES_OVER_GRPC = max(1_000, MESSAGES // 20)


def test_no_hostile_message_crashes_a_node_or_changes_what_it_holds() -> None:
    tally = attack(SEED, MESSAGES)

    assert tally.total == MESSAGES
    for law in LAWS:
        assert tally.counts[f"{law}: refused"]
    assert tally.counts["wild: taken, within the laws"]


@pytest.mark.parametrize("check", ["_check_shape", "_check_sender", "_check_leader", "_check_committed"])
def test_the_attack_notices_when_a_check_is_missing(check: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def believe(*_: Raft | Message | int) -> None:
        return

    monkeypatch.setattr(validation, check, believe)

    with pytest.raises(AssertionError, match="again: python -m"):
        attack(SEED, 5_000)


def _victims(cluster: LocalCluster) -> list[Victim]:
    with cluster.connect() as client:
        status = client.cluster_status()
    folders = [node.data for node in cluster.nodes]
    cluster_id = read_store(folders[0]).store_id
    ids = []
    for folder in folders:
        node = read_node(folder)
        ids.append(node_id_of(cluster_id) if node is None or node.node_id is None else node.node_id)
    leader = ids[[node.name for node in cluster.nodes].index(status.leader)]
    return [
        Victim(cluster_id, own, [one for one in ids if one != own], leader, status.term, status.applied_index)
        for own in ids
    ]


def test_real_nodes_bear_hostile_peers_and_go_on_as_before() -> None:
    with LocalCluster(3) as cluster:
        with cluster.connect() as client:
            client.model("a/b").commit(cluster.folder / "node.toml", message="before")
        cluster.wait_ready()
        victims = _victims(cluster)
        for i, victim in enumerate(victims):
            enemy = Enemy(cluster.nodes[i].address, victim, SEED + i)
            outcomes = enemy.attack(MESSAGES_OVER_GRPC // 3)
            enemy.close()
            for outcome, count in sorted(outcomes.items()):
                print(f"n{i + 1}  {count:6} {outcome}")  # noqa: T201 - the report

        assert all(node.is_running for node in cluster.nodes)
        with cluster.connect() as client:
            status = client.cluster_status()
            assert (status.term, status.applied_index) == (victims[0].term, victims[0].last)
            client.model("a/b").commit(cluster.folder / "node.toml", message="after")
            assert [version.description for version in client.model("a/b").all_versions()] == [
                "after",
                "before",
            ]
        cluster.wait_ready()
        digests = set()
        for i in range(3):
            with cluster.connect(i) as client:
                digests.add(client.status().state_digest)
        assert len(digests) == 1
