"""The nodes that a manifest is made of, and their bytes.

Three kinds of trees have one shape: the entries of a version (by path), the chunks of a file (in file order),
the tensors of a file (by name). A node is the canonical encoding (`mcr.canonical`) of

    [kind, level, rows]           kind: "mcr.files.1", "mcr.chunks.1" or "mcr.tensors.1"

    level 0, files:    [path, "file", size, executable, blake3, sha256, format, chunks, tensors]
                       [path, "symlink", target]      [path, "directory"]
                       chunks: inline, packed as below, or {"count": n, "root": id}
                       tensors: inline, rows as below, or {"count": n, "root": id}
    level 0, chunks:   one byte string, 36 bytes a chunk: id (32), length (4, big-endian)
    level 0, tensors:  [name, dtype, [extent, ...], offset, length, digest]
    level 1 and up:    [first key or null, id of the node below, count of leaf rows, total of their bytes]

and its id is the BLAKE3 of these bytes, so a node is stored, verified and sent like any other chunk. What a
row says about the node below is checked when that node is read (`mcr.manifest.walks`).
"""

import struct
from collections.abc import Sequence
from enum import StrEnum
from itertools import pairwise
from typing import assert_never

from mcr.canonical import CanonicalValue, decode, encode
from mcr.errors import CorruptChunkError, UnsafePathError
from mcr.manifest.paths import check_path, check_symlink
from mcr.model import (
    CHUNK_BYTES_MAX,
    DIGEST_BYTES,
    KIB,
    ChunkId,
    ChunkRef,
    EntryKind,
    FileEntry,
    Tensor,
    digest,
)
from mcr.values import dataclass

# Far below CHUNK_BYTES_MAX: a change rewrites whole nodes, so they must stay small beside the data.
NODE_BYTES_MAX = 128 * KIB
# Nodes hold at least 16 rows (but for the last of a level), so this is more than 2**53 rows can need.
LEVEL_MAX = 12
SIZE_BYTES_MAX = 2**53
COUNT_MAX = 2**53
# Lists this short travel inside their file's row: most files then need no node of their own.
INLINE_CHUNKS_MAX = 16
INLINE_TENSORS_MAX = 8
INLINE_TENSORS_BYTES_MAX = 4 * KIB
FORMAT_BYTES_MAX = 64
TENSOR_NAME_BYTES_MAX = 4096
TENSOR_DTYPE_BYTES_MAX = 64
TENSOR_DIMENSIONS_MAX = 64
TENSOR_EXTENT_MAX = 2**63 - 1

_PACKED_REF = struct.Struct(f">{DIGEST_BYTES}sI")


class TreeKind(StrEnum):
    """What a tree lists. The digit is the version of the format."""

    FILES = "mcr.files.1"
    CHUNKS = "mcr.chunks.1"
    TENSORS = "mcr.tensors.1"


@dataclass(frozen=True, slots=True)
class FileRow:
    """One entry of a version, with its chunk list and tensor list where these are short.

    Attributes:
        entry: `chunks_root` and `tensors_root` are None where the list is inline (or empty).
        chunks: the inline chunk list, in file order; empty where `entry.chunks_root` is set.
        tensors: the inline tensor list, by name; empty where `entry.tensors_root` is set.
    """

    entry: FileEntry
    chunks: tuple[ChunkRef, ...] = ()
    tensors: tuple[Tensor, ...] = ()


@dataclass(frozen=True, slots=True)
class Child:
    """What an inner node says about a node below it.

    Attributes:
        first_key: first path or tensor name under it; "" in a chunk list, which has no keys.
        count: leaf rows under it.
        bytes_total: bytes of the files, chunks or tensors under it.
    """

    first_key: str
    id: ChunkId
    count: int
    bytes_total: int


@dataclass(frozen=True, slots=True)
class Inner:
    """A node above others; `level` is 1 just above the leaves."""

    kind: TreeKind
    level: int
    children: tuple[Child, ...]


@dataclass(frozen=True, slots=True)
class FilesLeaf:
    """Entries of a version, by path."""

    rows: tuple[FileRow, ...]


@dataclass(frozen=True, slots=True)
class ChunksLeaf:
    """Chunks of one file, in file order."""

    refs: tuple[ChunkRef, ...]


