"""Three nodes as processes: what they promise together, while they are killed, paused and cut down."""

import threading
from pathlib import Path

import pytest

import mcr
from mcr.errors import (
    FailedError,
    HeadMovedError,
    MemberNotFoundError,
    NoQuorumError,
)
from mcr.testing import LocalCluster, cluster_fixture
from tests.support.served import bytes_from, mcr_command

MODEL = "vision/net"
# A wait that should never be this long; a loaded machine has room.
PATIENCE_S = 60.0
HEARTBEAT_MS, ELECTION_MS = 50, 500

# Shared by the tests that leave it whole, or make it whole again.
cluster = cluster_fixture(nodes=3, scope="module", heartbeat_ms=HEARTBEAT_MS, election_ms=ELECTION_MS)


@pytest.fixture
def model(request: pytest.FixtureRequest) -> str:
    """A name that no other test of the cluster uses."""
    return f"tests/{request.node.name[:90]}"


def write(folder: Path, seed: int, length: int = 300_000) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "weights.bin").write_bytes(bytes_from(seed, length))
    return folder


def digests(cluster: LocalCluster, nodes: range) -> set[tuple[int, str]]:
    found = set()
    for i in nodes:
        with cluster.connect(i) as client:
            status = client.status()
            found.add((status.applied_index, status.state_digest))
    return found


def test_what_one_node_acknowledged_every_other_shows_at_once(
    cluster: LocalCluster, model: str, tmp_path: Path
) -> None:
    clients = [cluster.connect(i) for i in range(3)]
    try:
        for seed in range(6):
            writer = clients[seed % 3]
            made = writer.model(model).commit(write(tmp_path / "in", seed), message=f"{seed}")
            writer.model(model).channel("production").set(made.name)
            for reader in clients:
                assert reader.model(model).show().number == made.number
                assert reader.model(model).channel("production").get().number == made.number
    finally:
        for client in clients:
            client.close()


def test_a_stale_expectation_is_refused_by_every_node(
    cluster: LocalCluster, model: str, tmp_path: Path
) -> None:
    with cluster.connect(0) as client:
        client.model(model).commit(write(tmp_path / "in", 1), expect="none")
        client.model(model).commit(write(tmp_path / "in", 2), expect="v1")
    for i in range(3):
        with cluster.connect(i) as client, pytest.raises(HeadMovedError):
            client.model(model).commit(write(tmp_path / "in", 3), expect="v1")


def test_a_node_without_the_chunks_gives_them_bit_exact(
    cluster: LocalCluster, model: str, tmp_path: Path
) -> None:
    data = write(tmp_path / "in", 11, 4_000_000)
    with cluster.connect(0) as client:
        client.model(model).commit(data)
    # Two copies are made, so one of the three nodes has none of these chunks.
    for i in range(3):
        with cluster.connect(i) as client:
            client.model(model).checkout("v1", tmp_path / f"out{i}", verify=True)
        assert (tmp_path / f"out{i}" / "weights.bin").read_bytes() == (data / "weights.bin").read_bytes()


class Load:
    """Commits, one after the other, and what was acknowledged; a failure that cannot pass ends it."""

    def __init__(self, cluster: LocalCluster, model: str, folder: Path) -> None:
        self.acknowledged: list[tuple[int, str]] = []
        self.failure: BaseException | None = None
        self._ending = threading.Event()
        self._step = threading.Condition()
        self._thread = threading.Thread(target=self._run, args=(cluster, model, folder))

    def __enter__(self) -> "Load":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()

    def wait_for(self, count: int) -> None:
        with self._step:
            reached = self._step.wait_for(
                lambda: len(self.acknowledged) >= count or self.failure is not None, PATIENCE_S
            )
        assert reached
        assert self.failure is None

    def _run(self, cluster: LocalCluster, model: str, folder: Path) -> None:
        try:
            with cluster.connect() as client:
                while not self._ending.is_set():
                    text = f"load {len(self.acknowledged)}"
                    made = client.model(model).commit(
                        write(folder, len(self.acknowledged), 20_000), message=text
                    )
                    with self._step:
                        self.acknowledged.append((made.number, text))
                        self._step.notify_all()
        except BaseException as error:  # noqa: BLE001 (told to the test, which raises it)
            with self._step:
                self.failure = error
                self._step.notify_all()


def test_killing_the_leader_loses_and_doubles_no_commit(
    cluster: LocalCluster, model: str, tmp_path: Path
) -> None:
    with Load(cluster, model, tmp_path / "in") as load:
        load.wait_for(5)
        leader = cluster.leader()
        cluster.kill(leader)
        load.wait_for(len(load.acknowledged) + 5)
        cluster.start(leader)
        load.wait_for(len(load.acknowledged) + 3)
    assert load.failure is None
    cluster.wait_ready(PATIENCE_S)
    for i in range(3):
        with cluster.connect(i) as client:
            versions = [(v.number, v.description) for v in client.model(model).all_versions()]
        assert sorted(versions) == load.acknowledged
    assert len(digests(cluster, range(3))) == 1


def test_a_paused_leader_is_replaced_and_steps_down(
    cluster: LocalCluster, model: str, tmp_path: Path
) -> None:
    old = cluster.leader()
    cluster.pause(old)
    try:
        new = cluster.leader(timeout_s=PATIENCE_S)
        assert new != old
        with cluster.connect(new) as client:
            client.model(model).commit(write(tmp_path / "in", 31))
    finally:
        cluster.resume(old)
    # It still believes that it leads when it wakes, and must not answer from what it has.
    with cluster.connect(old) as client:
        assert client.model(model).show().number == 1
    cluster.wait_ready(PATIENCE_S)


