"""What a leader does a little later if nothing does it before: tell of a commit, send what has gathered."""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

from mcr_node.core.effects import Append, Effect
from mcr_node.core.replica import Replica
from mcr_node.core.succession import Succession
from mcr_node.runtime.later import Later
from mcr_node.runtime.limits import GATHER_S


class Telling:
    """The two timers of a leader. On the event loop."""

    def __init__(self, decide: Callable[[Callable[[Replica], None]], None]) -> None:
        """Let the replica do by `decide` what is due."""
        self._succession = Succession()
        self._news = Later(partial(decide, Replica.tell_news))
        self._gathering = Later(partial(decide, Replica.end_gathering))

    def look(self, replica: Replica, effects: Sequence[Effect]) -> None:
        """See to what `replica` waits for, having handed out `effects`."""
        if replica.is_gathering:
            self._gathering.set(GATHER_S)
        if not effects:
            # Neither was anything committed nor anybody told.
            return
        now_s = asyncio.get_running_loop().time()
        if any(isinstance(effect, Append) and effect.message.entries for effect in effects):
            self._succession.appended(now_s)
        if replica.has_news:
            self._succession.committed(now_s)
            self._news.set(self._succession.wait_s)
        else:
            # Told along with an entry; what is news next has its own time.
            self._news.cancel()

    def cancel(self) -> None:
        """Do nothing more."""
        self._news.cancel()
        self._gathering.cancel()
