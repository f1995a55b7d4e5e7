"""A virtual clock, one source of chance, and the queue of what happens next. Nothing here is concurrent.

Whatever is drawn or scheduled follows from the seed alone, so a failure is rerun by its number; the running
hash of the trace is how a test knows that it is so.
"""

import hashlib
import heapq
from collections.abc import Callable, Sequence
from random import Random
from typing import TypeVar

Item = TypeVar("Item")
Action = Callable[[], None]

MS = 1_000
SECOND = 1_000 * MS
# Of the trace; hashing line by line takes three times as long.
LINES_PER_HASH = 400


class World:
    """Time, chance, and what is to happen; times are in microseconds."""

    def __init__(self, seed: int) -> None:
        self.now_us = 0
        self.events = 0
        self.counts: dict[str, int] = {}
        self._random = Random(seed)
        self._queue: list[tuple[int, int, Action]] = []
        self._sequence = 0
        self._hash = hashlib.blake2b(digest_size=16)
        # Lines of the trace, those of before and those that are not hashed yet.
        self._hashed: list[str] = []
        self._lines: list[str] = []

    # ---- chance ----

    def draw(self, bound: int) -> int:
        """Return a whole number from 0 to bound - 1."""
        return int(self._random.random() * bound)

    def between(self, low: int, high: int) -> int:
        """Return a whole number from low to high."""
        return low + self.draw(high - low + 1)

    def happens(self, per_mille: int) -> bool:
        """Say yes so many times of a thousand."""
        return self._random.random() * 1000 < per_mille

    def pick(self, items: Sequence[Item]) -> Item:
        """Return one of them."""
        return items[self.draw(len(items))]

    # ---- time ----

    def after(self, delay_us: int, action: Action) -> None:
        """Let something happen later; what is due at one moment happens in the order it was asked for."""
        self._sequence += 1
        heapq.heappush(self._queue, (self.now_us + delay_us, self._sequence, action))

    def run_until(self, end_us: int, is_over: Callable[[], bool] | None = None) -> bool:
        """Let everything happen that is due before `end_us`, or until `is_over`; say whether it was."""
        while self._queue and self._queue[0][0] <= end_us:
            if is_over is not None and is_over():
                return True
            self.now_us, _, action = heapq.heappop(self._queue)
            self.events += 1
            action()
        self.now_us = max(self.now_us, end_us)
        return is_over is not None and is_over()

    # ---- the trace ----

    def note(self, text: str) -> None:
        """Put a line into the trace."""
        self._lines.append(f"{self.now_us} {text}")
        if len(self._lines) >= LINES_PER_HASH:
            self._hash_lines()

    def _hash_lines(self) -> None:
        self._hash.update("\n".join(self._lines).encode())
        self._hashed, self._lines = self._lines, []

    @property
    def recent(self) -> list[str]:
        """The last things that happened, for the report of a failure."""
        return self._hashed + self._lines

    def count(self, kind: str) -> None:
        """Count a fault or an operation, and note it."""
        self.counts[kind] = self.counts.get(kind, 0) + 1
        self.note(kind)

    @property
    def trace_hash(self) -> str:
        """Hash of all that happened so far."""
        self._hash_lines()
        return self._hash.hexdigest()