@dataclass(frozen=True, slots=True)
class TensorsLeaf:
    """Tensors of one file, by name."""

    tensors: tuple[Tensor, ...]


Node = FilesLeaf | ChunksLeaf | TensorsLeaf | Inner


def kind_of(node: Node) -> TreeKind:
    """Return which tree the node belongs to."""
    match node:
        case FilesLeaf():
            return TreeKind.FILES
        case ChunksLeaf():
            return TreeKind.CHUNKS
        case TensorsLeaf():
            return TreeKind.TENSORS
        case Inner():
            return node.kind
        case _:
            assert_never(node)


def level_of(node: Node) -> int:
    """Return the node's level, 0 for a leaf."""
    return node.level if isinstance(node, Inner) else 0


def describe(node: Node, node_id: ChunkId) -> Child:
    """Return what the node above says about `node`, whose id is `node_id`."""
    match node:
        case FilesLeaf(rows):
            first = rows[0].entry.path if rows else ""
            return Child(first, node_id, len(rows), sum(row.entry.size_bytes for row in rows))
        case ChunksLeaf(refs):
            return Child("", node_id, len(refs), sum(ref.length_bytes for ref in refs))
        case TensorsLeaf(tensors):
            first = tensors[0].name if tensors else ""
            return Child(first, node_id, len(tensors), sum(tensor.length_bytes for tensor in tensors))
        case Inner(_, _, children):
            return Child(
                children[0].first_key,
                node_id,
                sum(child.count for child in children),
                sum(child.bytes_total for child in children),
            )
        case _:
            assert_never(node)


def encode_node(node: Node) -> bytes:
    """Return the canonical bytes of `node`, at most NODE_BYTES_MAX (which the builder sees to)."""
    rows: CanonicalValue
    match node:
        case FilesLeaf():
            rows = [_file_value(row) for row in node.rows]
        case ChunksLeaf():
            rows = _pack(node.refs)
        case TensorsLeaf():
            rows = [_tensor_value(tensor) for tensor in node.tensors]
        case Inner():
            keyed = node.kind is not TreeKind.CHUNKS
            rows = [
                [child.first_key if keyed else None, child.id, child.count, child.bytes_total]
                for child in node.children
            ]
        case _:
            assert_never(node)
    data = encode([str(kind_of(node)), level_of(node), rows])
    assert len(data) <= NODE_BYTES_MAX
    return data


def _file_value(row: FileRow) -> CanonicalValue:
    entry = row.entry
    match entry.kind:
        case EntryKind.SYMLINK:
            return [entry.path, "symlink", entry.target]
        case EntryKind.DIRECTORY:
            return [entry.path, "directory"]
        case EntryKind.FILE:
            chunks: CanonicalValue = _pack(row.chunks)
            if entry.chunks_root is not None:
                chunks = {"count": entry.chunk_count, "root": entry.chunks_root}
            tensors: CanonicalValue = [_tensor_value(tensor) for tensor in row.tensors]
            if entry.tensors_root is not None:
                tensors = {"count": entry.tensor_count, "root": entry.tensors_root}
            head: list[CanonicalValue] = [entry.path, "file", entry.size_bytes, entry.executable]
            return [*head, entry.blake3, entry.sha256, entry.format, chunks, tensors]
        case _:
            assert_never(entry.kind)


def _tensor_value(tensor: Tensor) -> CanonicalValue:
    place: list[CanonicalValue] = [tensor.offset_bytes, tensor.length_bytes, tensor.digest]
    return [tensor.name, tensor.dtype, list(tensor.shape), *place]


def _pack(refs: Sequence[ChunkRef]) -> bytes:
    return b"".join(_PACKED_REF.pack(ref.id, ref.length_bytes) for ref in refs)


class _MalformedError(ValueError):
    """A node says something that no builder would have written."""


