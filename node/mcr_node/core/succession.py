"""Whether the news of a commit waits for the next entry, which carries it for nothing, or goes by itself.

By itself it costs two messages to each other node and back, a fifth of what a lone commit does; but whoever
watches on another node hears of the commit only with it. So it waits where entries follow each other soon,
and there alone: what came last tells what comes next.
"""

from typing import Final

# From the commit of an entry to the next one: what a lone client takes that writes again and again. Others
# apply as much later; who waits for them is not made to (see `replica`).
FOLLOWS_S_MAX: Final = 0.004


class Succession:
    """How soon entries followed each other lately, on a leader."""

    def __init__(self) -> None:
        self._committed_s: float | None = None
        self._follows = False

    @property
    def wait_s(self) -> float:
        """How long the news of a commit should wait for an entry; 0 = not at all."""
        return FOLLOWS_S_MAX if self._follows else 0.0

    def committed(self, now_s: float) -> None:
        """Hear, at any time, that the log is committed to its end; said again, it is the same commit."""
        if self._committed_s is None:
            self._committed_s = now_s

    def appended(self, now_s: float) -> None:
        """Hear that an entry follows."""
        if self._committed_s is not None:
            self._follows = now_s - self._committed_s <= FOLLOWS_S_MAX
            self._committed_s = None
