"""How long a node waits for a leader before it says that there is no quorum."""

from mcr.errors import NoQuorumError
from mcr_node.runtime.identity import Timing


class Patience:
    """Counts ticks without a leader. Two elections may pass, each of up to twice the election timeout."""

    def __init__(self, timing: Timing) -> None:
        self._tick_ms = timing.tick_ms
        self._ticks_max = 4 * timing.election_ticks
        self._ticks = 0

    def tick(self, *, has_leader: bool) -> bool:
        """Let a tick pass; True when it is the one with which patience ends."""
        self._ticks = 0 if has_leader else self._ticks + 1
        return self._ticks == self._ticks_max

    @property
    def is_over(self) -> bool:
        """Whether nobody should wait any more."""
        return self._ticks >= self._ticks_max

    def error(self) -> NoQuorumError:
        """Return what those are told who wait."""
        silent_ms = self._ticks * self._tick_ms
        return NoQuorumError(f"no leader for {silent_ms} ms; a majority of the voters must reach each other")