def decode_node(chunk_id: ChunkId, data: bytes) -> Node:
    """Read a node, trusting nothing about it.

    Args:
        chunk_id: the id by which the node was asked for; checked against `data`.
        data: the chunk's plain bytes.

    Raises:
        CorruptChunkError: the bytes are not this chunk, not a node, or one that no builder writes: too
            big, rows out of order, an unsafe path or link target, a number out of range.
    """
    if digest(data) != chunk_id:
        raise CorruptChunkError(chunk_id.hex(), "its bytes do not hash to its id")
    try:
        return _decode(data)
    except UnsafePathError as error:
        raise CorruptChunkError(chunk_id.hex(), f"a manifest node has an unsafe path: {error}") from error
    except ValueError as error:
        raise CorruptChunkError(chunk_id.hex(), f"not a valid manifest node: {error}") from error


def _decode(data: bytes) -> Node:
    if len(data) > NODE_BYTES_MAX:
        raise _MalformedError(f"it has {len(data)} bytes, at most {NODE_BYTES_MAX}")
    kind_name, level_value, rows = _columns(decode(data), 3)
    kind = TreeKind(_text(kind_name, FORMAT_BYTES_MAX))
    level = _integer(level_value, LEVEL_MAX)
    if level:
        return _inner(kind, level, _list(rows))
    match kind:
        case TreeKind.FILES:
            files = tuple(_file(value) for value in _list(rows))
            _check_ascending([row.entry.path for row in files])
            return FilesLeaf(files)
        case TreeKind.CHUNKS:
            refs = _unpack(rows)
            if not refs:
                raise _MalformedError("a chunk list without chunks")
            return ChunksLeaf(refs)
        case TreeKind.TENSORS:
            tensors = _tensors(_list(rows))
            if not tensors:
                raise _MalformedError("a tensor list without tensors")
            return TensorsLeaf(tensors)
        case _:
            assert_never(kind)


def _inner(kind: TreeKind, level: int, rows: list[CanonicalValue]) -> Inner:
    children: list[Child] = []
    for row in rows:
        key, child_id, count, bytes_total = _columns(row, 4)
        if kind is TreeKind.CHUNKS:
            if key is not None:
                raise _MalformedError("a chunk list with keys")
            first_key = ""
        elif kind is TreeKind.FILES:
            first_key = check_path(_text(key, NODE_BYTES_MAX))
        else:
            first_key = _text(key, TENSOR_NAME_BYTES_MAX)
        total = _integer(bytes_total, SIZE_BYTES_MAX)
        children.append(
            Child(first_key, ChunkId(_digest(child_id)), _integer(count, COUNT_MAX, least=1), total)
        )
    if not children:
        raise _MalformedError("an inner node without children")
    if kind is not TreeKind.CHUNKS:
        _check_ascending([child.first_key for child in children])
    if sum(child.count for child in children) > COUNT_MAX:
        raise _MalformedError("it counts more rows than there can be")
    if sum(child.bytes_total for child in children) > SIZE_BYTES_MAX:
        raise _MalformedError("it counts more bytes than there can be")
    return Inner(kind, level, tuple(children))


def _file(value: CanonicalValue) -> FileRow:
    columns = _list(value)
    if len(columns) < 2:
        raise _MalformedError("a row is too short")
    path = check_path(_text(columns[0], NODE_BYTES_MAX))
    kind = EntryKind(_text(columns[1], FORMAT_BYTES_MAX))
    match kind:
        case EntryKind.DIRECTORY:
            _columns(value, 2)
            return FileRow(FileEntry(path, kind))
        case EntryKind.SYMLINK:
            _, _, target = _columns(value, 3)
            return FileRow(FileEntry(path, kind, target=check_symlink(path, _text(target, NODE_BYTES_MAX))))
        case EntryKind.FILE:
            return _regular_file(path, _columns(value, 9)[2:])
        case _:
            assert_never(kind)


