"""Deletions, the trash and pins, from the terminal, on nodes and on an embedded store."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import mcr
from mcr.cli.main import main
from mcr.testing import LocalCluster

MODEL = "vision/net"


@pytest.fixture(params=["nodes", "embedded"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "embedded":
        mcr.init(tmp_path / "models.mcr")
        yield str(tmp_path / "models.mcr")
        return
    with LocalCluster(nodes=2) as cluster:
        yield cluster.addresses


def commits(where: str, folder: Path, count: int) -> None:
    folder.mkdir()
    with mcr.connect(where) as client:
        for number in range(count):
            (folder / "weights.bin").write_bytes(b"%d" % number * 1000)
            client.model(MODEL).commit(folder)


def run(capsys: pytest.CaptureFixture[str], where: str, *arguments: str) -> tuple[int, list[dict[str, Any]]]:
    capsys.readouterr()
    status = main(["--cluster", where, "--json", *arguments])
    said = capsys.readouterr()
    return status, [json.loads(line) for line in (said.out or said.err).splitlines()]


def test_what_was_deleted_comes_back_unless_it_is_given_up(
    where: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    commits(where, tmp_path / "in", 4)

    assert run(capsys, where, "delete", f"{MODEL}@v1", f"{MODEL}@v2", "--reason", "bad")[0] == 0
    status, [error] = run(capsys, where, "checkout", f"{MODEL}@v1", str(tmp_path / "out"))
    assert (status, error["error"]) == (3, "version_deleted")
    items = run(capsys, where, "trash", "list", MODEL)[1]
    assert [(item["version"], item["reason"]) for item in items] == [("v1", "bad"), ("v2", "bad")]
    log = run(capsys, where, "log", MODEL)[1]
    assert [(one["version"], one["deleted_at"] is not None) for one in log] == [
        ("v4", False),
        ("v3", False),
        ("v2", True),
        ("v1", True),
    ]
    assert run(capsys, where, "trash", "restore", f"{MODEL}@v1")[0] == 0
    assert run(capsys, where, "checkout", f"{MODEL}@v1", str(tmp_path / "out"))[0] == 0
    assert (tmp_path / "out" / "weights.bin").read_bytes() == b"0" * 1000

    assert run(capsys, where, "trash", "empty", f"{MODEL}@v2") == (0, [{"purged": 1}])
    assert run(capsys, where, "trash", "restore", f"{MODEL}@v2")[0] == 3
    assert run(capsys, where, "trash", "list")[1] == []


def test_what_is_needed_is_not_deleted(
    where: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    commits(where, tmp_path / "in", 3)
    run(capsys, where, "tag", MODEL, "release-1", "v1")
    run(capsys, where, "pin", f"{MODEL}@v2", "--reason", "paper")

    refused = [run(capsys, where, "delete", f"{MODEL}@v{number}") for number in (1, 2, 3)]

    assert [status for status, _ in refused] == [10, 10, 10]
    uses = [error["uses"] for _, [error] in refused]
    assert [uses[0], uses[2]] == ["tag:release-1 is at it", "branch:main is at it"]
    assert uses[1].endswith("pinned it: paper")
    [pin] = run(capsys, where, "pin", MODEL)[1]
    assert (pin["reference"], pin["reason"]) == (f"{MODEL}@v2", "paper")
    assert run(capsys, where, "unpin", f"{MODEL}@v2")[0] == 0
    assert run(capsys, where, "delete", f"{MODEL}@tag:release-1")[0] == 0
    assert run(capsys, where, "delete", f"{MODEL}@v1", f"{MODEL}@v2")[0] == 0


def test_a_model_goes_with_its_names_and_comes_back(
    where: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    commits(where, tmp_path / "in", 2)
    run(capsys, where, "channel", MODEL, "production", "--set", "v1")
    run(capsys, where, "branch", MODEL, "exp")

    assert run(capsys, where, "delete", MODEL)[0] == 2
    assert run(capsys, where, "delete", MODEL, "--all", "--keep-for", "2h")[0] == 0

    assert run(capsys, where, "ls")[1] == []
    assert run(capsys, where, "log", MODEL)[0] == 3
    [item] = run(capsys, where, "trash", "list")[1]
    assert (item["reference"], item["version"]) == (MODEL, None)
    assert run(capsys, where, "trash", "restore", MODEL)[0] == 0
    assert [one["version"] for one in run(capsys, where, "log", MODEL)[1]] == ["v2", "v1"]


def test_words_that_could_mean_several_things_are_refused(
    where: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in (
        ("delete", f"{MODEL}@release"),
        ("delete", f"{MODEL}@v1", "other/model@v1"),
        ("delete", f"{MODEL}@v1", "--keep-for", "soon"),
        ("trash", "empty"),
        ("trash", "restore", f"{MODEL}@main"),
    ):
        assert run(capsys, where, *arguments)[0] == 2
