"""Background work, all of one shape: a little at a time, held back, paused when asked; it says how it does.

A `Task` says what is to be done and when it is due; its `Worker` decides when the next step comes. Between
two steps nothing is held, so a pause or the end of the node may last for as long as it likes.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from enum import Enum
from typing import Protocol

from mcr.errors import McrError
from mcr.values import dataclass
from mcr_node.ports import Clock


class State(Enum):
    """What a worker is doing."""

    IDLE = "idle"
    RUNNING = "running"
    PAUSED = "paused"


@dataclass(frozen=True, slots=True)
class Step:
    """What was just done.

    Attributes:
        doing: in two or three words, for people.
        done, total: how far the run has come, in what `doing` says; total 0 = nobody knows.
        cost_bytes: bytes read or sent, by which the worker is held back.
    """

    doing: str
    done: int
    total: int
    cost_bytes: int


class Task(Protocol):
    """What a worker does, on the event loop; what blocks is run beside it, in steps well below a second."""

    @property
    def name(self) -> str:
        """What it is called by people, one word."""

    @property
    def bytes_per_s(self) -> float:
        """How fast it may go."""

    @property
    def look_s(self) -> float:
        """How often it is looked whether a run is due."""

    async def is_due(self) -> bool:
        """Return whether a run should begin now.

        Raises:
            McrError: it cannot be told; it is looked at again.
        """

    def run(self, *, asked: bool) -> AsyncGenerator[Step]:
        """Do all of it, a step at a time; closed where it is when the node ends.

        Args:
            asked: somebody wants it now, whether or not it was due.

        Raises:
            McrError: it cannot go on, or did not do all; what it did stays done.
        """

    def counts(self) -> Mapping[str, int]:
        """Return what it counted since the node started, by name."""

    def findings(self) -> list[str]:
        """Return what a person should know, one sentence each; bounded."""


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """How a worker does.

    Attributes:
        step: the last one of the run that is under way, or was the last.
        runs: that came to their end, since the node started.
        started_ms, ended_ms: of the last run, milliseconds since 1970; 0 = there was none.
        error: how the last run failed; empty when it did not.
    """

    name: str
    state: State
    step: Step
    runs: int
    started_ms: int
    ended_ms: int
    error: str


class Worker:
    """Does one task for ever."""

    def __init__(self, task: Task, clock: Clock) -> None:
        self.task = task
        self._clock = clock
        # Set when anything changed that somebody may be waiting for.
        self._changed = asyncio.Event()
        self._asked = False
        self._is_paused = False
        self._is_running = False
        self._at_full_speed = False
        self._step = Step("", 0, 0, 0)
        self._ready_s = 0.0
        self._runs = self._started_ms = self._ended_ms = 0
        self._error = ""

    @property
    def status(self) -> WorkerStatus:
        """How it does."""
        state = State.RUNNING if self._is_running else State.IDLE
        return WorkerStatus(
            self.task.name,
            State.PAUSED if self._is_paused else state,
            self._step,
            self._runs,
            self._started_ms,
            self._ended_ms,
            self._error,
        )

    def start(self, *, at_full_speed: bool = False) -> None:
        """End a pause, and begin a run now unless one is under way.

        Args:
            at_full_speed: this run is not held back.
        """
        self._is_paused = False
        self._asked = not self._is_running
        self._at_full_speed = self._at_full_speed or at_full_speed
        self._changed.set()

    def pause(self) -> None:
        """Do nothing after the present step, until `start`; for the life of this process."""
        self._is_paused = True
        self._changed.set()

    def look(self) -> None:
        """Look now whether a run is due, rather than when it is time to."""
        self._changed.set()

    async def work_for_ever(self, bug: Callable[[str, Exception], None]) -> None:
        """Run the task whenever it is due; ended by cancelling it.

        Args:
            bug: told what should not have happened. The task is due again like any other time.
        """
        while True:
            try:
                asked = await self._wait_due()
                await self._run(asked=asked)
            except McrError as error:
                self._error = error.message
            except Exception as error:  # noqa: BLE001 (said, and the work goes on)
                self._error = f"a bug: {type(error).__name__}"
                bug(self.task.name, error)

    async def _wait_due(self) -> bool:
        """Wait until there is something to do; True when somebody asked for it."""
        while True:
            await self._wait(self.task.look_s if not self._asked else 0)
            await self._while_paused()
            is_due = self._asked or await self.task.is_due()
            asked, self._asked = self._asked, False
            if is_due or asked:
                return asked

    async def _run(self, *, asked: bool) -> None:
        self._is_running = True
        self._started_ms = self._clock.now_ms()
        error = ""
        try:
            async with aclosing(self.task.run(asked=asked)) as steps:
                async for step in steps:
                    self._step = step
                    await self._hold_back(step.cost_bytes)
            self._runs += 1
        except McrError as failure:
            error = failure.message
        finally:
            self._is_running = self._at_full_speed = False
            self._ended_ms = self._clock.now_ms()
        self._error = error

    async def _hold_back(self, cost_bytes: int) -> None:
        """Wait until the next step may begin."""
        loop = asyncio.get_running_loop()
        self._ready_s = max(self._ready_s, loop.time()) + cost_bytes / self.task.bytes_per_s
        while self._is_paused or (not self._at_full_speed and self._ready_s > loop.time()):
            await self._while_paused()
            await self._wait(self._ready_s - loop.time())
        # Even at full speed, everybody else has a turn.
        await asyncio.sleep(0)

    async def _while_paused(self) -> None:
        while self._is_paused:
            self._changed.clear()
            await self._changed.wait()

    async def _wait(self, seconds: float) -> None:
        """Wait for a time, or until something changed."""
        self._changed.clear()
        if seconds <= 0 or self._at_full_speed:
            return
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            return