def _regular_file(path: str, columns: list[CanonicalValue]) -> FileRow:
    size, executable, blake3, sha256, format_, chunks_value, tensors_value = columns
    size_bytes = _integer(size, SIZE_BYTES_MAX)
    if not isinstance(executable, bool):
        raise _MalformedError("the executable flag is not a bool")
    chunks: tuple[ChunkRef, ...] = ()
    tensors: tuple[Tensor, ...] = ()
    chunks_root = tensors_root = None
    if isinstance(chunks_value, dict):
        chunks_root, chunk_count = _root(chunks_value)
    else:
        chunks = _unpack(chunks_value)
        chunk_count = len(chunks)
        if chunk_count > INLINE_CHUNKS_MAX:
            raise _MalformedError("an inline chunk list is too long")
        if sum(ref.length_bytes for ref in chunks) != size_bytes:
            raise _MalformedError("the chunks of a file do not add up to its size")
    if isinstance(tensors_value, dict):
        tensors_root, tensor_count = _root(tensors_value)
    else:
        tensors = _tensors(_list(tensors_value))
        tensor_count = len(tensors)
        if tensor_count > INLINE_TENSORS_MAX:
            raise _MalformedError("an inline tensor list is too long")
        if any(tensor.offset_bytes + tensor.length_bytes > size_bytes for tensor in tensors):
            raise _MalformedError("a tensor lies outside its file")
    entry = FileEntry(
        path=path,
        kind=EntryKind.FILE,
        size_bytes=size_bytes,
        executable=executable,
        blake3=_digest(blake3),
        sha256=_digest(sha256),
        format=_text(format_, FORMAT_BYTES_MAX),
        chunk_count=chunk_count,
        tensor_count=tensor_count,
        chunks_root=chunks_root,
        tensors_root=tensors_root,
    )
    return FileRow(entry, chunks, tensors)


def _root(value: dict[str, CanonicalValue]) -> tuple[ChunkId, int]:
    if value.keys() != {"count", "root"}:
        raise _MalformedError("a list has neither rows nor a root")
    return ChunkId(_digest(value["root"])), _integer(value["count"], COUNT_MAX, least=1)


def _unpack(value: CanonicalValue) -> tuple[ChunkRef, ...]:
    if not isinstance(value, bytes) or len(value) % _PACKED_REF.size:
        raise _MalformedError("a chunk list is not a byte string of whole rows")
    refs = tuple(ChunkRef(ChunkId(row[0]), row[1]) for row in _PACKED_REF.iter_unpack(value))
    if not all(0 < ref.length_bytes <= CHUNK_BYTES_MAX for ref in refs):
        raise _MalformedError("a chunk is empty or too long")
    return refs


def _tensors(rows: list[CanonicalValue]) -> tuple[Tensor, ...]:
    tensors = tuple(_tensor(row) for row in rows)
    _check_ascending([tensor.name for tensor in tensors])
    return tensors


def _tensor(value: CanonicalValue) -> Tensor:
    name, dtype, shape, offset, length, tensor_digest = _columns(value, 6)
    extents = _list(shape)
    if len(extents) > TENSOR_DIMENSIONS_MAX:
        raise _MalformedError("a tensor has too many dimensions")
    return Tensor(
        name=_text(name, TENSOR_NAME_BYTES_MAX),
        dtype=_text(dtype, TENSOR_DTYPE_BYTES_MAX),
        shape=tuple(_integer(extent, TENSOR_EXTENT_MAX) for extent in extents),
        offset_bytes=_integer(offset, SIZE_BYTES_MAX),
        length_bytes=_integer(length, SIZE_BYTES_MAX),
        digest=_digest(tensor_digest),
    )


def _check_ascending(keys: list[str]) -> None:
    for earlier, later in pairwise(keys):
        if earlier >= later:
            raise _MalformedError(f"{later!r} comes after {earlier!r}")


def _columns(value: CanonicalValue, count: int) -> list[CanonicalValue]:
    columns = _list(value)
    if len(columns) != count:
        raise _MalformedError(f"a row has {len(columns)} columns, not {count}")
    return columns


def _list(value: CanonicalValue) -> list[CanonicalValue]:
    if not isinstance(value, list):
        raise _MalformedError("a list is missing")
    return value


def _text(value: CanonicalValue, bytes_max: int) -> str:
    if not isinstance(value, str) or len(value.encode()) > bytes_max:
        raise _MalformedError("a text is missing or too long")
    return value


def _integer(value: CanonicalValue, largest: int, *, least: int = 0) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= largest:
        raise _MalformedError("a number is missing or out of range")
    return value


def _digest(value: CanonicalValue) -> bytes:
    if not isinstance(value, bytes) or len(value) != DIGEST_BYTES:
        raise _MalformedError("a digest is missing or not 32 bytes")
    return value
