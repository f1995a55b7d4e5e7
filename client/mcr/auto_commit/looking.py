"""Looking at what is watched: candidates, their files, and what their content is. Blocks."""

import os
import re
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path

import blake3

from mcr.auto_commit.completeness import is_temporary
from mcr.errors import SourceNotFoundError
from mcr.model import EntryKind, FileEntry
from mcr.scanning import Identity, Source, check_unchanged, open_source, read_exactly, scan
from mcr.values import dataclass

HASH_STEP_BYTES = 16 << 20
_CONTEXT = b"mcr watched content 1\x00"
_STEP = re.compile(r"([0-9]{1,18})$", re.ASCII)

Look = tuple[tuple[str, Identity, bool], ...]
"""All files of a candidate, temporary ones too: path, what the file system says, whether it is content."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """Something that may become a version.

    Attributes:
        name: of the folder or file, where each is one; else "".
        sources: its content, without what is temporary.
        look: at one moment; the same again later means that nobody writes.
    """

    name: str
    path: Path
    sources: tuple[Source, ...]
    look: Look


def candidates(path: Path, each: str) -> Iterator[Candidate]:
    """Yield what is there now.

    Args:
        path: the folder or file that is watched.
        each: pattern over names in the folder, each of which is a candidate; "" = it is one itself.

    Raises:
        SourceUnreadableError, SourceChangedError: look again.
    """
    if not each:
        if os.path.lexists(path):
            yield _candidate("", path)
        return
    try:
        names = os.listdir(path)
    except FileNotFoundError:
        return
    # Those with a step in its order, and so the older of two checkpoints first.
    for name in sorted(names, key=lambda name: (step_in(name) or 0, name)):
        if fnmatchcase(name, each) and not is_temporary(name):
            yield _candidate(name, path / name)


def step_in(name: str) -> int | None:
    """Return the step of training that a name such as `checkpoint-1000` ends with."""
    found = _STEP.search(os.path.splitext(name)[0]) or _STEP.search(name)
    return None if found is None else int(found[1])


def _candidate(name: str, path: Path) -> Candidate:
    try:
        found = scan(path)
    except SourceNotFoundError:
        found = []
    content = tuple(source for source in found if not is_temporary(source.path))
    look = tuple((source.path, source.identity, not is_temporary(source.path)) for source in found)
    return Candidate(name, path, content, look)


class Digests:
    """The digests of files, computed once for each state that a file is in."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[Identity, bytes]] = {}

    def content_of(self, candidate: Candidate) -> str:
        """Return what `content_of` returns for a version of these files.

        Raises:
            SourceChangedError, SourceUnreadableError: one of them is being written.
        """
        rows: list[tuple[str, str, bytes, bool]] = []
        for source in candidate.sources:
            value = b""
            match source.kind:
                case EntryKind.FILE:
                    value = self._digest(source)
                case EntryKind.SYMLINK:
                    value = os.fsencode(source.target)
                case EntryKind.DIRECTORY:
                    pass
            rows.append((source.path, source.kind, value, source.executable))
        return _digest_of(rows)

    def _digest(self, source: Source) -> bytes:
        known = self._known.get(source.absolute)
        if known is not None and known[0] == source.identity:
            return known[1]
        hasher = blake3.blake3(max_threads=blake3.blake3.AUTO)
        buffer = memoryview(bytearray(min(max(source.size_bytes, 1), HASH_STEP_BYTES)))
        descriptor = open_source(source)
        try:
            for offset in range(0, source.size_bytes, HASH_STEP_BYTES):
                part = buffer[: min(HASH_STEP_BYTES, source.size_bytes - offset)]
                read_exactly(descriptor, part, offset, source)
                hasher.update(part)
        finally:
            os.close(descriptor)
        check_unchanged(source)
        digest = hasher.digest()
        self._known[source.absolute] = (source.identity, digest)
        return digest

    def forget(self, candidate: Candidate) -> None:
        """Forget the files of a candidate that is gone."""
        for source in candidate.sources:
            self._known.pop(source.absolute, None)


def content_of(entries: Iterable[FileEntry]) -> str:
    """Return a digest of what a version holds: paths, kinds, bytes; hexadecimal."""
    return _digest_of(
        (
            entry.path,
            entry.kind,
            entry.blake3 if entry.kind is EntryKind.FILE else os.fsencode(entry.target),
            entry.executable,
        )
        for entry in entries
    )


def _digest_of(rows: Iterable[tuple[str, str, bytes, bool]]) -> str:
    hasher = blake3.blake3(_CONTEXT)
    for path, kind, value, executable in sorted(rows):
        name = path.encode(errors="surrogateescape")
        # Lengths first, so that no two lists of rows have the same bytes.
        hasher.update(len(name).to_bytes(8, "big") + name + str(kind).encode() + b"\x00")
        hasher.update(len(value).to_bytes(8, "big") + value + bytes([executable]))
    return hasher.hexdigest()
