"""Merges on a store in this process: what is taken, what is in conflict, what is published."""

import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

import mcr
from mcr.errors import (
    ConflictsLeftError,
    HeadMovedError,
    InvalidArgumentError,
    MergeNotFoundError,
    ReplayDiffersError,
)
from mcr.model import VersionKind

Tensors = dict[str, NDArray[Any]]
WEIGHTS = "model.safetensors"


@pytest.fixture
def model(tmp_path: Path) -> Iterator[mcr.Model]:
    mcr.init(tmp_path / "store")
    with mcr.connect(tmp_path / "store") as client:
        yield client.model("vision/net")


def tensors(seed: int) -> Tensors:
    draw = np.random.default_rng(seed)
    found: Tensors = {name: draw.standard_normal((40, 30)).astype(np.float32) for name in ("a", "b", "c")}
    return found | {
        "steps": np.asarray([seed], np.int64),
        "big": draw.standard_normal(400_000).astype(np.float32),
    }


class Bench:
    """Commits versions made of tensors and small files."""

    def __init__(self, model: mcr.Model, folder: Path) -> None:
        self.model = model
        self.folder = folder
        self.count = 0

    def commit(
        self,
        weights: Mapping[str, NDArray[Any]],
        branch: str = "main",
        *,
        files: Mapping[str, str] | None = None,
        metadata: dict[str, str] | None = None,
        params: mcr.model.Parameters | None = None,
    ) -> str:
        self.count += 1
        folder = self.folder / str(self.count)
        folder.mkdir(parents=True)
        save_file(dict(weights), folder / WEIGHTS, metadata=metadata)
        for name, text in (files or {}).items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
        return self.model.commit(folder, message="", branch=branch, params=params).name

    def fork(self) -> None:
        """Let branch `exp` begin at v1."""
        self.model.create_branch("exp", at="v1")

    def weights(self, ref: str) -> Tensors:
        self.model.checkout(ref, self.folder / "out", delete=True)
        found: Tensors = load_file(self.folder / "out" / WEIGHTS)
        return found

    def text(self, ref: str, path: str) -> str:
        with self.model.open(ref, path) as file:
            return file.read().decode()


@pytest.fixture
def bench(model: mcr.Model, tmp_path: Path) -> Bench:
    return Bench(model, tmp_path / "in")


def same(one: Tensors, other: Tensors) -> bool:
    return one.keys() == other.keys() and all((one[name] == other[name]).all() for name in one)


def test_what_one_side_changed_is_taken(bench: Bench) -> None:
    base = tensors(1)
    bench.commit(base, files={"config.json": "1", "old.txt": "x", "keep.txt": "k"})
    bench.commit(base | {"a": base["a"] + 1}, files={"config.json": "1", "keep.txt": "k", "ours/new": "o"})
    bench.fork()
    theirs = {"config.json": "2", "old.txt": "x", "keep.txt": "k", "theirs.txt": "t"}
    bench.commit(base | {"b": base["b"] + 1, "big": base["big"] * 2}, "exp", files=theirs)

    outcome = bench.model.merge("exp")

    version = outcome.version
    assert (version.kind, version.parents, version.branch) == (VersionKind.MERGE, (2, 3), "main")
    assert outcome.decided == 0
    assert [entry.path for entry in version.files or ()] == [
        "config.json",
        "keep.txt",
        WEIGHTS,
        "ours/new",
        "theirs.txt",
    ]
    assert bench.text(version.name, "config.json") == "2"
    expected = base | {"a": base["a"] + 1, "b": base["b"] + 1, "big": base["big"] * 2}
    assert same(bench.weights(version.name), expected)


def test_a_merged_version_is_what_a_commit_of_its_files_would_be(bench: Bench) -> None:
    base = tensors(1)
    bench.commit(base)
    bench.commit(base | {"big": base["big"] + 1, "new": base["a"]}, metadata={"made": "here"})
    bench.fork()
    bench.commit(base | {"big": base["big"] * 3, "other": base["b"]}, "exp")

    merged = bench.model.merge("exp", strategies=["big=mean"]).version

    bench.model.checkout(merged.name, bench.folder / "copy")
    again = bench.model.commit(bench.folder / "copy", branch="copy")
    assert again.manifest == merged.manifest
    found = bench.weights(merged.name)
    assert found.keys() == {*base, "new", "other"}
    # float64 of a float32 sum: exact, then rounded once.
    expected = ((base["big"] + 1).astype(np.float64) + (base["big"] * 3).astype(np.float64)) * 0.5
    assert (found["big"] == expected.astype(np.float32)).all()


