"""Building a manifest, entry by entry, in memory that does not grow with it.

Where a node ends is decided by its content: after a row whose key hashes to a value with enough zero bits. So
two versions that differ in one file share all nodes but those on the way to it, wherever in the
listing it stands (the idea of prolly trees, as in Noms and Dolt).
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Generic, TypeVar

from mcr.errors import InvalidArgumentError, UnsafePathError
from mcr.manifest.nodes import (
    FORMAT_BYTES_MAX,
    INLINE_CHUNKS_MAX,
    INLINE_TENSORS_BYTES_MAX,
    INLINE_TENSORS_MAX,
    NODE_BYTES_MAX,
    SIZE_BYTES_MAX,
    TENSOR_DIMENSIONS_MAX,
    TENSOR_DTYPE_BYTES_MAX,
    TENSOR_EXTENT_MAX,
    TENSOR_NAME_BYTES_MAX,
    Child,
    ChunksLeaf,
    FileRow,
    FilesLeaf,
    Inner,
    Node,
    TensorsLeaf,
    TreeKind,
    describe,
    encode_node,
)
from mcr.manifest.paths import PathOrder, check_path, check_symlink
from mcr.model import (
    CHUNK_BYTES_MAX,
    DIGEST_BYTES,
    Chunk,
    ChunkId,
    ChunkRef,
    EntryKind,
    FileEntry,
    Tensor,
    digest,
)
from mcr.values import dataclass

Emit = Callable[[Chunk], None]
"""Takes a finished node, to be stored. The same node may come more than once (a file of equal chunks)."""

# Leaves room for the node's own head. Weights are upper bounds of a row's encoded bytes: each number costs at
# most 9 bytes, each text or byte string its length and at most 9 more.
_WEIGHT_MAX = NODE_BYTES_MAX - 64
_FILE_ROW_OVERHEAD_BYTES = 192
_TENSOR_ROW_OVERHEAD_BYTES = 96
_CHILD_ROW_OVERHEAD_BYTES = 80
_CHUNK_ROW_BYTES = 36


@dataclass(frozen=True, slots=True)
class _Shape:
    """How many rows a node has: at least, at most, and in between one in 2 ** `boundary_bits` ends it.

    Part of the format: another choice would give other ids to the same content.
    """

    rows_min: int
    rows_max: int
    boundary_bits: int


# About 80 rows: for files 30 KiB, so a changed file rewrites some 40 KiB of a version with a million files.
_SHAPE = _Shape(rows_min=16, rows_max=256, boundary_bits=6)
# Packed chunk rows are small; about 640 of them are 23 KiB.
_CHUNK_LEAF_SHAPE = _Shape(rows_min=128, rows_max=2048, boundary_bits=9)

_Row = TypeVar("_Row")


class _Level(Generic[_Row]):
    """Rows of one level that are not in a node yet."""

    def __init__(self, shape: _Shape) -> None:
        self.shape = shape
        self.rows: list[_Row] = []
        self.weight_bytes = 0

    def has_room(self, weight_bytes: int) -> bool:
        return len(self.rows) < self.shape.rows_max and self.weight_bytes + weight_bytes <= _WEIGHT_MAX

    def append(self, row: _Row, weight_bytes: int) -> None:
        self.rows.append(row)
        self.weight_bytes += weight_bytes

    def ends_after(self, level: int, key: bytes) -> bool:
        if len(self.rows) < self.shape.rows_min:
            return False
        # The level is hashed too, or a key that ends a node on one level would end one on every level.
        bits = int.from_bytes(digest(bytes((level,)) + key)[:4], "big")
        return bits & ((1 << self.shape.boundary_bits) - 1) == 0

    def take(self) -> tuple[_Row, ...]:
        rows = tuple(self.rows)
        self.rows, self.weight_bytes = [], 0
        return rows


class _TreeBuilder(Generic[_Row]):
    """One tree, built from the left; holds one unfinished node a level."""

    def __init__(
        self,
        kind: TreeKind,
        emit: Emit,
        leaf: Callable[[tuple[_Row, ...]], Node],
        leaf_shape: _Shape = _SHAPE,
    ) -> None:
        self._kind = kind
        self._emit = emit
        self._leaf = leaf
        self._leaves = _Level[_Row](leaf_shape)
        self._inner: list[_Level[Child]] = []

    def push(self, row: _Row, key: bytes, weight_bytes: int) -> None:
        """Append a row; `key` decides where nodes end."""
        if not self._leaves.has_room(weight_bytes):
            self._close_leaf()
        self._leaves.append(row, weight_bytes)
        if self._leaves.ends_after(0, key):
            self._close_leaf()

    def pending(self) -> tuple[_Row, ...]:
        """Return the rows that are in no node yet: all, as long as there were fewer than `rows_min`."""
        return tuple(self._leaves.rows)

    def finish(self) -> ChunkId:
        """Emit what is left and return the root."""
        if not self._inner:
            return self._store(self._leaf(self._leaves.take())).id
        if self._leaves.rows:
            self._close_leaf()
        level = 1
        while level < len(self._inner):
            if self._inner[level - 1].rows:
                self._close_inner(level)
            level += 1
        top = self._inner[-1].take()
        return top[0].id if len(top) == 1 else self._store(Inner(self._kind, level, top)).id

    def _close_leaf(self) -> None:
        self._push_child(1, self._store(self._leaf(self._leaves.take())))

    def _close_inner(self, level: int) -> None:
        self._push_child(level + 1, self._store(Inner(self._kind, level, self._inner[level - 1].take())))

    def _push_child(self, level: int, child: Child) -> None:
        if len(self._inner) < level:
            self._inner.append(_Level[Child](_SHAPE))
        here = self._inner[level - 1]
        key = child.id if self._kind is TreeKind.CHUNKS else child.first_key.encode()
        weight_bytes = len(key) + _CHILD_ROW_OVERHEAD_BYTES
        if not here.has_room(weight_bytes):
            self._close_inner(level)
        here.append(child, weight_bytes)
        if here.ends_after(level, key):
            self._close_inner(level)

    def _store(self, node: Node) -> Child:
        chunk = Chunk.of(encode_node(node))
        self._emit(chunk)
        return describe(node, chunk.id)


@dataclass(frozen=True, slots=True)
class ChunkList:
    """The finished chunk list of one file.

    Attributes:
        refs: all chunks, where the list is short enough to be inline; else empty.
        root: root node of the list, where it is not inline.
        count, bytes_total: over all chunks.
    """

    refs: tuple[ChunkRef, ...]
    root: ChunkId | None
    count: int
    bytes_total: int


class ChunkListBuilder:
    """Collects the chunks of one file while it is cut; memory stays bounded for millions of them."""

    def __init__(self, emit: Emit) -> None:
        self._tree = _TreeBuilder[ChunkRef](TreeKind.CHUNKS, emit, ChunksLeaf, _CHUNK_LEAF_SHAPE)
        self._count = 0
        self._bytes_total = 0

    def add(self, ref: ChunkRef) -> None:
        """Append the next chunk, in file order.

        Raises:
            InvalidArgumentError: the chunk is empty or longer than CHUNK_BYTES_MAX.
        """
        if not 0 < ref.length_bytes <= CHUNK_BYTES_MAX:
            raise InvalidArgumentError(
                "chunk", f"it has {ref.length_bytes} bytes, 1 to {CHUNK_BYTES_MAX} allowed"
            )
        assert len(ref.id) == DIGEST_BYTES
        self._tree.push(ref, ref.id, _CHUNK_ROW_BYTES)
        self._count += 1
        self._bytes_total += ref.length_bytes

    def finish(self) -> ChunkList:
        """Return the list; nodes were emitted unless it is inline. Nothing may be added after this."""
        if self._count <= INLINE_CHUNKS_MAX:
            return ChunkList(self._tree.pending(), None, self._count, self._bytes_total)
        return ChunkList((), self._tree.finish(), self._count, self._bytes_total)


@dataclass(frozen=True, slots=True)
class ManifestSummary:
    """What a finished manifest is.

    Attributes:
        root: id of its root node; stands for the whole content.
        entry_count: rows: files, symlinks and empty folders; file_count: files only.
        bytes_total: sizes of all files.
        chunk_count: chunks of all files, repeated ones counted each time, nodes not counted.
        node_count, node_bytes: nodes emitted by this builder (for lists that were added as rows: none).
    """

    root: ChunkId
    entry_count: int
    file_count: int
    bytes_total: int
    chunk_count: int
    node_count: int
    node_bytes: int


class ManifestBuilder:
    """Collects the entries of a version, in path order, and emits the nodes of its manifest.

    For one thread at a time. Nodes come out before the root that names them, so a store never holds a
    manifest with a hole behind it.
    """

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._tree = _TreeBuilder[FileRow](TreeKind.FILES, self._count_node, FilesLeaf)
        self._order = PathOrder()
        self._entry_count = self._file_count = self._bytes_total = self._chunk_count = 0
        self._node_count = self._node_bytes = 0

    def chunk_list(self) -> ChunkListBuilder:
        """Return a builder for the chunk list of a file that will be added later."""
        return ChunkListBuilder(self._count_node)

    def add(
        self, entry: FileEntry, chunks: ChunkList | Iterable[ChunkRef] = (), tensors: Sequence[Tensor] = ()
    ) -> FileRow:
        """Append an entry; paths must ascend by UTF-8 bytes.

        Args:
            entry: its counts and roots are not read, but computed and filled in.
            chunks: in file order; an iterable is consumed as it comes.
            tensors: in any order; kept by name.

        Returns:
            The row as it stands in the manifest.

        Raises:
            UnsafePathError: the path or link target could leave the version's folder.
            InvalidArgumentError: a path comes twice, out of order or inside a file; the chunks do not add up
                to the size; a tensor repeats or lies outside; a field breaks a limit of the format.
        """
        if not isinstance(chunks, ChunkList):
            collected = self.chunk_list()
            for ref in chunks:
                collected.add(ref)
            chunks = collected.finish()
        inline, tensors_root = self._tensor_list(tensors)
        entry = replace(
            entry,
            chunk_count=chunks.count,
            chunks_root=chunks.root,
            tensor_count=len(tensors),
            tensors_root=tensors_root,
        )
        if chunks.bytes_total != entry.size_bytes:
            raise InvalidArgumentError(
                "size_bytes",
                f"{entry.path!r} has {entry.size_bytes} bytes, but chunks of {chunks.bytes_total}",
            )
        row = FileRow(entry, chunks.refs, inline)
        self.add_row(row)
        return row

    def add_row(self, row: FileRow) -> None:
        """Append a row of another manifest as it is; its lists are shared, not read.

        Raises:
            UnsafePathError, InvalidArgumentError: as for `add`.
        """
        entry = row.entry
        _check_entry(entry, row.tensors)
        self._order.accept(entry.path)
        weight_bytes = (
            _FILE_ROW_OVERHEAD_BYTES
            + len(entry.path.encode())
            + len(entry.target.encode())
            + len(entry.format.encode())
            + _CHUNK_ROW_BYTES * len(row.chunks)
            + sum(_tensor_weight(tensor) for tensor in row.tensors)
        )
        self._tree.push(row, entry.path.encode(), weight_bytes)
        self._entry_count += 1
        self._file_count += entry.kind is EntryKind.FILE
        self._bytes_total += entry.size_bytes
        self._chunk_count += entry.chunk_count

    def finish(self) -> ManifestSummary:
        """Emit the last nodes, root last. Nothing may be added after this."""
        return ManifestSummary(
            root=self._tree.finish(),
            entry_count=self._entry_count,
            file_count=self._file_count,
            bytes_total=self._bytes_total,
            chunk_count=self._chunk_count,
            node_count=self._node_count,
            node_bytes=self._node_bytes,
        )

    def _count_node(self, chunk: Chunk) -> None:
        self._node_count += 1
        self._node_bytes += len(chunk.data)
        self._emit(chunk)

    def _tensor_list(self, tensors: Sequence[Tensor]) -> tuple[tuple[Tensor, ...], ChunkId | None]:
        for tensor in tensors:
            check_tensor(tensor)
        by_name = sorted(tensors, key=lambda tensor: tensor.name)
        for earlier, later in pairwise(by_name):
            if earlier.name == later.name:
                raise InvalidArgumentError("tensor", f"{later.name!r} comes twice")
        weight_bytes = sum(_tensor_weight(tensor) for tensor in by_name[:INLINE_TENSORS_MAX])
        if len(by_name) <= INLINE_TENSORS_MAX and weight_bytes <= INLINE_TENSORS_BYTES_MAX:
            return tuple(by_name), None
        tree = _TreeBuilder[Tensor](TreeKind.TENSORS, self._count_node, TensorsLeaf)
        for tensor in by_name:
            tree.push(tensor, tensor.name.encode(), _tensor_weight(tensor))
        return (), tree.finish()


def check_tensor(tensor: Tensor) -> None:
    """Check that a manifest can hold `tensor`.

    Raises:
        InvalidArgumentError: a field breaks a limit; commit the file without its tensors.
    """
    reason = ""
    if not _is_text(tensor.name, TENSOR_NAME_BYTES_MAX):
        reason = f"its name is not Unicode, or longer than {TENSOR_NAME_BYTES_MAX} bytes"
    elif not _is_text(tensor.dtype, TENSOR_DTYPE_BYTES_MAX):
        reason = f"its type's name is not Unicode, or longer than {TENSOR_DTYPE_BYTES_MAX} bytes"
    elif len(tensor.shape) > TENSOR_DIMENSIONS_MAX:
        reason = f"it has {len(tensor.shape)} dimensions, at most {TENSOR_DIMENSIONS_MAX}"
    elif not all(0 <= extent <= TENSOR_EXTENT_MAX for extent in tensor.shape):
        reason = "an extent is out of range"
    elif tensor.offset_bytes < 0 or not 0 <= tensor.length_bytes <= SIZE_BYTES_MAX - tensor.offset_bytes:
        reason = "its place in the file is out of range"
    elif len(tensor.digest) != DIGEST_BYTES:
        reason = "its digest is not 32 bytes"
    if reason:
        shown = tensor.name[:100].encode(errors="backslashreplace").decode()
        raise InvalidArgumentError("tensor", f"{shown!r}: {reason}")


def _is_text(text: str, bytes_max: int) -> bool:
    try:
        return len(text.encode()) <= bytes_max
    except UnicodeEncodeError:
        return False


def _tensor_weight(tensor: Tensor) -> int:
    names_bytes = len(tensor.name.encode()) + len(tensor.dtype.encode())
    return _TENSOR_ROW_OVERHEAD_BYTES + names_bytes + 9 * len(tensor.shape)


def _check_entry(entry: FileEntry, tensors: Sequence[Tensor]) -> None:
    check_path(entry.path)
    reason = ""
    if entry.kind is EntryKind.FILE:
        if len(entry.blake3) != DIGEST_BYTES or len(entry.sha256) != DIGEST_BYTES:
            reason = "a digest is not 32 bytes"
        elif not _is_text(entry.format, FORMAT_BYTES_MAX):
            reason = f"its format's name is not Unicode, or longer than {FORMAT_BYTES_MAX} bytes"
        elif not 0 <= entry.size_bytes <= SIZE_BYTES_MAX:
            reason = f"it has {entry.size_bytes} bytes, at most {SIZE_BYTES_MAX}"
        elif entry.target:
            raise UnsafePathError(entry.path, "a file has a link target")
        elif any(tensor.offset_bytes + tensor.length_bytes > entry.size_bytes for tensor in tensors):
            reason = "a tensor lies outside it"
    elif entry.size_bytes or entry.chunk_count or entry.tensor_count:
        reason = f"a {entry.kind} has no content"
    elif entry.kind is EntryKind.SYMLINK:
        check_symlink(entry.path, entry.target)
    if reason:
        raise InvalidArgumentError("entry", f"{entry.path!r}: {reason}")
