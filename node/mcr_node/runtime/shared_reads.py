"""Reads that come together share one trip to a thread: the trip costs ten times what most of them do."""

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from typing import Any, TypeVar, cast

from mcr.values import dataclass

Result = TypeVar("Result")
# Enough to make the trip cheap for each, few enough that nobody waits long for the others.
READS_PER_TRIP_MAX = 64


@dataclass(slots=True, eq=False)
class _Read:
    work: Callable[[], Any]
    answer: asyncio.Future[Any]
    result: Any = None
    error: BaseException | None = None


class SharedReads:
    """Runs short blocking reads on an executor. Used on one event loop."""

    def __init__(self, executor: Executor, trips_max: int) -> None:
        """Keep at most `trips_max` threads of `executor` busy; what comes meanwhile gathers."""
        self._executor = executor
        self._trips_left = trips_max
        self._waiting: deque[_Read] = deque()

    async def run(self, work: Callable[[], Result]) -> Result:
        """Run `work` on a thread and return its result. A caller that gives up leaves it to run, or not."""
        read = _Read(work, asyncio.get_running_loop().create_future())
        self._waiting.append(read)
        if self._trips_left and len(self._waiting) == 1:
            # Not at once: the reads of the callers that run in this turn of the loop come along.
            asyncio.get_running_loop().call_soon(self._begin)
        return cast("Result", await read.answer)

    def _begin(self) -> None:
        while self._waiting and self._trips_left:
            reads: list[_Read] = []
            while self._waiting and len(reads) < READS_PER_TRIP_MAX:
                read = self._waiting.popleft()
                if not read.answer.cancelled():
                    reads.append(read)
            if reads:
                loop = asyncio.get_running_loop()
                # The failure of a shut-down executor is the callers' to see.
                try:
                    self._executor.submit(partial(self._carry_out, loop, reads))
                except RuntimeError as error:
                    for read in reads:
                        read.answer.set_exception(error)
                    continue
                self._trips_left -= 1

    def _carry_out(self, loop: asyncio.AbstractEventLoop, reads: list[_Read]) -> None:
        for read in reads:
            try:
                read.result = read.work()
            except BaseException as error:  # noqa: BLE001 - handed to whoever asked
                read.error = error
        loop.call_soon_threadsafe(self._end, reads)

    def _end(self, reads: list[_Read]) -> None:
        self._trips_left += 1
        for read in reads:
            if read.answer.done():
                continue
            if read.error is None:
                read.answer.set_result(read.result)
            else:
                read.answer.set_exception(read.error)
        self._begin()
