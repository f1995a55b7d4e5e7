"""Reads that come together share a trip; each gets its own answer or error, and nobody is left waiting."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

from mcr_node.runtime.shared_reads import READS_PER_TRIP_MAX, SharedReads


class Counting(ThreadPoolExecutor):
    """Counts the trips."""

    trips = 0

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:  # noqa: ANN401
        self.trips += 1
        return super().submit(fn, *args, **kwargs)


def run(story: Callable[[SharedReads, Counting], Coroutine[Any, Any, None]], trips_max: int = 1) -> None:
    async def told() -> None:
        with Counting(2) as executor:
            await story(SharedReads(executor, trips_max), executor)

    asyncio.run(told())


def test_callers_of_one_turn_share_one_trip_and_get_their_own_results() -> None:
    async def story(reads: SharedReads, executor: Counting) -> None:
        answers = await asyncio.gather(*(reads.run(partial(int, number)) for number in range(10)))
        assert answers == list(range(10))
        assert executor.trips == 1

    run(story)


def test_a_trip_has_a_limit() -> None:
    async def story(reads: SharedReads, executor: Counting) -> None:
        await asyncio.gather(*(reads.run(lambda: None) for _ in range(2 * READS_PER_TRIP_MAX + 1)))
        assert executor.trips == 3

    run(story)


def test_a_read_that_fails_fails_alone() -> None:
    def fail() -> None:
        raise ValueError("broken")

    async def story(reads: SharedReads, _: Counting) -> None:
        answers = await asyncio.gather(
            reads.run(lambda: 1), reads.run(fail), reads.run(lambda: 3), return_exceptions=True
        )
        assert answers[0] == 1
        assert isinstance(answers[1], ValueError)
        assert answers[2] == 3

    run(story)


def test_a_long_read_does_not_hold_up_those_that_come_later() -> None:
    async def story(reads: SharedReads, _: Counting) -> None:
        done = threading.Event()
        long = asyncio.create_task(reads.run(done.wait))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert await reads.run(lambda: "short") == "short"
        assert not long.done()
        done.set()
        assert await long

    run(story, trips_max=2)


def test_what_comes_while_all_trips_are_under_way_is_served_after_them() -> None:
    async def story(reads: SharedReads, executor: Counting) -> None:
        done = threading.Event()
        first = asyncio.create_task(reads.run(done.wait))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        later = [asyncio.create_task(reads.run(lambda: "later")) for _ in range(3)]
        await asyncio.sleep(0)
        done.set()
        assert await asyncio.gather(*later) == ["later"] * 3
        assert await first
        assert executor.trips == 2

    run(story)


def test_who_gives_up_before_the_trip_is_not_served_and_others_are() -> None:
    served: list[str] = []

    async def story(reads: SharedReads, _: Counting) -> None:
        gone = asyncio.create_task(reads.run(lambda: served.append("gone")))
        await asyncio.sleep(0)
        gone.cancel()
        await reads.run(lambda: served.append("here"))
        assert served == ["here"]

    run(story)


def test_reads_after_the_end_are_refused() -> None:
    async def story(reads: SharedReads, executor: Counting) -> None:
        executor.shutdown()
        with pytest.raises(RuntimeError):
            await reads.run(lambda: None)

    run(story)
