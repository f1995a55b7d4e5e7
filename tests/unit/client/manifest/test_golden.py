"""The bytes of manifest format 1 (conformance/golden), which every later release must write and read."""

from pathlib import Path

from mcr.manifest import ManifestBuilder, decode_node, drain, walk_files, walk_ids
from mcr.model import ChunkId, ChunkRef, EntryKind, FileEntry, Tensor, digest
from tests.unit.client.manifest.samples import MemoryStore

GOLDEN = Path(__file__).parents[3] / "conformance" / "golden" / "manifest_1"


def sample_version(store: MemoryStore) -> ChunkId:
    """Build the version described in the README beside the golden files."""
    builder = ManifestBuilder(store.emit)
    refs = [ChunkRef(ChunkId(digest(b"chunk %d" % n)), 1000 + n) for n in range(3000)]
    tensors = [Tensor(f"t{n:03}", "BF16", (n, 2), 4 * n, 4 * n, digest(b"tensor %d" % n)) for n in range(300)]

    def add(path: str, chunks: list[ChunkRef], found: list[Tensor], *, executable: bool = False) -> None:
        entry = FileEntry(
            path,
            EntryKind.FILE,
            size_bytes=sum(ref.length_bytes for ref in chunks),
            executable=executable,
            blake3=digest(b"blake3 " + path.encode()),
            sha256=digest(b"sha256 " + path.encode()),
            format="safetensors" if found else "bytes",
        )
        builder.add(entry, chunks, found)

    builder.add(FileEntry("a/empty folder", EntryKind.DIRECTORY))
    builder.add(FileEntry("a/link", EntryKind.SYMLINK, target="../run.sh"))
    add("big.safetensors", refs, tensors)
    add("empty.txt", [], [])
    for n in range(200):
        add(f"layers/{n:03}.bin", refs[n : n + 1], [])
    add("run.sh", refs[:2], [], executable=True)
    add("small.safetensors", refs[:3], tensors[:2])
    add("ünïcode \U0001f600", refs[:1], [])
    return builder.finish().root


def golden() -> MemoryStore:
    store = MemoryStore()
    for file in GOLDEN.glob("*.bin"):
        store.chunks[ChunkId(bytes.fromhex(file.stem))] = file.read_bytes()
    return store


def test_this_release_writes_the_bytes_of_format_1() -> None:
    store = MemoryStore()
    root = sample_version(store)
    assert root.hex() == (GOLDEN / "root.txt").read_text().strip()
    assert store.chunks == golden().chunks


def test_this_release_reads_the_bytes_of_format_1() -> None:
    store = golden()
    root = ChunkId(bytes.fromhex((GOLDEN / "root.txt").read_text().strip()))

    paths = [row.entry.path for row in drain(walk_files(root), store.get)]

    assert len(paths) == 207
    assert paths[:3] == ["a/empty folder", "a/link", "big.safetensors"]
    assert set(store.chunks) <= set(drain(walk_ids(root), store.get))
    for chunk_id, data in store.chunks.items():
        decode_node(chunk_id, data)
