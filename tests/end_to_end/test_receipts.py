"""Receipts with real processes: given through one node, asked of another, at the terminal."""

import json
from pathlib import Path
from typing import Any

import pytest

import mcr
from mcr.cli.main import main
from mcr.testing import LocalCluster, cluster_fixture
from tests.support.served import bytes_from

MODEL = "vision/net"

cluster = cluster_fixture(nodes=3, scope="module", heartbeat_ms=50, election_ms=500)


def write(folder: Path, seed: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "weights.bin").write_bytes(bytes_from(seed, 10_000))
    return folder


def _records(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert main([*arguments, "--json"]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_a_receipt_given_to_one_node_is_known_to_all(
    cluster: LocalCluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with cluster.connect(0) as client:
        model = client.model(MODEL)
        for seed in (1, 2):
            made = model.commit(write(tmp_path / "in", seed))
            model.channel("production").set(made.name)
    for i, node in enumerate(cluster.nodes):
        reference = f"{MODEL}@channel:production"
        [noted] = _records(capsys, "--cluster", node.address, "ack", reference, "--consumer", f"gpu-{i}")
        assert noted["generation"] == 2
    _records(
        capsys,
        "--cluster",
        cluster.nodes[1].address,
        "ack",
        f"{MODEL}@v1",
        "--consumer",
        "gpu-1",
        "--rank",
        "3",
    )
    for node in cluster.nodes:
        found = _records(capsys, "--cluster", node.address, "served", MODEL)
        assert [(one["consumer"], one["rank"], one["version"], one["generation"]) for one in found] == [
            ("gpu-0", 0, "v2", 2),
            ("gpu-1", 0, "v2", 2),
            ("gpu-1", 3, "v1", None),
            ("gpu-2", 0, "v2", 2),
        ]
    history = _records(capsys, "--cluster", cluster.nodes[2].address, "served", MODEL, "--consumer", "gpu-1")
    assert [(one["rank"], one["version"], one["state"]) for one in history] == [
        (3, "v1", "loaded"),
        (0, "v2", "loaded"),
    ]
    assert _records(capsys, "--cluster", cluster.addresses, "served", MODEL, "--at", "1h") == []


def test_an_embedded_store_takes_receipts_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = str(tmp_path / "models.mcr")
    mcr.init(store)
    with mcr.connect(store) as client:
        client.model(MODEL).commit(write(tmp_path / "in", 1))
    _records(capsys, "--cluster", store, "ack", f"{MODEL}@v1", "--consumer", "laptop")
    _records(capsys, "--cluster", store, "ack", f"{MODEL}@v1", "--consumer", "laptop", "--state", "gone")

    [serving] = _records(capsys, "--cluster", store, "served", MODEL)

    assert (serving["version"], serving["last_state"]) == (None, "gone")
    assert main(["--cluster", store, "served", MODEL]) == 0
    assert capsys.readouterr().out.startswith("laptop  0  -")
    assert main(["--cluster", store, "ack", f"{MODEL}@v7", "--consumer", "laptop"]) == 3
