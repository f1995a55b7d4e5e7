"""Sessions at the terminal: every command, every exit status, on a real store.

Most run in this process through `main`, as starting Python takes longer than the command; what needs a
process of its own (signals, pipes, switches of the interpreter) gets one.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import mcr
from mcr.cli.main import main
from tests.support.served import COMMAND, INTERRUPTIBLE

M = "vision/resnet50"
MIB = 1 << 20
GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Done:
    """What a command left behind."""

    status: int
    out: bytes
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.decode().splitlines()

    @property
    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines]

    @property
    def record(self) -> dict[str, Any]:
        (record,) = self.records
        return record

    @property
    def error(self) -> dict[str, Any]:
        (line,) = self.err.splitlines()
        found: dict[str, Any] = json.loads(line)
        return found


Run = Callable[..., Done]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]) -> Run:
    """Run `mcr` in an empty folder, with an empty home, and check its exit status."""
    for name in ("MCR_CLUSTER", "MCR_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)

    def run(*arguments: str, status: int = 0) -> Done:
        found = main(arguments)
        out, err = capsysbinary.readouterr()
        done = Done(found, out, err.decode())
        assert done.status == status, done
        return done

    return run


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make two versions of a small model on main, of which the first is on a channel."""
    folder = tmp_path_factory.mktemp("template")
    generator = np.random.default_rng(1)
    tensors = {f"layer{i}.weight": generator.standard_normal((64, 128), dtype=np.float32) for i in range(3)}
    mcr.init(folder / ".mcr")
    with mcr.connect(folder / ".mcr") as client:
        model = client.model(M)
        for epoch, name, rate in ((1, "one", 1e-4), (2, "two", 1e-5)):
            path = folder / name
            path.mkdir()
            (path / "config.json").write_text(f'{{"epoch": {epoch}}}\n')
            save_file(tensors, path / "model.safetensors")
            tensors["layer1.weight"][:4] += 0.5
            params: mcr.model.Parameters = {"optimizer": {"lr": rate}}
            model.commit(path, message=f"epoch {epoch}", params=params, metrics={"loss": 0.5 / epoch})
        model.channel("production").set("v1", reason="first")
    return folder


@pytest.fixture
def store(run: Run, template: Path) -> Run:
    """Run `mcr` in a folder that holds a copy of the template."""
    shutil.copytree(template, Path.cwd(), dirs_exist_ok=True)
    return run


def same_files(a: str, b: str) -> bool:
    def content(folder: str) -> dict[str, bytes]:
        paths = [path for path in Path(folder).rglob("*") if path.is_file()]
        return {str(path.relative_to(folder)): path.read_bytes() for path in paths}

    return content(a) == content(b)


# ---- every command ----


def test_init_makes_a_store_once(run: Run) -> None:
    done = run("init", "store", "--encoding", "raw")
    assert done.out == b""
    assert "--cluster store" in done.err
    error = run("init", "store", "--json", status=10).error
    assert (error["error"], error["kind"]) == ("already_exists", "store")
    record = run("--json", "init", "other").record
    assert record == {"path": str(Path("other").absolute()), "encoding": "auto"}


def test_commit_prints_the_reference_alone_and_tells_the_rest(store: Run) -> None:
    done = store("commit", M, "one", "-m", "again")
    assert done.out == f"{M}@v3\n".encode()
    assert "nothing new to store" in done.err
    assert store("commit", M, "one", "-m", "again", "-q").err == ""

    Path("params.yaml").write_text("optimizer: {lr: 1e-4, name: adamw}\nseed: 7\n")
    record = store(
        "commit", M, "two", "-m", "more", "--json", "--params", "params.yaml", "-p", "optimizer.lr=0.5",
        "--expect", "v4", "--durability", "1", "--metric", "acc=nan", "--allow-non-finite",
    ).record  # fmt: skip
    assert record["parameters"] == {"optimizer": {"lr": 0.5, "name": "adamw"}, "seed": 7}
    assert (record["version"], record["parents"], record["branch"]) == ("v5", ["v4"], "main")
    assert record["metrics"] == {"acc": "NaN"}
    assert {"id", "log_index", "bytes_total", "bytes_sent", "bytes_stored", "seconds"} <= set(record)
    assert (record["chunks_new"], record["chunks_total"], record["bytes_sent"]) == (0, 5, 0)


