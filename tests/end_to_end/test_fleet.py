"""A fleet of six followers on three nodes: a bad version, the way back, and who had what when."""

import sys
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from mcr.errors import McrError
from mcr.model import RefKind
from mcr.testing import LocalCluster
from tests.support.fleet import BAD, CHANNEL, GOOD, MODEL, POLICY, Fleet, at_s

pytestmark = pytest.mark.slow

FOLLOWERS = 6
HEARTBEAT_MS, ELECTION_MS = 50, 500
# The target is a second, and the benchmark says what it takes; here the machine may be loaded.
SWITCH_S_MAX = 20.0


def test_a_bad_report_takes_the_whole_fleet_back_and_receipts_tell(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (
        LocalCluster(nodes=3, heartbeat_ms=HEARTBEAT_MS, election_ms=ELECTION_MS) as cluster,
        Fleet(cluster, tmp_path, followers=FOLLOWERS) as fleet,
        cluster.connect() as client,
    ):
        model = client.model(MODEL)
        bad = model.channel(CHANNEL).set("v2", reason="looked good")
        fleet.settle(bad.generation)
        assert fleet.served() == {BAD}
        while_bad = datetime.now(UTC)
        start_s = datetime.now(UTC).timestamp()
        fleet.report_bad(client)
        back = model.channel(CHANNEL).get()
        assert (back.number, back.generation) == (GOOD, bad.generation + 1)
        switches = fleet.switches(back.generation)
        took_s = max(at_s(each) for each in switches) - start_s
        with capsys.disabled():
            sys.stdout.write(f"\n  report to the last of {FOLLOWERS} switches: {took_s * 1000:.0f} ms\n")
        assert took_s < SWITCH_S_MAX
        fleet.settle(back.generation)
        assert fleet.served() == {GOOD}
        # Who had what when.
        consumers = [f"gpu-{i}" for i in range(FOLLOWERS)]
        now = model.served()
        assert [each.consumer for each in now.servings] == consumers
        assert {(each.number, each.generation) for each in now.servings} == {(GOOD, back.generation)}
        then = model.served(at=while_bad)
        assert [each.consumer for each in then.servings] == consumers
        assert {(each.number, each.generation) for each in then.servings} == {(BAD, bad.generation)}
        moves = model.history(RefKind.CHANNEL, CHANNEL)
        assert [move.verb for move in moves].count("rollback") == 1
        (decision,) = model.policy(POLICY).decisions
        assert "9" in moves[0].reason
        assert decision.generation == bad.generation


def test_the_leader_killed_at_the_decision_leaves_exactly_one_rollback(tmp_path: Path) -> None:
    with (
        LocalCluster(nodes=3, heartbeat_ms=HEARTBEAT_MS, election_ms=ELECTION_MS) as cluster,
        Fleet(cluster, tmp_path, followers=FOLLOWERS, all_nodes=True) as fleet,
    ):
        with cluster.connect() as client:
            bad = client.model(MODEL).channel(CHANNEL).set("v2")
        fleet.settle(bad.generation)
        leader = cluster.leader()
        others = [i for i in range(3) if i != leader]
        failures: list[BaseException] = []
        sent = threading.Event()

        def report() -> None:
            # By another node, which hands it to the leader that dies; the client tries again by itself.
            try:
                with cluster.connect(others[0]) as client:
                    client.cluster_status()
                    sent.set()
                    fleet.report_bad(client)
            except McrError as error:
                failures.append(error)

        reporter = threading.Thread(target=report)
        reporter.start()
        assert sent.wait(SWITCH_S_MAX)
        cluster.kill(leader)
        reporter.join()
        assert failures == []
        with cluster.connect() as client:
            model = client.model(MODEL)
            back = model.channel(CHANNEL).get()
            assert back.number == GOOD
            fleet.settle(back.generation)
            assert fleet.served() == {GOOD}
            cluster.start(leader)
            cluster.wait_ready()
            moves = model.history(RefKind.CHANNEL, CHANNEL)
            assert [move.verb for move in moves if move.generation > bad.generation] == ["rollback"]
            assert back.generation == bad.generation + 1
