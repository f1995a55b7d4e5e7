"""The entry of the command: whatever goes wrong ends in a message and an exit status."""

import json
import platform
from typing import NoReturn

import pytest

from mcr.cli.main import main


def fail_with(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def raise_it() -> NoReturn:
        raise error

    monkeypatch.setattr(platform, "python_version", raise_it)


def test_a_bug_of_ours_is_told_as_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fail_with(monkeypatch, LookupError("surprise"))

    assert main(["version"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: internal error: LookupError: surprise\nhint: this is a bug")
    assert "Traceback" in err

    assert main(["version", "--json"]) == 1
    record = json.loads(capsys.readouterr().err)
    assert record["error"] == "internal"
    assert "surprise" in record["traceback"]


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (OSError(5, "Input/output error", "/disk/file"), 1, "failed"),
        (OSError(28, "No space left on device", "/disk/file"), 14, "out_of_space"),
        (OSError("nameless"), 1, "failed"),
    ],
)
def test_what_no_command_caught_has_its_status_too(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    status: int,
    code: str,
) -> None:
    fail_with(monkeypatch, error)

    assert main(["--json", "version"]) == status

    assert json.loads(capsys.readouterr().err)["error"] == code


def test_the_flag_counts_for_errors_only_before_the_double_dash(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bogus", "--", "--json"]) == 2
    assert capsys.readouterr().err.startswith("error: No such command 'bogus'")
