"""What an automatic commit remembers between two runs, as JSON in a file beside what it watches."""

import fcntl
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, field, replace
from pathlib import Path

from mcr.auto_commit.rules import Standing
from mcr.checkout.tree import translated
from mcr.errors import DestinationError, InvalidArgumentError
from mcr.values import dataclass

FORMAT = 1
FILE_MODE = 0o644


@dataclass(frozen=True, slots=True)
class Made:
    """A version that was made of a candidate.

    Attributes:
        content: digest of what was committed, hexadecimal; see `looking.content_of`.
    """

    number: int
    version_id: str
    content: str


@dataclass(frozen=True, slots=True)
class Memory:
    """All of it.

    Attributes:
        made: the last version of each candidate, by its name, in the order in which they were made.
        skipped: content of candidates that the rules left out, by name.
    """

    model: str
    branch: str
    standing: Standing = field(default_factory=Standing)
    made: Mapping[str, Made] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)

    def with_made(self, name: str, made: Made, standing: Standing) -> "Memory":
        """Return it with one more version."""
        others = {key: value for key, value in self.made.items() if key != name}
        return replace(self, standing=standing, made={**others, name: made})

    def without(self, name: str) -> "Memory":
        """Return it without a candidate that is gone."""
        return replace(
            self,
            made={key: value for key, value in self.made.items() if key != name},
            skipped={key: value for key, value in self.skipped.items() if key != name},
        )


class MemoryFile:
    """The file, held by one watcher."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = -1

    def open(self) -> None:
        """Take it.

        Raises:
            DestinationError: another watcher has it, or it cannot be written.
        """
        with translated(str(self.path)):
            self._lock = os.open(
                f"{self.path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, FILE_MODE
            )
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DestinationError(str(self.path), "another watcher keeps it") from error

    def close(self) -> None:
        """Let others take it."""
        if self._lock >= 0:
            os.close(self._lock)
        self._lock = -1

    def load(self, fresh: Memory) -> Memory:
        """Return what was remembered; `fresh` the first time, and when that is damaged.

        Losing it costs no second version of the same content: a request is named for its content, and what is
        at the head of the branch already is recognised.

        Raises:
            InvalidArgumentError: it is about another model or branch.
        """
        try:
            found = json.loads(self.path.read_bytes())
            if found.pop("format") != FORMAT:
                return fresh
            memory = Memory(
                model=found["model"],
                branch=found["branch"],
                standing=Standing(**found["standing"]),
                made={name: Made(**made) for name, made in found["made"].items()},
                skipped=dict(found["skipped"]),
            )
        except (FileNotFoundError, ValueError, TypeError, KeyError, AttributeError):
            return fresh
        if (memory.model, memory.branch) != (fresh.model, fresh.branch):
            raise InvalidArgumentError(
                "path", f"it is committed to {memory.model}@branch:{memory.branch}; see {self.path}"
            )
        return memory

    def save(self, memory: Memory) -> None:
        """Remember; durable when this returns."""
        written = Path(f"{self.path}.new")
        with translated(str(self.path)):
            with written.open("wb") as file:
                file.write(json.dumps({"format": FORMAT} | asdict(memory), indent=1).encode())
                file.flush()
                os.fsync(file.fileno())
            os.rename(written, self.path)
