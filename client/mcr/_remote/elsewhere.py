"""Whether it is worth while to ask, before an upload, if other nodes hold what the nearest one lacks.

It costs each node a call for every part. Where one part after the other is new to the cluster, as of weights
that were trained on, most parts ask the nearest node only, and one in some asks all. What is found anywhere
brings the questions back. Whoever skips one at worst sends the nearest node what another one had.
"""

from collections.abc import Sized

# So many parts in a row of which nobody had anything, and others are hardly asked any more.
NEW_PARTS_MIN = 4
# Then one part in so many asks all.
ASK_EVERY = 8
# Whatever comes after a pause is likely another file, or another version.
PAUSE_S = 2.0


class Elsewhere:
    """Decides it for one client. Used on one event loop."""

    def __init__(self) -> None:
        self._new_parts = 0
        self._skipped = 0
        self._asked_at_s = 0.0

    def is_asked(self, now_s: float) -> bool:
        """Say whether the next part asks all nodes."""
        if now_s - self._asked_at_s > PAUSE_S:
            self.reset()
        self._asked_at_s = now_s
        if self._new_parts < NEW_PARTS_MIN:
            return True
        self._skipped = (self._skipped + 1) % ASK_EVERY
        return self._skipped == 0

    def answered(self, asked: Sized, missing: Sized) -> None:
        """Note what a question came to, whoever was asked."""
        if len(missing) < len(asked):
            self.reset()
        else:
            self._new_parts += 1

    def reset(self) -> None:
        """Ask all again: something was found, or a node failed that held what was sent."""
        self._new_parts = self._skipped = 0
