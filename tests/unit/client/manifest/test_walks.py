import asyncio
import random
from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mcr.errors import CorruptChunkError, MissingChunkError
from mcr.manifest import (
    FileRow,
    ManifestBuilder,
    drain,
    drain_async,
    encode_node,
    find_file,
    find_tensor,
    walk_chunks,
    walk_files,
    walk_ids,
    walk_tensors,
)
from mcr.manifest.nodes import Child, ChunksLeaf, FilesLeaf, Inner, Node, TensorsLeaf, TreeKind
from mcr.manifest.walks import WINDOW_NODES
from mcr.model import Chunk, ChunkId, ChunkRef, EntryKind, FileEntry
from tests.unit.client.manifest.samples import MemoryStore, add_file, build, chunk_ref, file_entry, tensor


def big_version(store: MemoryStore, count: int = 5000) -> tuple[ChunkId, list[str]]:
    paths = [f"d{n // 100:03}/f{n:05}" for n in range(count)]
    return build(store, ((path, n) for n, path in enumerate(paths))).root, paths


def test_all_files_come_in_order_in_few_rounds_of_bounded_size() -> None:
    store = MemoryStore()
    root, paths = big_version(store)

    walk = walk_files(root)
    seen = walk.take()
    rounds = 0
    while ids := walk.needs():
        rounds += 1
        assert len(ids) <= WINDOW_NODES
        walk.feed(dict(zip(ids, store.get(ids), strict=True)))
        seen += walk.take()

    assert [row.entry.path for row in seen] == paths
    assert sorted(store.reads) == sorted(store.chunks)
    assert rounds <= 3 + len(store.chunks) // WINDOW_NODES


def test_one_file_costs_one_node_a_level() -> None:
    store = MemoryStore()
    root, _ = big_version(store)

    [row] = drain(find_file(root, "d012/f01234"), store.get)

    assert row.entry.path == "d012/f01234"
    assert len(store.reads) <= 3
    assert list(drain(find_file(root, "d012"), store.get)) == []
    assert list(drain(find_file(root, "zzz"), store.get)) == []


def test_a_folder_lists_what_is_below_it_and_not_what_only_looks_alike() -> None:
    store = MemoryStore()
    files = ["a", "d-e", "d.e", "d/1", "d/2/3", "d0", "e"]
    root = build(store, [(path, 0) for path in files]).root
    assert [row.entry.path for row in drain(walk_files(root, under="d"), store.get)] == ["d/1", "d/2/3"]
    assert [row.entry.path for row in drain(walk_files(root, under="d0"), store.get)] == ["d0"]

    big, paths = big_version(store)
    store.reads.clear()
    below = [row.entry.path for row in drain(walk_files(big, under="d017"), store.get)]
    assert below == [path for path in paths if path.startswith("d017/")]
    assert len(store.reads) < 10


def long_file(store: MemoryStore, count: int = 20_000) -> tuple[FileRow, list[ChunkRef]]:
    refs = [chunk_ref(n, 1 + n % 7) for n in range(count)]
    size_bytes = sum(ref.length_bytes for ref in refs)
    return ManifestBuilder(store.emit).add(file_entry("f", size_bytes), refs), refs


def test_chunks_of_a_file_come_with_their_offsets() -> None:
    store = MemoryStore()
    row, refs = long_file(store)
    offset_bytes = 0
    spans = list(drain(walk_chunks(row), store.get))
    for span, ref in zip(spans, refs, strict=True):
        assert (span.offset_bytes, span.id, span.length_bytes) == (offset_bytes, ref.id, ref.length_bytes)
        offset_bytes += ref.length_bytes
    assert offset_bytes == row.entry.size_bytes


LONG_STORE = MemoryStore()
LONG_ROW, _ = long_file(LONG_STORE, 3000)
SHORT_ROW, _ = long_file(LONG_STORE, 9)


@given(st.sampled_from([LONG_ROW, SHORT_ROW]), st.integers(0, 15_000), st.integers(0, 15_000))
@example(SHORT_ROW, 2, 2)
@settings(max_examples=50)
def test_a_byte_range_gives_just_the_chunks_that_touch_it(row: FileRow, start: int, stop: int) -> None:
    everything = list(drain(walk_chunks(row), LONG_STORE.get))
    expected = [s for s in everything if s.offset_bytes < stop and start < s.offset_bytes + s.length_bytes]
    if start >= stop:
        expected = []
    assert list(drain(walk_chunks(row, start=start, stop=stop), LONG_STORE.get)) == expected


