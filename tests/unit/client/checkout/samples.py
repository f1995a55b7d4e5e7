"""A store in memory and folders to commit to it."""

import asyncio
import hashlib
import os
import random
import stat
from collections.abc import Callable, Sequence
from pathlib import Path

from mcr.checkout import CheckoutProgress, CheckoutResult, checkout
from mcr.errors import (
    FailedError,
    MissingChunkError,
)
from mcr.manifest import PARTIAL_FOLDER, FileRow, ManifestBuilder, drain, walk_files
from mcr.model import MIB, Chunk, ChunkId, ChunkRef, EntryKind, FileEntry, digest
from mcr.scanning import scan
from mcr.transfer import put_in_place

CHUNK_BYTES = 64 * 1024
Files = dict[str, bytes]


class Store:
    """Chunks in memory, given out as a transport would; can fail or hang at a chosen chunk."""

    def __init__(self) -> None:
        self.chunks: dict[ChunkId, bytes] = {}
        self.fetched: list[ChunkId] = []
        self.fail_after: int | None = None
        self.hang_after: int | None = None
        self.hanging = asyncio.Event()

    def emit(self, chunk: Chunk) -> None:
        self.chunks[chunk.id] = bytes(chunk.data)

    async def get(self, ids: Sequence[ChunkId]) -> list[bytes]:
        self.fetched += ids
        if self.fail_after is not None and len(self.fetched) > self.fail_after:
            raise FailedError("fetch", "the cable was cut")
        if self.hang_after is not None and len(self.fetched) > self.hang_after:
            self.hanging.set()
            await asyncio.Event().wait()
        return self.get_now(ids)

    async def get_into(self, ids: Sequence[ChunkId], places: Sequence[memoryview]) -> list[int]:
        found = await self.get(ids)
        return [put_in_place(data, place) for data, place in zip(found, places, strict=True)]

    def get_now(self, ids: Sequence[ChunkId]) -> list[bytes]:
        for chunk_id in ids:
            if chunk_id not in self.chunks:
                raise MissingChunkError(chunk_id.hex())
        return [self.chunks[chunk_id] for chunk_id in ids]

    def commit(self, folder: Path) -> ChunkId:
        """Store a folder as a version and return its manifest's root."""
        builder = ManifestBuilder(self.emit)
        for source in scan(folder):
            if source.kind is not EntryKind.FILE:
                builder.add(FileEntry(source.path, source.kind, target=source.target))
                continue
            data = Path(source.absolute).read_bytes()
            chunks = [
                Chunk.of(data[start : start + CHUNK_BYTES]) for start in range(0, len(data), CHUNK_BYTES)
            ]
            for chunk in chunks:
                self.emit(chunk)
            entry = FileEntry(
                source.path,
                EntryKind.FILE,
                size_bytes=len(data),
                executable=source.executable,
                blake3=digest(data),
                sha256=hashlib.sha256(data).digest(),
            )
            builder.add(entry, [ChunkRef(chunk.id, len(chunk.data)) for chunk in chunks])
        return builder.finish().root

    def rows(self, root: ChunkId) -> dict[str, FileRow]:
        return {row.entry.path: row for row in drain(walk_files(root), self.get_now)}


def write(folder: Path, files: Files) -> Path:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def noise(seed: int, length_bytes: int) -> bytes:
    return random.Random(seed).randbytes(length_bytes)


LARGE = 3 * MIB + 12345
FILES: Files = {
    "config.json": b"{}",
    "empty": b"",
    "weights/large.bin": noise(1, LARGE),
    "weights/small.bin": noise(2, 100_000),
    "a/deep/folder/x": b"x",
}


def state(folder: Path) -> dict[str, tuple[str, int, bytes]]:
    """Everything below a folder: kind, mode and content."""
    found: dict[str, tuple[str, int, bytes]] = {}
    for path in sorted(folder.rglob("*")):
        name, mode = str(path.relative_to(folder)), stat.S_IMODE(path.lstat().st_mode)
        if path.is_symlink():
            found[name] = ("link", 0, os.fsencode(path.readlink()))
        elif path.is_dir():
            found[name] = ("folder", mode, b"")
        else:
            found[name] = ("file", mode, path.read_bytes())
    return found


def run(
    store: Store,
    root: ChunkId,
    destination: Path,
    *,
    include: Sequence[str] = (),
    verify: bool = False,
    delete: bool = False,
    sync: bool = False,
    progress: Callable[[CheckoutProgress], None] | None = None,
) -> CheckoutResult:
    work = checkout(
        store,
        root,
        destination,
        include=include,
        verify=verify,
        delete=delete,
        sync=sync,
        progress=progress,
    )
    return asyncio.run(work)


def is_whole(source: Path, target: Path) -> bool:
    """Tell whether every file in place has its full content."""
    wanted = state(source)
    return all(
        found[0] == "folder" or found == wanted[name]
        for name, found in state(target).items()
        if not name.startswith(PARTIAL_FOLDER)
    )
