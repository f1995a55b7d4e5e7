"""From how many nodes to read at once: from one, or from all that are as near, whichever was measured faster.

Several nodes are faster where each has a disk and a line of its own; on one machine, or where the reader's
own line is the narrow one, they only cost more. Nobody can tell beforehand, so it is tried: some tens of MiB
from one, as much from all, then the better of the two for a while.
"""

from collections.abc import Sequence
from enum import Enum

from mcr._remote.nodes import Way
from mcr.model import MIB

# One trial: long enough to see past the first round trips, so a small download never comes to a second one.
TRIAL_BYTES = 64 * MIB
# After so much it is tried anew: the network may be another one by then.
AGAIN_BYTES = 2048 * MIB
# All must be better than one by this, for they cost more on both sides.
GAIN_MIN = 1.1


class Phase(Enum):
    """What is being done."""

    ONE = "one"
    ALL = "all"
    SETTLED = "settled"


class Spreading:
    """Chooses the node for each part of a download. Used on one event loop."""

    def __init__(self) -> None:
        self._phase = Phase.ONE
        self._all_is_better = False
        self._one_bytes_per_s = 0.0
        self._began_s: float | None = None
        self._bytes_done = 0
        self._waiting: dict[str, int] = {}

    @property
    def is_wide(self) -> bool:
        """Whether several nodes are read from just now."""
        return self._phase is Phase.ALL or (self._phase is Phase.SETTLED and self._all_is_better)

    def choose(self, near: Sequence[Way]) -> Way:
        """Return the node for the next part.

        Args:
            near: nodes that are as good as the nearest, which is the first.
        """
        if not self.is_wide:
            return near[0]
        # Whoever is quick has soon fewer parts waiting, and gets the next.
        return min(near, key=lambda way: self._waiting.get(way.address, 0))

    def begin(self, way: Way, now_s: float) -> None:
        """Note that a part is asked of a node."""
        self._waiting[way.address] = self._waiting.get(way.address, 0) + 1
        if self._began_s is None:
            self._began_s, self._bytes_done = now_s, 0

    def end(self, way: Way, length_bytes: int, now_s: float) -> None:
        """Note that a part came, or did not (0 bytes); decide what is tried next."""
        self._waiting[way.address] -= 1
        assert self._began_s is not None, "whatever ends has begun"
        self._bytes_done += length_bytes
        if self._bytes_done >= (AGAIN_BYTES if self._phase is Phase.SETTLED else TRIAL_BYTES):
            self._next(self._bytes_done / max(now_s - self._began_s, 1e-6))
            self._began_s, self._bytes_done = now_s, 0
        if not any(self._waiting.values()):
            # What comes after a pause says nothing together with what was before it.
            self._began_s = None

    def _next(self, bytes_per_s: float) -> None:
        match self._phase:
            case Phase.ONE:
                self._one_bytes_per_s = bytes_per_s
                self._phase = Phase.ALL
            case Phase.ALL:
                self._all_is_better = bytes_per_s > GAIN_MIN * self._one_bytes_per_s
                self._phase = Phase.SETTLED
            case Phase.SETTLED:
                self._phase = Phase.ONE
