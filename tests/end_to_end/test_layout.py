"""Layouts are staged, shown with what would move, and put into force at once; a second operator is told."""

import json
from pathlib import Path
from typing import Any

import pytest

from mcr.testing import LocalCluster
from tests.end_to_end.test_draining import commit
from tests.support.disks import holders_on_disk
from tests.support.served import mcr_command
from tests.support.waiting import until

pytestmark = pytest.mark.slow

PATIENCE_S = 90.0


def layout(cluster: LocalCluster, *words: str) -> tuple[int, dict[str, Any]]:
    told = mcr_command("cluster", "layout", *words, "--json", cluster=cluster.addresses)
    text = told.stdout if told.returncode == 0 else told.stderr
    return told.returncode, json.loads(text.splitlines()[-1])


def test_what_is_staged_is_shown_applied_at_once_and_moved(tmp_path: Path) -> None:
    with LocalCluster(3, heartbeat_ms=50, election_ms=500, sites=("a", "a", "b")) as cluster:
        # given
        manifest = commit(cluster, 0, tmp_path / "in", 1)
        _, before = layout(cluster, "show")
        assert [member["share"] for member in before["members"]] == [0.333333] * 3
        assert (before["staged"], before["plan"]) == ([], None)

        # when: two operators look at the same layout
        assert layout(cluster, "stage", "n2", "--leaving", "--expect", str(before["epoch"]))[0] == 0
        status, told = layout(cluster, "stage", "n1", "--capacity", "1", "--expect", str(before["epoch"]))
        assert (status, told["error"], told["expected"]) == (10, "layout_changed", before["epoch"])
        assert layout(cluster, "stage", "n1", "--capacity", str(2 * 1024**4), "--site", "c")[0] == 0
        _, staged = layout(cluster, "show")

        # then
        assert staged["members"] == before["members"]
        assert [(one["name"], one["site"], one["leaving"]) for one in staged["staged"]] == [
            ("n1", "c", False),
            ("n2", "a", True),
        ]
        plan = staged["plan"]
        assert 0 < plan["chunks_moved"] <= plan["chunks"] == plan["chunks_looked_at"]
        assert plan["bytes_moved"] == sum(move["bytes_in"] for move in plan["moves"]) > 0
        assert layout(cluster, "apply", "--expect", str(before["epoch"]))[0] == 10
        status, applied = layout(cluster, "apply", "--expect", str(staged["epoch"]))
        assert status == 0
        assert layout(cluster, "apply")[0] == 10
        _, after = layout(cluster, "show")
        assert (after["epoch"], after["staged"]) == (applied["epoch"], [])
        assert [(one["site"], one["leaving"], one["share"]) for one in after["members"]] == [
            ("c", False, 0.666666),
            ("a", True, 0.0),
            ("b", False, 0.333333),
        ]

        # and: what a node says of itself does not change it, and the bytes are where they must be
        cluster.stop(0)
        cluster.start(0)
        cluster.wait_ready()
        with cluster.connect(0) as client:
            client.drain_member("n2")
            client.start_worker("rebalance", at_full_speed=True)
            assert [(member.site, member.leaving) for member in client.layout().members] == [
                ("c", False),
                ("a", True),
                ("b", False),
            ]

            def has_run() -> bool:
                return all(worker.runs for worker in client.workers("rebalance").workers)

            until(has_run, PATIENCE_S)
        for i in range(3):
            cluster.stop(i)
        found = holders_on_disk([node.data for node in cluster.nodes], [manifest])
        assert all({0, 2} <= set(places) for places in found.values())
