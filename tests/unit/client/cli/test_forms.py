"""The two forms of values: JSON objects and text."""

import json
from dataclasses import replace
from typing import Any

import pytest

from mcr.cli import forms
from mcr.cli.differences import diff_object, diff_text
from mcr.cli.output import to_json
from mcr.comparing import Diff, FileChange, MetricChange, ParameterChange, TensorDiff
from mcr.model import (
    ChunkId,
    CommitResult,
    EntryKind,
    FileEntry,
    LogIndex,
    MetricReport,
    ModelSummary,
    Ref,
    RefKind,
    RefMove,
    Version,
    VersionKind,
)
from mcr.reading import Lineage
from mcr.tensors.statistics import TensorChange, added, reshaped, unchanged

AT_MS = 1_795_428_000_123  # 2026-11-23T10:00:00.123Z
FILES = (
    FileEntry("empty", EntryKind.DIRECTORY),
    FileEntry("link", EntryKind.SYMLINK, target="model.safetensors"),
    FileEntry("model.safetensors", EntryKind.FILE, 1_234_567_890, format="safetensors", tensor_count=103),
    FileEntry("run\n.sh", EntryKind.FILE, 12, executable=True),
)
VERSION = Version(
    model="vision/resnet50",
    number=12,
    id="3fa9c1d2" + "0" * 56,
    created_at_ms=AT_MS,
    creator="local:alice",
    description="epoch 3\n\nwith a longer lr",
    parameters={"optimizer": {"lr": 1e-4, "betas": [0.9, 0.999]}, "seed": 7, "none": {}},
    branch="main",
    kind=VersionKind.COMMIT,
    parents=(11,),
    parent_ids=("ab" * 32,),
    target_number=0,
    manifest=ChunkId(b"\x01" * 32),
    bytes_total=1_234_567_902,
    file_count=4,
    chunk_count=1240,
    files=FILES,
    metrics={"loss": 0.31, "acc": float("nan")},
    refs=("branch:main", "channel:production", "tag:best"),
)
REF = Ref(
    "vision/resnet50", RefKind.CHANNEL, "production", 12, VERSION.id, 3, "local:alice", "eval", AT_MS,
    {"actors": ["a", "b"], "branch": "main"},
)  # fmt: skip


@pytest.mark.parametrize(
    ("count_bytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (999_949, "999.9 kB"),
        (999_950, "1.0 MB"),
        (1_234_567_890, "1.2 GB"),
        (5 * 10**18, "5000.0 PB"),
    ],
)
def test_sizes(count_bytes: int, text: str) -> None:
    assert forms.size(count_bytes) == text


def test_a_log_row_names_what_points_there() -> None:
    assert "  ".join(forms.log_row(VERSION)) == (
        "v12  3fa9c1d2  2026-11-23 10:00Z  local:alice  epoch 3  (main, channel:production, tag:best)"
    )
    assert forms.log_row(replace(VERSION, refs=None))[-1] == "epoch 3"
    assert forms.log_row(replace(VERSION, description=""))[-1].startswith("(main")


def test_a_version_in_full() -> None:
    base = replace(VERSION, model="llm/base", number=3, deleted_at_ms=AT_MS)
    derived = tuple(replace(VERSION, model="a/tuned", number=number) for number in (1, 7))
    lineage = Lineage(VERSION, base, derived, has_more=True)
    text = forms.version_text(VERSION, storage="1240 chunks", tensor_count=103, lineage=lineage)
    assert text == (
        "vision/resnet50@v12\n"
        f"id       {VERSION.id}\n"
        "created  2026-11-23 10:00:00Z by local:alice\n"
        "branch   main\n"
        "parents  v11\n"
        "base     llm/base@v3 [in the trash]\n"
        "derived  a/tuned@v1, a/tuned@v7, …\n"
        "refs     branch:main, channel:production, tag:best\n"
        "content  4 files, 1.2 GB, 103 tensors\n"
        "storage  1240 chunks\n"
        "\n"
        "    epoch 3\n"
        "    \n"
        "    with a longer lr\n"
        "\n"
        "parameters\n"
        "  optimizer.lr     0.0001\n"
        "  optimizer.betas  [0.9, 0.999]\n"
        "  seed             7\n"
        "  none             {}\n"
        "\n"
        "metrics\n"
        "  loss  0.31\n"
        "  acc   nan\n"
        "\n"
        "files\n"
        "  directory                            empty/\n"
        "    symlink                            link -> model.safetensors\n"
        "     1.2 GB  safetensors  103 tensors  model.safetensors\n"
        "       12 B  bytes                     run\\n.sh*"
    )


