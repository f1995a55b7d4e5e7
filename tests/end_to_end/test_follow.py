"""`mcr follow` as a process beside a real cluster: killed, ended, and left by its node."""

import json
import random
import signal
from pathlib import Path

import pytest

from mcr.model import Ref
from mcr.testing import LocalCluster, cluster_fixture
from tests.support.followers import FollowerProcess
from tests.support.served import bytes_from, mcr_command

HEARTBEAT_MS, ELECTION_MS = 50, 500
PATIENCE_S = 60.0

cluster = cluster_fixture(nodes=3, scope="module", heartbeat_ms=HEARTBEAT_MS, election_ms=ELECTION_MS)


@pytest.fixture
def model(request: pytest.FixtureRequest) -> str:
    """A name that no other test of the cluster uses."""
    return f"tests/{request.node.name[:90]}"


def commit(cluster: LocalCluster, model: str, folder: Path, count: int, length: int = 200_000) -> None:
    """Commit versions; the name in each file says which one it belongs to."""
    with cluster.connect() as client:
        for number in range(1, count + 1):
            source = folder / f"in{number}"
            source.mkdir(parents=True)
            for file in ("a", "b"):
                (source / file).write_bytes(f"{number:8}".encode() + bytes_from(number, length))
            client.model(model).commit(source)


def move(cluster: LocalCluster, model: str, version: str, reason: str = "") -> Ref:
    with cluster.connect() as client:
        return client.model(model).channel("production").set(version, reason=reason)


def served(destination: Path) -> int:
    """Return which version a program finds that resolves the destination once and opens all its files."""
    here = destination.resolve(strict=True)
    (number,) = {int((here / file).read_bytes()[:8]) for file in ("a", "b")}
    assert (here / "a").read_bytes() == (destination.parent / f"in{number}" / "a").read_bytes()
    return number


def test_followers_go_on_when_their_node_is_killed(cluster: LocalCluster, model: str, tmp_path: Path) -> None:
    commit(cluster, model, tmp_path, 3)
    first = move(cluster, model, "v1")
    with FollowerProcess(cluster.addresses, f"{model}@channel:production", tmp_path / "serving") as follower:
        follower.until_loaded(first.generation)
        assert served(tmp_path / "serving") == 1
        for victim, version in ((0, 2), (1, 3), (2, 1)):
            cluster.kill(victim)
            moved = move(cluster, model, f"v{version}")
            follower.until_loaded(moved.generation)
            assert served(tmp_path / "serving") == version
            cluster.start(victim)
            cluster.wait_ready()
        assert follower.signal(signal.SIGTERM) == 0, follower.talk()
    assert served(tmp_path / "serving") == 1


def test_without_any_node_it_serves_on_and_catches_up(tmp_path: Path) -> None:
    with LocalCluster(nodes=1, heartbeat_ms=HEARTBEAT_MS, election_ms=ELECTION_MS) as cluster:
        commit(cluster, "vision/net", tmp_path, 2)
        first = move(cluster, "vision/net", "v1")
        with FollowerProcess(
            cluster.addresses, "vision/net@channel:production", tmp_path / "serving"
        ) as follower:
            follower.until_loaded(first.generation)
            cluster.kill(0)
            assert served(tmp_path / "serving") == 1
            cluster.start(0)
            cluster.wait_ready()
            moved = move(cluster, "vision/net", "v2")
            follower.until_loaded(moved.generation)
            assert served(tmp_path / "serving") == 2
            assert follower.signal(signal.SIGINT) == 130


def test_killed_at_any_moment_the_destination_is_whole_and_the_next_one_goes_on(
    cluster: LocalCluster, model: str, tmp_path: Path
) -> None:
    commit(cluster, model, tmp_path, 3, length=3_000_000)
    generation = move(cluster, model, "v1").generation
    chance = random.Random(7)
    # A program that must not find half a model, whenever it looks.
    check = "test $(cut -c1-8 $MCR_DEST/a | head -1) = $(cut -c1-8 $MCR_DEST/b | head -1)"
    destination, reference = tmp_path / "serving", f"{model}@channel:production"
    for _ in range(6):
        # The first sign of each stage is as good a moment as any: ended there, something is half done.
        stage = chance.choice(["fetching", "fetched", "switched", "loaded"])
        version = chance.choice([1, 2, 3])
        generation = move(cluster, model, f"v{version}").generation
        with FollowerProcess(cluster.addresses, reference, destination, "--exec", check) as follower:
            follower.until_one_of({stage, "loaded"})
            assert follower.signal(signal.SIGKILL) == -signal.SIGKILL
        if destination.is_symlink():
            assert served(destination) in {1, 2, 3}
    done = mcr_command(
        "follow", reference, str(destination), "--once", "--json", "--exec", check, cluster=cluster.addresses
    )
    assert done.returncode == 0, done.stderr
    last = [json.loads(line) for line in done.stdout.splitlines()][-2:]
    assert {each["event"] for each in last} == {"loaded", "acknowledged"}
    assert (last[-1]["generation"], served(destination)) == (generation, version)


def test_a_command_that_fails_or_takes_too_long_goes_back(
    cluster: LocalCluster, model: str, tmp_path: Path
) -> None:
    commit(cluster, model, tmp_path, 3)
    move(cluster, model, "v1")
    log = tmp_path / "log"
    hook = (
        f'echo "$MCR_VERSION $MCR_FORMER_VERSION $MCR_VERB $MCR_REASON $MCR_BACK" >> {log}; '
        "case $MCR_VERSION in v2) exit 7;; v3) sleep 1000;; esac"
    )
    options = ("--exec", hook, "--exec-timeout", "3s")
    with FollowerProcess(
        cluster.addresses, f"{model}@channel:production", tmp_path / "serving", *options
    ) as follower:
        follower.until_loaded(1)
        for version, reason in ((2, "its exit status was 7"), (3, "3 s")):
            generation = move(cluster, model, f"v{version}", f"try {version}").generation
            back = follower.until(
                lambda each, g=generation: each["event"] == "back" and each["generation"] == g  # type: ignore[misc]
            )
            assert reason in back["reason"]
            assert served(tmp_path / "serving") == 1
        assert follower.signal(signal.SIGTERM) == 0
    assert log.read_text().splitlines() == [
        "v1  set  ",
        "v2 v1 set try 2 ",
        "v1 v2 set try 2 1",
        "v3 v1 set try 3 ",
        "v1 v3 set try 3 1",
    ]


def test_exit_statuses_of_a_follower(cluster: LocalCluster, model: str, tmp_path: Path) -> None:
    commit(cluster, model, tmp_path, 1)
    there = str(tmp_path / "serving")

    def status(*arguments: str) -> int:
        return mcr_command("follow", *arguments, cluster=cluster.addresses).returncode

    assert status(f"{model}@channel:production", there) == 3
    move(cluster, model, "v1")
    assert status(f"{model}@v1", there) == 2
    assert status(f"{model}@channel:production", there, "--exec-timeout", "soon") == 2
    assert status(f"{model}@channel:production", there, "--once", "--exec", "exit 1") == 1
    assert status(f"{model}@channel:production", there, "--once") == 1
    assert status(f"{model}@channel:production", there, "--once", "--retry") == 0
    with FollowerProcess(cluster.addresses, f"{model}@channel:production", tmp_path / "serving") as follower:
        follower.until_loaded(1)
        assert status(f"{model}@channel:production", there, "--once") == 1
