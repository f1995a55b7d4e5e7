"""A worker does its task a step at a time, is held back, and can be paused between any two steps."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from typing import Any

from mcr.blocking import settle
from mcr.errors import FailedError
from mcr_node.runtime.clock import SystemClock
from mcr_node.services.workers import State, Step, Worker

STEPS = 5
PATIENCE_S = 20.0


class Counting:
    """A task of some steps, each of which waits until it is allowed."""

    name = "counting"
    look_s = 0.001

    def __init__(self) -> None:
        self.bytes_per_s = 1e12
        self.is_wanted = False
        self.steps_allowed = asyncio.Semaphore(0)
        self.done = 0
        self.asked: list[bool] = []
        self.failure: Exception | None = None
        self.closed = asyncio.Event()

    async def is_due(self) -> bool:
        return self.is_wanted

    async def run(self, *, asked: bool) -> AsyncGenerator[Step]:
        self.asked.append(asked)
        try:
            for number in range(1, STEPS + 1):
                await self.steps_allowed.acquire()
                if self.failure is not None:
                    raise self.failure
                self.done += 1
                yield Step("counting", number, STEPS, 1000)
        finally:
            self.closed.set()

    def counts(self) -> Mapping[str, int]:
        return {"done": self.done}

    def findings(self) -> list[str]:
        return []


class Scene:
    def __init__(self) -> None:
        self.task = Counting()
        self.worker = Worker(self.task, SystemClock())
        self.bugs: list[Exception] = []

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not condition():  # noqa: ASYNC110 - a status is looked at, as an operator does
                await asyncio.sleep(0.001)


def tell(story: Callable[[Scene], Coroutine[Any, Any, None]]) -> None:
    async def told() -> None:
        scene = Scene()
        work = asyncio.create_task(scene.worker.work_for_ever(lambda _, error: scene.bugs.append(error)))
        try:
            await story(scene)
        finally:
            await settle([work])

    asyncio.run(told())


def test_a_task_that_is_not_due_is_not_run_until_somebody_asks() -> None:
    async def story(scene: Scene) -> None:
        assert scene.worker.status.state is State.IDLE
        scene.worker.start()
        for _ in range(STEPS):
            scene.task.steps_allowed.release()
        await scene.until(lambda: scene.worker.status.runs == 1)
        status = scene.worker.status
        assert (status.state, status.step.done, status.step.total) == (State.IDLE, STEPS, STEPS)
        assert 0 < status.started_ms <= status.ended_ms
        assert scene.task.asked == [True]

    tell(story)


def test_a_task_that_is_due_is_run() -> None:
    async def story(scene: Scene) -> None:
        scene.task.is_wanted = True
        scene.task.steps_allowed.release()
        await scene.until(lambda: scene.task.done == 1)
        assert scene.task.asked == [False]
        assert scene.worker.status.state is State.RUNNING

    tell(story)


def test_a_pause_holds_between_two_steps_and_start_goes_on_there() -> None:
    async def story(scene: Scene) -> None:
        scene.worker.start()
        scene.task.steps_allowed.release()
        await scene.until(lambda: scene.worker.status.step.done == 1)
        scene.worker.pause()
        for _ in range(STEPS):
            scene.task.steps_allowed.release()
        await asyncio.sleep(0.01)
        assert scene.worker.status.state is State.PAUSED
        # The step under way when it was paused is done; none after it.
        assert scene.task.done <= 2

        scene.worker.start()
        await scene.until(lambda: scene.worker.status.runs == 1)
        assert scene.task.done == STEPS
        assert scene.task.asked == [True]

    tell(story)


def test_a_paused_worker_begins_nothing_although_it_is_due() -> None:
    async def story(scene: Scene) -> None:
        scene.worker.pause()
        scene.task.is_wanted = True
        scene.task.steps_allowed.release()
        await asyncio.sleep(0.01)
        assert scene.task.asked == []

    tell(story)


def test_it_is_held_back_to_its_rate_unless_it_shall_be_done_now() -> None:
    async def story(scene: Scene) -> None:
        # 1000 bytes a step: an hour each.
        scene.task.bytes_per_s = 1000 / 3600
        scene.worker.start()
        for _ in range(STEPS):
            scene.task.steps_allowed.release()
        await scene.until(lambda: scene.worker.status.step.done == 1)
        await asyncio.sleep(0.01)
        assert scene.task.done == 1

        scene.worker.start(at_full_speed=True)
        await scene.until(lambda: scene.worker.status.runs == 1)

    tell(story)


def test_a_failure_is_reported_until_a_run_succeeds() -> None:
    async def story(scene: Scene) -> None:
        scene.task.failure = FailedError("counting", "the numbers are used up")
        scene.worker.start()
        scene.task.steps_allowed.release()
        await scene.until(lambda: "used up" in scene.worker.status.error)
        assert scene.worker.status.runs == 0

        scene.task.failure = None
        scene.worker.start()
        for _ in range(STEPS):
            scene.task.steps_allowed.release()
        await scene.until(lambda: scene.worker.status.runs == 1)
        assert not scene.worker.status.error

    tell(story)


def test_a_bug_is_said_and_does_not_end_the_work() -> None:
    async def story(scene: Scene) -> None:
        scene.task.failure = ZeroDivisionError()
        scene.worker.start()
        scene.task.steps_allowed.release()
        await scene.until(lambda: len(scene.bugs) == 1)
        scene.worker.start()
        scene.task.steps_allowed.release()
        await scene.until(lambda: len(scene.bugs) == 2)

    tell(story)


def test_the_end_of_the_node_closes_the_run() -> None:
    async def story() -> None:
        scene = Scene()
        work = asyncio.create_task(scene.worker.work_for_ever(lambda *_: None))
        scene.worker.start()
        scene.task.steps_allowed.release()
        await scene.until(lambda: scene.worker.status.step.done == 1)
        await settle([work])
        assert scene.task.closed.is_set()

    asyncio.run(story())