def test_a_bare_version_leaves_out_what_it_lacks() -> None:
    bare = replace(
        VERSION, parents=(), refs=(), parameters={}, metrics=None, files=None, description=" ",
        kind=VersionKind.ROLLBACK, target_number=3,
    )  # fmt: skip
    text = forms.version_text(
        bare, storage="x", tensor_count=0, lineage=Lineage(bare, None, (), has_more=False)
    )
    assert [line.split()[0] for line in text.splitlines()[1:]] == [
        "id", "created", "branch", "restores", "content", "storage",
    ]  # fmt: skip


def test_a_version_in_json() -> None:
    found = json.loads(to_json(forms.version_object(VERSION)))
    assert found == {
        "reference": "vision/resnet50@v12",
        "model": "vision/resnet50",
        "version": "v12",
        "number": 12,
        "id": VERSION.id,
        "created_at": "2026-11-23T10:00:00.123Z",
        "created_at_ms": AT_MS,
        "creator": "local:alice",
        "description": "epoch 3\n\nwith a longer lr",
        "parameters": {"optimizer": {"lr": 1e-4, "betas": [0.9, 0.999]}, "seed": 7, "none": {}},
        "branch": "main",
        "kind": "commit",
        "parents": ["v11"],
        "parent_ids": ["ab" * 32],
        "target": None,
        "base": None,
        "manifest": "01" * 32,
        "bytes_total": 1_234_567_902,
        "file_count": 4,
        "chunk_count": 1240,
        "metrics": {"loss": 0.31, "acc": "NaN"},
        "refs": ["branch:main", "channel:production", "tag:best"],
        "deleted_at": None,
        "purged": False,
    }


def test_a_commit_tells_what_it_took() -> None:
    values = {name: getattr(VERSION, name) for name in Version.__dataclass_fields__}
    result = CommitResult(
        **values, log_index=LogIndex(9), bytes_sent=12_000_000, bytes_stored=4_100_000, chunks_new=12,
        chunks_total=1240, seconds=3.24159,
    )  # fmt: skip
    assert forms.commit_summary(result) == (
        "4 files, 1.2 GB; 12 of 1240 chunks new: 12.0 MB, stored in 4.1 MB; 3.2 s"
    )
    assert forms.commit_summary(replace(result, chunks_new=0)) == (
        "4 files, 1.2 GB; nothing new to store; 3.2 s"
    )
    record = forms.commit_object(result)
    assert set(record) >= {
        "reference", "version", "number", "id", "branch", "parents", "log_index", "bytes_total", "bytes_sent",
        "bytes_stored", "chunks_new", "chunks_total", "seconds",
    }  # fmt: skip
    assert (record["version"], record["parents"], record["seconds"]) == ("v12", ["v11"], 3.242)


