"""The file format: a command, perhaps input lines, `----`, then the expected output up to a blank line."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

SEPARATOR = "----"
# A bare word, `key=value`, or `key=(value, value)`.
_ARGUMENT = re.compile(r"([^\s=()]+)(?:=(\([^)]*\)|[^\s]*))?")
# What the library logs on the way. Texts for people are no part of the contract; see the README of the core.
_LOG_LINE = re.compile(r"^\s*(DEBUG|INFO|WARN|ERROR|FATAL|PANIC) ")


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument; `values` is empty for a bare word."""

    key: str
    values: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Directive:
    """One command of a file with what it must print."""

    line: int
    command: str
    arguments: tuple[Argument, ...]
    input: str
    expected: str

    def words(self) -> tuple[str, ...]:
        """Return the bare words, mostly node ids."""
        return tuple(argument.key for argument in self.arguments if not argument.values)

    def values(self, key: str) -> tuple[str, ...]:
        """Return all values of `key`, none if it is absent."""
        return tuple(value for argument in self.arguments if argument.key == key for value in argument.values)

    def value(self, key: str, default: str) -> str:
        """Return the first value of `key`."""
        return next(iter(self.values(key)), default)


def parse(text: str) -> Iterator[Directive]:
    """Yield the directives of one file in order."""
    lines = text.splitlines()
    position = 0
    while position < len(lines):
        head = lines[position].strip()
        if not head or head.startswith("#"):
            position += 1
            continue
        start = position
        position = lines.index(SEPARATOR, start)
        given = "\n".join(lines[start + 1 : position])
        end = position + 1
        while end < len(lines) and lines[end].strip():
            end += 1
        command, *arguments = _arguments(head)
        yield Directive(start + 1, command.key, tuple(arguments), given, "\n".join(lines[position + 1 : end]))
        position = end


def without_logs(output: str) -> str:
    """Return `output` without the library's log lines; "ok" is what a command without output prints."""
    kept = [line.rstrip() for line in output.splitlines() if not _LOG_LINE.match(line)]
    return "\n".join(kept).rstrip() or "ok"


def _arguments(head: str) -> list[Argument]:
    arguments = []
    for match in _ARGUMENT.finditer(head):
        key, value = match.groups()
        if value is None:
            arguments.append(Argument(key))
        else:
            values = tuple(part.strip() for part in value.strip("()").split(","))
            arguments.append(Argument(key, values))
    return arguments
