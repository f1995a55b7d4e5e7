"""The ordered key/value view that commands are applied to, and the overlay that collects their changes.

Keys are compared as unsigned bytes. In production a view is RocksDB; in simulations a sorted map.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol


class View(Protocol):
    """Read access to an ordered map from bytes to bytes."""

    def get(self, key: bytes) -> bytes | None:
        """Return the value at `key`, or None."""

    def scan(self, start: bytes, end: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        """Yield (key, value) for start <= key < end, in key order or, with `reverse`, against it.

        Lazy: a caller that stops early pays only for what it took. The view must not change meanwhile.
        """


def prefix_end(prefix: bytes) -> bytes:
    """Return the smallest key after all keys that start with `prefix` (which must not be all 0xff)."""
    stripped = prefix.rstrip(b"\xff")
    assert stripped, "a prefix of 0xff bytes has no end"
    return stripped[:-1] + bytes((stripped[-1] + 1,))


class _Layer:
    """Changes on top of a view; what is read of it is read once, for it must not change meanwhile."""

    def __init__(self, below: View, seen: dict[bytes, bytes | None]) -> None:
        self._below = below
        self._changes: dict[bytes, bytes | None] = {}
        self._seen = seen

    def get(self, key: bytes) -> bytes | None:
        """Return the value at `key`, changes included."""
        changes = self._changes
        if key in changes:
            return changes[key]
        seen = self._seen
        if key in seen:
            return seen[key]
        value = seen[key] = self._below.get(key)
        return value

    def scan(self, start: bytes, end: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        """Yield what the view would hold after the changes; see `View.scan`."""
        mine = sorted((k for k in self._changes if start <= k < end), reverse=reverse)
        below = self._below.scan(start, end, reverse=reverse)
        pending = next(below, None)
        for key in mine:
            while pending is not None and ((pending[0] > key) if reverse else (pending[0] < key)):
                yield pending
                pending = next(below, None)
            if pending is not None and pending[0] == key:
                pending = next(below, None)
            value = self._changes[key]
            if value is not None:
                yield key, value
        while pending is not None:
            yield pending
            pending = next(below, None)

    def changes(self) -> list[tuple[bytes, bytes | None]]:
        """Return (key, new value or None for a removal), sorted by key."""
        return sorted(self._changes.items())


class Batch(_Layer):
    """What the commands before this one changed, of those that are written together.

    Of the eleven rows that a commit asks for, five were asked for before, by it or by another one of its
    batch; an overlay over a batch looks for all of them in one place.
    """

    def __init__(self, below: View) -> None:
        super().__init__(below, {})

    @property
    def rows(self) -> dict[bytes, bytes | None]:
        """Rows as far as they are known, changes included."""
        return self._seen

    def make(self, changes: Sequence[tuple[bytes, bytes | None]]) -> None:
        """Make the changes of a command."""
        self._changes.update(changes)
        self._seen.update(changes)


class Overlay(_Layer):
    """A view plus uncommitted changes on top of it: what `apply` writes to.

    Pure: nothing reaches the view below. Changes come out in the order of their keys, whatever order they
    were made in, so that every node digests the same bytes.
    """

    def __init__(self, below: View) -> None:
        super().__init__(below, below.rows if isinstance(below, Batch) else {})

    def has_changed(self, key: bytes) -> bool:
        """Say whether `key` was set or removed here."""
        return key in self._changes

    def put(self, key: bytes, value: bytes) -> None:
        """Set `key`."""
        self._changes[key] = value

    def delete(self, key: bytes) -> None:
        """Remove `key`, whether or not it is there."""
        self._changes[key] = None

    def take(self, above: "Overlay") -> None:
        """Make here what was changed in an overlay over this one."""
        self._changes.update(above._changes)  # noqa: SLF001 (of its own class)
