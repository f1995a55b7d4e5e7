"""Two branches of one model, merged on a cluster of real processes: by strategy, by file, by hand."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from mcr.cli.main import main
from mcr.testing import LocalCluster, cluster_fixture
from tests.support.merge_story import Tensors, decide_by_hand, merge_by_each

pytestmark = pytest.mark.slow

MODEL = "text/net"

cluster = cluster_fixture(nodes=3, scope="module", heartbeat_ms=50, election_ms=500)


def _write(folder: Path, tensors: Tensors) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors")
    return folder


def test_branches_are_merged_by_each_strategy_and_replayed_on_other_nodes(
    cluster: LocalCluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw = np.random.default_rng(11)
    base: Tensors = {f"layer.{i}": draw.standard_normal((128, 64)).astype(np.float32) for i in range(4)}
    ours, theirs = (
        {
            name: (value + draw.standard_normal(value.shape) * 0.1).astype(np.float32)
            for name, value in base.items()
        }
        for _ in range(2)
    )
    ours["layer.0"] = base["layer.0"]
    with cluster.connect(0) as client, cluster.connect(1) as another:
        model, other = client.model(MODEL), another.model(MODEL)
        model.commit(_write(tmp_path / "base", base), message="base")
        other.commit(_write(tmp_path / "main", ours), message="ours")
        model.create_branch("exp", at="v1")
        model.commit(_write(tmp_path / "exp", theirs), message="theirs", branch="exp")
        merge_by_each(model, base, ours, theirs, tmp_path)
        decide_by_hand(model, other, theirs, tmp_path)
    address = cluster.nodes[2].address
    capsys.readouterr()
    assert main(["--cluster", address, "merge", MODEL, "exp", "--json"]) == 10
    left = json.loads(capsys.readouterr().err)
    assert (left["error"], left["conflicts"]) == ("conflicts_left", 3)
    merge = str(left["merge"])
    (tmp_path / "choices.yaml").write_text('"model.safetensors:layer.1": mean\n')
    arguments = ["--cluster", address, "conflicts", MODEL, merge]
    assert main([*arguments, "--resolve", str(tmp_path / "choices.yaml")]) == 0
    assert main([*arguments, "--json"]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["choice"] for one in found] == ["mean", None, None]
    by_name = [f"--resolve=model.safetensors:layer.{i}=slerp:0.5" for i in (2, 3)]
    assert main([*arguments, *by_name]) == 0
    reference = capsys.readouterr().out.strip()
    assert main(["--cluster", cluster.nodes[0].address, "merge", "--replay", reference]) == 0
    assert main([*arguments]) == 3
