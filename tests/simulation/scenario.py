"""Run one scenario file: commands, `----`, expected output.

A scenario is a readable story of a protocol run. `pytest --rewrite` regenerates the expected parts, so that a
change of behaviour shows up as a diff to review.
"""

from collections.abc import Callable
from pathlib import Path


def run(path: Path, execute: Callable[[str], str], *, rewrite: bool) -> None:
    """Execute each block of `path` and compare (or rewrite) what it prints.

    Args:
        path: a scenario file; blocks are separated by blank lines, `#` starts a comment line.
        execute: maps one command line to its printed result.
        rewrite: store the actual output instead of comparing.

    Raises:
        AssertionError: output differs; the message names the file, line and command.
    """
    lines, out, at = path.read_text().splitlines(), list[str](), 0
    while at < len(lines):
        line = lines[at]
        out.append(line)
        at += 1
        if not line or line.startswith("#"):
            continue
        if lines[at : at + 1] == ["----"]:
            at += 1
        else:
            assert rewrite, f"{path.name}:{at}: expected ---- after {line!r}; pytest --rewrite writes it"
        expected: list[str] = []
        while at < len(lines) and lines[at]:
            expected.append(lines[at])
            at += 1
        actual = execute(line).splitlines()
        assert "" not in actual, f"{path.name}:{at}: {line!r} printed a blank line, which ends a block"
        out += ["----", *actual]
        assert rewrite or actual == expected, f"{path.name}:{at}: {line!r}\n" + "\n".join(actual)
    if rewrite:
        path.write_text("\n".join(out) + "\n")
