"""A merge takes as much memory for a large model as for a small one."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import mcr
from mcr.merging import writing

MIB = 1024 * 1024


def peak_bytes(folder: Path, size_mib: int, strategy: str) -> int:
    """Merge two branches of a model of one tensor; return the most that Python and NumPy had in use."""
    mcr.init(folder / "store", encoding="raw")
    with mcr.connect(folder / "store") as client:
        model = client.model("vision/net")
        for seed, branch in enumerate(("main", "exp", "main")):
            weights = np.random.default_rng(seed).standard_normal(size_mib * MIB // 4, np.float32)
            save_file({"w": weights}, folder / "model.safetensors")
            model.commit(folder / "model.safetensors", branch=branch, parent="v1" if seed == 1 else None)
        del weights
        tracemalloc.start()
        try:
            assert model.merge("exp", strategies=[f"*={strategy}"]).made
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()


# Ties has three sides and goes through them three times: what holds for it holds for the others.
@pytest.mark.parametrize(
    "strategy", [*(pytest.param(each, marks=pytest.mark.slow) for each in ("mean", "slerp:0.5")), "ties:0.2"]
)
def test_memory_does_not_grow_with_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strategy: str
) -> None:
    # A batch is then small against both models, as the real one is against those that matter.
    monkeypatch.setattr(writing, "BLOCKS_AT_ONCE", 1)
    peaks = []
    for size_mib in (3, 12):
        folder = tmp_path / str(size_mib)
        folder.mkdir()
        peaks.append(peak_bytes(folder, size_mib, strategy))

    assert peaks[1] - peaks[0] < 3 * MIB