def test_the_same_request_makes_one_version(store: Run) -> None:
    once = store("commit", M, "one", "-m", "x", "--request-id", "job-7").out
    again = store("commit", M, "one", "-m", "x", "--request-id", "job-7").out
    assert once == again == f"{M}@v3\n".encode()
    error = store("commit", M, "one", "-m", "other", "--request-id", "job-7", "--json", status=10).error
    assert error["error"] == "request_reused"


def test_branches_log_and_graph(store: Run) -> None:
    store("branch", M, "exp", "--at", f"{M}@v1")
    assert store("commit", M, "two", "-m", "tried", "-b", "exp").lines == [f"{M}@v3"]
    store("commit", M, "one", "-m", "side", "-b", "side", "--expect", "none", "--parent", "v1")

    assert [line.split()[0] for line in store("log", M).lines] == ["v4", "v3", "v2", "v1"]
    assert [line.split()[0] for line in store("log", f"{M}@exp").lines] == ["v3", "v1"]
    assert store("log", M).lines[-1].endswith("epoch 1  (channel:production)")
    stars = [line.partition("v")[0].rstrip() for line in store("log", M, "--graph").lines]
    assert stars == ["*", "| *", "| | *", "|/  |", "|__/", "*"]
    assert [record["version"] for record in store("log", M, "--json").records] == ["v4", "v3", "v2", "v1"]

    part = store("log", M, "-n", "2")
    assert [line.split()[0] for line in part.lines] == ["v4", "v3"]
    assert "-n 4" in part.err
    assert len(store("log", M, "-n", "0").lines) == 4

    names = [record["name"] for record in store("branch", M, "--json").records]
    assert names == ["exp", "main", "side"]
    store("branch", M, "exp", "--delete", "--reason", "done")
    assert [line.split()[0] for line in store("branch", M).lines] == ["main", "side"]
    assert store("show", f"{M}@v3", "--json").record["description"] == "tried"


def test_show_holds_the_record_and_what_stands_beside_it(store: Run) -> None:
    record = store("show", f"{M}@channel:production", "--json").record
    assert record["parameters"] == {"optimizer": {"lr": 1e-4}}
    assert record["metrics"] == {"loss": 0.5}
    assert record["refs"] == ["channel:production"]
    assert [file["path"] for file in record["files"]] == ["config.json", "model.safetensors"]
    assert record["tensor_count"] == 3
    assert record["storage"]["chunk_count"] == record["chunk_count"]
    text = store("show", f"{M}@{record['id'][:8]}").out.decode()
    assert all(word in text for word in ("epoch 1", "optimizer.lr  0.0001", "3 tensors", record["id"]))


def test_ls_lists_models_and_files(store: Run) -> None:
    store("commit", "a/b", "one/config.json", "-m", "one file")
    assert store("ls").lines == ["a/b", M]
    assert "2 versions" in store("ls", "-l").out.decode()
    assert [record["version_count"] for record in store("ls", "--json").records] == [1, 2]
    assert store("ls", M).lines == ["config.json", "model.safetensors"]
    assert store("ls", f"{M}@v1", "config.json", "--json").record["size_bytes"] == 13
    assert "safetensors" in store("ls", "-l", M).out.decode()


def test_checkout_is_exact_resumes_and_keeps_what_it_was_not_told_to_delete(store: Run) -> None:
    assert store("checkout", f"{M}@v1", "out").lines == [f"{M}@v1"]
    assert same_files("one", "out")
    Path("out", "mine.txt").write_text("keep me")

    record = store("checkout", M, "out", "--verify", "--json").record
    assert (record["reference"], record["extra_files"]) == (f"{M}@v2", 1)
    assert Path("out", "mine.txt").exists()
    done = store("checkout", f"{M}@main", "out", "--delete")
    assert same_files("two", "out")
    assert "1 deleted" in done.err

    store("checkout", f"{M}@v1", "kept", "--sync")
    assert same_files("one", "kept")

    store("checkout", f"{M}@v1", "part", "--include", "*.json")
    assert [path.name for path in Path("part").iterdir()] == ["config.json"]