def test_a_stopped_node_catches_up_to_the_same_state(
    cluster: LocalCluster, model: str, tmp_path: Path
) -> None:
    away = (cluster.leader() + 1) % 3
    cluster.stop(away)
    with cluster.connect() as client:
        for seed in range(40, 50):
            client.model(model).commit(write(tmp_path / "in", seed, 20_000))
    cluster.start(away)
    cluster.wait_ready(PATIENCE_S)
    assert len(digests(cluster, range(3))) == 1
    with cluster.connect(away) as client:
        client.model(model).checkout("v10", tmp_path / "out", verify=True)
    assert (tmp_path / "out" / "weights.bin").read_bytes() == bytes_from(49, 20_000)


def test_a_minority_refuses_writes_soon_and_shows_what_it_has(tmp_path: Path) -> None:
    with LocalCluster(2, heartbeat_ms=50, election_ms=300) as pair:
        data = write(tmp_path / "in", 60)
        with pair.connect(0) as client:
            client.model(MODEL).commit(data)
        pair.wait_ready(PATIENCE_S)
        pair.kill(0)
        left = pair.nodes[1].address
        refused = mcr_command("commit", MODEL, str(data), "-m", "alone", cluster=left, timeout_s=30)
        assert refused.returncode == 11, refused.stderr
        with pair.connect(1) as client, pytest.raises(NoQuorumError):
            client.model(MODEL).show()
        with mcr.connect(left, stale_ok=True) as client:
            assert client.model(MODEL).show().number == 1
            client.model(MODEL).checkout("v1", tmp_path / "out", verify=True)
        assert (tmp_path / "out" / "weights.bin").read_bytes() == (data / "weights.bin").read_bytes()
        # Together again they go on; what was refused was not done.
        pair.start(0)
        pair.wait_ready(PATIENCE_S)
        with pair.connect() as client:
            assert client.model(MODEL).commit(write(data, 61), expect="v1").number == 2


def test_leadership_goes_to_the_voter_that_is_named(cluster: LocalCluster) -> None:
    target = cluster.nodes[(cluster.leader() + 1) % 3].name
    with cluster.connect() as client:
        assert client.transfer_leadership(target) == target
    assert cluster.nodes[cluster.leader()].name == target
    told = mcr_command("cluster", "transfer-leader", cluster=cluster.addresses)
    assert told.returncode == 0, told.stderr
    assert told.stdout.strip() != target
    cluster.wait_ready(PATIENCE_S)


def test_a_taken_name_and_unknown_names_are_refused(cluster: LocalCluster, tmp_path: Path) -> None:
    with cluster.connect() as client:
        for change in (client.remove_member, client.promote_member, client.transfer_leadership):
            with pytest.raises(MemberNotFoundError):
                change("n9")
    join = ["--data", str(tmp_path / "new"), "--listen", "127.0.0.1:1", "--join", cluster.addresses]
    refused = mcr_command("node", "start", "--name", "n1", *join)
    assert refused.returncode == 10, refused.stderr
    assert "n1" in refused.stderr
    assert not (tmp_path / "new").exists()


def test_members_can_be_removed_down_to_one_and_not_further(tmp_path: Path) -> None:
    with LocalCluster(3, heartbeat_ms=HEARTBEAT_MS, election_ms=ELECTION_MS) as shrinking:
        with shrinking.connect() as client:
            client.model(MODEL).commit(write(tmp_path / "in", 70))
        leader = shrinking.leader()
        removed = mcr_command(
            "cluster", "remove", shrinking.nodes[leader].name, "--json", cluster=shrinking.addresses
        )
        assert removed.returncode == 0, removed.stderr
        assert removed.stdout == f'{{"removed": "{shrinking.nodes[leader].name}"}}\n'
        shrinking.stop(leader)
        follower, last = (i for i in range(3) if i != leader)
        held = []
        for i in (follower, last):
            with shrinking.connect(i) as client:
                held.append(client.status().chunk_count)
        # Two copies still, wherever the one was that left.
        assert held[0] == held[1] > 0
        with shrinking.connect(last) as client:
            client.transfer_leadership(shrinking.nodes[last].name)
            client.remove_member(shrinking.nodes[follower].name)
            assert [member.name for member in client.cluster_status().members] == [shrinking.nodes[last].name]
            with pytest.raises(FailedError, match="last voter"):
                client.remove_member(shrinking.nodes[last].name)
            # Who was removed held copies; what they held is here now.
            assert client.check().problems == ()
            assert client.model(MODEL).commit(write(tmp_path / "in", 71), expect="v1").number == 2


def test_no_node_takes_content_for_lost_that_another_one_holds(
    cluster: LocalCluster, model: str, tmp_path: Path
) -> None:
    """Two of three hold a version; `mcr doctor` may ask the third."""
    with cluster.connect(0) as client:
        client.model(model).commit(write(tmp_path / "in", 1))
    for deep in (False, True):
        for i in range(len(cluster.nodes)):
            with cluster.connect(i) as client:
                assert client.check(deep=deep).chunks_damaged == ()