def test_a_byte_range_reads_few_nodes() -> None:
    store = MemoryStore()
    row, _ = long_file(store)
    middle = row.entry.size_bytes // 2
    assert len(list(drain(walk_chunks(row, start=middle, stop=middle + 1), store.get))) == 1
    assert len(store.reads) <= 3


def test_tensors_come_by_name_and_one_is_found_by_name() -> None:
    store = MemoryStore()
    tensors = [tensor(f"layers.{n}.weight", n, 1) for n in range(2000)]
    row = ManifestBuilder(store.emit).add(file_entry("f", 3000), [chunk_ref(0, 3000)], tensors)
    short = ManifestBuilder(store.emit).add(file_entry("f", 3000), [chunk_ref(0, 3000)], tensors[:3])

    assert list(drain(walk_tensors(row), store.get)) == sorted(tensors, key=lambda t: t.name)
    store.reads.clear()
    assert list(drain(find_tensor(row, "layers.777.weight"), store.get)) == [tensors[777]]
    assert len(store.reads) <= 3
    assert list(drain(find_tensor(row, "layers.x"), store.get)) == []
    assert list(drain(find_tensor(short, "layers.1.weight"), store.get)) == [tensors[1]]


def test_the_ids_of_a_version_are_all_its_nodes_and_chunks() -> None:
    store = MemoryStore()
    builder = ManifestBuilder(store.emit)
    data: set[ChunkId] = set()
    for n, count in enumerate((1, 5, 17, 3000)):
        add_file(builder, f"f{n}", content=n, chunk_count=count)
        data |= {chunk_ref(n * 1_000_003 + position).id for position in range(count)}
    builder.add(file_entry("g", 10), [chunk_ref(-1, 10)], [tensor(f"t{n}", 0, 1) for n in range(500)])
    builder.add(FileEntry("h", EntryKind.SYMLINK, target="g"))
    data.add(chunk_ref(-1).id)
    summary = builder.finish()

    found = list(drain(walk_ids(summary.root), store.get))

    assert found[0] == summary.root
    assert set(found) == data | store.chunks.keys()


def test_a_list_that_repeats_its_nodes_is_read_once_each() -> None:
    store = MemoryStore()
    builder = ManifestBuilder(store.emit)
    for name in "ab":
        builder.add(file_entry(name, 20_000_000), (chunk_ref(0) for _ in range(20_000)))
    root = builder.finish().root

    found = set(drain(walk_ids(root), store.get))

    assert found == store.chunks.keys() | {chunk_ref(0).id}
    assert len(store.reads) <= 2 * len(store.chunks)


def test_the_blocking_and_the_async_loop_give_the_same() -> None:
    store = MemoryStore()
    root, _ = big_version(store, 500)

    async def collect() -> list[FileRow]:
        return [row async for row in drain_async(walk_files(root), store.get_async)]

    assert asyncio.run(collect()) == list(drain(walk_files(root), store.get))


def test_a_missing_node_is_named() -> None:
    store = MemoryStore()
    root, _ = big_version(store, 500)
    lost = next(chunk_id for chunk_id in store.chunks if chunk_id != root)
    del store.chunks[lost]
    with pytest.raises(MissingChunkError, match=lost.hex()):
        list(drain(walk_files(root), store.get))
    walk = walk_files(root)
    with pytest.raises(MissingChunkError, match=root.hex()):
        walk.feed({})


# A hostile manifest: nodes that are each valid, put together wrongly.


def put(store: MemoryStore, node: Node) -> ChunkId:
    chunk = Chunk.of(encode_node(node))
    store.emit(chunk)
    return chunk.id


def leaf(*paths: str) -> FilesLeaf:
    return FilesLeaf(tuple(FileRow(FileEntry(path, EntryKind.DIRECTORY)) for path in paths))


def test_paths_that_clash_across_nodes_are_corrupt() -> None:
    store = MemoryStore()
    left, right = put(store, leaf("a", "a-b")), put(store, leaf("a/b", "c"))
    root = put(store, Inner(TreeKind.FILES, 1, (Child("a", left, 2, 0), Child("a/b", right, 2, 0))))
    with pytest.raises(CorruptChunkError, match="clashing"):
        list(drain(walk_files(root), store.get))


