"""Run blocking work beside an event loop, and never leave it running behind a caller that gave up."""

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import Executor, Future
from contextlib import suppress
from typing import Any, TypeVar

Result = TypeVar("Result")

# How the names of tasks begin that run for as long as a store is open: nobody waits for them earlier.
BACKGROUND = "mcr-"


async def run_blocking(executor: Executor, work: Callable[[], Result]) -> Result:
    """Run `work` on `executor` and return its result.

    A cancelled caller still waits for the step it started: the buffers and descriptors that the step uses are
    about to be closed. So steps should be short, some milliseconds to some hundred.
    """
    # Not by the library's wrapper, shielded: that takes a turn of the loop more, twice the time of this.
    step = executor.submit(work)
    try:
        await ended(step)
    except asyncio.CancelledError:
        if not step.cancel():
            await ended(step)
        raise
    if step.cancelled():
        # The executor was shut down before the step began.
        raise asyncio.CancelledError
    return step.result()


def ended(step: Future[Any]) -> asyncio.Future[None]:
    """Return what is done once a step is; it may be awaited, and given up, while the step goes on."""
    loop = asyncio.get_running_loop()
    told: asyncio.Future[None] = loop.create_future()

    def tell(_: Future[Any]) -> None:
        # From the thread of the step; a loop that is closed meanwhile has nobody left who waits.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(_note, told)

    step.add_done_callback(tell)
    return told


def _note(told: asyncio.Future[None]) -> None:
    if not told.done():
        told.set_result(None)


async def decided(request: Coroutine[Any, Any, Result]) -> Result:
    """Send a request that changes the store; return its answer even when the caller is cancelled meanwhile.

    What was sent may be done whether or not somebody waits. A caller that gave up would not know, and would
    do it again; so the first cancellation is swallowed in favour of the answer. A second one is not.
    """
    task = asyncio.ensure_future(request)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if task.cancelled():
            raise
        return await task


async def settle(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel what is still running and wait for it, so that no step outlives its buffers and descriptors."""
    running = list(tasks)
    for task in running:
        task.cancel()
    if running:
        await asyncio.wait(running)
        for task in running:
            if not task.cancelled():
                task.exception()
