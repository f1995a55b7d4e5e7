from dataclasses import replace

import pytest

from mcr.errors import InvalidArgumentError, UnsafePathError
from mcr.manifest import (
    NODE_BYTES_MAX,
    ManifestBuilder,
    check_tensor,
    drain,
    walk_chunks,
    walk_files,
    walk_tensors,
)
from mcr.manifest.nodes import INLINE_CHUNKS_MAX, INLINE_TENSORS_MAX
from mcr.model import CHUNK_BYTES_MAX, ChunkRef, EntryKind, FileEntry, Tensor
from tests.unit.client.manifest.samples import MemoryStore, add_file, build, chunk_ref, file_entry, tensor


def test_a_small_version_is_one_node() -> None:
    store = MemoryStore()
    builder = ManifestBuilder(store.emit)
    tensors = [tensor(f"t{n}", 0, 10) for n in range(INLINE_TENSORS_MAX)]
    refs = [chunk_ref(n) for n in range(INLINE_CHUNKS_MAX)]

    row = builder.add(file_entry("model.bin", 1000 * INLINE_CHUNKS_MAX), refs, tensors)
    summary = builder.finish()

    assert summary.node_count == 1
    assert list(store.chunks) == [summary.root]
    assert row.entry.chunks_root is None
    assert row.entry.tensors_root is None
    assert list(drain(walk_files(summary.root), store.get)) == [row]


def test_one_chunk_or_tensor_more_than_fits_inline_goes_to_a_list_of_its_own() -> None:
    store = MemoryStore()
    builder = ManifestBuilder(store.emit)
    tensors = [tensor(f"t{n}", 0, 10) for n in range(INLINE_TENSORS_MAX + 1)]
    refs = [chunk_ref(n) for n in range(INLINE_CHUNKS_MAX + 1)]

    row = builder.add(file_entry("model.bin", 1000 * len(refs)), refs, tensors)

    assert (row.chunks, row.tensors) == ((), ())
    assert row.entry.chunk_count == len(refs)
    assert [span.id for span in drain(walk_chunks(row), store.get)] == [ref.id for ref in refs]
    assert list(drain(walk_tensors(row), store.get)) == tensors
    assert builder.finish().node_count == 3


def test_few_tensors_with_long_names_are_not_inline_and_are_kept_by_name() -> None:
    store = MemoryStore()
    tensors = [tensor("z" * 4000), tensor("a" * 4000)]

    row = ManifestBuilder(store.emit).add(file_entry("f"), (), tensors)

    assert row.entry.tensors_root is not None
    assert list(drain(walk_tensors(row), store.get)) == tensors[::-1]


def test_an_empty_version_has_a_root() -> None:
    store = MemoryStore()
    summary = ManifestBuilder(store.emit).finish()
    assert (summary.entry_count, summary.bytes_total, summary.node_count) == (0, 0, 1)
    assert list(drain(walk_files(summary.root), store.get)) == []


def test_the_summary_counts_files_bytes_chunks_and_nodes() -> None:
    store = MemoryStore()
    builder = ManifestBuilder(store.emit)
    builder.add(FileEntry("a", EntryKind.DIRECTORY))
    add_file(builder, "b", chunk_count=40)
    builder.add(FileEntry("c", EntryKind.SYMLINK, target="b"))

    summary = builder.finish()

    assert (summary.entry_count, summary.file_count) == (3, 1)
    assert (summary.bytes_total, summary.chunk_count) == (40_000, 40)
    assert summary.node_count == len(store.chunks) == 2
    assert summary.node_bytes == sum(map(len, store.chunks.values()))


def test_every_node_is_bounded_even_with_the_longest_paths_and_names() -> None:
    store = MemoryStore()
    builder = ManifestBuilder(store.emit)
    names = [f"{n:04}" + "t" * 4000 for n in range(300)]
    builder.add(file_entry("a"), (), [tensor(name) for name in names])
    for n in range(300):
        builder.add(FileEntry(f"l{n:04}" + "/x" * 2040, EntryKind.SYMLINK, target="../" * 1000 + "t" * 1000))
    for n in range(60):
        inline = [Tensor("n" * 100 + str(i), "F" * 60, (2**63 - 1,) * 30, 0, 0, bytes(32)) for i in range(8)]
        builder.add(file_entry(f"m{n:04}" + "/x" * 2040), (), inline)

    summary = builder.finish()

    assert max(map(len, store.chunks.values())) <= NODE_BYTES_MAX
    assert sum(1 for _ in drain(walk_files(summary.root), store.get)) == 361


def test_a_changed_an_added_and_a_removed_file_rewrite_few_nodes() -> None:
    store = MemoryStore()
    files = {f"shard-{n:05}/part-{n % 7}": n for n in range(2000)}
    build(store, files.items())
    nodes_before = len(store.chunks)

    for edit in ({"shard-01000/part-4": 1}, {"shard-01000/new": 1}, {"0": 1}, {"zzz": 1}):
        store_after = MemoryStore()
        build(store_after, (files | edit).items())
        fresh = store_after.chunks.keys() - store.chunks.keys()
        # The leaf, perhaps a neighbour, and the nodes above.
        assert len(fresh) <= 6, edit
    store_after = MemoryStore()
    build(store_after, (item for item in files.items() if item[1] != 1000))
    assert len(store_after.chunks.keys() - store.chunks.keys()) <= 6
    assert nodes_before > 20


