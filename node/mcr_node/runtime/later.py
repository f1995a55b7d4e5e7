"""A timer that is set at most once at a time."""

import asyncio
from collections.abc import Callable


class Later:
    """Does something a while after it was first asked for; what is asked meanwhile is the same request."""

    def __init__(self, work: Callable[[], None]) -> None:
        """Do `work` each time that it is asked for."""
        self._work = work
        self._timer: asyncio.TimerHandle | None = None

    def set(self, delay_s: float) -> None:
        """Ask for it, after a time; what was asked for stands."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._run)

    def cancel(self) -> None:
        """Do it no more, unless asked for again."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _run(self) -> None:
        self._timer = None
        self._work()
