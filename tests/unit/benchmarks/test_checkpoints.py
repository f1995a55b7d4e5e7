"""Laws of the synthetic checkpoints that benchmarks commit."""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from benchmarks import checkpoints
from benchmarks.checkpoints import MIB

SIZE_BYTES = 2 * MIB


def weights(path: Path) -> dict[str, np.ndarray]:
    """Read the raw bits of every tensor by the file's own offsets."""
    with path.open("rb") as source:
        plans = checkpoints.read_plans(source)
        data = source.read()
    return {
        tensor.name: np.frombuffer(data, np.uint16, tensor.element_count, tensor.offset_bytes)
        for tensor in plans
    }


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / "first.safetensors"
    checkpoints.write_first(path, SIZE_BYTES, seed=7)
    return path


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(base: Path, tmp_path: Path) -> None:
    # when
    again, other = tmp_path / "again", tmp_path / "other"
    checkpoints.write_first(again, SIZE_BYTES, seed=7)
    checkpoints.write_first(other, SIZE_BYTES, seed=8)
    # then
    digests = [hashlib.sha256(path.read_bytes()).digest() for path in (base, again, other)]
    assert digests[0] == digests[1] != digests[2]


def test_the_safetensors_library_reads_what_was_planned(base: Path) -> None:
    with safe_open(base, framework="numpy") as found:
        slices = {name: found.get_slice(name) for name in found.keys()}  # noqa: SIM118 - not a mapping
        shapes = {name: tuple(one.get_shape()) for name, one in slices.items()}
        assert {one.get_dtype() for one in slices.values()} == {"BF16"}
    assert shapes == {tensor.name: tensor.shape for tensor in checkpoints.plan(SIZE_BYTES)}


@pytest.mark.parametrize("size_mib", [1, 2, 8, 100, 1024, 8192])
def test_a_plan_is_within_one_percent_of_the_size_asked_for(size_mib: int) -> None:
    # when
    plans = checkpoints.plan(size_mib * MIB)
    # then
    total_bytes = sum(tensor.length_bytes for tensor in plans)
    assert 0.99 <= total_bytes / (size_mib * MIB) <= 1
    assert len({tensor.name for tensor in plans}) == len(plans)


def test_a_size_too_small_for_a_transformer_is_refused() -> None:
    with pytest.raises(ValueError, match="at least"):
        checkpoints.plan(1000)


def test_the_header_is_aligned_and_covers_the_file(base: Path) -> None:
    plans = checkpoints.plan(SIZE_BYTES)
    head = checkpoints.header(plans)
    assert len(head) % checkpoints.HEADER_ALIGNMENT_BYTES == 0
    assert base.stat().st_size == len(head) + sum(tensor.length_bytes for tensor in plans)


def test_the_next_version_changes_the_asked_share_and_nothing_else(base: Path, tmp_path: Path) -> None:
    # when
    path = tmp_path / "changed.safetensors"
    names = checkpoints.write_changed(base, path, share=0.3)
    # then
    before, after = weights(base), weights(path)
    differing = [name for name in before if not np.array_equal(before[name], after[name])]
    assert differing == names
    changed_bytes = sum(before[name].nbytes for name in names)
    assert 0.2 <= changed_bytes / sum(one.nbytes for one in before.values()) <= 0.3
    assert path.stat().st_size == base.stat().st_size


def test_changes_look_like_training_and_stay_finite(base: Path, tmp_path: Path) -> None:
    # when
    path = tmp_path / "changed.safetensors"
    names = checkpoints.write_changed(base, path, share=0.3)
    # then
    before, after = weights(base), weights(path)
    old = np.concatenate([before[name] for name in names]).astype(np.int32)
    new = np.concatenate([after[name] for name in names]).astype(np.int32)
    assert np.mean(old == new) == pytest.approx(checkpoints.EQUAL_SHARE, abs=0.01)
    assert np.mean(np.abs(old - new) == 1) == pytest.approx(checkpoints.ONE_ULP_SHARE, abs=0.01)
    assert np.all(old & 0x8000 == new & 0x8000)
    assert np.all(new & 0x7F80 != 0x7F80)


def test_the_next_version_depends_on_its_seed_only(base: Path, tmp_path: Path) -> None:
    # when
    paths = [tmp_path / name for name in ("a", "b", "c")]
    for path, seed in zip(paths, (1, 1, 2), strict=True):
        checkpoints.write_changed(base, path, seed=seed)
    # then
    digests = [hashlib.sha256(path.read_bytes()).digest() for path in paths]
    assert digests[0] == digests[1] != digests[2]


def test_the_command_writes_both_versions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # given
    monkeypatch.setattr(sys, "argv", ["checkpoints", str(tmp_path), "--size-mib", "1", "--share", "0.2"])
    # when
    checkpoints.main()
    # then
    told = json.loads(capsys.readouterr().out)
    for folder in ("first", "changed"):
        assert (tmp_path / folder / checkpoints.FILE_NAME).stat().st_size == told["size_bytes"]
    assert told["changed"]
