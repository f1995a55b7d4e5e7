"""One costly action for many threads: the first does it, those who come meanwhile share the next."""

import copy
import threading
from collections.abc import Callable


class _Round:
    def __init__(self) -> None:
        self.done = False
        self.succeeded = False
        self.error: Exception | None = None


class GroupCommit:
    """Runs an action as rarely as possible, so that each `run` gets one that began after its call."""

    def __init__(self, action: Callable[[], None]) -> None:
        self._action = action
        self._condition = threading.Condition()
        # Callers gather here until one of them starts it.
        self._gathering = _Round()
        self._running = False

    def run(self) -> None:
        """Wait until the action began after this call and ended; raise what it raised."""
        while not self._joined():
            # The thread that ran it for this one was interrupted: nothing is known of the outcome.
            continue

    def _joined(self) -> bool:
        with self._condition:
            mine = self._gathering
            self._condition.wait_for(lambda: mine.done or not self._running)
            if mine.error is not None:
                # A copy: threads that raise one object would write into each other's traceback.
                raise copy.copy(mine.error) from mine.error
            if mine.done:
                return mine.succeeded
            self._running = True
            self._gathering = _Round()
        try:
            self._action()
            mine.succeeded = True
        except Exception as error:
            mine.error = error
            raise
        finally:
            with self._condition:
                mine.done = True
                self._running = False
                self._condition.notify_all()
        return True
