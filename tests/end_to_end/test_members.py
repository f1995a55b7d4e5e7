"""Adding a node beforehand, and replacing one by another, with processes."""

import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mcr._local_network import free_addresses
from mcr.testing import LocalCluster, LocalNode
from mcr_node.transport.colleagues import CALL_S
from tests.support.served import bytes_from, mcr_command
from tests.support.waiting import until

MODEL = "vision/net"
PATIENCE_S = 60.0


def write(folder: Path, seed: int) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "weights.bin").write_bytes(bytes_from(seed, 50_000))
    return folder


def cluster_command(cluster: LocalCluster, *words: str) -> "subprocess.CompletedProcess[str]":
    return mcr_command("cluster", *words, cluster=cluster.addresses, timeout_s=90)


def replaced_by_one_that_is_not_there(cluster: LocalCluster) -> "subprocess.CompletedProcess[str]":
    """Ask a follower, which waits as long as its caller; and meanwhile there is no other replacement."""
    follower = cluster.nodes[1 - cluster.leader()].address
    with ThreadPoolExecutor(1) as executor:
        words = ["cluster", "replace", "n2", "n3", "--wait", str(CALL_S + 3)]
        asked = [executor.submit(lambda: mcr_command(*words, cluster=follower, timeout_s=90))]

        def is_refused() -> bool:
            if asked[-1].done():
                # Refused for another reason, such as an election on a busy machine.
                asked.append(executor.submit(lambda: mcr_command(*words, cluster=follower, timeout_s=90)))
            second = cluster_command(cluster, "replace", "n1", "n3", "--wait", "0.1")
            assert second.returncode == 1
            return "n2 is being replaced" in second.stderr

        until(is_refused, PATIENCE_S)
        return asked[-1].result(PATIENCE_S)


def test_a_place_is_kept_for_one_node_and_a_replaced_one_leaves_nothing_behind(tmp_path: Path) -> None:
    with LocalCluster(2) as cluster:
        with cluster.connect() as client:
            client.model(MODEL).commit(write(tmp_path / "in", 1))
        (address, elsewhere) = free_addresses(2)

        # A place is kept, by whoever asks as often as he likes; the node that is awaited is in nobody's way.
        for _ in range(2):
            added = cluster_command(cluster, "add", "n3", "--address", address, "--site", "ams", "--json")
            assert added.returncode == 0, added.stderr
        assert added.stdout == f'{{"added": "n3", "address": "{address}", "site": "ams"}}\n'
        with cluster.connect() as client:
            status = client.cluster_status()
            assert client.model(MODEL).commit(write(tmp_path / "in", 2), expect="v1").number == 2
        assert {member.name: member.role for member in status.members} == {
            "n1": "voter",
            "n2": "voter",
            "n3": "learner",
        }
        assert [(alarm.code, alarm.member) for alarm in status.alarms] == [("member_awaited", "n3")]

        # Nobody else gets it, and it gets no vote before it is there.
        assert cluster_command(cluster, "add", "n9", "--address", address).returncode == 10
        assert cluster_command(cluster, "add", "n3", "--address", elsewhere).returncode == 10
        assert cluster_command(cluster, "add", "n1", "--address", elsewhere).returncode == 10
        assert cluster_command(cluster, "promote", "n3").returncode == 1
        join = ["--data", str(tmp_path / "wrong"), "--listen", elsewhere, "--join", cluster.addresses]
        refused = mcr_command("node", "start", "--name", "n3", *join)
        assert refused.returncode == 10, refused.stderr
        assert f"awaited on {address}" in refused.stderr

        # A replacement by one that is not there fails, and takes nothing away.
        late = replaced_by_one_that_is_not_there(cluster)
        assert late.returncode == 1, late.stderr
        assert "n2 stays" in late.stderr
        assert cluster_command(cluster, "replace", "n1", "n1").returncode == 2
        assert cluster_command(cluster, "replace", "n9", "n2").returncode == 3
        assert cluster_command(cluster, "replace", "n1", "n9").returncode == 3

        # when: it is started, and takes the place of the leader
        joined = cluster.addresses
        cluster.nodes.append(LocalNode("n3", address, cluster.folder / "n3", cluster.folder / "n3.log"))
        cluster._launch(cluster.nodes[2], "--join", joined)
        leader = cluster.nodes[cluster.leader()].name
        replaced = cluster_command(cluster, "replace", leader, "n3", "--json")
        assert replaced.returncode == 0, replaced.stderr
        assert replaced.stdout == f'{{"removed": "{leader}", "replaced_by": "n3"}}\n'
        cluster.stop(0 if leader == "n1" else 1)

        # then
        def is_settled() -> bool:
            with cluster.connect(2) as client:
                found = client.cluster_status()
            names = {member.name: (member.role, member.site) for member in found.members}
            other = "n2" if leader == "n1" else "n1"
            return not found.alarms and names == {other: ("voter", ""), "n3": ("voter", "ams")}

        until(is_settled, PATIENCE_S)
        with cluster.connect(2) as client:
            assert client.check().problems == ()
            assert client.model(MODEL).commit(write(tmp_path / "in", 3), expect="v2").number == 3
        # It is started again by the same command, whatever id was kept for it.
        cluster.stop(2)
        cluster.start(2)
        until(is_settled, PATIENCE_S)
