"""Manifests to test with: a store of chunks in a dict, and entries made from a number."""

from collections.abc import Iterable, Sequence

from mcr.errors import MissingChunkError
from mcr.manifest import ManifestBuilder, ManifestSummary
from mcr.model import Chunk, ChunkId, ChunkRef, EntryKind, FileEntry, Tensor, digest


class MemoryStore:
    """Chunks in a dict; counts what was read."""

    def __init__(self) -> None:
        self.chunks: dict[ChunkId, bytes] = {}
        self.reads: list[ChunkId] = []
        self.rounds = 0

    def emit(self, chunk: Chunk) -> None:
        self.chunks[chunk.id] = bytes(chunk.data)

    def get(self, ids: Sequence[ChunkId]) -> list[bytes]:
        self.rounds += 1
        self.reads.extend(ids)
        for chunk_id in ids:
            if chunk_id not in self.chunks:
                raise MissingChunkError(chunk_id.hex())
        return [self.chunks[chunk_id] for chunk_id in ids]

    async def get_async(self, ids: Sequence[ChunkId]) -> list[bytes]:
        return self.get(ids)


def chunk_ref(seed: int, length_bytes: int = 1000) -> ChunkRef:
    return ChunkRef(ChunkId(digest(b"chunk %d" % seed)), length_bytes)


def tensor(name: str, offset_bytes: int = 0, length_bytes: int = 0) -> Tensor:
    return Tensor(
        name, "F32", (3, 4), offset_bytes, length_bytes, digest(name.encode(errors="surrogatepass"))
    )


def file_entry(path: str, size_bytes: int = 0, *, content: int = 0) -> FileEntry:
    return FileEntry(
        path,
        EntryKind.FILE,
        size_bytes=size_bytes,
        blake3=digest(b"blake3 %d" % content),
        sha256=digest(b"sha256 %d" % content),
    )


def add_file(builder: ManifestBuilder, path: str, *, content: int = 0, chunk_count: int = 1) -> None:
    refs = [chunk_ref(content * 1_000_003 + position) for position in range(chunk_count)]
    builder.add(file_entry(path, 1000 * chunk_count, content=content), refs)


def build(store: MemoryStore, files: Iterable[tuple[str, int]]) -> ManifestSummary:
    """Build a manifest of one-chunk files from (path, content number)."""
    builder = ManifestBuilder(store.emit)
    for path, content in sorted(files):
        add_file(builder, path, content=content)
    return builder.finish()
