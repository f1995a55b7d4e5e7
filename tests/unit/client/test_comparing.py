"""What differs between two versions."""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import mcr
from mcr.comparing import metric_changes, parameter_changes
from mcr.model import Parameters
from mcr.tensors.statistics import ChangeKind


def test_parameters_differ_by_leaf_and_by_type() -> None:
    a: Parameters = {"lr": 1, "optimizer": {"name": "adam", "beta": 0.9}, "gone": None, "same": [1, 2]}
    b: Parameters = {"lr": 1.0, "optimizer": {"name": "adamw", "beta": 0.9}, "new": True, "same": [1, 2]}
    changes = {
        change.key: (change.a, change.b, change.in_a, change.in_b) for change in parameter_changes(a, b)
    }
    assert changes == {
        "gone": (None, None, True, False),
        "lr": (1, 1.0, True, True),
        "new": (None, True, False, True),
        "optimizer.name": ("adam", "adamw", True, True),
    }


def test_metrics_differ_and_nan_equals_nan() -> None:
    changes = metric_changes(
        {"loss": math.nan, "auc": 0.9, "old": 1.0}, {"loss": math.nan, "auc": 0.8, "new": 2.0}
    )
    assert [(change.name, change.a, change.b) for change in changes] == [
        ("auc", 0.9, 0.8),
        ("new", None, 2.0),
        ("old", 1.0, None),
    ]


@pytest.fixture
def model(tmp_path: Path) -> Iterator[mcr.Model]:
    mcr.init(tmp_path / "store")
    with mcr.connect(tmp_path / "store") as client:
        yield client.model("a/b")


def test_tensors_are_compared_across_dtypes_blocks_and_shapes(model: mcr.Model, tmp_path: Path) -> None:
    draw = np.random.default_rng(7)
    big = draw.normal(size=(700, 1000)).astype(np.float32)
    moved = big.copy()
    moved[600, 5] += 1.0
    before = {"big": big, "cast": big, "gone": big[0], "grown": big[:3], "same": big[1]}
    after = {"big": moved, "cast": big.astype(np.float16), "new": big[0], "grown": big[:4], "same": big[1]}
    save_file(before, tmp_path / "model.safetensors")
    model.commit(tmp_path / "model.safetensors", message="before")
    save_file(after, tmp_path / "model.safetensors")
    model.commit(tmp_path / "model.safetensors", message="after")

    found = model.diff("v1", "v2", tensors=True)

    assert [(change.path, change.kind) for change in found.files] == [("model.safetensors", "changed")]
    assert found.tensors is not None
    changes = {item.change.name: item.change for item in found.tensors}
    assert changes["big"].changed_share == pytest.approx(1 / 700_000)
    assert changes["big"].norm_of_change == pytest.approx(1.0, rel=1e-5)
    assert (changes["cast"].dtype_a, changes["cast"].dtype_b) == ("F32", "F16")
    expected = float(np.linalg.norm(big.astype(np.float64) - big.astype(np.float16).astype(np.float64)))
    assert changes["cast"].norm_of_change == pytest.approx(expected, rel=1e-6)
    assert changes["gone"].kind is ChangeKind.REMOVED
    assert changes["new"].kind is ChangeKind.ADDED
    assert changes["grown"].shape_b == (4, 1000)
    assert changes["same"].changed_share == 0.0


def test_equal_versions_have_no_differences(model: mcr.Model, tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(bytes(1000))
    for _ in range(2):
        model.commit(tmp_path / "weights.bin", message="same")
    found = model.diff("v1", "v2", tensors=True)
    assert (found.files, found.parameters, found.metrics, found.tensors) == ((), (), (), ())


def test_tensors_are_compared_across_formats(model: mcr.Model, tmp_path: Path) -> None:
    draw = np.random.default_rng(7)
    before = {name: draw.normal(size=(300, 1000)).astype(np.float32) for name in ("moved", "same", "gone")}
    after = {"moved": before["moved"].copy(), "same": before["same"], "new": before["gone"]}
    after["moved"][7, 7] += 1.0
    (tmp_path / "npz").mkdir()
    (tmp_path / "safe").mkdir()
    np.savez(tmp_path / "npz" / "model.npz", moved=before["moved"], same=before["same"], gone=before["gone"])
    save_file(after, tmp_path / "safe" / "model.safetensors")
    model.commit(tmp_path / "npz")
    model.commit(tmp_path / "safe")

    found = model.diff("v1", "v2", tensors=True)
    back = model.diff("v2", "v1", tensors=True)

    assert {(change.path, change.kind) for change in found.files} == {
        ("model.npz", "removed"),
        ("model.safetensors", "added"),
    }
    assert found.tensors is not None
    assert back.tensors is not None
    items = {item.change.name: item for item in found.tensors}
    assert {name: (item.change.kind, item.file_a, item.file) for name, item in items.items()} == {
        "moved": (ChangeKind.CHANGED, "model.npz", "model.safetensors"),
        "same": (ChangeKind.UNCHANGED, "model.npz", "model.safetensors"),
        "gone": (ChangeKind.REMOVED, "model.npz", "model.npz"),
        "new": (ChangeKind.ADDED, "", "model.safetensors"),
    }
    assert items["moved"].change.changed_share == pytest.approx(1 / 300_000)
    assert items["moved"].change.norm_of_change == pytest.approx(1.0, rel=1e-5)
    kinds = {item.change.name: item.change.kind for item in back.tensors}
    assert (kinds["moved"], kinds["gone"]) == (ChangeKind.CHANGED, ChangeKind.ADDED)


def test_tensors_are_found_in_other_shards_unless_two_files_have_the_name(
    model: mcr.Model, tmp_path: Path
) -> None:
    ones, zeros = np.ones((4, 5), np.float32), np.zeros((4, 5), np.float32)
    folder = tmp_path / "in"
    folder.mkdir()
    for files in (
        {"a": {"x": ones, "y": ones, "twice": ones}, "b": {"z": ones, "twice": ones}},
        {"a": {"x": ones}, "b": {"y": zeros, "z": ones}, "c": {"twice": ones}},
    ):
        for name, tensors in files.items():
            save_file(tensors, folder / f"{name}.safetensors")
        model.commit(folder)

    found = model.diff("v1", "v2", tensors=True)

    assert found.tensors is not None
    assert [(item.file_a, item.file, item.change.name, str(item.change.kind)) for item in found.tensors] == [
        ("a.safetensors", "a.safetensors", "twice", "removed"),
        ("a.safetensors", "a.safetensors", "x", "unchanged"),
        ("b.safetensors", "b.safetensors", "twice", "removed"),
        ("a.safetensors", "b.safetensors", "y", "changed"),
        ("b.safetensors", "b.safetensors", "z", "unchanged"),
        ("", "c.safetensors", "twice", "added"),
    ]