def test_cat_writes_bytes_and_ranges(store: Run) -> None:
    whole = Path("two/model.safetensors").read_bytes()
    assert store("cat", M, "model.safetensors").out == whole
    assert store("cat", M, "model.safetensors", "--range", "10-19").out == whole[10:20]
    assert store("cat", M, "model.safetensors", "--range", f"{len(whole) - 5}-").out == whole[-5:]
    assert store("cat", M, "model.safetensors", "--range", f"0-{10**17}").out == whole
    assert store("cat", M, "config.json", "--json").out == b'{"epoch": 2}\n'
    for span in ("5", "-5", "5-4", "a-b", f"{len(whole)}-"):
        store("cat", M, "model.safetensors", "--range", span, status=2)
    store("cat", M, "nothing", status=3)


def test_diff_names_what_changed_and_draws_it(store: Run) -> None:
    text = store("diff", f"{M}@v1", f"{M}@v2", "--tensors").out.decode()
    assert "optimizer.lr  0.0001 -> 1e-05" in text
    assert "layer1.weight  F32[64, 128]  6.2% changed" in text
    record = store("diff", f"{M}@v1", "v2", "--json").record
    assert [change["path"] for change in record["files"]] == ["config.json", "model.safetensors"]
    assert record["tensors"] is None

    store("diff", f"{M}@v1", M, "--plot", "change.html", "-q")
    assert "layer1.weight" in Path("change.html").read_text()
    same = store("diff", M, "v2")
    assert same.out == b""
    assert "do not differ" in same.err
    store("diff", M, "v1", "--plot", "change.gif", status=2)
    store("diff", M, "other/model", status=2)
    store("diff", M, "v1", "--plot", "missing/change.html", status=1)


def test_png_is_drawn_where_pillow_is_there(store: Run) -> None:
    pytest.importorskip("PIL")
    store("diff", f"{M}@v1", "v2", "--plot", "change.png")
    assert Path("change.png").read_bytes().startswith(b"\x89PNG")


def test_tags_never_move(store: Run) -> None:
    assert store("tag", M).lines == []
    assert store("tag", M, "best", "v1").lines == [f"{M}@v1"]
    assert store("tag", M, "latest", "--json").record["version"] == "v2"
    assert [line.split()[:2] for line in store("tag", M).lines] == [["best", "v1"], ["latest", "v2"]]
    assert store("tag", M, "best", "v2", "--json", status=10).error["error"] == "already_exists"


def test_a_channel_moves_remembers_and_goes_back(store: Run) -> None:
    assert store("channel", M, "production", "--set", "v2", "--reason", "eval").lines == [f"{M}@v2"]
    record = store("channel", M, "production", "--json").record
    assert (record["version"], record["generation"], record["reason"]) == ("v2", 2, "eval")
    assert [line.split()[:2] for line in store("channel", M, "production", "--history").lines] == [
        ["#2", "v2"],
        ["#1", "v1"],
    ]
    assert len(store("channel", M, "production", "--history", "-n", "1", "--json").records) == 1
    assert store("channel", M, "production", "--at", "0s", "--json").record["version"] == "v2"
    assert store("channel", M, "production", "--at", "2h", "--json", status=3).error["model"] == M
    store("channel", M, "production", "--at", "2026-11-23T10:00:00", status=2)

    done = store("rollback", M, "--channel", "production", "--reason", "p99 up")
    assert done.lines == [f"{M}@v1"]
    assert [line.split()[0] for line in store("channel", M).lines] == ["production"]
    store("channel", M, "production", "--set", "v2", "--expect-generation", "1", status=10)
    store("channel", M, "missing", status=3)
    assert store("channel", "no/model", status=3).err.startswith("error: no model")


