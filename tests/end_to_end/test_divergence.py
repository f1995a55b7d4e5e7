"""A node whose state is not what the log makes of it: found, put out of service, and healed, by processes."""

from pathlib import Path

import grpc
import pytest

import mcr
from mcr.errors import UnavailableError
from mcr.testing import LocalCluster
from mcr.v1 import admin_pb2 as pb
from mcr.v1.admin_pb2_grpc import AdminServiceStub
from mcr.v1.versions_pb2 import GetVersionRequest, ReadOptions
from mcr.v1.versions_pb2_grpc import VersionsServiceStub
from mcr_node.core.state import keys
from mcr_node.core.state.digest import Divergence
from mcr_node.core.state.records import StateRow
from mcr_node.storage import store_folder
from mcr_node.storage.database import Database
from mcr_node.storage.state_store import StateStore
from tests.support.served import bytes_from
from tests.support.waiting import until

MODEL = "vision/net"
PATIENCE_S = 60.0
DIGEST_ENTRIES = 10
STALE = ReadOptions(stale_ok=True)


def local_cluster(tmp_path: Path, nodes: int) -> LocalCluster:
    settings = tmp_path / "settings.toml"
    settings.write_text(f"heartbeat_ms = 50\nelection_ms = 500\ndigest_entries = {DIGEST_ENTRIES}\n")
    return LocalCluster(nodes, options=("--config", str(settings)))


def commits(cluster: LocalCluster, folder: Path, count: int, *, first: int = 0) -> None:
    folder.mkdir(exist_ok=True)
    with cluster.connect() as client:
        for seed in range(first, first + count):
            (folder / "weights.bin").write_bytes(bytes_from(seed, 20_000))
            client.model(MODEL).commit(folder, message=str(seed))


def damage(data: Path) -> None:
    """Change one value of a stopped node's state as a bug would: its checksums hold."""
    database = Database.open(data / "state")
    try:
        found = database.get(keys.STATE)
        assert found is not None
        row = StateRow.unpack(found)
        # Log time that is ahead: every later record of this node is dated otherwise than the others'.
        ahead = StateRow(row.last_at_ms + 10**9, row.request_count, row.oldest_request_index)
        database.write([(keys.STATE, ahead.pack())])
        database.sync()
    finally:
        database.close()


def digests(cluster: LocalCluster) -> set[tuple[int, str]]:
    found = set()
    for i in range(len(cluster.nodes)):
        with cluster.connect(i) as client:
            status = client.status()
            found.add((status.applied_index, status.state_digest))
    return found


def heals(cluster: LocalCluster, i: int) -> None:
    """Wait until a node has said that its state was wrong and that it has another, and all are alike."""
    until(lambda: "took the place of the one that was wrong" in cluster.nodes[i].talk(), PATIENCE_S)
    assert "its state differed" in cluster.nodes[i].talk()
    cluster.wait_ready(PATIENCE_S)
    until(lambda: len(digests(cluster)) == 1, PATIENCE_S)


def test_a_follower_with_a_wrong_state_is_found_and_gets_the_right_one(tmp_path: Path) -> None:
    with local_cluster(tmp_path, 3) as cluster:
        commits(cluster, tmp_path / "in", 3)
        wrong = (cluster.leader() + 1) % 3
        cluster.stop(wrong)
        damage(cluster.nodes[wrong].data)
        cluster.start(wrong)
        cluster.wait_ready(PATIENCE_S)
        commits(cluster, tmp_path / "in", 2 * DIGEST_ENTRIES, first=3)
        heals(cluster, wrong)
        with cluster.connect(wrong) as client:
            assert client.model(MODEL).show().number == 3 + 2 * DIGEST_ENTRIES
            client.model(MODEL).checkout("v3", tmp_path / "out", verify=True)
        # It votes and takes writes like any other again.
        commits(cluster, tmp_path / "in", 1, first=90)


def test_a_leader_with_a_wrong_state_puts_itself_out_of_service_and_no_other(tmp_path: Path) -> None:
    with local_cluster(tmp_path, 3) as cluster:
        commits(cluster, tmp_path / "in", 3)
        wrong = (cluster.leader() + 1) % 3
        cluster.stop(wrong)
        damage(cluster.nodes[wrong].data)
        cluster.start(wrong)
        cluster.wait_ready(PATIENCE_S)
        with cluster.connect() as client:
            client.transfer_leadership(cluster.nodes[wrong].name)
        commits(cluster, tmp_path / "in", 2 * DIGEST_ENTRIES, first=3)
        heals(cluster, wrong)
        others = [node for i, node in enumerate(cluster.nodes) if i != wrong]
        assert not any("its state differed" in node.talk() for node in others)


def test_of_two_voters_that_differ_nobody_can_tell_which_is_wrong_so_both_go_on_with_an_alarm(
    tmp_path: Path,
) -> None:
    with local_cluster(tmp_path, 2) as cluster:
        commits(cluster, tmp_path / "in", 3)
        cluster.stop(1)
        damage(cluster.nodes[1].data)
        cluster.start(1)
        cluster.wait_ready(PATIENCE_S)
        commits(cluster, tmp_path / "in", 2 * DIGEST_ENTRIES, first=3)

        def is_told() -> bool:
            with cluster.connect() as client:
                return any(alarm.code == "state_disputed" for alarm in client.cluster_status().alarms)

        until(is_told, PATIENCE_S)
        assert not any("its state differed" in node.talk() for node in cluster.nodes)
        commits(cluster, tmp_path / "in", 1, first=80)


def test_a_wrong_state_is_not_served_after_a_restart_and_heals_with_one_sound_node(tmp_path: Path) -> None:
    with local_cluster(tmp_path, 3) as cluster:
        commits(cluster, tmp_path / "in", 3)
        cluster.wait_ready(PATIENCE_S)
        for i in range(3):
            cluster.stop(i)
        data = cluster.nodes[2].data
        state = StateStore.open(data / "state", store_folder.read(data).store_id)
        index = state.applied()
        state.fence(Divergence(index, index, bytes(32), bytes([1] * 32)))
        state.close()

        # Alone it finds nobody to give it another, and serves nothing: no old answer either.
        cluster.start(2)
        with pytest.raises(UnavailableError, match="differed"):
            mcr.connect(cluster.nodes[2].address, stale_ok=True)
        with grpc.insecure_channel(cluster.nodes[2].address) as channel:
            status = AdminServiceStub(channel).GetClusterStatus(pb.GetClusterStatusRequest())
            with pytest.raises(grpc.RpcError) as refused:
                VersionsServiceStub(channel).GetVersion(GetVersionRequest(reference=MODEL, read=STALE))
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "out of service" in str(refused.value.details())
        assert not any(member.healthy for member in status.members)
        told = {alarm.code: alarm.message for alarm in status.alarms}
        assert f"node n3 diverged at index {index}" in told["state_diverged"]

        # Its log and its vote count, so two of three decide although the state of one is wrong.
        cluster.start(1)
        until(lambda: "took the place of the one that was wrong" in cluster.nodes[2].talk(), PATIENCE_S)
        cluster.wait_ready(PATIENCE_S)
        commits(cluster, tmp_path / "in", 1, first=70)
        cluster.start(0)
        cluster.wait_ready(PATIENCE_S)
        until(lambda: len(digests(cluster)) == 1, PATIENCE_S)