def test_a_branch_that_has_everything_is_left_alone(bench: Bench) -> None:
    bench.commit(tensors(1))
    bench.fork()
    bench.commit(tensors(2))

    outcome = bench.model.merge("exp")

    assert not outcome.made
    assert outcome.version.name == "v2"


def test_a_branch_without_own_commits_takes_the_other_as_it_is(bench: Bench) -> None:
    bench.commit(tensors(1))
    bench.fork()
    theirs = bench.commit(tensors(2), "exp")

    merged = bench.model.merge("exp").version

    assert merged.manifest == bench.model.show(theirs).manifest
    assert merged.parents == (1, 2)


@pytest.fixture
def diverged(bench: Bench) -> Bench:
    """Both sides changed tensor a, tensor b, config.json and the parameter lr; v2 on main, v3 on exp."""
    base = tensors(1)
    bench.commit(base, files={"config.json": "1"}, params={"lr": 0.1, "seed": 1})
    ours = base | {"a": base["a"] + 1, "b": base["b"] + 1}
    bench.commit(ours, files={"config.json": "2"}, params={"lr": 0.2, "seed": 1})
    bench.fork()
    theirs = base | {"a": base["a"] * 2, "b": base["b"] * 2}
    bench.commit(theirs, "exp", files={"config.json": "3"}, params={"lr": 0.3, "seed": 2})
    return bench


def opened(bench: Bench, *strategies: str) -> int:
    with pytest.raises(ConflictsLeftError) as caught:
        bench.model.merge("exp", strategies=strategies)
    return caught.value.merge


def test_what_both_changed_waits_and_nothing_is_published(diverged: Bench) -> None:
    merge = opened(diverged)

    waiting = diverged.model.conflicts(merge)
    names = [each.conflict.name for each in waiting.conflicts or ()]
    assert names == ["config.json", f"{WEIGHTS}:a", f"{WEIGHTS}:b", "parameter:lr"]
    assert (waiting.ours, waiting.theirs, waiting.base, waiting.open_count) == (2, 3, 1, 4)
    assert diverged.model.show("main").name == "v2"


def test_the_first_rule_that_fits_decides(diverged: Bench) -> None:
    rules = ["a=theirs", "*=mean", "parameter:*=ours", "*.json=theirs"]

    outcome = diverged.model.merge("exp", strategies=rules)

    assert outcome.decided == 4
    assert outcome.version.parameters == {"lr": 0.2, "seed": 2}
    assert diverged.text(outcome.version.name, "config.json") == "3"
    found, base = diverged.weights(outcome.version.name), tensors(1)
    assert (found["a"] == base["a"] * 2).all()
    mean = ((base["b"] + 1).astype(np.float64) + (base["b"] * 2).astype(np.float64)) * 0.5
    assert (found["b"] == mean.astype(np.float32)).all()
    document = diverged.model.merge_document(outcome.version.name)
    assert dict(document.decided) == {
        0: (f"{WEIGHTS}:a",),
        1: (f"{WEIGHTS}:b",),
        2: ("parameter:lr",),
        3: ("config.json",),
    }
    assert [each.number for each in (document.base, document.ours, document.theirs)] == [1, 2, 3]


def test_a_rule_that_cannot_be_applied_leaves_the_conflict_open(bench: Bench) -> None:
    base = tensors(1)
    bench.commit(base)
    bench.commit(base | {"steps": np.asarray([2], np.int64)})
    bench.fork()
    bench.commit(base | {"steps": np.asarray([3, 4], np.int64)}, "exp")

    merge = opened(bench, "*=mean", "*=ours")

    (conflict,) = bench.model.conflicts(merge).conflicts or ()
    assert "equal types and shapes" in conflict.conflict.reason


def test_conflicts_are_decided_one_by_one_and_the_last_publishes(diverged: Bench, tmp_path: Path) -> None:
    merge = opened(diverged)
    (tmp_path / "config.json").write_text("both")
    given = np.full((40, 30), 7, np.float32)
    save_file({"only": given}, tmp_path / "given.safetensors")
    resolve = diverged.model.resolve

    assert resolve(merge, {f"{WEIGHTS}:a": "slerp:0.5"}) is None
    assert resolve(merge, {"parameter:lr": "value:0.25"}) is None
    assert resolve(merge, {f"{WEIGHTS}:b": tmp_path / "given.safetensors"}) is None
    outcome = resolve(merge, {"config.json": str(tmp_path / "config.json")})

    assert outcome is not None
    version = outcome.version
    assert version.parameters == {"lr": 0.25, "seed": 2}
    assert diverged.text(version.name, "config.json") == "both"
    assert (diverged.weights(version.name)["b"] == given).all()
    assert diverged.model.merges() == []
    with pytest.raises(MergeNotFoundError):
        diverged.model.conflicts(merge)
    choices = {each.name: each for each in diverged.model.merge_document(version.name).choices}
    assert choices[f"{WEIGHTS}:a"].choice == "slerp:0.5"
    assert choices[f"{WEIGHTS}:b"].choice.startswith("given:")
    assert all(each.decider.startswith("local:") for each in choices.values())
    assert diverged.model.replay(version.name).id == version.id


