"""`mcr retention` at the terminal, on a store and on nodes: rules, reasons, and what goes."""

import json
from pathlib import Path
from typing import Any

import pytest

from mcr.errors import VersionDeletedError
from mcr.retention_rules import parse_rules
from mcr.testing import LocalCluster
from tests.support.served import mcr_command
from tests.support.waiting import until

MODEL = "vision/net"
PATIENCE_S = 60.0


def records(*arguments: str, cluster: str, status: int = 0) -> list[dict[str, Any]]:
    done = mcr_command("retention", MODEL, *arguments, "--json", cluster=cluster)
    assert done.returncode == status, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def commit(cluster: str, folder: Path, *losses: float) -> None:
    folder.mkdir(exist_ok=True)
    for loss in losses:
        (folder / "weights").write_text(f"{loss}")
        done = mcr_command(
            "commit", MODEL, str(folder), "-m", f"{loss}", "--metric", f"loss={loss}", cluster=cluster
        )
        assert done.returncode == 0, done.stderr


def going(verdicts: list[dict[str, Any]]) -> list[str]:
    return [verdict["version"] for verdict in verdicts if verdict["goes"]]


def test_rules_are_tried_explained_set_and_carried_out_on_a_store(tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    assert mcr_command("init", store).returncode == 0
    commit(store, tmp_path / "in", 5.0, 1.0, 4.0, 3.0, 2.0, 6.0)
    assert mcr_command("tag", MODEL, "paper", "v3", cluster=store).returncode == 0
    rules = ("--set", "last=2", "--set", "best=1:loss:min")
    # Tried out before they are set: nothing changes.
    tried = records(*rules, "--dry-run", cluster=store)
    assert going(tried) == ["v4", "v1"]
    assert {each["version"]: each["reasons"] for each in tried} == {
        "v6": ["branch:main is at it", "one of the last 2 of its branch"],
        "v5": ["one of the last 2 of its branch"],
        "v4": ["retention: not kept by last=2 best=1:loss:min"],
        "v3": ["tag:paper is at it"],
        "v2": ["one of the best 1 by loss (min)"],
        "v1": ["retention: not kept by last=2 best=1:loss:min"],
    }
    assert records(cluster=store) == []
    (found,) = records(*rules, "--set", "trash=1d", cluster=store)
    assert found["rules"] == ["last=2", "best=1:loss:min", "trash=1d"]
    assert (found["branch"], found["last"], found["trash_ms"]) == (None, 2, 86_400_000)
    assert records("--dry-run", cluster=store) == tried
    assert [each["version"] for each in records("--apply", cluster=store)] == ["v1", "v4"]
    assert records("--apply", cluster=store) == []
    shown = mcr_command("show", f"{MODEL}@v4", cluster=store)
    assert shown.returncode != 0 or "trash" in shown.stdout
    # Other rules for a branch of its own; and none any more.
    (others, own) = records("--branch", "exp", "--set", "last=1", cluster=store)
    assert (others["branch"], own["branch"]) == (None, "exp")
    assert records("--set", "off", cluster=store) == [own]
    for wrong in (
        ("--set", "keep=1"), ("--set", "off", "--set", "last=1"), ("--branch", "main"), ("--set", "trash=1d"),
        ("--dry-run", "--apply"), ("--set", "off", "--dry-run"),
    ):  # fmt: skip
        records(*wrong, cluster=store, status=2)
    missing = mcr_command("retention", "no/such", cluster=store)
    assert missing.returncode == 3


def test_the_leader_retires_by_itself_and_what_came_into_use_meanwhile_stays(tmp_path: Path) -> None:
    settings = {"retention_period_s": 1}
    with (
        LocalCluster(nodes=3, heartbeat_ms=50, election_ms=500, settings=settings) as cluster,
        cluster.connect() as client,
    ):
        model = client.model(MODEL)
        folder = tmp_path / "in"
        folder.mkdir()
        for number in range(1, 7):
            (folder / "weights").write_text(f"{number}")
            model.commit(folder)
        model.acknowledge("v2", "gpu-7")
        model.set_retention(parse_rules(["last=2"]))

        def left() -> list[int]:
            return [verdict.number for verdict in model.plan_retention()]

        until(lambda: left() == [6, 5, 2], PATIENCE_S)
        # By one that leads later, too; the consumer has gone on.
        cluster.kill(cluster.leader())
        model.acknowledge("v6", "gpu-7")
        until(lambda: left() == [6, 5], PATIENCE_S)
        with pytest.raises(VersionDeletedError):
            model.checkout("v2", tmp_path / "out")
        # Restored it is one of them again, until somebody decides anew.
        model.set_retention(None)
        model.restore([2])
        assert left() == [6, 5, 2]