def test_chunks_in_the_middle_of_a_long_list_rewrite_few_nodes() -> None:
    refs = [chunk_ref(n) for n in range(20_000)]
    edited = [*refs[:9000], chunk_ref(-1), chunk_ref(-2), *refs[9000:]]
    stores = MemoryStore(), MemoryStore()
    for store, chunks in zip(stores, (refs, edited), strict=True):
        ManifestBuilder(store.emit).add(file_entry("f", 1000 * len(chunks)), chunks)

    fresh = stores[1].chunks.keys() - stores[0].chunks.keys()

    assert len(stores[0].chunks) > 10
    assert len(fresh) <= 5


def test_a_list_is_taken_as_it_comes_and_may_be_built_before_its_file_is_added() -> None:
    store = MemoryStore()
    builder = ManifestBuilder(store.emit)
    ahead = builder.chunk_list()
    for n in range(3000):
        ahead.add(chunk_ref(n))
        # Nodes leave as soon as they are full: at most a leaf's worth of chunks is held back.
        assert n < 2048 or store.chunks
    first = builder.add(file_entry("a", 3_000_000), ahead.finish())
    second = builder.add(file_entry("b", 3_000_000), (chunk_ref(n) for n in range(3000)))

    assert first.entry.chunks_root == second.entry.chunks_root


def test_a_file_of_equal_chunks_has_a_list_of_few_distinct_nodes() -> None:
    store = MemoryStore()
    builder = ManifestBuilder(store.emit)
    row = builder.add(file_entry("zeros", 50_000 * 1000), (chunk_ref(0) for _ in range(50_000)))
    assert len(store.chunks) < 10
    assert sum(1 for _ in drain(walk_chunks(row), store.get)) == 50_000


def test_rows_of_another_manifest_are_taken_over_with_their_lists() -> None:
    store = MemoryStore()
    builder = ManifestBuilder(store.emit)
    add_file(builder, "a", content=1)
    add_file(builder, "b", content=2, chunk_count=500)
    first = builder.finish()
    emitted = len(store.chunks)

    again = ManifestBuilder(store.emit)
    for row in drain(walk_files(first.root), store.get):
        again.add_row(row)
    second = again.finish()

    assert second.root == first.root
    assert second.node_count == 1
    assert len(store.chunks) == emitted


@pytest.mark.parametrize(
    "paths",
    [["b", "a"], ["a", "a"], ["a", "a/b"], ["a", "a-b", "a/b"]],
    ids=["order", "twice", "inside", "apart"],
)
def test_paths_out_of_order_or_inside_each_other_are_refused(paths: list[str]) -> None:
    builder = ManifestBuilder(MemoryStore().emit)
    for path in paths[:-1]:
        add_file(builder, path)
    with pytest.raises(InvalidArgumentError, match="path"):
        add_file(builder, paths[-1])


@pytest.mark.parametrize(
    "entry",
    [
        file_entry("../a"),
        FileEntry("a", EntryKind.SYMLINK, target="../b"),
        FileEntry("a", EntryKind.SYMLINK, target="/etc/passwd"),
        FileEntry("a", EntryKind.SYMLINK),
        replace(file_entry("a"), target="b"),
    ],
)
def test_unsafe_entries_are_refused_when_written(entry: FileEntry) -> None:
    with pytest.raises(UnsafePathError):
        ManifestBuilder(MemoryStore().emit).add(entry)


@pytest.mark.parametrize(
    ("entry", "chunks", "tensors"),
    [
        (file_entry("a", 1001), [chunk_ref(0)], []),
        (file_entry("a", 0), [chunk_ref(0, 0)], []),
        (file_entry("a", CHUNK_BYTES_MAX + 1), [chunk_ref(0, CHUNK_BYTES_MAX + 1)], []),
        (FileEntry("a", EntryKind.FILE), [], []),
        (replace(file_entry("a"), format="f" * 65), [], []),
        (replace(file_entry("a"), size_bytes=-1), [], []),
        (FileEntry("a", EntryKind.DIRECTORY, size_bytes=1000), [chunk_ref(0)], []),
        (FileEntry("a", EntryKind.DIRECTORY), [], [tensor("t")]),
        (file_entry("a", 1000), [chunk_ref(0)], [tensor("t", 999, 2)]),
        (file_entry("a", 1000), [chunk_ref(0)], [tensor("t"), tensor("t")]),
    ],
)
def test_entries_that_break_a_rule_of_the_format_are_refused(
    entry: FileEntry, chunks: list[ChunkRef], tensors: list[Tensor]
) -> None:
    with pytest.raises(InvalidArgumentError):
        ManifestBuilder(MemoryStore().emit).add(entry, chunks, tensors)


@pytest.mark.parametrize(
    "bad",
    [
        tensor("t" * 4097),
        tensor("\udcff"),
        replace(tensor("t"), dtype="d" * 65),
        replace(tensor("t"), shape=(1,) * 65),
        replace(tensor("t"), shape=(-1,)),
        tensor("t", -1, 0),
        tensor("t", 1, 2**53),
        replace(tensor("t"), digest=b"short"),
    ],
)
def test_a_tensor_that_no_manifest_can_hold_is_named_as_such(bad: Tensor) -> None:
    check_tensor(tensor("t"))
    with pytest.raises(InvalidArgumentError) as caught:
        check_tensor(bad)
    str(caught.value).encode()
