"""Policies with real processes: decided once, wherever the report comes in and whoever dies meanwhile."""

import json
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import mcr
from mcr.cli.main import main
from mcr.errors import ProtectedError
from mcr.model import RefKind
from mcr.testing import LocalCluster, cluster_fixture
from tests.support.served import bytes_from
from tests.support.waiting import until

PATIENCE_S = 60.0
HEARTBEAT_MS, ELECTION_MS = 50, 500
KILLS = 4

# Shared by the tests that leave it whole, or make it whole again.
cluster = cluster_fixture(nodes=3, scope="module", heartbeat_ms=HEARTBEAT_MS, election_ms=ELECTION_MS)


@pytest.fixture
def model(request: pytest.FixtureRequest) -> str:
    """A name that no other test of the cluster uses."""
    return f"tests/{request.node.name[:90]}"


def write(folder: Path, seed: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "weights.bin").write_bytes(bytes_from(seed, 10_000))
    return folder


def versions(cluster: LocalCluster, model: str, tmp_path: Path, count: int) -> None:
    with cluster.connect(0) as client:
        for seed in range(count):
            made = client.model(model).commit(write(tmp_path / "in", seed))
            client.model(model).channel("production").set(made.name)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, Any]]:
    capsys.readouterr()
    status = main([*arguments, "--json"])
    told = capsys.readouterr()
    assert status == 0, told.err
    return [json.loads(line) for line in told.out.splitlines()]


def follower(cluster: LocalCluster) -> int:
    leader = cluster.leader()
    return next(i for i in range(3) if i != leader)