def test_a_choice_that_does_not_fit_is_refused(diverged: Bench, tmp_path: Path) -> None:
    merge = opened(diverged)
    for name, choice in (
        ("config.json", "mean"),
        ("parameter:lr", "slerp:0.5"),
        (f"{WEIGHTS}:a", "value:1"),
        ("no such", "ours"),
    ):
        with pytest.raises(InvalidArgumentError):
            diverged.model.resolve(merge, {name: choice})
    assert diverged.model.conflicts(merge).open_count == 4


def test_a_merge_whose_branch_moved_keeps_its_decisions(diverged: Bench) -> None:
    merge = opened(diverged)
    names = [each.conflict.name for each in diverged.model.conflicts(merge).conflicts or ()]
    diverged.commit(tensors(9))

    with pytest.raises(HeadMovedError):
        diverged.model.resolve(merge, dict.fromkeys(names, "theirs"))

    assert diverged.model.conflicts(merge).open_count == 0
    diverged.model.drop_merge(merge)
    assert diverged.model.merges() == []


def test_deleted_on_one_side_and_changed_on_the_other_is_a_conflict(bench: Bench) -> None:
    base = tensors(1)
    bench.commit(base, files={"notes": "1"})
    bench.commit({name: value for name, value in base.items() if name != "a"})
    bench.fork()
    bench.commit(base | {"a": base["a"] + 1}, "exp", files={"notes": "2"})

    merge = opened(bench)
    found = {each.conflict.name: each.conflict for each in bench.model.conflicts(merge).conflicts or ()}
    assert found["notes"].ours is None
    assert found[f"{WEIGHTS}:a"].ours is None

    merged = bench.model.merge("exp", strategies=["notes=ours", "a=theirs"]).version
    assert [entry.path for entry in merged.files or ()] == [WEIGHTS]
    assert same(bench.weights(merged.name), base | {"a": base["a"] + 1})


def test_replay_finds_a_version_that_is_not_what_its_merge_gives(
    diverged: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    merged = diverged.model.merge("exp", strategies=["*=mean", "*=theirs"]).version
    # As a release would that computes means in another way.
    monkeypatch.setattr("mcr.tensors.merging._Linear._merged", lambda _, a, b, __: a * 0.5 + b)
    with pytest.raises(ReplayDiffersError):
        diverged.model.replay(merged.name)


def test_merging_back_uses_the_merge_as_base(diverged: Bench) -> None:
    merged = diverged.model.merge("exp", strategies=["*=mean", "*=theirs"]).version
    diverged.commit(tensors(1) | {"a": tensors(5)["a"]}, "exp", files={"config.json": "3"})

    document = diverged.model.merge_document(
        diverged.model.merge("exp", strategies=["*=theirs"]).version.name
    )

    assert (document.base.number, document.ours.number) == (3, merged.number)


def test_npy_files_are_merged_element_by_element(model: mcr.Model, tmp_path: Path) -> None:
    def commit(values: NDArray[Any], branch: str) -> None:
        buffer = io.BytesIO()
        np.save(buffer, values)
        folder = tmp_path / "npy"
        folder.mkdir(exist_ok=True)
        (folder / "w.npy").write_bytes(buffer.getvalue())
        model.commit(folder, message="", branch=branch)

    base = np.arange(1000, dtype=np.float64)
    commit(base, "main")
    commit(base + 1, "main")
    model.create_branch("exp", at="v1")
    commit(base * 2, "exp")

    merged = model.merge("exp", strategies=["*=weighted:0.25"]).version

    model.checkout(merged.name, tmp_path / "out")
    assert (np.load(tmp_path / "out" / "w.npy") == 0.75 * (base + 1) + 0.25 * (base * 2)).all()


def test_metadata_of_both_sides_is_a_conflict_of_its_own(bench: Bench) -> None:
    base = tensors(1)
    bench.commit(base, metadata={"step": "1"})
    bench.commit(base, metadata={"step": "2"})
    bench.fork()
    bench.commit(base, "exp", metadata={"step": "3"})

    merged = bench.model.merge("exp", strategies=["*:__container__=theirs"]).version

    with bench.model.open(merged.name, WEIGHTS) as file:
        length = int.from_bytes(file.read(8), "little")
        assert json.loads(file.read(length))["__metadata__"] == {"step": "3"}
