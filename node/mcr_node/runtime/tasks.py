"""The tasks of a runner: while one of them fails, nothing goes on as if it had not."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final

from mcr.blocking import settle
from mcr.errors import FailedError, McrError

TASK_NAME: Final = "mcr-runner"

Work = Callable[[], Coroutine[Any, Any, None]]


class Tasks:
    """What runs until it ends or the node does. On the event loop."""

    def __init__(self, failed: Callable[[McrError], None]) -> None:
        """Tell `failed` of the failure of any."""
        self._failed = failed
        self._running: list[asyncio.Task[None]] = []

    def begin(self, work: Work) -> None:
        """Do it in a task of its own."""
        self._running = [task for task in self._running if not task.done()]
        self._running.append(asyncio.create_task(self._guarded(work), name=TASK_NAME))

    async def close(self) -> None:
        """Cancel all, and wait for them."""
        await settle(self._running)

    async def _guarded(self, work: Work) -> None:
        try:
            await work()
        except asyncio.CancelledError:
            raise
        except McrError as error:
            self._failed(error)
        except BaseException as error:
            self._failed(failure_of(error))
            raise


def failure_of(error: BaseException) -> McrError:
    """Return what those who wait are told.

    Whatever it was, what is on disk is no longer known here: nothing more is accepted, nobody is left
    waiting, and the next opening starts from what was synced.
    """
    if isinstance(error, McrError):
        return error
    failure = FailedError("log", repr(error))
    failure.__cause__ = error
    return failure
