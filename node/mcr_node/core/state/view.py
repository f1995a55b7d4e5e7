"""The ordered key/value view that commands are applied to, and the overlay that collects their changes.

Keys are compared as unsigned bytes. In production a view is RocksDB; in simulations a sorted map.
"""

from collections.abc import Iterator
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


class Overlay:
    """A view plus uncommitted changes on top of it: what `apply` writes to.

    Pure: nothing reaches the view below. Changes come out in the order of their keys, whatever order they
    were made in, so that every node digests the same bytes. The view below must not change meanwhile, so each
    of its rows is got once: of the eleven that a commit asks for, five were asked for before, by it or by
    another one of its batch.
    """

    def __init__(self, below: View) -> None:
        self._below = below
        self._changes: dict[bytes, bytes | None] = {}
        self._seen: dict[bytes, bytes | None] = {}

    def get(self, key: bytes) -> bytes | None:
        """Return the value at `key`, changes included."""
        if key in self._changes:
            return self._changes[key]
        if key in self._seen:
            return self._seen[key]
        value = self._seen[key] = self._below.get(key)
        return value

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
