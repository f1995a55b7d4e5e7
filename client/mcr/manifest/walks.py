"""Reading a manifest without doing any I/O: a walk says which nodes it needs, and is fed their bytes.

So the same lines serve an event loop, a blocking command and a node that checks a version before it becomes
visible:

    for row in drain(walk_files(root), get): ...      # blocking: get(ids) -> bytes of each

    walk = walk_files(root)                           # or by hand, as `drain_async` does
    while ids := walk.needs():
        walk.feed(dict(zip(ids, await get(ids))))
        for row in walk.take(): ...

`drain` and `drain_async` are this loop. Items come in order, in memory bounded by a window of nodes.
Everything a node says about those below it is checked, so a tampered or hostile manifest ends in
CorruptChunkError.
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Generic, Protocol, TypeVar

from mcr.errors import CorruptChunkError, InvalidArgumentError, MissingChunkError
from mcr.manifest.nodes import (
    ChunksLeaf,
    FileRow,
    FilesLeaf,
    Inner,
    Node,
    TensorsLeaf,
    TreeKind,
    decode_node,
    describe,
    kind_of,
    level_of,
)
from mcr.manifest.paths import PathOrder
from mcr.model import ChunkId, Tensor
from mcr.values import dataclass

# Nodes asked for at once: one round trip fetches about 1 MiB, and memory stays at a few of these.
WINDOW_NODES = 32

Item = TypeVar("Item")


class Steps(Protocol[Item]):
    """What all walks have in common."""

    def needs(self) -> list[ChunkId]:
        """Return the nodes wanted next, at most 2 * WINDOW_NODES, without repeats; empty at the end."""

    def feed(self, chunks: Mapping[ChunkId, bytes]) -> None:
        """Take the bytes of all nodes that `needs` named.

        Raises:
            MissingChunkError: one of them is not there.
            CorruptChunkError: bytes are damaged, or the manifest is not one that a builder made.
        """

    def take(self) -> list[Item]:
        """Return the items that are complete, in order; each comes once.

        Call it before the first `needs` too: a walk over a short list is complete without any node.
        """


def drain(walk: Steps[Item], get: Callable[[Sequence[ChunkId]], Sequence[bytes]]) -> Iterator[Item]:
    """Yield all items of a walk; `get` returns the bytes of chunks, in the order asked."""
    yield from walk.take()
    while ids := walk.needs():
        walk.feed(dict(zip(ids, get(ids), strict=True)))
        yield from walk.take()


async def drain_async(
    walk: Steps[Item], get: Callable[[Sequence[ChunkId]], Awaitable[Sequence[bytes]]]
) -> AsyncIterator[Item]:
    """Yield all items of a walk; `get` returns the bytes of chunks, in the order asked."""
    for item in walk.take():
        yield item
    while ids := walk.needs():
        walk.feed(dict(zip(ids, await get(ids), strict=True)))
        for item in walk.take():
            yield item


@dataclass(frozen=True, slots=True)
class Span:
    """One chunk of a file and where it begins there."""

    offset_bytes: int
    id: ChunkId
    length_bytes: int


@dataclass(frozen=True, slots=True)
class Pending:
    """A node that was not read yet, and what it must turn out to be.

    Attributes:
        level: None for a root, which may have any.
        first_key, count, bytes_total: as the node above says; None where nothing says it.
        before: every key under it must come before this one; None when it is the last.
        offset_bytes: in a chunk list, where its first chunk begins in the file.
    """

    id: ChunkId
    kind: TreeKind
    level: int | None = None
    first_key: str | None = None
    count: int | None = None
    bytes_total: int | None = None
    before: str | None = None
    offset_bytes: int = 0

    def read(self, data: bytes) -> Node:
        """Decode the node and hold it against what was said about it.

        Raises:
            CorruptChunkError: it is not that.
        """
        node = decode_node(self.id, data)
        found = describe(node, self.id)
        agrees = (
            kind_of(node) is self.kind
            and self.level in (None, level_of(node))
            and self.first_key in (None, found.first_key)
            and self.count in (None, found.count)
            and self.bytes_total in (None, found.bytes_total)
            and (self.before is None or _last_key(node) < self.before)
        )
        if not agrees:
            raise CorruptChunkError(self.id.hex(), "a manifest node is not what the node above says")
        return node

    def below(self, inner: Inner) -> "list[Pending]":
        """Return the nodes under this one, in order."""
        pending: list[Pending] = []
        offset_bytes = self.offset_bytes
        keyed = self.kind is not TreeKind.CHUNKS
        for position, child in enumerate(inner.children):
            before = self.before
            if keyed and position + 1 < len(inner.children):
                before = inner.children[position + 1].first_key
            pending.append(
                Pending(
                    id=child.id,
                    kind=self.kind,
                    level=inner.level - 1,
                    first_key=child.first_key,
                    count=child.count,
                    bytes_total=child.bytes_total,
                    before=before,
                    offset_bytes=offset_bytes,
                )
            )
            offset_bytes += child.bytes_total
        return pending


def _last_key(node: Node) -> str:
    match node:
        case FilesLeaf(rows):
            return rows[-1].entry.path if rows else ""
        case TensorsLeaf(tensors):
            return tensors[-1].name
        case Inner(_, _, children):
            return children[-1].first_key
        case ChunksLeaf():
            return ""


class _Walk(ABC, Generic[Item]):
    """Goes through a tree from the left; subclasses say what a node opens into."""

    def __init__(self, first: Sequence[Pending | list[Item]]) -> None:
        # In reverse: the next thing in order is at the end.
        self._stack: list[Pending | list[Item]] = list(reversed(first))

    def needs(self) -> list[ChunkId]:
        """See `Steps.needs`."""
        wanted: dict[ChunkId, None] = {}
        opened = 0
        for item in reversed(self._stack):
            if isinstance(item, Pending):
                wanted[item.id] = None
                opened += 1
                if opened == WINDOW_NODES:
                    break
        return list(wanted)

    def feed(self, chunks: Mapping[ChunkId, bytes]) -> None:
        """See `Steps.feed`."""
        opened = 0
        fresh: list[Pending | list[Item]] = []
        while self._stack and opened < WINDOW_NODES:
            item = self._stack.pop()
            if not isinstance(item, Pending):
                fresh.append(item)
                continue
            opened += 1
            if item.id not in chunks:
                raise MissingChunkError(item.id.hex())
            fresh.extend(self._open(item, item.read(chunks[item.id])))
        self._stack.extend(reversed(fresh))

    def take(self) -> list[Item]:
        """See `Steps.take`."""
        ready: list[Item] = []
        while self._stack:
            item = self._stack[-1]
            if isinstance(item, Pending):
                break
            ready.extend(item)
            self._stack.pop()
        return ready

    @abstractmethod
    def _open(self, pending: Pending, node: Node) -> Sequence[Pending | list[Item]]:
        """Return what stands in the node's place."""