def test_refs_moves_models_files_and_reports() -> None:
    assert "  ".join(forms.ref_row(REF)) == (
        "production  v12  3fa9c1d2  2026-11-23 10:00Z  local:alice  eval  "
        "[protected: actors=a,b; branch=main]"
    )
    assert forms.ref_object(REF)["reference"] == "vision/resnet50@channel:production"

    gone = RefMove(4, 0, "", "delete", "local:bob", "", AT_MS, LogIndex(7))
    assert forms.move_row(gone) == ("#4", "-", "2026-11-23 10:00Z", "delete", "local:bob", "")
    record = forms.move_object("a/b", RefKind.BRANCH, "x", gone)
    assert (record["version"], record["id"], record["kind"]) == (None, None, "branch")

    assert forms.model_object(ModelSummary("a/b", 3, 0, AT_MS))["updated_at"] == "2026-11-23T10:00:00.123Z"
    assert forms.file_object(FILES[2])["format"] == "safetensors"

    report = MetricReport(12, {"loss": 0.5}, "", "local:bob", AT_MS)
    assert forms.report_row(report) == ("2026-11-23 10:00Z", "local:bob", "-", "loss=0.5")
    assert forms.report_object("a/b", report)["reference"] == "a/b@v12"


def test_an_empty_table_is_empty() -> None:
    assert forms.table([]) == ""
    assert forms.number(None) == "-"


def difference(**given: Any) -> Diff:  # noqa: ANN401 (fields of Diff)
    other = replace(VERSION, number=13, id="ff" * 32)
    empty: dict[str, Any] = {"files": (), "parameters": (), "metrics": (), "tensors": None}
    return Diff(VERSION, other, **(empty | given))


def test_versions_that_do_not_differ_print_nothing() -> None:
    assert diff_text(difference()) == ""
    assert diff_object(difference())["tensors"] is None


def test_a_diff_in_both_forms() -> None:
    changed = TensorChange(
        "w", "F32", "F32", (2, 3), (2, 3), 0.5, norm_a=2.0, norm_b=2.0, norm_of_change=0.25,
        relative_change=0.125, cosine=0.999, max_abs_change=0.1, non_finite_b=1,
    )  # fmt: skip
    found = difference(
        parameters=(
            ParameterChange("lr", 0.1, 0.2, True, True),
            ParameterChange("seed", None, None, False, True),
            ParameterChange("old", "x", None, True, False),
        ),
        metrics=(
            MetricChange("acc", None, 0.9),
            MetricChange("loss", 0.5, 0.25),
            MetricChange("f1", 1.0, None),
        ),
        files=(
            FileChange("a.bin", "added", 0, 12),
            FileChange("b.bin", "removed", 2000, 0),
            FileChange("model.safetensors", "changed", 5000, 5000),
            FileChange("n", "changed", 1, 2),
        ),
        tensors=(
            TensorDiff("model.safetensors", changed),
            TensorDiff("model.safetensors", added("n", dtype="BF16", shape=(4,))),
            TensorDiff(
                "model.safetensors", reshaped("r", dtype_a="F32", dtype_b="F32", shape_a=(2,), shape_b=(3,))
            ),
            TensorDiff("model.safetensors", unchanged("u", dtype="F32", shape=())),
        ),
    )
    assert diff_text(found) == (
        "parameters\n"
        "  ~ lr    0.1 -> 0.2\n"
        "  + seed  null\n"
        '  - old   "x"\n'
        "metrics\n"
        "  + acc   0.9\n"
        "  ~ loss  0.5 -> 0.25\n"
        "  - f1    1\n"
        "files\n"
        "  + a.bin              12 B\n"
        "  - b.bin              2.0 kB\n"
        "  ~ model.safetensors  5.0 kB, same size\n"
        "  ~ n                  1 B -> 2 B\n"
        "tensors\n"
        "  ~ w  F32[2, 3]         50.0% changed, norm of change 0.25, relative 0.125, cosine 0.999, "
        "not finite 0 -> 1\n"
        "  + n  BF16[4]           added\n"
        "  ~ r  F32[2] -> F32[3]  reshaped\n"
        "  1 tensor unchanged in these files"
    )
    record = json.loads(to_json(diff_object(found)))
    assert [item["kind"] for item in record["parameters"]] == ["changed", "added", "removed"]
    assert [item["kind"] for item in record["tensors"]] == ["changed", "added", "reshaped", "unchanged"]
    assert record["tensors"][0]["cosine"] == 0.999
    assert (record["a"], record["b"], record["model"]) == ("v12", "v13", "vision/resnet50")
