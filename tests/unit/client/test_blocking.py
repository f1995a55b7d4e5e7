"""What becomes of requests whose caller gives up."""

import asyncio
import signal
import threading
from collections.abc import Coroutine
from typing import Any

import pytest

from mcr.blocking import decided
from mcr.client import _LoopThread


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


def interrupted_run(loop: _LoopThread, work: Coroutine[Any, Any, str], begun: threading.Event) -> str:
    """Run `work` in this, the main thread, and send it Ctrl-C once it has begun."""

    def interrupt() -> None:
        begun.wait()
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    threading.Thread(target=interrupt).start()
    return loop.run(work, "the request")


def test_an_interruption_that_comes_too_late_yields_the_result() -> None:
    begun = threading.Event()
    loop = _LoopThread(None)

    async def request() -> str:
        begun.set()
        # The store decides when the interruption has arrived, so that it is late whatever the machine does.
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            return "made"
        return "never"

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert interrupted_run(loop, request(), begun) == "made"
    finally:
        signal.signal(signal.SIGINT, before)
        loop.close()


def test_an_interruption_before_the_decision_ends_the_call() -> None:
    begun = threading.Event()
    loop = _LoopThread(None)

    async def request() -> str:
        begun.set()
        await asyncio.sleep(3600)
        return "never"

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            interrupted_run(loop, request(), begun)
    finally:
        signal.signal(signal.SIGINT, before)
        loop.close()