@dataclass(frozen=True, slots=True)
class _Keys:
    """A range of keys: first <= key < end; no end means all that follow."""

    first: str = ""
    end: str | None = None

    @staticmethod
    def only(key: str) -> "_Keys":
        # No text lies between a key and the key with NUL after it.
        return _Keys(key, key + "\0")

    def meets(self, pending: Pending) -> bool:
        starts_in_time = self.end is None or pending.first_key is None or pending.first_key < self.end
        return starts_in_time and (pending.before is None or self.first < pending.before)

    def has(self, key: str) -> bool:
        return self.first <= key and (self.end is None or key < self.end)


class _FilesWalk(_Walk[FileRow]):
    def __init__(self, root: ChunkId, keys: _Keys, under: str) -> None:
        super().__init__([Pending(root, TreeKind.FILES)])
        self._root = root
        self._keys = keys
        self._under = under
        self._order = PathOrder()

    def take(self) -> list[FileRow]:
        rows = super().take()
        try:
            for row in rows:
                self._order.accept(row.entry.path)
        except InvalidArgumentError as error:
            raise CorruptChunkError(self._root.hex(), f"a manifest has clashing paths: {error}") from error
        return [row for row in rows if is_under(row.entry.path, self._under)]

    def _open(self, pending: Pending, node: Node) -> Sequence[Pending | list[FileRow]]:
        if isinstance(node, Inner):
            return [below for below in pending.below(node) if self._keys.meets(below)]
        assert isinstance(node, FilesLeaf)
        return [[row for row in node.rows if self._keys.has(row.entry.path)]]


