"""What becomes of requests whose caller gives up."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from mcr.blocking import decided, run_blocking
from mcr.loop_thread import LoopThread


def test_a_request_that_was_sent_is_answered_although_its_caller_was_cancelled() -> None:
    async def work() -> None:
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        async def request() -> str:
            return await answer

        caller = asyncio.create_task(decided(request()))
        await asyncio.sleep(0)
        caller.cancel()
        await asyncio.sleep(0)
        answer.set_result("made")

        assert await caller == "made"

    asyncio.run(work())


def test_a_second_cancellation_is_obeyed() -> None:
    async def work() -> None:
        caller = asyncio.create_task(decided(asyncio.sleep(3600)))
        for _ in range(2):
            await asyncio.sleep(0)
            caller.cancel()

        with pytest.raises(asyncio.CancelledError):
            await caller

    asyncio.run(work())


def test_a_request_that_fails_says_so_even_to_a_cancelled_caller() -> None:
    async def work() -> None:
        async def request() -> None:
            await asyncio.sleep(0)
            raise ValueError("refused")

        caller = asyncio.create_task(decided(request()))
        await asyncio.sleep(0)
        caller.cancel()

        with pytest.raises(ValueError, match="refused"):
            await caller

    asyncio.run(work())


def test_a_step_returns_what_it_makes_or_raises_what_it_raises() -> None:
    async def work() -> None:
        with ThreadPoolExecutor(1) as executor:
            assert await run_blocking(executor, lambda: "made") == "made"
            with pytest.raises(ZeroDivisionError):
                await run_blocking(executor, lambda: 1 // 0)

    asyncio.run(work())


def test_a_cancelled_caller_waits_for_the_step_it_began() -> None:
    async def work() -> None:
        begun, go_on = asyncio.Event(), threading.Event()
        loop = asyncio.get_running_loop()
        ended: list[bool] = []

        def step() -> None:
            loop.call_soon_threadsafe(begun.set)
            go_on.wait()
            ended.append(True)

        with ThreadPoolExecutor(1) as executor:
            caller = asyncio.create_task(run_blocking(executor, step))
            await begun.wait()
            caller.cancel()
            await asyncio.sleep(0)
            assert not caller.done()
            go_on.set()
            with pytest.raises(asyncio.CancelledError):
                await caller
            assert ended

    asyncio.run(work())


def test_a_step_that_did_not_begin_is_dropped_with_its_caller() -> None:
    async def work() -> None:
        go_on = threading.Event()
        ran: list[str] = []
        with ThreadPoolExecutor(1) as executor:
            first = asyncio.create_task(run_blocking(executor, go_on.wait))
            second = asyncio.create_task(run_blocking(executor, lambda: ran.append("second")))
            await asyncio.sleep(0)
            second.cancel()
            with pytest.raises(asyncio.CancelledError):
                await second
            go_on.set()
            await first
        assert not ran

    asyncio.run(work())


def test_a_step_whose_executor_was_shut_down_is_cancelled() -> None:
    async def work() -> None:
        go_on = threading.Event()
        executor = ThreadPoolExecutor(1)
        first = asyncio.create_task(run_blocking(executor, go_on.wait))
        second = asyncio.create_task(run_blocking(executor, int))
        await asyncio.sleep(0)
        executor.shutdown(wait=False, cancel_futures=True)
        with pytest.raises(asyncio.CancelledError):
            await second
        go_on.set()
        await first

    asyncio.run(work())


INTERRUPTED = """
import asyncio, signal, threading
from mcr.blocking import BACKGROUND
from mcr.loop_thread import LoopThread

signal.signal(signal.SIGINT, signal.default_int_handler)
begun = threading.Event()

def interrupt():
    begun.wait()
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

async def request():
    # What a store does for as long as it is open, and what a library does for a connection that stands;
    # nobody waits for their end.
    request.background = asyncio.create_task(asyncio.sleep(3600), name=BACKGROUND + "upkeep")
    request.standing = asyncio.create_task(asyncio.sleep(3600))
    begun.set()
    # The store decides when the interruption has arrived, so that it is late whatever the machine does.
    try:
        await asyncio.sleep(3600)
    except asyncio.CancelledError:
        if {late}:
            return "made"
        raise

loop = LoopThread(None)
threading.Thread(target=interrupt).start()
try:
    print(loop.run(request(), "the request"))
except KeyboardInterrupt:
    print("interrupted")
loop.close()
"""


@pytest.mark.parametrize(("late", "said"), [(True, "made"), (False, "interrupted")])
def test_an_interruption_that_comes_too_late_yields_the_result(late: bool, said: str) -> None:
    # In a process of its own: the signal is meant for its main thread, and no test runner has one to spare.
    script = INTERRUPTED.replace("{late}", repr(late))
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.returncode) == (f"{said}\n", 0), done.stderr


def test_what_is_put_in_order_after_an_interruption_has_ended_when_it_is_raised() -> None:
    # Given a coroutine that leaves a generator half way, whose end the loop sees to
    script = INTERRUPTED.replace(
        """    # The store decides when""",
        """    async def steps():
        try:
            yield 1
        finally:
            await asyncio.sleep(0)
            print("in order")

    async for _ in steps():
        await asyncio.sleep(3600)
    # The store decides when""",
    ).replace("{late}", "False")
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.returncode) == ("in order\ninterrupted\n", 0), done.stderr


@pytest.mark.parametrize("begins", [True, False])
def test_an_interruption_during_the_hand_over_cancels_what_was_handed_over(
    begins: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, ended = threading.Event(), threading.Event()
    hand_over = asyncio.run_coroutine_threadsafe

    async def request() -> str:
        begun.set()
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            ended.set()
            return "made"
        return "never"

    def interrupted(work: Coroutine[Any, Any, str], loop: asyncio.AbstractEventLoop) -> None:
        monkeypatch.setattr(asyncio, "run_coroutine_threadsafe", hand_over)
        if begins:
            hand_over(work, loop)
            begun.wait()
        raise KeyboardInterrupt

    loop = LoopThread(None)
    monkeypatch.setattr(asyncio, "run_coroutine_threadsafe", interrupted)
    try:
        if begins:
            assert loop.run(request(), "the request") == "made"
        else:
            with pytest.raises(KeyboardInterrupt):
                loop.run(request(), "the request")
        assert ended.is_set() == begins
    finally:
        loop.close()
