"""Committed entries on their way into the state: few of them at once, more of them beside the event loop."""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from functools import partial

from mcr.blocking import run_blocking
from mcr.model import LogIndex
from mcr_node.core.members import Membership
from mcr_node.core.raft.messages import Entry, is_conf_change
from mcr_node.core.replica import Apply
from mcr_node.core.state.apply import Outcome
from mcr_node.ports import LogStore, StateStore
from mcr_node.runtime.applying import Applier, are_few
from mcr_node.runtime.later import Later
from mcr_node.runtime.limits import APPLIED_AT_ONCE_MAX, LOG_ENTRIES_KEPT_MAX, PUT_OFF_S
from mcr_node.runtime.tasks import Work


class Advancing:
    """Applies in the order of the log. On the event loop."""

    def __init__(
        self,
        applier: Applier,
        log: LogStore,
        state: StateStore,
        *,
        apply_change: Callable[[Entry], Membership | None],
        changed: Callable[[], None],
        applied: Callable[[Apply, Sequence[Outcome | None]], None],
        freed: Callable[[], None],
        is_awaited: Callable[[], bool],
        begin: Callable[[Work], None],
        is_copying: Callable[[], bool],
        log_executor: Executor,
        state_executor: Executor,
    ) -> None:
        """Apply by `applier`, and cut `log` back when it is long.

        Args:
            applier: of `state`.
            log: of which the state is made.
            state: what is applied to.
            apply_change: puts a membership change into force; gives None when nothing came of it.
            changed: hears that a membership change is in the state.
            applied: hears that entries are in the state, and of their outcomes.
            freed: hears that there is something to do: what was done beside the event loop is done, or what
                was put off is due.
            is_awaited: whether anybody waits for the state.
            begin: does something in a task whose failure ends all.
            is_copying: whether a copy of the state is being made, which holds writes up.
            log_executor: one thread, the log's.
            state_executor: one thread, the state's.
        """
        self._applier = applier
        self._log = log
        self._state = state
        self._apply_change = apply_change
        self._changed = changed
        self._applied = applied
        self._freed = freed
        self._is_awaited = is_awaited
        self._begin = begin
        self._is_copying = is_copying
        self._log_executor = log_executor
        self._state_executor = state_executor
        self._waiting: deque[Apply] = deque()
        self._put_off = Later(self._hurry)
        self._is_hurried = False
        # Stays set when applying fails: nothing is applied any more.
        self._is_applying = False

    @property
    def is_busy(self) -> bool:
        """Whether anything is on its way into the state."""
        return self._is_applying or bool(self._waiting)

    @property
    def is_beside(self) -> bool:
        """Whether something is done beside the event loop: applying, or cutting the log back."""
        return self._is_applying

    @property
    def is_due(self) -> bool:
        """Whether `advance` has something to do now.

        What nobody waits for is put off a while, a few entries at the most, and then done in one go: that
        costs a third less, and those who wait on other nodes have the processor meanwhile.
        """
        if not self._waiting or self._is_applying:
            return False
        return self._is_hurried or self._is_awaited() or not self._may_wait

    @property
    def _may_wait(self) -> bool:
        count = sum([len(apply.entries) for apply in self._waiting])
        return count < APPLIED_AT_ONCE_MAX and all(are_few(apply.entries) for apply in self._waiting)

    def put(self, apply: Apply) -> None:
        """Take what is committed; `advance` soon."""
        self._waiting.append(apply)

    def rest(self) -> None:
        """Have what is not due done a little later."""
        if self._waiting and not self._is_applying:
            self._put_off.set(PUT_OFF_S)

    def _hurry(self) -> None:
        self._is_hurried = bool(self._waiting)
        self._freed()

    def stop(self) -> None:
        """Apply nothing more."""
        self._is_applying = True
        self._put_off.cancel()

    def advance(self) -> None:
        """Apply what waits.

        Raises:
            OutOfSpaceError, CorruptStoreError, DivergedError: as `Applier.apply`, and it was the last time.
        """
        while self.is_due:
            self._is_applying = True
            taken = self._take_few()
            if not taken:
                self._begin(partial(self._apply_beside, self._waiting.popleft()))
                return
            outcomes = self._applier.apply([entry for apply in taken for entry in apply.entries])
            for apply in taken:
                self._applied(apply, outcomes[: len(apply.entries)])
                del outcomes[: len(apply.entries)]
            self._is_applying = False
        if not self._waiting:
            self._put_off.cancel()
            self._is_hurried = False

    def _take_few(self) -> list[Apply]:
        """Take what may be applied on the event loop, together; nothing if the next may not."""
        taken: list[Apply] = []
        if self._is_log_long or self._is_copying():
            return taken
        entries: list[Entry] = []
        while self._waiting and are_few([*entries, *self._waiting[0].entries]):
            entries += self._waiting[0].entries
            taken.append(self._waiting.popleft())
        return taken

    def foresee(self, entries: Sequence[Entry]) -> None:
        """Work out what the next entries will do, if nothing is on its way and they are few.

        Raises:
            CorruptStoreError: as `Applier.apply`.
        """
        if entries and not self.is_busy and are_few(entries):
            self._applier.foresee(entries)

    async def _apply_beside(self, apply: Apply) -> None:
        outcomes: list[Outcome | None] = []
        run: list[Entry] = []
        for entry in apply.entries:
            if not is_conf_change(entry):
                run.append(entry)
                continue
            outcomes += await self._apply_run(run)
            run = []
            membership = self._apply_change(entry)
            write = partial(self._applier.apply_change, entry, membership)
            await run_blocking(self._state_executor, write)
            self._changed()
            outcomes.append(None)
        outcomes += await self._apply_run(run)
        self._applied(apply, outcomes)
        if self._is_log_long:
            await self._cut_log_back()
        self._is_applying = False
        self._freed()

    async def _apply_run(self, entries: Sequence[Entry]) -> list[Outcome | None]:
        if not entries:
            return []
        return await run_blocking(self._state_executor, lambda: self._applier.apply(entries))

    @property
    def _is_log_long(self) -> bool:
        first, last = self._log.bounds()
        return last - first >= LOG_ENTRIES_KEPT_MAX

    async def _cut_log_back(self) -> None:
        first, _ = self._log.bounds()
        through = LogIndex(self._state.applied() - LOG_ENTRIES_KEPT_MAX // 2)
        if through < first:
            # Long, but for what is not applied yet.
            return
        # The log may forget only what the state holds durably.
        await run_blocking(self._state_executor, self._state.sync)
        await run_blocking(self._log_executor, lambda: self._log.compact(through))
