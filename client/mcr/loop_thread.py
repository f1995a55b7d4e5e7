"""The event loop on which a blocking client works, and what becomes of it when Ctrl-C comes."""

import asyncio
import threading
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from mcr.blocking import BACKGROUND, settle
from mcr.errors import DeadlineError

if TYPE_CHECKING:
    from concurrent.futures import Future

Result = TypeVar("Result")
# How late a signal may be noticed that another thread was interrupted by.
SIGNAL_WAIT_S = 0.2
# How long what is left behind has to end: generators half way, which the loop closes, and calls given up.
# What goes on longer belongs to a connection, and ends with it.
LEFT_BEHIND_S = 0.2


class LoopThread:
    """An event loop on a thread of its own."""

    def __init__(self, timeout_s: float | None) -> None:
        self._timeout_s = timeout_s
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="mcr-loop", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, Result], what: str, *, bounded: bool = True) -> Result:
        """Run a coroutine to its end; interrupted, cancel it and wait until it has put things in order.

        An interruption that comes too late, when the store had decided already, is none: the result is
        returned, so that nobody repeats a commit that was made.

        Raises:
            DeadlineError: it took longer than the client's timeout.
        """
        timeout_s = self._timeout_s if bounded else None
        results: list[Result] = []

        async def kept() -> Result:
            # A future that was cancelled forgets its result.
            results.append(await _within(work, timeout_s, what))
            return results[0]

        coroutine = kept()
        future: Future[Result] | None = None
        try:
            # Inside the guard: an interruption may come between the hand-over and the assignment.
            future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
            return _result(future)
        except BaseException:
            if future is not None and future.done():
                raise
            # Interrupted here, in the thread that waits. Cancelling only asks: wait for the end, so that no
            # step of it runs on beside a closing store.
            _result(asyncio.run_coroutine_threadsafe(_end(coroutine), self._loop))
            # What never began is closed, or Python warns of a coroutine that nobody awaited.
            coroutine.close()
            work.close()
            if results:
                return results[0]
            raise

    def close(self) -> None:
        """Stop the loop and its thread."""
        if not self._loop.is_closed():
            # Calls that were given up have a step left to do, or Python warns of tasks that nobody ended.
            _result(asyncio.run_coroutine_threadsafe(_leave(), self._loop))
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()


async def _end(coroutine: Coroutine[Any, Any, Any]) -> None:
    """Cancel a coroutine that runs on this loop, if it does, and wait for what it puts in order.

    Not for all that runs: a stream to a node stands until it was idle for long, and the library below it has
    tasks of its own for each. Nobody gets back a prompt that waits for those.
    """
    await settle(task for task in asyncio.all_tasks() if task.get_coro() is coroutine)
    await _leave()


async def _leave() -> None:
    """Let what goes on end, if it does so soon."""
    left = [
        task
        for task in asyncio.all_tasks()
        if task is not asyncio.current_task() and not task.get_name().startswith(BACKGROUND)
    ]
    if left:
        await asyncio.wait(left, timeout=LEFT_BEHIND_S)


def _result(future: "Future[Result]") -> Result:
    """Wait for a result, looking up now and then.

    The system may hand a signal to any thread. When it is not this one, nothing wakes it: Python's handler
    runs here, but only once the wait is over (seen as a Ctrl-C without effect on a busy machine).
    """
    while True:
        try:
            return future.result(SIGNAL_WAIT_S)
        except TimeoutError:
            if future.done():
                raise


async def _within(work: Coroutine[Any, Any, Result], timeout_s: float | None, what: str) -> Result:
    try:
        async with asyncio.timeout(timeout_s):
            return await work
    except TimeoutError as error:
        raise DeadlineError(f"{timeout_s:g}", what) from error
