"""What a shell offers behind a command: names of the store, or nothing."""

from pathlib import Path

import pytest

import mcr
from mcr.cli.main import main


@pytest.fixture
def store(tmp_path: Path) -> Path:
    mcr.init(tmp_path / "store")
    with mcr.connect(tmp_path / "store") as client:
        (tmp_path / "a.bin").write_bytes(b"a")
        for name in ("vision/net", "vision/next"):
            client.model(name).commit(tmp_path / "a.bin")
        model = client.model("vision/net")
        model.create_branch("exp")
        model.create_tag("release")
        model.channel("production").set("v1")
    return tmp_path / "store"


def offered(
    where: Path, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> list[str]:
    words = line.split(" ")
    monkeypatch.setenv("MCR_CLUSTER", str(where))
    monkeypatch.setenv("_MCR_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(words) - 1))
    main([])
    captured = capsys.readouterr()
    assert captured.err == ""
    return [each.partition(",")[2] for each in captured.out.splitlines() if each]


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("mcr log vision/ne", ["vision/net", "vision/next"]),
        ("mcr commit vision/nex", ["vision/next"]),
        ("mcr show vision/net@r", ["vision/net@release"]),
        ("mcr diff vision/net@v1 vision/net@p", ["vision/net@production"]),
        ("mcr rollback vision/net --channel p", ["production"]),
        ("mcr merge vision/net e", ["exp"]),
        ("mcr tag vision/net new v", ["v1"]),
        ("mcr branch vision/net m", ["main"]),
        ("mcr branch vision/none m", []),
        ("mcr rollback vision/net@v1 --channel p", []),
    ],
)
def test_names_of_the_store_are_offered(
    store: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    line: str,
    names: list[str],
) -> None:
    assert offered(store, line, monkeypatch, capsys) == names


def test_without_a_store_nothing_is_offered_and_nothing_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert offered(tmp_path / "none", "mcr log vision/", monkeypatch, capsys) == []