def test_a_protected_channel_refuses_what_its_rules_forbid(store: Run) -> None:
    store("commit", M, "one", "-m", "side", "-b", "side", "--parent", "v1")
    done = store("channel", M, "production", "--protect", "branch=main", "--protect", "metrics=loss,acc")
    assert "[protected: branch=main; metrics=loss,acc]" in done.out.decode()
    error = store("channel", M, "production", "--set", "v3", "--json", status=12).error
    assert error["error"] == "protected"
    store("report", f"{M}@v2", "acc=0.9")
    store("channel", M, "production", "--set", "v2")
    assert store("channel", M, "production", "--protect", "off", "--json").record["protection"] == {}
    store("channel", M, "production", "--set", "v3")


def test_rollback_of_a_branch_makes_a_version_with_the_old_content(store: Run) -> None:
    assert store("rollback", M).lines == [f"{M}@v3"]
    record = store("rollback", M, "--branch", "main", "--to", "v2", "--reason", "no", "--json").record
    assert (record["version"], record["kind"], record["target"]) == ("v4", "rollback", "v2")
    store("checkout", M, "out")
    assert same_files("two", "out")


def test_reports_are_kept_and_the_latest_is_shown(store: Run) -> None:
    assert store("report", f"{M}@main", "loss=0.2", "acc=0.9").out == b""
    assert store("report", M, "loss=0.1", "--channel", "production", "--json").record == {
        "reference": f"{M}@v2",
        "version": "v2",
        "metrics": {"loss": 0.1},
        "channel": "production",
        "decision": None,
    }
    assert store("show", M, "--json").record["metrics"] == {"acc": 0.9, "loss": 0.1}
    history = [record["metrics"] for record in store("report", M, "--history", "--json").records]
    assert history == [{"loss": 0.1}, {"loss": 0.2, "acc": 0.9}, {"loss": 0.25}]
    assert len(store("report", M, "--history").lines) == 3


