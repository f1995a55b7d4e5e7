"""All printing of the command: data on stdout; talk, progress and errors on stderr.

Three manners: for people; `--json`, where stdout carries one object a line and stderr nothing but one error
object; and `--quiet`, which leaves out talk and progress.
"""

import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import BinaryIO, TextIO

from mcr.errors import FieldValue, McrError
from mcr.values import dataclass

JsonValue = None | bool | int | float | str | bytes | Sequence["JsonValue"] | Mapping[str, "JsonValue"]
JsonObject = Mapping[str, JsonValue]
Tick = Callable[[str, int, int], None]
"""Tells a progress bar: what is going on, how much is done, how much there is."""

# Text from a store must not drive the terminal of whoever looks at it (escape sequences, overwritten lines).
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def printable(text: str) -> str:
    """Return `text` with control characters spelt out, but for tab and line feed."""
    return _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", text)


def one_line(text: str, *, characters_max: int = 0) -> str:
    """Return `text` on one line, cut at `characters_max` when that is not 0."""
    line = printable(text).replace("\n", "\\n").replace("\t", " ")
    if characters_max and len(line) > characters_max:
        return line[: characters_max - 1] + "…"
    return line


def to_json(value: JsonValue) -> str:
    """Return `value` as JSON on one line, in ASCII.

    Bytes become hexadecimal. NaN and infinities, which JSON lacks, become the texts `NaN`, `Infinity` and
    `-Infinity`, as in protobuf's JSON form.
    """
    return json.dumps(_plain(value), allow_nan=False)


def _plain(value: JsonValue) -> JsonValue:
    match value:
        case float() if not math.isfinite(value):
            return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
        case str():
            # Also turns members of a StrEnum into plain text.
            return str(value)
        case bytes():
            return value.hex()
        case Mapping():
            return {str(key): _plain(item) for key, item in value.items()}
        case Sequence():
            return [_plain(item) for item in value]
        case _:
            return value


class _NoLock:
    """What tqdm wants of a lock, without locking."""

    def acquire(self, *_arguments: object) -> bool:
        return True

    def release(self) -> None:
        pass

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_error: object) -> None:
        pass


@dataclass(frozen=True, slots=True)
class Output:
    """Where a command prints, and in which manner.

    Attributes:
        json, quiet: see the module's text.
        progress: True or False when the user said so; None: only on a terminal.
    """

    json: bool = False
    quiet: bool = False
    progress: bool | None = None

    def data(self, record: JsonObject, text: str) -> None:
        """Print one result: `record` with --json, `text` otherwise (nothing when it is empty)."""
        if self.json:
            _write(sys.stdout, to_json(record) + "\n")
        elif text:
            _write(sys.stdout, printable(text) + "\n")

    def talk(self, text: str) -> None:
        """Tell people something that is not data."""
        if not (self.json or self.quiet):
            _complain(printable(text) + "\n")

    def flush(self) -> None:
        """Let what was printed out at once: whoever waits for it does so while the command goes on."""
        flush()

    def failure(self, *, code: str, message: str, hint: str, fields: Mapping[str, FieldValue]) -> None:
        """Print an error; in every manner, on stderr."""
        if self.json:
            record: dict[str, JsonValue] = {"error": code, "message": message, "hint": hint}
            record |= {name: value for name, value in fields.items() if name not in record}
            _complain(to_json(record) + "\n")
            return
        lines = f"error: {message}\n" + (f"hint: {hint}\n" if hint else "")
        _complain(printable(lines))

    def error(self, error: McrError) -> None:
        """Print one of our own errors."""
        self.failure(code=error.code, message=error.message, hint=error.hint, fields=error.fields())

    @contextmanager
    def bar(self, *, unit: str = "B") -> Iterator[Tick]:
        """Show a progress bar while the block runs; a no-op where nobody would see it."""
        if not self._shows_progress():
            yield lambda phase, done, total: None
            return
        # Imported late: only a terminal needs it.
        from tqdm import tqdm

        # Its lock is not released when a signal or a failing stream ends a refresh, and then closing the bar
        # waits for ever (seen at Ctrl-C). Here one thread draws at a time, so none is needed; nor is the
        # thread that redraws bars which stand still.
        tqdm.set_lock(_NoLock())
        tqdm.monitor_interval = 0
        bar = tqdm(unit=unit, unit_scale=True, file=sys.stderr, leave=False, dynamic_ncols=True)
        with bar:

            def tick(phase: str, done: int, total: int) -> None:
                if phase != bar.desc.removesuffix(": ") or done < bar.n:
                    bar.set_description(phase, refresh=False)
                    bar.reset(total=total)
                bar.total = total
                bar.update(done - bar.n)

            yield tick

    def _shows_progress(self) -> bool:
        if self.progress is not None:
            return self.progress
        return not (self.json or self.quiet) and sys.stderr.isatty()


def binary_stdout() -> BinaryIO:
    """Return stdout for bytes; what was printed as text before comes out first."""
    sys.stdout.flush()
    return sys.stdout.buffer


def prepare() -> None:
    """Make the standard streams safe to print anything to. Call once, first."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            # Closed by the parent (`>&-`). Left so, the next file to be opened would become stdout.
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w"))  # noqa: SIM115 (lives on)
    for stream in (sys.stdout, sys.stderr):
        # A name that the terminal's encoding lacks must not stop a command.
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def flush() -> None:
    """Write out what is still buffered.

    Raises:
        OSError: the reader of stdout is gone, or the disk it goes to is full.
    """
    sys.stdout.flush()


def abandon_stdout() -> None:
    """Send what is still buffered for stdout nowhere, so that the interpreter's exit is silent."""
    with suppress(OSError, ValueError):
        target = sys.stdout.fileno()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, target)
        os.close(nowhere)


def _write(stream: TextIO, text: str) -> None:
    stream.write(text)


def _complain(text: str) -> None:
    # When nobody reads stderr there is nobody left to tell; the exit status still speaks.
    with suppress(OSError, ValueError):
        sys.stderr.write(text)
        sys.stderr.flush()
