"""The majority is gone for good: a new cluster of one survivor, by the command that makes it."""

import os
import pty
import subprocess
from pathlib import Path

from mcr.testing import LocalCluster, LocalNode
from mcr_node.storage import store_folder
from tests.support.served import COMMAND, bytes_from, mcr_command
from tests.support.waiting import until
from tests.unit.node.test_recovering import OLD, survivor

MODEL = "vision/net"
PATIENCE_S = 60.0


def write(folder: Path, seed: int) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "weights.bin").write_bytes(bytes_from(seed, 50_000))
    return folder


def test_a_survivor_goes_on_as_a_new_cluster_that_the_old_one_cannot_disturb(tmp_path: Path) -> None:
    with LocalCluster(4, heartbeat_ms=50, election_ms=500) as cluster:
        # given: three nodes, of which one took all commits, and the address of a node that joins later
        spare = cluster.nodes[3]
        with cluster.connect() as client:
            client.remove_member(spare.name)
        cluster.stop(3)
        with cluster.connect(2) as client:
            for seed in range(5):
                client.model(MODEL).commit(write(tmp_path / "in", seed), message=str(seed))
            client.model(MODEL).channel("production").set("v4")
        survivor = cluster.nodes[2]
        data = ["--data", str(survivor.data)]
        refused = mcr_command("cluster", "recover", *data, "--yes")
        assert refused.returncode == 1, "it runs"
        for i in range(3):
            cluster.kill(i)
        refused = mcr_command("cluster", "recover", *data)
        assert refused.returncode == 2
        assert "DROPPED: n1, n2; " in refused.stderr
        assert "LOST" in refused.stderr

        # when
        done = mcr_command("cluster", "recover", *data, "--yes")
        assert done.returncode == 0, done.stderr
        again = mcr_command("cluster", "recover", *data, "--yes")
        assert again.returncode == 1
        assert "only voter" in again.stderr
        cluster.start(2)

        # then
        with cluster.connect(2) as client:
            model = client.model(MODEL)
            assert [version.number for version in model.log()] == [5, 4, 3, 2, 1]
            assert model.channel("production").get().number == 4
            for seed in range(5):
                model.checkout(f"v{seed + 1}", tmp_path / "out", verify=True)
                assert (tmp_path / "out" / "weights.bin").read_bytes() == bytes_from(seed, 50_000)
            assert client.check().problems == ()
            assert model.commit(write(tmp_path / "in", 90), expect="v5").number == 6

        # A node with an empty folder joins; one of the old cluster comes back and is met with silence.
        joiner = LocalNode("n5", spare.address, cluster.folder / "n5", cluster.folder / "n5.log")
        cluster.nodes[3] = joiner
        cluster._launch(joiner, "--join", survivor.address)
        cluster.wait_ready(PATIENCE_S)
        cluster.start(0)
        with cluster.connect(3) as client:
            names = [member.name for member in client.cluster_status().members]
            assert sorted(names) == [survivor.name, "n5"]
            term = client.cluster_status().term
            for seed in range(3):
                assert client.model(MODEL).commit(write(tmp_path / "in", 100 + seed)).number == 7 + seed
            assert client.cluster_status().term == term
        old = mcr_command("ls", cluster=cluster.nodes[0].address, timeout_s=30)
        assert old.returncode == 11, "it alone decides nothing in the old cluster either"

        def alike() -> bool:
            found = set()
            for i in (2, 3):
                with cluster.connect(i) as client:
                    status = client.status()
                    found.add((status.applied_index, status.state_digest))
            return len(found) == 1

        until(alike, PATIENCE_S)


def test_at_a_terminal_the_name_of_the_node_confirms_and_no_other_word_does(tmp_path: Path) -> None:
    path = survivor(tmp_path / "d")

    def typed(word: str) -> int:
        terminal, stdin = pty.openpty()
        try:
            os.write(terminal, word.encode() + b"\n")
            command = [*COMMAND, "cluster", "recover", "--data", str(path)]
            done = subprocess.run(
                command, check=False, stdin=stdin, capture_output=True, text=True, timeout=PATIENCE_S
            )
        finally:
            os.close(terminal)
            os.close(stdin)
        assert "LOST" in done.stderr
        return done.returncode

    assert typed("yes") == 2
    assert store_folder.read(path) == OLD
    assert typed("n7") == 0
    assert store_folder.read(path) != OLD