def test_a_bad_report_through_a_follower_rolls_the_channel_back_everywhere(
    cluster: LocalCluster, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    versions(cluster, model, tmp_path, 2)
    through = cluster.nodes[follower(cluster)].address
    example = Path(__file__).parents[2] / "docs" / "examples" / "policy-loss.yaml"
    run(capsys, "--cluster", through, "policy", model, "loss", "--set", str(example))

    good, bad = (
        run(capsys, "--cluster", through, "report", f"{model}@channel:production", f"loss={loss}")[0]
        for loss in ("0.4", "3.5")
    )

    assert good["decision"] is None
    assert "rolled channel:production back from v2 to v1" in bad["decision"]
    for node in cluster.nodes:
        [channel] = run(capsys, "--cluster", node.address, "channel", model, "production")
        assert (channel["version"], channel["generation"], channel["actor"]) == ("v1", 3, "policy:loss")
        [why] = run(capsys, "--cluster", node.address, "policy", model, "loss", "--why")
        assert [one["outcome"] for one in why["decisions"]] == ["rolled_back"]
        assert why["decisions"][0]["evidence"]["samples"][0]["value"] == 3.5
        moves = run(capsys, "--cluster", node.address, "channel", model, "production", "--history")
        assert moves[0]["evidence"]["policy"] == "loss"
        assert moves[1]["evidence"] is None


def test_watchers_are_told_of_a_decision_as_of_any_move(
    cluster: LocalCluster, model: str, tmp_path: Path
) -> None:
    versions(cluster, model, tmp_path, 2)
    with cluster.connect(follower(cluster)) as client, cluster.connect(cluster.leader()) as other:
        client.model(model).set_policy("loss", {"channel": "production", "metric": "loss", "nan": True})
        since = client.status().applied_index
        with closing(client.model(model).watch(since=since)) as events:
            # NaN is taken without being allowed: a policy watches for it.
            other.model(model).report("v2", {"loss": float("nan")}, channel="production")

            event = next(events)

    assert (event.kind, event.name, event.move.number) == (RefKind.CHANNEL, "production", 1)
    assert event.move.actor == "policy:loss"
    assert event.move.evidence is not None


def test_a_leader_killed_at_the_moment_of_the_decision_leaves_exactly_one_rollback(
    cluster: LocalCluster, model: str, tmp_path: Path
) -> None:
    versions(cluster, model, tmp_path, 2)
    with cluster.connect() as client:
        handle = client.model(model)
        handle.set_policy("loss", {"channel": "production", "metric": "loss", "above": 2})
        for _ in range(KILLS):
            at = handle.channel("production").set("v2")
            said: list[str] = []
            reporting = threading.Thread(
                target=lambda into=said: into.append(handle.report("v2", {"loss": 9.0}))
            )
            leader = cluster.leader()
            reporting.start()
            cluster.kill(leader)
            reporting.join(PATIENCE_S)
            assert len(said) == 1, "the report was acknowledged"
            cluster.start(leader)
            cluster.wait_ready()
            for i in range(3):
                with cluster.connect(i) as reader:
                    moves = reader.model(model).channel("production").history(limit=100)
                    later = [move for move in moves if move.generation > at.generation]
                    assert [(move.verb, move.actor, move.number) for move in later] == [
                        ("rollback", "policy:loss", 1)
                    ]
                    decisions = reader.model(model).policy("loss").decisions
                    assert [one.generation for one in decisions].count(at.generation) == 1


def test_missing_reports_roll_back_once_also_when_the_leader_is_killed(
    cluster: LocalCluster, model: str, tmp_path: Path
) -> None:
    versions(cluster, model, tmp_path, 2)
    with cluster.connect() as client:
        handle = client.model(model)
        handle.set_policy("silence", {"channel": "production", "missing": "2s", "max_per_day": 1})
        leader = cluster.leader()
        cluster.kill(leader)

        until(lambda: handle.channel("production").get().number == 1, PATIENCE_S)

        cluster.start(leader)
        cluster.wait_ready()
        [decision] = [one for one in handle.policy("silence").decisions if one.outcome == "rolled_back"]
        assert (decision.number, decision.target_number) == (2, 1)
        assert handle.channel("production").get().generation == 3


def test_metrics_of_a_commit_are_judged_at_the_next_turn_of_the_leader(
    cluster: LocalCluster, model: str, tmp_path: Path
) -> None:
    versions(cluster, model, tmp_path, 1)
    with cluster.connect(follower(cluster)) as client:
        handle = client.model(model)
        handle.set_policy("loss", {"branch": "main", "metric": "loss", "above": 2})
        made = handle.commit(write(tmp_path / "in", 9), metrics={"loss": 5.0})

        until(lambda: handle.show("main").number == made.number + 1, PATIENCE_S)

        back = handle.show("main")
    assert (back.target_number, back.creator) == (1, "policy:loss")


def test_a_move_that_two_must_agree_to_waits_for_the_other(
    cluster: LocalCluster, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    versions(cluster, model, tmp_path, 2)
    address = cluster.nodes[1].address
    run(capsys, "--cluster", address, "channel", model, "production", "--protect", "two-person")
    run(capsys, "--cluster", address, "rollback", model, "--channel", "production")

    [asked] = run(capsys, "--cluster", address, "channel", model, "production", "--set", "v2")

    assert (asked["version"], asked["pending"]["number"]) == ("v1", 2)
    # The same account cannot approve what it asked for.
    assert main(["--cluster", address, "channel", model, "production", "--approve"]) == 12
    assert "so another one must approve it" in capsys.readouterr().err
    [dropped] = run(capsys, "--cluster", address, "channel", model, "production", "--withdraw")
    assert dropped["pending"] is None


def test_a_channel_waits_until_a_site_has_all_bytes(tmp_path: Path) -> None:
    with LocalCluster(nodes=2, sites=("north", "south")) as cluster, cluster.connect(0) as client:
        model = client.model("vision/net")
        made = model.commit(write(tmp_path / "in", 1), durability="cluster")
        channel = model.channel("production")
        channel.set(made.name)
        channel.protect({"available": ["north", "south"]})
        second = model.commit(write(tmp_path / "in", 2), durability="cluster")
        assert channel.set(second.name).number == 2
        channel.protect({"available": ["north", "west"]})
        with pytest.raises(ProtectedError, match="v1 is not available at site west yet"):
            channel.set(made.name)


def test_an_embedded_store_has_policies_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store, file = str(tmp_path / "models.mcr"), tmp_path / "policy.yaml"
    mcr.init(store)
    with mcr.connect(store) as client:
        model = client.model("vision/net")
        for seed in (1, 2):
            model.channel("production").set(model.commit(write(tmp_path / "in", seed)).name)
    file.write_text("channel: production\nmetric: loss\n\nabuv: 2.0\n")
    assert main(["--cluster", store, "policy", "vision/net", "loss", "--set", str(file)]) == 2
    assert f"{file}: line 4: abuv: no such field" in capsys.readouterr().err
    file.write_text("channel: production\nmetric: loss\nabove: 2.0\n")
    run(capsys, "--cluster", store, "policy", "vision/net", "loss", "--set", str(file), "--dry-run")
    run(capsys, "--cluster", store, "report", "vision/net@v2", "loss=3")
    [why] = run(capsys, "--cluster", store, "policy", "vision/net", "loss", "--why")
    assert [one["outcome"] for one in why["decisions"]] == ["would_roll_back"]

    run(capsys, "--cluster", store, "policy", "vision/net", "loss", "--set", str(file))
    [said] = run(capsys, "--cluster", store, "report", "vision/net@v2", "loss=3")

    assert "rolled channel:production back from v2 to v1" in said["decision"]
    [channel] = run(capsys, "--cluster", store, "channel", "vision/net", "production")
    assert (channel["version"], channel["actor"]) == ("v1", "policy:loss")
    [listed] = run(capsys, "--cluster", store, "policy", "vision/net")
    assert (listed["policy"], listed["revision"]) == ("loss", 2)
    run(capsys, "--cluster", store, "policy", "vision/net", "loss", "--delete")
    assert run(capsys, "--cluster", store, "policy", "vision/net") == []
    assert main(["--cluster", store, "policy", "vision/net", "loss", "--why"]) == 3
