"""Callers that wait for the log: for the outcome of a proposal, or until a read may be served."""

import asyncio
from itertools import count
from typing import Any

from mcr.errors import McrError
from mcr_node.core.state.outcomes import Outcome


class Waiting:
    """Who waits, by ticket. On the event loop."""

    def __init__(self) -> None:
        self._tickets = count(1)
        self.answers: dict[int, asyncio.Future[Outcome]] = {}
        self.reads: dict[int, asyncio.Future[int]] = {}
        self._for_progress = 0
        self._moved = asyncio.Event()

    @property
    def is_anybody(self) -> bool:
        """Whether anybody waits for what a further entry in the state would bring."""
        return bool(self.answers or self.reads or self._for_progress)

    async def progress(self) -> None:
        """Wait for the next `wake`."""
        self._for_progress += 1
        try:
            await self._moved.wait()
        finally:
            self._for_progress -= 1

    def wake(self) -> None:
        """Let those look again who wait for something that happens on this node."""
        if self._for_progress:
            self._moved.set()
            # Another one, so that whoever waits wakes up once for each step forward.
            self._moved = asyncio.Event()

    def for_answer(self) -> tuple[int, asyncio.Future[Outcome]]:
        """Begin to wait for the outcome of a proposal; return ticket and answer."""
        ticket = next(self._tickets)
        answer = self.answers[ticket] = asyncio.get_running_loop().create_future()
        return ticket, answer

    def for_read(self) -> tuple[int, asyncio.Future[int]]:
        """Begin to wait for a read; return ticket and the log index that it may be served at."""
        ticket = next(self._tickets)
        read = self.reads[ticket] = asyncio.get_running_loop().create_future()
        return ticket, read

    def answer(self, ticket: int, outcome: Outcome) -> None:
        """Tell who waits for an outcome, if somebody still does."""
        answer = self.answers.pop(ticket, None)
        if answer is not None and not answer.done():
            answer.set_result(outcome)

    def answer_read(self, ticket: int, index: int) -> None:
        """Tell who waits to read, if somebody still does."""
        read = self.reads.pop(ticket, None)
        if read is not None and not read.done():
            read.set_result(index)

    def turn_away(self, error: McrError) -> None:
        """Tell everybody that nothing will come, or that nobody knows."""
        waiting: list[asyncio.Future[Any]] = [*self.answers.values(), *self.reads.values()]
        for future in waiting:
            if not future.done():
                future.set_exception(error)
