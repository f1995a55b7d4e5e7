"""Carry out what the replica decides: persist, apply, answer, in that order, many proposals at a time."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TypeVar

from mcr.errors import FailedError, McrError
from mcr.model import LogIndex
from mcr_node.core.replica import PROPOSALS_PER_BATCH_MAX, Apply, LogEntry, Replica
from mcr_node.core.state import codec
from mcr_node.core.state.apply import Outcome, apply
from mcr_node.core.state.commands import Command
from mcr_node.core.state.digest import next_digest
from mcr_node.core.state.view import View
from mcr_node.ports import Clock, LogStore, StateStore

Result = TypeVar("Result")

# Proposals that wait for the log. A caller beyond it waits in line, which slows it down as it should.
PROPOSALS_WAITING_MAX = 4096
# The log keeps this many applied entries, then is cut back to half: enough for an operator to look at, and
# bounded. A restart replays only what the state does not hold yet, whatever the log keeps.
LOG_ENTRIES_KEPT_MAX = 20_000
# How many entries one replay step reads into memory.
REPLAY_ENTRIES_MAX = 256


@dataclass(slots=True)
class _Proposal:
    data: bytes
    answer: asyncio.Future[Outcome]


class Runner:
    """One node's log and state, driven by its replica.

    `start` once, `propose` from the event loop, `close` at the end. Disk work happens on `executor`, one step
    at a time, so that the log and the state have one writer.
    """

    def __init__(self, *, log: LogStore, state: StateStore, clock: Clock, executor: Executor) -> None:
        self._log = log
        self._state = state
        self.clock = clock
        self._executor = executor
        self._replica = Replica(last=log.bounds()[1], last_term=log.last_term(), applied=state.applied())
        self._digest = state.state_digest()
        self._waiting: asyncio.Queue[_Proposal] = asyncio.Queue(PROPOSALS_WAITING_MAX)
        self._driver: asyncio.Task[None] | None = None
        self._failure: McrError | None = None

    @property
    def applied(self) -> LogIndex:
        """Index of the last entry in the view."""
        return self._replica.applied

    @property
    def state_digest(self) -> bytes:
        """Running digest of the state at `applied`, 32 bytes."""
        return self._digest

    def view(self) -> View:
        """Return the view. With one voter everything answered is in it, so a read of it is linearizable."""
        return self._state.view()

    async def start(self) -> None:
        """Apply what the log holds and the state lacks, then accept proposals."""
        await self.run(self._recover)
        self._driver = asyncio.create_task(self._drive(), name="mcr-runner")

    async def run(self, work: Callable[[], Result]) -> Result:
        """Run blocking work on the node's executor."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    async def propose(self, command: Command) -> Outcome:
        """Put a command into the log and return its outcome, once it is durable and applied.

        Raises:
            OutOfSpaceError, FailedError: the log or state could not be written. The outcome is unknown;
                repeat with the same request id after the store was reopened.
        """
        if self._failure is not None:
            raise self._failure
        answer: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        await self._waiting.put(_Proposal(codec.encode(command), answer))
        return await answer

    async def close(self) -> None:
        """Stop; proposals still waiting fail."""
        if self._driver is not None:
            self._driver.cancel()
            await asyncio.gather(self._driver, return_exceptions=True)
        self._fail_waiting(FailedError("proposal", "the store was closed before it was written"))

    async def _drive(self) -> None:
        while True:
            batch = [await self._waiting.get()]
            while len(batch) < PROPOSALS_PER_BATCH_MAX and not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            await self._carry_out(batch)

    async def _carry_out(self, batch: list[_Proposal]) -> None:
        step = asyncio.ensure_future(self.run(lambda: self._step([proposal.data for proposal in batch])))
        try:
            # A cancelled driver still waits for the disk: the step must not run on beside a closing store.
            outcomes = await asyncio.shield(step)
        except asyncio.CancelledError:
            await asyncio.wait([step])
            self._answer_failure(batch, FailedError("proposal", "the store was closed while it was written"))
            raise
        except BaseException as error:
            # Whatever it was, what is on disk is no longer known here: nothing more is accepted, nobody is
            # left waiting, and the next opening starts from what was synced.
            failure = error if isinstance(error, McrError) else FailedError("log", repr(error))
            self._failure = failure
            self._answer_failure(batch, failure)
            self._fail_waiting(failure)
            if not isinstance(error, McrError):
                raise
        else:
            for proposal, outcome in zip(batch, outcomes, strict=True):
                if not proposal.answer.done():
                    proposal.answer.set_result(outcome)

    @staticmethod
    def _answer_failure(batch: Sequence[_Proposal], error: McrError) -> None:
        for proposal in batch:
            if not proposal.answer.done():
                proposal.answer.set_exception(error)

    def _fail_waiting(self, error: McrError) -> None:
        while not self._waiting.empty():
            self._answer_failure([self._waiting.get_nowait()], error)

    def _step(self, commands: Sequence[bytes]) -> list[Outcome]:
        persist = self._replica.propose(commands)
        self._log.append(persist.entries)
        ready = self._replica.on_persisted(persist.entries[-1].index)
        assert (ready.first, ready.last) == (persist.entries[0].index, persist.entries[-1].index)
        outcomes = [self._apply(entry) for entry in persist.entries]
        self._cut_log_back()
        return outcomes

    def _apply(self, entry: LogEntry) -> Outcome:
        outcome, changes = apply(self._state.view(), entry.index, codec.decode(entry.data))
        digest = next_digest(self._digest, entry.index, changes)
        self._state.write(changes, entry.index, digest)
        self._digest = digest
        self._replica.on_applied(entry.index)
        return outcome

    def _recover(self) -> None:
        again: Apply | None = self._replica.recover()
        if again is None:
            return
        for first in range(again.first, again.last + 1, REPLAY_ENTRIES_MAX):
            last = min(first + REPLAY_ENTRIES_MAX - 1, again.last)
            for entry in self._log.read(LogIndex(first), LogIndex(last)):
                self._apply(entry)

    def _cut_log_back(self) -> None:
        first, last = self._log.bounds()
        if last - first < LOG_ENTRIES_KEPT_MAX:
            return
        # The log may forget only what the state holds durably.
        self._state.sync()
        self._log.compact(LogIndex(self._replica.applied - LOG_ENTRIES_KEPT_MAX // 2))
