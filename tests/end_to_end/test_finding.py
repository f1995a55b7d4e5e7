"""`mcr log` with conditions, on a store and on nodes, at the terminal and in Python."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import mcr
from mcr.errors import InvalidArgumentError
from mcr.testing import LocalCluster
from tests.support.served import mcr_command

pytestmark = pytest.mark.slow

MODEL = "vision/net"


def log(*arguments: str, cluster: str, status: int = 0, model: str = MODEL) -> list[dict[str, Any]]:
    done = mcr_command("log", model, *arguments, "--json", cluster=cluster)
    assert done.returncode == status, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def numbers(found: list[dict[str, Any]]) -> list[int]:
    return [each["number"] for each in found]


def fill(cluster: str, source: Path) -> None:
    """Four versions on main, one on a branch from the second; the third is released."""
    with mcr.connect(cluster) as client:
        model = client.model(MODEL)
        for number in range(1, 5):
            source.write_text(f"{number}")
            model.commit(
                source, message=f"m{number}", params={"lr": number / 10}, metrics={"loss": 1.0 / number}
            )
        source.write_text("branch")
        model.commit(source, message="b", branch="side", parent="v2", params={"optimizer": {"name": "adamw"}})
        model.create_tag("release-1", "v3")


def check(cluster: str) -> None:
    assert numbers(log("--metric", "loss<0.6", cluster=cluster)) == [4, 3, 2]
    assert numbers(log("--metric", "loss<0.6", "--metric", "loss>0.3", cluster=cluster)) == [3, 2]
    assert numbers(log("--param", "lr>=0.2", "-n", "2", cluster=cluster)) == [4, 3]
    assert numbers(log("--param", "lr>=0.2", "-n", "0", cluster=cluster)) == [4, 3, 2]
    assert numbers(log("-p", "optimizer.name=adamw", cluster=cluster)) == [5]
    assert numbers(log("--tag", "release-*", cluster=cluster)) == [3]
    assert numbers(log("--since", "1h", "--creator", "*", cluster=cluster)) == [5, 4, 3, 2, 1]
    assert log("--until", "1h", cluster=cluster) == []
    assert log("--creator", "nobody", cluster=cluster) == []
    # One history only, whose metrics come along.
    found = log("--metric", "loss>0", cluster=cluster, model=f"{MODEL}@side")
    assert [(each["number"], each["metrics"]) for each in found] == [(2, {"loss": 0.5}), (1, {"loss": 1.0})]
    assert log("--param", "optimizer.name<a", cluster=cluster, status=2) == []
    assert log("--metric", "loss", cluster=cluster, status=2) == []
    assert log("--metric", "loss<1", cluster=cluster, model="no/model", status=3) == []


def test_versions_are_found_in_a_store(tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    mcr.init(store)
    fill(store, tmp_path / "weights")
    check(store)
    shown = mcr_command("log", MODEL, "--metric", "loss<0.3", "--param", "lr>0", cluster=store)
    assert shown.stdout.rstrip().endswith("m4  (main)  loss=0.25  lr=0.4"), shown.stdout
    with mcr.connect(store) as client:
        model = client.model(MODEL)
        assert [each.number for each in model.find(params={"lr": 0.3})] == [3]
        assert [each.number for each in model.find(metrics=["loss<=1"], limit=1)] == [4]
        assert model.find(until=datetime(2020, 1, 1, tzinfo=UTC)) == []
        with pytest.raises(InvalidArgumentError):
            model.find(since=datetime(2020, 1, 1))  # noqa: DTZ001


def test_versions_are_found_through_every_node(tmp_path: Path) -> None:
    with LocalCluster(nodes=3) as cluster:
        fill(cluster.addresses, tmp_path / "weights")
        for address in cluster.addresses.split(","):
            with mcr.connect(address) as client:
                model = client.model(MODEL)
                assert [each.number for each in model.find(metrics=["loss<0.6"], tags=["rel*"])] == [3]
        check(cluster.addresses)
