"""What is printed: data on stdout, the rest on stderr, in three manners."""

import json
import math

import pytest

from mcr.cli.output import JsonObject, Output, one_line, printable, to_json
from mcr.errors import HeadMovedError
from mcr.model import EntryKind


def test_data_goes_to_stdout_and_talk_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output()
    output.data({"a": 1}, "one")
    output.data({"a": 1}, "")
    output.talk("two")
    assert capsys.readouterr() == ("one\n", "two\n")


def test_json_is_one_object_a_line_and_no_talk(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output(json=True)
    output.data({"a": 1, "b": "x\ny"}, "one")
    output.data({"a": 2}, "")
    output.talk("two")
    assert capsys.readouterr() == ('{"a": 1, "b": "x\\ny"}\n{"a": 2}\n', "")


def test_quiet_leaves_data_and_errors(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output(quiet=True)
    output.data({"a": 1}, "one")
    output.talk("two")
    output.error(HeadMovedError("v11", "v12"))
    out, err = capsys.readouterr()
    assert out == "one\n"
    assert err == (
        "error: branch is at v12, not at v11\nhint: look at what changed, then repeat with --expect v12\n"
    )


def test_an_error_in_json_carries_both_sides(capsys: pytest.CaptureFixture[str]) -> None:
    Output(json=True).error(HeadMovedError("v11", "v12"))
    out, err = capsys.readouterr()
    assert out == ""
    assert json.loads(err) == {
        "error": "head_moved",
        "message": "branch is at v12, not at v11",
        "hint": "look at what changed, then repeat with --expect v12",
        "expected": "v11",
        "actual": "v12",
        "ref": "branch",
    }


def test_a_field_never_hides_the_message(capsys: pytest.CaptureFixture[str]) -> None:
    Output(json=True).failure(code="x", message="m", hint="h", fields={"message": "other", "error": "y"})
    assert json.loads(capsys.readouterr().err) == {"error": "x", "message": "m", "hint": "h"}


def test_json_holds_what_json_lacks() -> None:
    value: JsonObject = {
        "nan": math.nan,
        "inf": [math.inf, -math.inf],
        "bytes": b"\x01\xff",
        "enum": EntryKind.FILE,
        "tuple": (1, None, True),
        "text": "é\udcff\n",
    }
    line = to_json(value)
    assert line.isascii()
    assert json.loads(line) == {
        "nan": "NaN",
        "inf": ["Infinity", "-Infinity"],
        "bytes": "01ff",
        "enum": "file",
        "tuple": [1, None, True],
        "text": "é\udcff\n",
    }


def test_text_of_others_cannot_drive_the_terminal() -> None:
    assert printable("a\x1b[31m\r\x9b\tb\n") == "a\\x1b[31m\\x0d\\x9b\tb\n"
    assert one_line("a\nb\tc") == "a\\nb c"
    assert one_line("abcdef", characters_max=4) == "abc…"


def test_progress_is_shown_when_asked_for_and_not_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    for output, shown in (
        (Output(), False),
        (Output(progress=False), False),
        (Output(json=True), False),
        (Output(progress=True), True),
        (Output(json=True, progress=True), True),
    ):
        with output.bar() as tick:
            tick("scan", 0, 0)
            tick("read", 500, 1000)
            tick("read", 1000, 1000)
            tick("commit", 0, 10)
        out, err = capsys.readouterr()
        assert out == ""
        assert ("read" in err) is shown