def is_under(path: str, folder: str) -> bool:
    """Tell whether `path` is `folder` or lies below it; everything is under ""."""
    return not folder or path == folder or path.startswith(folder + "/")


def walk_files(root: ChunkId, *, under: str = "") -> Steps[FileRow]:
    """Walk the entries of a manifest in path order: all, or the one at `under` and those below it.

    Reads only the nodes that can hold such paths.
    """
    if not under:
        return _FilesWalk(root, _Keys(), under)
    # "0" is the character after "/", so the range ends where the folder does.
    return _FilesWalk(root, _Keys(under, under + "0"), under)


def find_file(root: ChunkId, path: str) -> Steps[FileRow]:
    """Walk to the entry at `path`: one item, or none when there is no such entry. Reads one node a level."""
    return _FilesWalk(root, _Keys.only(path), path)


class _ChunksWalk(_Walk[Span]):
    def __init__(self, row: FileRow, start: int, stop: int) -> None:
        self._start, self._stop = start, stop
        root = row.entry.chunks_root
        first: list[Pending | list[Span]] = []
        if start >= stop:
            # No byte is wanted, so no chunk holds one, even where the place lies inside a chunk.
            first = []
        elif root is None:
            first = [self._spans(0, ChunksLeaf(row.chunks))]
        else:
            entry = row.entry
            first = [Pending(root, TreeKind.CHUNKS, count=entry.chunk_count, bytes_total=entry.size_bytes)]
        super().__init__(first)

    def _spans(self, offset_bytes: int, leaf: ChunksLeaf) -> list[Span]:
        spans: list[Span] = []
        for ref in leaf.refs:
            if offset_bytes < self._stop and self._start < offset_bytes + ref.length_bytes:
                spans.append(Span(offset_bytes, ref.id, ref.length_bytes))
            offset_bytes += ref.length_bytes
        return spans

    def _open(self, pending: Pending, node: Node) -> Sequence[Pending | list[Span]]:
        if isinstance(node, Inner):
            return [
                below
                for below, child in zip(pending.below(node), node.children, strict=True)
                if below.offset_bytes < self._stop and self._start < below.offset_bytes + child.bytes_total
            ]
        assert isinstance(node, ChunksLeaf)
        return [self._spans(pending.offset_bytes, node)]


def walk_chunks(row: FileRow, *, start: int = 0, stop: int | None = None) -> Steps[Span]:
    """Walk the chunks of a file, in file order: all, or those that hold any byte of [start, stop).

    Reads only the nodes that can hold such chunks.
    """
    return _ChunksWalk(row, start, row.entry.size_bytes if stop is None else stop)


class _TensorsWalk(_Walk[Tensor]):
    def __init__(self, row: FileRow, keys: _Keys) -> None:
        self._keys = keys
        self._size_bytes = row.entry.size_bytes
        root = row.entry.tensors_root
        first: list[Pending | list[Tensor]]
        if root is None:
            first = [[tensor for tensor in row.tensors if keys.has(tensor.name)]]
        else:
            first = [Pending(root, TreeKind.TENSORS, count=row.entry.tensor_count)]
        super().__init__(first)

    def _open(self, pending: Pending, node: Node) -> Sequence[Pending | list[Tensor]]:
        if isinstance(node, Inner):
            return [below for below in pending.below(node) if self._keys.meets(below)]
        assert isinstance(node, TensorsLeaf)
        if any(tensor.offset_bytes + tensor.length_bytes > self._size_bytes for tensor in node.tensors):
            raise CorruptChunkError(pending.id.hex(), "a manifest has a tensor outside its file")
        return [[tensor for tensor in node.tensors if self._keys.has(tensor.name)]]


