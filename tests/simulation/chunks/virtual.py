"""An event loop on virtual time, and the lives of nodes on it: the same seed, the same order, always.

Nothing waits for real: when nothing is ready, the clock goes to whatever is due next. What runs beside the
loop in production (disk work) runs on it here, a little later. Tasks and futures hash by their number and not
by where they are in memory, so that sets of them have one order.
"""

import asyncio
import contextvars
import itertools
import selectors
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any, TypeVar

from tests.simulation.cluster.world import World

Result = TypeVar("Result")
EPOCH_MS = 1_700_000_000_000
_numbers = itertools.count()


class NodeDied(Exception):  # noqa: N818 - it names what happened
    """A node without power does nothing more; whatever still runs of it meets this."""


class _Task(asyncio.Task[Any]):
    def __init__(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401 (asyncio's own)
        # First: it is put into sets while it is made.
        self._number = next(_numbers)
        super().__init__(*arguments, **options)
        # Of whoever it runs for, which need not be whoever makes it.
        context = options.get("context")
        life = OWNER.get() if context is None else context.get(OWNER)
        if life is not None:
            life.tasks[self] = None
            self.add_done_callback(life.forget)

    def __hash__(self) -> int:
        return self._number


class _Future(asyncio.Future[Any]):
    def __init__(self, *, loop: asyncio.AbstractEventLoop) -> None:
        self._number = next(_numbers)
        super().__init__(loop=loop)

    def __hash__(self) -> int:
        return self._number


class Life:
    """One life of a node, from power on to power off: all its tasks."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_alive = True
        self.tasks: dict[asyncio.Task[Any], None] = {}

    def forget(self, task: asyncio.Task[Any]) -> None:
        self.tasks.pop(task, None)

    def spawn(self, work: Coroutine[Any, Any, Result]) -> "asyncio.Task[Result]":
        """Begin something that ends with this life; it, and whatever it begins, belong to it."""
        context = contextvars.copy_context()
        context.run(OWNER.set, self)
        return asyncio.get_running_loop().create_task(work, context=context)

    def check(self) -> None:
        if not self.is_alive:
            raise NodeDied(self.name)

    def end(self) -> None:
        """Cut the power."""
        self.is_alive = False
        for task in list(self.tasks):
            task.cancel()


OWNER: ContextVar[Life | None] = ContextVar("owner", default=None)


class _Selector(selectors.SelectSelector):
    def __init__(self, loop: "VirtualLoop") -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("nothing is left to happen, and somebody waits")
        self._loop.now_s += max(0.0, timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """Time passes only when nothing is ready."""

    def __init__(self) -> None:
        self.now_s = 0.0
        super().__init__(_Selector(self))
        self.set_task_factory(lambda loop, work, **options: _Task(work, loop=loop, **options))

    def time(self) -> float:
        return self.now_s

    def create_future(self) -> asyncio.Future[Any]:
        return _Future(loop=self)

    def _write_to_self(self) -> None:
        """There is no other thread to be woken by."""


class VirtualClock:
    """`ports.Clock` by the loop, off by a little, as clocks are."""

    def __init__(self, loop: VirtualLoop, skew_ms: int = 0) -> None:
        self._loop = loop
        self._skew_ms = skew_ms

    def now_ms(self) -> int:
        return EPOCH_MS + self._skew_ms + int(self._loop.now_s * 1000)

    def monotonic_ns(self) -> int:
        return int(self._loop.now_s * 1_000_000_000)


class Beside(ThreadPoolExecutor):
    """What runs beside the event loop of a node: on it, after a while; nothing once the node is dead."""

    def __init__(self, life: Life, world: World, loop: VirtualLoop, delay_us_max: int) -> None:
        super().__init__(1)
        self._life = life
        self._world = world
        self._loop = loop
        self._delay_us_max = delay_us_max

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:  # noqa: ANN401 (as above)
        step: Future[Any] = Future()

        def work() -> None:
            if not step.set_running_or_notify_cancel():
                return
            try:
                self._life.check()
                step.set_result(fn(*args, **kwargs))
            except BaseException as error:  # noqa: BLE001 (as an executor does)
                step.set_exception(error)

        delay_us = self._world.draw(self._delay_us_max) if self._world.happens(500) else 0
        self._loop.call_later(delay_us / 1_000_000, work)
        return step