def wrong_children(store: MemoryStore) -> list[tuple[Child, Child]]:
    left, right = put(store, leaf("a", "b")), put(store, leaf("c", "d"))
    overlapping = put(store, leaf("a", "c"))
    deeper = put(store, Inner(TreeKind.FILES, 1, (Child("a", left, 2, 0),)))
    tensors = put(store, TensorsLeaf((tensor("a"), tensor("b"))))
    empty = put(store, FilesLeaf(()))
    good = Child("c", right, 2, 0)
    return [
        (Child("a", left, 3, 0), good),
        (Child("a", left, 2, 1), good),
        (Child("0", left, 2, 0), good),
        (Child("a", overlapping, 2, 0), good),
        (Child("a", deeper, 2, 0), good),
        (Child("a", tensors, 2, 0), good),
        (Child("a", empty, 1, 0), good),
    ]


@pytest.mark.parametrize("number", range(7))
def test_nodes_that_are_not_what_their_parent_says_are_corrupt(number: int) -> None:
    store = MemoryStore()
    root = put(store, Inner(TreeKind.FILES, 1, wrong_children(store)[number]))
    with pytest.raises(CorruptChunkError):
        list(drain(walk_files(root), store.get))
    with pytest.raises(CorruptChunkError):
        list(drain(walk_ids(root), store.get))


def test_lists_that_are_not_what_their_file_says_are_corrupt() -> None:
    store = MemoryStore()
    row, _ = long_file(store, 100)
    shorter = replace(row, entry=replace(row.entry, chunk_count=99))
    bigger = replace(row, entry=replace(row.entry, size_bytes=row.entry.size_bytes + 1))
    other = replace(row, entry=replace(row.entry, chunks_root=put(store, leaf("a"))))
    for wrong in (shorter, bigger, other):
        with pytest.raises(CorruptChunkError):
            list(drain(walk_chunks(wrong), store.get))
    outside = put(store, TensorsLeaf((tensor("a", 0, 5),)))
    entry = replace(file_entry("f", 4), tensors_root=outside, tensor_count=1)
    with pytest.raises(CorruptChunkError, match="outside"):
        list(drain(walk_tensors(FileRow(entry)), store.get))


def test_a_hostile_tower_of_repeated_nodes_costs_as_much_as_its_distinct_nodes() -> None:
    store = MemoryStore()
    node: Node = ChunksLeaf((chunk_ref(0, 1),))
    count = 1
    for level in range(1, 13):
        child = Child("", put(store, node), count, count)
        node = Inner(TreeKind.CHUNKS, level, (child,) * 16)
        count *= 16
    entry = replace(file_entry("f", count), chunk_count=count, chunks_root=put(store, node))
    root = put(store, FilesLeaf((FileRow(entry),)))

    found = set(drain(walk_ids(root), store.get))

    assert found == store.chunks.keys() | {chunk_ref(0).id}
    assert len(store.reads) == len(store.chunks)


@given(st.sets(st.text("abc/.é\U0001f600", min_size=1, max_size=6), max_size=40), st.integers())
@settings(max_examples=50)
def test_what_was_built_is_what_is_walked(names: set[str], seed: int) -> None:
    store = MemoryStore()
    chance = random.Random(seed)
    clean = {"p" + name.replace("/", "x") for name in names}
    builder = ManifestBuilder(store.emit)
    rows: list[FileRow] = []
    for path in sorted(clean, key=str.encode):
        count = chance.choice([0, 1, 3, 30])
        refs = [chunk_ref(chance.getrandbits(20), chance.randint(1, 9)) for _ in range(count)]
        size_bytes = sum(ref.length_bytes for ref in refs)
        tensors = [tensor(f"t{n}", 0, size_bytes) for n in range(chance.choice([0, 2, 20]))]
        rows.append(builder.add(file_entry(path, size_bytes), refs, tensors))
        assert [(s.id, s.length_bytes) for s in drain(walk_chunks(rows[-1]), store.get)] == [
            (ref.id, ref.length_bytes) for ref in refs
        ]
        assert sorted(tensors, key=lambda t: t.name) == list(drain(walk_tensors(rows[-1]), store.get))
    assert list(drain(walk_files(builder.finish().root), store.get)) == rows