def walk_tensors(row: FileRow) -> Steps[Tensor]:
    """Walk the tensors of a file, by name."""
    return _TensorsWalk(row, _Keys())


def find_tensor(row: FileRow, name: str) -> Steps[Tensor]:
    """Walk to the tensor called `name`: one item, or none. Reads one node a level."""
    return _TensorsWalk(row, _Keys.only(name))


class _IdsWalk(_Walk[ChunkId]):
    def __init__(self, root: ChunkId) -> None:
        super().__init__([[root], Pending(root, TreeKind.FILES)])
        # Chunk lists may repeat a node (a file of zeros), and a hostile one nodes of repeated nodes. Each
        # distinct one is opened once, so the work is bounded by what is really stored. In other trees nothing
        # can repeat: their keys ascend.
        self._seen: set[tuple[ChunkId, TreeKind, int | None, int | None, int | None]] = set()

    def _open(self, pending: Pending, node: Node) -> Sequence[Pending | list[ChunkId]]:
        match node:
            case Inner():
                return self._fresh(pending.below(node))
            case ChunksLeaf(refs):
                return [[ref.id for ref in refs]]
            case TensorsLeaf():
                return []
            case FilesLeaf(rows):
                opened: list[Pending | list[ChunkId]] = []
                for row in rows:
                    opened.append([ref.id for ref in row.chunks])
                    opened += self._fresh(_lists_of(row))
                return opened

    def _fresh(self, candidates: Sequence[Pending]) -> list[Pending | list[ChunkId]]:
        opened: list[Pending | list[ChunkId]] = []
        for pending in candidates:
            mark = (pending.id, pending.kind, pending.level, pending.count, pending.bytes_total)
            if pending.kind is not TreeKind.FILES:
                if mark in self._seen:
                    continue
                self._seen.add(mark)
            opened += [[pending.id], pending]
        return opened


def _lists_of(row: FileRow) -> list[Pending]:
    entry = row.entry
    lists: list[Pending] = []
    if entry.chunks_root is not None:
        count, bytes_total = entry.chunk_count, entry.size_bytes
        lists.append(Pending(entry.chunks_root, TreeKind.CHUNKS, count=count, bytes_total=bytes_total))
    if entry.tensors_root is not None:
        lists.append(Pending(entry.tensors_root, TreeKind.TENSORS, count=entry.tensor_count))
    return lists


def walk_ids(root: ChunkId) -> Steps[ChunkId]:
    """Walk the ids of everything a version needs: all nodes (the root first) and all chunks of its files.

    Every node is read and checked on the way. An id can come more than once, in no order that means anything.
    """
    return _IdsWalk(root)


# Nodes that walks opened, and as what.
Opened = set[tuple[ChunkId, TreeKind]]


class _NewIdsWalk(_IdsWalk):
    def __init__(self, root: ChunkId, opened: Opened) -> None:
        super().__init__(root)
        self._opened = opened
        if (root, TreeKind.FILES) in opened:
            self._stack.clear()
        opened.add((root, TreeKind.FILES))

    def _fresh(self, candidates: Sequence[Pending]) -> list[Pending | list[ChunkId]]:
        opened: list[Pending | list[ChunkId]] = []
        for pending in candidates:
            if (pending.id, pending.kind) not in self._opened:
                self._opened.add((pending.id, pending.kind))
                opened += [[pending.id], pending]
        return opened


def walk_new_ids(root: ChunkId, opened: Opened) -> Steps[ChunkId]:
    """Walk the ids of everything a version needs, but for what stands below nodes that were opened before.

    Versions of a model share most nodes of their manifests, so walking many costs what they differ in.

    Args:
        root: of the manifest.
        opened: nodes that other walks opened, all of which came to their end; grows by those of this one.
    """
    return _NewIdsWalk(root, opened)
