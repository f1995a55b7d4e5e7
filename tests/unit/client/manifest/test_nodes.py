import contextlib
import copy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcr.canonical import CanonicalValue, encode
from mcr.errors import CorruptChunkError
from mcr.manifest import decode_node, encode_node
from mcr.manifest.nodes import (
    Child,
    ChunksLeaf,
    FileRow,
    FilesLeaf,
    Inner,
    Node,
    TensorsLeaf,
    TreeKind,
    describe,
    kind_of,
    level_of,
)
from mcr.model import ChunkId, ChunkRef, EntryKind, FileEntry, digest
from tests.unit.client.manifest.samples import chunk_ref, file_entry, tensor

ID = bytes(range(32))
ENTRY = file_entry("a", 2000)
FILE: list[CanonicalValue] = ["a", "file", 36, False, ID, ID, "bytes", ID + bytes((0, 0, 0, 36)), []]
TENSOR: list[CanonicalValue] = ["t", "F32", [2, 3], 0, 24, ID]
LIST_AT: CanonicalValue = {"count": 20, "root": ID}


def decode(value: CanonicalValue) -> Node:
    data = encode(value)
    return decode_node(ChunkId(digest(data)), data)


def file_with(column: int, value: CanonicalValue) -> CanonicalValue:
    row = copy.copy(FILE)
    row[column] = value
    return ["mcr.files.1", 0, [row]]


def tensor_with(column: int, value: CanonicalValue) -> CanonicalValue:
    row = copy.copy(TENSOR)
    row[column] = value
    return ["mcr.tensors.1", 0, [row]]


NODES: list[Node] = [
    FilesLeaf(()),
    FilesLeaf(
        (
            FileRow(FileEntry("a/empty", EntryKind.DIRECTORY)),
            FileRow(FileEntry("a/link", EntryKind.SYMLINK, target="../b")),
        )
    ),
    ChunksLeaf((chunk_ref(1, 1), chunk_ref(2, 4 * 1024 * 1024))),
    TensorsLeaf((tensor("a", 1, 2), tensor("b"))),
    Inner(TreeKind.FILES, 1, (Child("a", ChunkId(ID), 1, 2), Child("b", ChunkId(ID), 3, 4))),
    Inner(TreeKind.CHUNKS, 12, (Child("", ChunkId(ID), 1, 2), Child("", ChunkId(ID), 1, 2))),
    Inner(TreeKind.TENSORS, 2, (Child("a", ChunkId(ID), 1, 2),)),
]


@pytest.mark.parametrize("node", NODES)
def test_a_node_comes_back_from_its_bytes(node: Node) -> None:
    data = encode_node(node)
    decoded = decode_node(ChunkId(digest(data)), data)
    assert decoded == node
    assert (kind_of(decoded), level_of(decoded)) == (kind_of(node), level_of(node))
    assert describe(decoded, ChunkId(ID)).count == describe(node, ChunkId(ID)).count