def test_doctor_finds_a_sound_store_sound_and_a_damaged_chunk(store: Run) -> None:
    checks = {record["check"]: record["status"] for record in store("doctor", "--json").records}
    assert set(checks.values()) <= {"ok", "warning"}
    assert {"python", "store", "log", "chunks", "space", "content"} <= set(checks)
    assert "not read" in store("doctor", "--quick").out.decode()

    segment = max(Path(".mcr/chunks/segments").iterdir(), key=lambda path: path.stat().st_size)
    data = bytearray(segment.read_bytes())
    data[len(data) // 2] ^= 1
    segment.write_bytes(data)

    done = store("doctor", status=13)
    assert f"damaged version: {M}@v" in done.out.decode()
    assert "run mcr doctor" in done.err


def test_version_and_completion_need_no_store(run: Run) -> None:
    assert run("version").out == f"mcr {mcr.__version__}\n".encode()
    assert run("version", "--json").record["version"] == mcr.__version__
    for shell in ("bash", "zsh", "fish"):
        assert "_MCR_COMPLETE" in run("completion", shell).out.decode()
    assert run("completion", "fish", "--json").record["shell"] == "fish"
    run("completion", "tcsh", status=2)


def test_every_command_has_help_with_an_example_and_the_common_options(run: Run) -> None:
    text = run("--help").out.decode()
    assert "EXIT STATUS" in text
    names = [
        "init", "commit", "log", "show", "ls", "checkout", "cat", "diff", "branch", "tag", "channel",
        "rollback", "report", "doctor", "completion", "version",
    ]  # fmt: skip
    for name in names:
        assert f"\n  {name} " in text
        own = run(name, "--help").out.decode()
        assert f"Examples:\n    mcr {name}" in own
        assert all(option in own for option in ("--cluster", "--json", "--quiet", "--timeout", "--progress"))


# ---- what goes wrong, and the exit status it has ----


@pytest.mark.parametrize(
    ("arguments", "status", "code"),
    [
        (["log", f"{M}@nope"], 3, "reference_not_found"),
        (["show", f"{M}@v99"], 3, "reference_not_found"),
        (["show", f"{M}@00000000"], 3, "reference_not_found"),
        (["log", "no/model"], 3, "model_not_found"),
        (["show", f"{M}@"], 2, "invalid_reference"),
        (["show", f"{M}@twig:x"], 2, "invalid_reference"),
        (["log", "resnet50"], 2, "invalid_name"),
        (["commit", "a b/c", "one", "-m", "x"], 2, "invalid_name"),
        (["commit", M, "one", "-m", "x", "-b", "v7"], 2, "invalid_name"),
        (["tag", M, "a/b"], 2, "invalid_name"),
        (["branch", f"{M}@v1"], 2, "usage"),
        (["commit", M, "one"], 2, "usage"),
        (["commit", M, "one", "-m", "x", "--expect", "v1"], 10, "head_moved"),
        (["commit", M, "one", "-m", "x", "--expect", "none"], 10, "head_moved"),
        (["commit", M, "one", "-m", "x", "--expect", "@@"], 2, "invalid_reference"),
        (["commit", M, "missing", "-m", "x"], 3, "source_not_found"),
        (["commit", M, "one", "-m", "x", "--metric", "loss=nan"], 2, "invalid_metric"),
        (["commit", M, "one", "-m", "x", "--metric", "loss=1e999"], 2, "invalid_metric"),
        (["commit", M, "one", "-m", "x", "--metric", "loss"], 2, "invalid_argument"),
        (["report", M, "loss=" + "9" * 400], 2, "invalid_metric"),
        (["report", M, "loss=inf"], 2, "invalid_metric"),
        (["report", M], 2, "invalid_argument"),
        (["report", M, "loss=1", "--history"], 2, "invalid_argument"),
        (["commit", M, "one", "-m", "x", "-p", "seed=" + "9" * 30], 2, "invalid_parameter"),
        (["commit", M, "one", "-m", "x", "--params", "bad.json"], 2, "invalid_parameter"),
        (["commit", M, "one", "-m", "x", "--params", "missing.json"], 3, "source_not_found"),
        (["commit", M, "one", "-m", "x", "--params", "one"], 1, "source_unreadable"),
        (["commit", M, "one", "-m", "x", "--durability", "cluster"], 11, "durability"),
        (["commit", M, "one", "-m", "x", "--durability", "2"], 11, "durability"),
        (["commit", M, "one", "-m", "x", "--durability", "0"], 2, "invalid_argument"),
        (["commit", M, "one", "-m", "x", "--request-id", "x" * 65], 2, "invalid_argument"),
        (["checkout", M, "one/config.json"], 1, "destination"),
        (["ls", M, "nothing/here"], 3, "path_not_found"),
        (["channel", M, "production", "--history", "--at", "2h"], 2, "invalid_argument"),
        (["channel", M, "production", "--reason", "x"], 2, "invalid_argument"),
        (["channel", M, "--set", "v1"], 2, "invalid_argument"),
        (["channel", M, "production", "--protect", "rule=x"], 2, "invalid_argument"),
        (["channel", M, "production", "--protect", "actors=a,"], 2, "invalid_argument"),
        (["channel", M, "production", "--protect", "off", "--protect", "branch=x"], 2, "invalid_argument"),
        (["channel", M, "x", "--protect", "branch=a", "--protect", "branch=b"], 2, "invalid_argument"),
        (["branch", M, "x", "--delete", "--at", "v1"], 2, "invalid_argument"),
        (["rollback", M, "--channel", "a", "--branch", "b"], 2, "invalid_argument"),
        (["rollback", M, "--to", "last-good"], 2, "invalid_argument"),
        (["rollback", M, "--to", "other/model@v1"], 2, "invalid_reference"),
        (["--cluster", "grpcs://node1:7101", "ls"], 2, "invalid_argument"),
        (["ls", "--cluster", "nowhere"], 3, "store_not_found"),
        (["ls", "--profile", "unknown"], 2, "invalid_argument"),
        (["ls", "--timeout", "nan"], 2, "invalid_argument"),
        (["ls", "--timeout", "x"], 2, "usage"),
        (["ls", "--bogus"], 2, "usage"),
        (["bogus"], 2, "usage"),
        ([], 2, "usage"),
    ],
)  # fmt: skip
def test_each_mistake_has_its_exit_status_and_code(
    store: Run, arguments: list[str], status: int, code: str
) -> None:
    Path("bad.json").write_text('{"a": 1,\n}')

    done = store(*arguments, "--json", status=status)

    assert done.out == b""
    assert done.error["error"] == code
    assert done.error["message"]
    plain = store(*arguments, status=status)
    assert plain.out == b""
    assert "Traceback" not in plain.err


def test_a_refused_commit_leaves_no_trace(store: Run) -> None:
    before = store("log", M, "--json").out
    for option, value, status in (
        ("--expect", "v1", 10),
        ("--durability", "2", 11),
        ("--metric", "a=nan", 2),
    ):
        store("commit", M, "one", "-m", "x", option, value, status=status)
    assert store("log", M, "--json").out == before


def test_an_ambiguous_name_is_not_guessed(store: Run) -> None:
    store("tag", M, "production", "v2")
    error = store("show", f"{M}@production", "--json", status=3).error
    assert error["error"] == "ambiguous_reference"
    assert store("show", f"{M}@tag:production", "--json").record["version"] == "v2"


def test_a_fifo_cannot_be_committed(store: Run) -> None:
    os.mkfifo("one/pipe")
    assert store("commit", M, "one", "-m", "x", "--json", status=1).error["error"] == "source_unreadable"


def test_without_a_store_the_error_says_all_the_ways(run: Run) -> None:
    error = run("ls", "--json", status=2).error
    assert error["error"] == "no_store"
    assert all(way in error["hint"] for way in ("mcr init", "--cluster", "MCR_CLUSTER"))


def test_the_store_is_found_by_flag_variable_profile_and_from_below(
    store: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(Path(".mcr").absolute())
    Path("one/deep").mkdir()
    monkeypatch.chdir("one/deep")
    assert store("ls").lines == [M]
    monkeypatch.chdir(tmp_path)
    assert store("--cluster", path, "ls").lines == [M]
    assert store("--cluster", "nowhere", "ls", "--cluster", path).lines == [M]
    (tmp_path / "config/mcr").mkdir(parents=True)
    (tmp_path / "config/mcr/mcr.toml").write_text(f'[profiles.work]\ncluster = "{path}"\ntimeout = 60\n')
    assert store("ls", "--profile", "work").lines == [M]
    monkeypatch.setenv("MCR_CLUSTER", path)
    assert store("ls").lines == [M]


def test_a_newer_store_is_left_alone(store: Run) -> None:
    marker = Path(".mcr/STORE")
    marker.write_text(json.dumps(json.loads(marker.read_text()) | {"format": 99}))
    error = store("ls", "--json", status=1).error
    assert (error["error"], error["found"], error["supported"]) == ("store_format", 99, 1)


def test_a_store_in_use_is_busy_at_once_or_after_the_time_given(store: Run) -> None:
    with mcr.connect(".mcr"):
        error = store("ls", "--json", status=1).error
        assert (error["error"], error["process_id"]) == ("store_busy", os.getpid())
        error = store("ls", "--timeout", "0.2", "--json", status=15).error
        assert error["error"] == "deadline"
        assert "opening" in error["message"]
    assert store("ls").lines == [M]


def test_a_store_that_becomes_free_in_time_is_used(store: Run) -> None:
    client = mcr.connect(".mcr")
    threading.Timer(0.1, client.close).start()
    assert store("ls", "--timeout", "30").lines == [M]


def test_names_of_any_kind_are_printed_without_harm(store: Run) -> None:
    store("commit", M, "one", "-m", "красный \x1b[31m\nsecond line")
    line = store("log", M, "-n", "1").lines[0]
    assert "красный \\x1b[31m" in line
    assert "second" not in line
    Path("odd").mkdir()
    Path("odd/new\nline.txt").write_text("x")
    store("commit", "odd/names", "odd", "-m", "x")
    assert store("ls", "odd/names").lines == ["new\\nline.txt"]
    assert store("ls", "odd/names", "--json").record["path"] == "new\nline.txt"


# ---- processes of their own ----


def process(*arguments: str, **given: Any) -> "subprocess.CompletedProcess[str]":  # noqa: ANN401 (of subprocess.run)
    return subprocess.run(
        [*COMMAND, *arguments], check=False, capture_output=True, text=True, timeout=120, **given
    )


def test_ctrl_c_in_a_commit_is_130_and_the_same_command_goes_on(store: Run) -> None:
    # Sparse: nothing to write, and so much to read that no machine is done before the interruption arrives.
    big = Path("big.bin")
    with big.open("wb") as file:
        file.truncate(1024 * GIB)
    commit = ["commit", "big/model", "big.bin", "-m", "big"]
    with subprocess.Popen(
        [*INTERRUPTIBLE, *commit, "--progress"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stderr is not None
        seen = ""
        while "read" not in seen:
            piece = child.stderr.read(1)
            assert piece, f"ended before it was interrupted: {seen}"
            seen += piece
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=60)

    assert child.returncode == 130, err
    assert out == ""
    assert "interrupted" in err
    assert "Traceback" not in err
    with big.open("r+b") as file:
        file.truncate(16 * MIB)
    assert store(*commit).lines == ["big/model@v1"]
    assert store("doctor", "--quick").status == 0


def test_a_reader_that_goes_away_is_no_error_message(store: Run) -> None:
    save_file({"w": np.zeros(MIB, np.float32)}, "one/model.safetensors")
    store("commit", M, "one", "-m", "larger than a pipe's buffer")
    with subprocess.Popen(
        [*COMMAND, "cat", M, "model.safetensors"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert len(child.stdout.read(8)) == 8
        child.stdout.close()
        assert child.stderr is not None
        err = child.stderr.read()
    assert (child.returncode, err) == (141, b"")


def test_a_full_disk_behind_stdout_is_out_of_space(store: Run) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [*COMMAND, "log", M, "--json"], stdout=full, stderr=subprocess.PIPE, check=False, timeout=60
        )
    assert done.returncode == 14
    assert json.loads(done.stderr)["error"] == "out_of_space"


def test_closed_streams_and_poor_encodings_are_survived(store: Run) -> None:
    store("commit", M, "one", "-m", "größer")
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = process("log", M, "-n", "1", "-q", env=environment)
    assert done.returncode == 0
    assert "gr\\xf6\\xdfer" in done.stdout
    closed = subprocess.run(
        ["/bin/sh", "-c", 'exec "$@" >&- 2>&-', "sh", *COMMAND, "log", M], check=False, timeout=60
    )
    assert closed.returncode == 0


def test_without_asserts_nothing_runs(store: Run) -> None:
    done = subprocess.run(
        [sys.executable, "-O", "-m", "mcr.cli.main", "ls", "--json"],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "python -O" in json.loads(done.stderr)["message"]


def test_help_version_and_completion_do_not_load_what_they_do_not_need() -> None:
    script = (
        "import sys; from mcr.cli.main import main; "
        "main(['--help']), main(['version']), main(['completion', 'fish']); "
        "bad = {'numpy', 'grpc', 'rocksdict', 'mcr_node', 'tqdm'} & set(sys.modules); "
        "sys.exit(repr(bad) if bad else 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_shells_complete_commands_and_options() -> None:
    environment = os.environ | {"COMP_WORDS": "mcr ch", "COMP_CWORD": "1", "_MCR_COMPLETE": "bash_complete"}
    assert process(env=environment).stdout.split() == ["plain,checkout", "plain,channel"]
