"""When a version is made: a table of decisions, and what is complete."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from mcr.auto_commit.completeness import is_temporary, metrics_of, why_incomplete
from mcr.auto_commit.happenings import Found
from mcr.auto_commit.looking import step_in
from mcr.auto_commit.rules import AutoRules, Improved, Make, Skip, Standing, Wait, after, check, decide
from mcr.errors import InvalidArgumentError
from mcr.scanning import scan

LOSS = Improved("loss", "min")
MADE_MS, NOW_MS = 1_000_000, 1_060_000


def found(step: int | None = None, **metrics: float) -> Found:
    return Found("c", Path("c"), step, metrics)


@pytest.mark.parametrize(
    ("rules", "given", "standing", "expected"),
    [
        (AutoRules(), found(), Standing(), Make),
        (AutoRules(), found(), Standing(step=3, at_ms=MADE_MS, best=0.1), Make),
        (AutoRules(every_steps=100), found(), Standing(), Skip),
        (AutoRules(every_steps=100), found(1), Standing(), Make),
        (AutoRules(every_steps=100), found(199), Standing(step=100), Skip),
        (AutoRules(every_steps=100), found(200), Standing(step=100), Make),
        (AutoRules(every_steps=100), found(0), Standing(step=5000), Make),
        (AutoRules(every_steps=100), found(100), Standing(step=100), Skip),
        (AutoRules(every_s=60), found(), Standing(), Make),
        (AutoRules(every_s=60), found(), Standing(at_ms=MADE_MS), Make),
        (AutoRules(every_s=61), found(), Standing(at_ms=MADE_MS), Wait),
        (AutoRules(improved=LOSS), found(), Standing(), Skip),
        (AutoRules(improved=LOSS), found(loss=float("nan")), Standing(), Skip),
        (AutoRules(improved=LOSS), found(loss=0.5), Standing(), Make),
        (AutoRules(improved=LOSS), found(loss=0.5), Standing(best=0.5), Skip),
        (AutoRules(improved=LOSS), found(loss=0.4), Standing(best=0.5), Make),
        (AutoRules(improved=LOSS), found(loss=float("-inf")), Standing(best=0.5), Make),
        (AutoRules(improved=Improved("acc", "max")), found(acc=0.4), Standing(best=0.5), Skip),
        (AutoRules(improved=Improved("acc", "max")), found(acc=0.6), Standing(best=0.5), Make),
        # All must hold; what will never do goes before what only takes time.
        (AutoRules(10, 61, LOSS), found(20, loss=0.1), Standing(5, MADE_MS, 0.2), Wait),
        (AutoRules(10, 61, LOSS), found(14, loss=0.1), Standing(5, MADE_MS, 0.2), Skip),
        (AutoRules(10, 61, LOSS), found(20, loss=0.3), Standing(5, MADE_MS, 0.2), Skip),
        (AutoRules(10, 60, LOSS), found(20, loss=0.1), Standing(5, MADE_MS, 0.2), Make),
    ],
)
def test_a_version_is_made_when_all_rules_hold(
    rules: AutoRules, given: Found, standing: Standing, expected: type
) -> None:
    assert isinstance(decide(rules, given, standing, now_ms=NOW_MS), expected)


def test_what_was_made_is_what_the_next_one_is_compared_with() -> None:
    rules = AutoRules(improved=LOSS)
    standing = after(rules, found(7, loss=0.5), Standing(), made_at_ms=MADE_MS)
    assert standing == Standing(7, MADE_MS, 0.5)
    assert after(AutoRules(), found(), standing, made_at_ms=5) == standing


@pytest.mark.parametrize(
    "rules", [AutoRules(every_steps=-1), AutoRules(every_s=-1), AutoRules(improved=Improved("x", "best"))]
)
def test_rules_without_sense_are_refused(rules: AutoRules) -> None:
    with pytest.raises(InvalidArgumentError):
        check(rules)


@pytest.mark.parametrize(
    ("name", "step"),
    [("checkpoint-1000", 1000), ("step_7.safetensors", 7), ("epoch3", 3), ("model.v2.pt", 2), ("best", None)],
)
def test_a_name_ends_with_its_step(name: str, step: int | None) -> None:
    assert step_in(name) == step


@pytest.mark.parametrize(
    "name",
    ["x.tmp", "a/x.safetensors.part", "tmp-checkpoint-7/w", ".~lock", "a/.tmp-x/b", "m.incomplete", "w.swp"],
)
def test_temporary_names_are_known(name: str) -> None:
    assert is_temporary(name)
    assert not is_temporary(name.replace("tmp", "map").replace(".part", ".bin").replace(".~", "o")) or (
        name.endswith((".incomplete", ".swp"))
    )


def reason(folder: Path) -> str:
    return why_incomplete(scan(folder))


def test_safetensors_are_complete_at_their_last_byte_only(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    save_file({"a": np.arange(100.0), "b": np.ones(3)}, file)
    whole = file.read_bytes()
    assert reason(tmp_path) == ""
    for length in (0, 5, 8, 60, len(whole) - 1):
        file.write_bytes(whole[:length])
        assert reason(tmp_path).startswith("model.safetensors: "), length
    # A header that is still zeros, as of a file that was made as long as it will be.
    file.write_bytes(bytes(len(whole)))
    assert "header" in reason(tmp_path)


def test_an_archive_is_complete_with_its_directory(tmp_path: Path) -> None:
    file = tmp_path / "weights.npz"
    np.savez(file, a=np.arange(1000.0))
    whole = file.read_bytes()
    assert reason(tmp_path) == ""
    file.write_bytes(whole[:-30])
    assert "archive" in reason(tmp_path)
    # Not an archive: nothing says how long it should be.
    (tmp_path / "weights.npz").rename(tmp_path / "old.data")
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x02old pickle")
    assert reason(tmp_path) == ""


def test_an_index_waits_for_all_its_shards(tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors"}}))
    save_file({"a": np.arange(3.0)}, tmp_path / "m-1.safetensors")
    assert reason(tmp_path) == "model.safetensors.index.json: m-2.safetensors is not there yet"
    save_file({"b": np.arange(3.0)}, tmp_path / "m-2.safetensors")
    assert reason(tmp_path) == ""
    index.write_text(index.read_text()[:-20])
    assert reason(tmp_path) != ""


def test_an_empty_folder_is_not_complete(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    assert reason(tmp_path) != ""


def test_metrics_are_read_from_json_from_lines_and_from_a_trainers_log(tmp_path: Path) -> None:
    file = tmp_path / "m.json"

    def metrics(text: str) -> dict[str, float]:
        file.write_text(text)
        return metrics_of(os.fspath(file))

    assert metrics('{"loss": 0.5, "name": "x", "ok": true, "step": 3}') == {"loss": 0.5, "step": 3.0}
    assert metrics('{"loss": 1}\n{"loss": 0.25}\n\n') == {"loss": 0.25}
    assert metrics('{"global_step": 9, "log_history": [{"loss": 2}, {"loss": 1, "acc": 3}, {"lr": 4}]}') == {
        "global_step": 9.0,
        "loss": 1.0,
        "acc": 3.0,
        "lr": 4.0,
    }
    for text in ("", "{", "[1]", "null", "\x00"):
        assert metrics(text) == {}
    assert metrics_of(os.fspath(tmp_path / "none.json")) == {}
