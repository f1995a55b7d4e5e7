"""Finding what differs between two manifests, reading only where they differ."""

from collections.abc import Mapping

from mcr.errors import MissingChunkError
from mcr.manifest.nodes import LEVEL_MAX, FileRow, FilesLeaf, Inner, TreeKind
from mcr.manifest.walks import WINDOW_NODES, Pending, Steps
from mcr.model import ChunkId
from mcr.values import dataclass


@dataclass(frozen=True, slots=True)
class Difference:
    """One path that two versions do not have in common; `before` or `after` is None where it is absent."""

    path: str
    before: FileRow | None
    after: FileRow | None


_Side = list[Pending | FileRow]


class _Compare:
    """Goes through two trees side by side and never opens a node that both have."""

    def __init__(self, before: ChunkId, after: ChunkId) -> None:
        same = before == after
        self._before: _Side = [] if same else [Pending(before, TreeKind.FILES)]
        self._after: _Side = [] if same else [Pending(after, TreeKind.FILES)]
        self._ready: list[Difference] = []

    def needs(self) -> list[ChunkId]:
        self._advance()
        wanted = self._wanted(self._before, self._after) + self._wanted(self._after, self._before)
        return list(dict.fromkeys(wanted))

    def feed(self, chunks: Mapping[ChunkId, bytes]) -> None:
        for mine, other in ((self._before, self._after), (self._after, self._before)):
            for chunk_id in self._wanted(mine, other):
                if chunk_id not in chunks:
                    raise MissingChunkError(chunk_id.hex())
        # Both sides are chosen before either is opened: opening one changes what is wanted of the other.
        opened_before = set(self._wanted(self._before, self._after))
        opened_after = set(self._wanted(self._after, self._before))
        self._open(self._before, opened_before, chunks)
        self._open(self._after, opened_after, chunks)
        self._advance()

    def take(self) -> list[Difference]:
        ready, self._ready = self._ready, []
        return ready

    def _advance(self) -> None:
        """Compare the two heads for as long as no node stands in the way."""
        before, after = self._before, self._after
        while before or after:
            old = before[-1] if before else None
            new = after[-1] if after else None
            if isinstance(old, Pending) and isinstance(new, Pending) and old.id == new.id:
                before.pop()
                after.pop()
            elif isinstance(old, FileRow) and (new is None or _key(old) < _key(new)):
                before.pop()
                self._ready.append(Difference(old.entry.path, old, None))
            elif isinstance(new, FileRow) and (old is None or _key(new) < _key(old)):
                after.pop()
                self._ready.append(Difference(new.entry.path, None, new))
            elif isinstance(old, FileRow) and isinstance(new, FileRow):
                before.pop()
                after.pop()
                if old != new:
                    self._ready.append(Difference(old.entry.path, old, new))
            else:
                return

    def _wanted(self, mine: _Side, other: _Side) -> list[ChunkId]:
        """Choose what to open of `mine`: the highest level in sight, without what the other side has too.

        Level by level, because equal nodes only meet when both trees are open down to their level. What both
        sides have will meet at the heads: equal nodes have equal first keys, and both sides ascend.
        """
        here, there = _window(mine), _window(other)
        shared = {pending.id for pending in there}
        open_here = [pending for pending in here if pending.id not in shared]
        ours = {pending.id for pending in here}
        open_there = [pending for pending in there if pending.id not in ours]
        level = max((_height(pending) for pending in open_here + open_there), default=None)
        if level is None:
            # Nothing but shared nodes in sight, yet the heads differ: one lies outside the other's window.
            return [pending.id for pending in here[:1]]
        return [pending.id for pending in open_here if _height(pending) == level]

    def _open(self, side: _Side, wanted: set[ChunkId], chunks: Mapping[ChunkId, bytes]) -> None:
        left = len(wanted)
        fresh: _Side = []
        while side and left:
            item = side.pop()
            if not isinstance(item, Pending) or item.id not in wanted:
                fresh.append(item)
                continue
            left -= 1
            node = item.read(chunks[item.id])
            if isinstance(node, Inner):
                fresh.extend(item.below(node))
            else:
                assert isinstance(node, FilesLeaf)
                fresh.extend(node.rows)
        side.extend(reversed(fresh))


def _key(item: Pending | FileRow) -> str:
    if isinstance(item, FileRow):
        return item.entry.path
    return item.first_key or ""


def _height(pending: Pending) -> int:
    return LEVEL_MAX + 1 if pending.level is None else pending.level


def _window(side: _Side) -> list[Pending]:
    found: list[Pending] = []
    for item in reversed(side):
        if isinstance(item, Pending):
            found.append(item)
            if len(found) == WINDOW_NODES:
                break
    return found


def compare(before: ChunkId, after: ChunkId) -> Steps[Difference]:
    """Walk the paths in which two manifests differ, in order, without reading what they share."""
    return _Compare(before, after)