def test_the_rows_used_below_are_valid_until_they_are_changed() -> None:
    decode(["mcr.files.1", 0, [FILE]])
    decode(["mcr.tensors.1", 0, [TENSOR]])
    decode(file_with(7, LIST_AT))
    decode(file_with(8, LIST_AT))
    decode(file_with(8, [["t", "F32", [], 0, 36, ID]]))


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        ["mcr.files.1", 0],
        ["mcr.files.2", 0, []],
        ["mcr.files.1", 13, []],
        ["mcr.files.1", -1, []],
        ["mcr.files.1", True, []],
        ["mcr.files.1", 0, None],
        ["mcr.files.1", 0, [["a"]]],
        ["mcr.files.1", 0, [["a", "device"]]],
        ["mcr.files.1", 0, [["a", "directory", 1]]],
        ["mcr.files.1", 0, [["a", "symlink", "../x"]]],
        ["mcr.files.1", 0, [["../a", "directory"]]],
        ["mcr.files.1", 0, [["/a", "directory"]]],
        ["mcr.files.1", 0, [["b", "directory"], ["a", "directory"]]],
        ["mcr.files.1", 0, [["a", "directory"], ["a", "directory"]]],
        ["mcr.files.1", 1, []],
        ["mcr.files.1", 1, [["../a", ID, 1, 1], ["b", ID, 1, 1]]],
        ["mcr.files.1", 1, [["b", ID, 1, 1], ["a", ID, 1, 1]]],
        ["mcr.files.1", 1, [["a", ID, 0, 1]]],
        ["mcr.files.1", 1, [["a", ID[:31], 1, 1]]],
        ["mcr.files.1", 1, [["a", ID, 2**53, 1], ["b", ID, 1, 1]]],
        ["mcr.files.1", 1, [["a", ID, 1, 2**53], ["b", ID, 1, 1]]],
        ["mcr.chunks.1", 0, b""],
        ["mcr.chunks.1", 0, []],
        ["mcr.chunks.1", 0, ID],
        ["mcr.chunks.1", 0, ID + bytes(4)],
        ["mcr.chunks.1", 0, ID + b"\x00\x40\x00\x01"],
        ["mcr.chunks.1", 1, [["a", ID, 1, 1]]],
        ["mcr.tensors.1", 0, []],
        ["mcr.tensors.1", 0, [TENSOR, TENSOR]],
        ["mcr.tensors.1", 1, [[None, ID, 1, 1]]],
        file_with(2, 35),
        file_with(2, 2**53 + 1),
        file_with(3, 1),
        file_with(4, b""),
        file_with(6, "f" * 65),
        file_with(7, {"count": 0, "root": ID}),
        file_with(7, {"root": ID}),
        file_with(7, {"count": 1, "root": ID, "more": 1}),
        file_with(8, {"count": 1, "root": b""}),
        file_with(8, [["t", "F32", [], 0, 37, ID]]),
        file_with(8, [[f"t{n}", "F32", [], 0, 1, ID] for n in range(9)]),
        ["mcr.files.1", 0, [["a", "file", 36 * 17, False, ID, ID, "bytes", (ID + b"\0\0\0\x24") * 17, []]]],
        tensor_with(0, "t" * 4097),
        tensor_with(1, "d" * 65),
        tensor_with(2, [1] * 65),
        tensor_with(2, [2**63]),
        tensor_with(3, -1),
        tensor_with(5, ID[1:]),
        ["mcr.files.1", 0, [[f"{n:04}" + "x" * 4000, "directory"] for n in range(40)]],
    ],
)
def test_what_no_builder_writes_is_refused(value: CanonicalValue) -> None:
    with pytest.raises(CorruptChunkError):
        decode(value)


def test_bytes_that_are_not_the_chunk_asked_for_are_refused() -> None:
    data = encode_node(NODES[0])
    with pytest.raises(CorruptChunkError, match="hash"):
        decode_node(ChunkId(ID), data)


values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 2**64 - 1) | st.text(max_size=5) | st.binary(max_size=40),
    lambda inner: st.lists(inner, max_size=9) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=12,
)
kinds = st.sampled_from(["mcr.files.1", "mcr.chunks.1", "mcr.tensors.1"])


@given(st.tuples(kinds, st.integers(0, 3), values))
@settings(max_examples=50)
def test_any_canonical_value_is_a_node_or_a_typed_refusal(value: tuple[str, int, CanonicalValue]) -> None:
    with contextlib.suppress(CorruptChunkError):
        decode(value)


@given(st.sampled_from(NODES), st.integers(0, 10_000), st.binary(min_size=1, max_size=4))
def test_damaged_bytes_are_a_node_or_a_typed_refusal(node: Node, at: int, patch: bytes) -> None:
    data = bytearray(encode_node(node))
    at %= len(data)
    data[at : at + len(patch)] = patch
    damaged = bytes(data)
    try:
        decoded = decode_node(ChunkId(digest(damaged)), damaged)
    except CorruptChunkError:
        return
    # One value has one form, so what was read writes the very same bytes.
    assert encode_node(decoded) == damaged


def test_a_row_of_a_long_file_names_its_list() -> None:
    row = FileRow(
        FileEntry(
            "a",
            EntryKind.FILE,
            size_bytes=5000,
            executable=True,
            blake3=ID,
            sha256=ID,
            format="gguf",
            chunk_count=20,
            tensor_count=9,
            chunks_root=ChunkId(ID),
            tensors_root=ChunkId(ID),
        )
    )
    data = encode_node(FilesLeaf((row,)))
    assert decode_node(ChunkId(digest(data)), data) == FilesLeaf((row,))


def test_inline_lists_come_back() -> None:
    refs = (ChunkRef(ChunkId(ID), 2000),)
    rows = FilesLeaf(
        (
            FileRow(
                FileEntry("a", EntryKind.FILE, 2000, False, ID, ID, "", "npy", 1, 1),
                refs,
                (tensor("t", 0, 9),),
            ),
        )
    )
    data = encode_node(rows)
    assert decode_node(ChunkId(digest(data)), data) == rows
