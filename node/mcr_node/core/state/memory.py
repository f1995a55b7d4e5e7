"""A view in memory: a sorted map, for simulations and tests. Same contract as the view on disk."""

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence


class MemoryView:
    """An ordered map from bytes to bytes."""

    def __init__(self) -> None:
        self._values: dict[bytes, bytes] = {}
        self._keys: list[bytes] = []

    def get(self, key: bytes) -> bytes | None:
        """Return the value at `key`, or None."""
        return self._values.get(key)

    def scan(self, start: bytes, end: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        """Yield (key, value) for start <= key < end; see `View.scan`."""
        span = range(bisect_left(self._keys, start), bisect_left(self._keys, end))
        for place in reversed(span) if reverse else span:
            key = self._keys[place]
            yield key, self._values[key]

    def write(self, changes: Sequence[tuple[bytes, bytes | None]]) -> None:
        """Put keys, or with None delete them."""
        for key, value in changes:
            if value is None:
                if self._values.pop(key, None) is not None:
                    del self._keys[bisect_left(self._keys, key)]
                continue
            if key not in self._values:
                insort(self._keys, key)
            self._values[key] = value
