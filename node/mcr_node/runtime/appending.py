"""Handing what raft wants written to the thread of the log: one batch, and what comes meanwhile is the next.

A few entries are written on the event loop itself and only synced by the thread: the database's binding holds
the interpreter's lock while it writes, so a thread would hold the loop up as long, and while it waits for the
lock nobody else gets on.

No task and no queue of the event loop between raft and the thread: each would cost a turn of the loop, of
which a lone command takes a dozen on each of three nodes.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from contextlib import suppress

from mcr.blocking import ended
from mcr_node.core.promises import Promises
from mcr_node.core.raft.messages import HardState
from mcr_node.core.replica import Append
from mcr_node.runtime.limits import APPENDS_PER_SYNC_MAX
from mcr_node.runtime.log_writing import LogWriter

# Takes appends that are durable, or how it failed.
Written = Callable[[Sequence[Append], BaseException | None], None]


class Appending:
    """Appends under way to the log. On the event loop."""

    def __init__(
        self,
        writer: LogWriter,
        promises: Promises,
        executor: Executor,
        *,
        is_applying: Callable[[], bool],
        is_cutting: Callable[[], bool],
        is_awaited: Callable[[Sequence[Append]], bool],
        syncing: Callable[[Sequence[Append]], None],
        written: Written,
    ) -> None:
        """Write by `writer` on `executor`, and tell `written` on the event loop.

        Args:
            writer: of the log.
            promises: says what needs the disk at all.
            executor: one thread, the log's.
            is_applying: whether anything is on its way into the state.
            is_cutting: whether the log may be being cut back, on the same thread.
            is_awaited: whether `syncing` wants to hear of a batch.
            syncing: hears that the disk is waited for.
            written: hears of each batch that was written, in order; not again after a failure.
        """
        self._writer = writer
        self._promises = promises
        self._executor = executor
        self._is_applying = is_applying
        self._is_cutting = is_cutting
        self._is_awaited = is_awaited
        self._syncing = syncing
        self._written = written
        self._waiting: deque[Append] = deque()
        self._step: Future[None] | None = None
        self._is_closed = False

    @property
    def is_writing(self) -> bool:
        """Whether the thread has something to do."""
        return self._step is not None

    def put(self, append: Append) -> None:
        """Take one; `advance` soon."""
        self._waiting.append(append)

    def advance(self, *, is_alone: bool) -> list[Append]:
        """Have the next batch written, if none is; return what is as good as written, in order.

        Args:
            is_alone: whether this node is the sole voter.
        """
        done: list[Append] = []
        while self._step is None and self._waiting and not self._is_closed:
            batch = [self._waiting[at] for at in range(min(len(self._waiting), APPENDS_PER_SYNC_MAX))]
            if any(append.message.snapshot for append in batch) and self._is_applying():
                # The state is about to be replaced: nothing may still be on its way into the old one. Raft
                # hands out nothing to apply until it hears that the snapshot is installed.
                break
            for _ in batch:
                self._waiting.popleft()
            owed = self._promises.owed
            if sum([self._promises.needs_disk(append.message, is_alone=is_alone) for append in batch]):
                self._promises.owed = None
                self._write(batch, owed)
            else:
                done += batch
        return done

    def _write(self, batch: Sequence[Append], owed: HardState | None) -> None:
        loop = asyncio.get_running_loop()

        # Both from the thread; a loop that is closed meanwhile has nobody left who waits.
        def tell_of_sync() -> None:
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(self._syncing, batch)

        def tell(step: Future[None]) -> None:
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(self._end, batch, step)

        # To wake the loop costs something, so only for what is worth it.
        syncing = tell_of_sync if self._is_awaited(batch) else _nothing
        if self._is_cutting() or not self._writer.is_brief(batch):
            self._step = self._executor.submit(self._writer.write, batch, owed, syncing)
        else:
            self._step = self._write_here(batch, owed, syncing)
        self._step.add_done_callback(tell)

    def _write_here(
        self, batch: Sequence[Append], owed: HardState | None, syncing: Callable[[], None]
    ) -> Future[None]:
        """Write what is brief, and leave to the thread only what waits for the disk."""
        step: Future[None] = Future()
        try:
            needs_sync = self._writer.put(batch, owed)
        except Exception as error:  # noqa: BLE001 (told as the thread would have told it)
            step.set_exception(error)
            return step
        if needs_sync:
            return self._executor.submit(self._writer.sync, syncing)
        step.set_result(None)
        return step

    def _end(self, batch: Sequence[Append], step: Future[None]) -> None:
        if self._is_closed or step.cancelled():
            return
        error = step.exception()
        if error is None:
            self._step = None
        # After a failure nothing is known of the end of the log, so nothing is written any more.
        self._written(batch, error)

    async def close(self) -> None:
        """Write nothing more; wait for what the thread is doing."""
        self._is_closed = True
        step, self._step = self._step, None
        if step is not None and not step.cancel():
            await ended(step)


def _nothing() -> None:
    """Nobody wants to hear of it."""
