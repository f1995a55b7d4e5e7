"""Carry out what the replica decides: persist, send, apply, answer, in that order, many things at a time.

The log is written on a thread of its own (`appending`), as is the state (`advancing`); a task lets time pass.
All decisions are the replica's; whatever happens ends in `_pump`, which carries out what follows from it.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import TypeVar

from mcr.errors import CorruptStoreError, DivergedError, FailedError, McrError
from mcr.model import LogIndex
from mcr_node.core.members import Membership, decode_membership
from mcr_node.core.promises import Promises
from mcr_node.core.raft.errors import HaltError, InvalidMessageError
from mcr_node.core.raft.messages import HardState, Message, MessageType
from mcr_node.core.replica import (
    Answer,
    AnswerRead,
    Append,
    Apply,
    Effect,
    Forward,
    Replica,
    Send,
)
from mcr_node.core.state import codec
from mcr_node.core.state.apply import Outcome
from mcr_node.core.state.commands import Command
from mcr_node.core.state.view import View
from mcr_node.ports import Clock, Fence, LogStore, NoPeers, Peers, Snapshots, SnapshotSink, StateStore
from mcr_node.runtime.advancing import Advancing
from mcr_node.runtime.appending import Appending
from mcr_node.runtime.applying import Applier, are_few
from mcr_node.runtime.identity import Self as Self
from mcr_node.runtime.identity import Timing as Timing
from mcr_node.runtime.limits import (
    PROPOSALS_WAITING_MAX,
    READ_TRIPS_MAX,
)
from mcr_node.runtime.log_writing import LogWriter
from mcr_node.runtime.patience import Patience
from mcr_node.runtime.raft_storage import open_replica
from mcr_node.runtime.reconfiguring import Reconfiguration
from mcr_node.runtime.sending_snapshots import SnapshotShelf
from mcr_node.runtime.shared_reads import SharedReads
from mcr_node.runtime.tasks import Tasks, failure_of
from mcr_node.runtime.telling import Telling
from mcr_node.runtime.waiting import Waiting

Result = TypeVar("Result")


class Runner:
    """`ports_log.ReplicatedLog` on Raft, driven by its replica; `ports.PeerEvents` for its transport.

    `start` once, `propose` and `read_index` from the event loop, `close` at the end.
    """

    def __init__(
        self,
        *,
        myself: Self,
        log: LogStore,
        state: StateStore,
        clock: Clock,
        log_executor: Executor,
        state_executor: Executor,
        read_executor: Executor,
        snapshots: Snapshots | None = None,
        timing: Timing | None = None,
        fence: Fence | None = None,
    ) -> None:
        self.clock = clock
        self._log = log
        self._state = state
        self._log_executor = log_executor
        self._state_executor = state_executor
        self._shared_reads = SharedReads(read_executor, READ_TRIPS_MAX)
        self.timing = timing or Timing()
        self._peers: Peers = NoPeers()
        self._told: Membership | None = None
        self._shelf = SnapshotShelf(snapshots)
        self._applier = Applier(state, fence, digest_entries=self.timing.digest_entries)
        self.digests = self._applier.digests
        self.replica = open_replica(myself, log, state, self.timing, self._shelf.position)
        self.members = Reconfiguration(self)
        self._waiting = Waiting()
        self._room = asyncio.Semaphore(PROPOSALS_WAITING_MAX)
        self._tasks = Tasks(self._fail)
        self._writer = LogWriter(log)
        hard = log.hard_state()
        self._appending = Appending(
            self._writer,
            Promises(HardState(hard.term, hard.vote, hard.commit)),
            log_executor,
            is_applying=lambda: self._advancing.is_busy,
            is_cutting=lambda: self._advancing.is_beside,
            is_awaited=self._is_foreseeable,
            syncing=self._foresee,
            written=self._on_written,
        )
        self._advancing = Advancing(
            self._applier,
            log,
            state,
            apply_change=self.replica.apply_change,
            changed=self._tell_peers,
            applied=self._on_applied,
            freed=self._pump,
            is_awaited=lambda: self.is_leader or self._waiting.is_anybody,
            begin=self._tasks.begin,
            is_copying=lambda: self._shelf.is_making,
            log_executor=log_executor,
            state_executor=state_executor,
        )
        self._apply_due = False
        self._telling = Telling(self.decide)
        self._failure = self._applier.failure
        self._failed = asyncio.Event()
        if self._failure is not None:
            self._failed.set()
        # Takes no part at all. Where only the state is wrong, the log and the votes of this node still count.
        self._is_halted = False
        self._pump_due = self._is_pumping = self._is_more = False
        self._patience = Patience(self.timing)
        # When the last read began that a leader confirmed; the view is at least as new as that.
        self.confirmed_ns: int | None = None

    # ---- what is known ----

    @property
    def term(self) -> int:
        """The term that this node is in; 0 before the first."""
        return self.replica.term

    @property
    def failure(self) -> McrError | None:
        """Why the log takes no more proposals until the store is opened again; None while it does."""
        return self._failure

    @property
    def applied(self) -> LogIndex:
        """Index of the last entry in the view."""
        return LogIndex(self.replica.applied)

    @property
    def commit(self) -> LogIndex:
        """Index of the last entry that this node knows to be committed."""
        return LogIndex(self.replica.commit)

    @property
    def state_digest(self) -> bytes:
        """Running digest of the state at `applied`, 32 bytes."""
        return self._applier.digest

    @property
    def node_id(self) -> int:
        """This node."""
        return self.replica.node_id

    @property
    def leader(self) -> int:
        """The leader as far as this node knows, 0 for none. A sole voter leads whenever there is need."""
        return self.node_id if self.replica.is_sole_voter else self.replica.leader

    @property
    def is_leader(self) -> bool:
        """Whether this node leads."""
        return self.leader == self.node_id

    @property
    def membership(self) -> Membership:
        """The members as of `applied`."""
        return self.replica.membership

    def view(self) -> View:
        """Return the view as of the last entry applied; raises DivergedError once it is known to be wrong."""
        if isinstance(self._failure, DivergedError):
            raise self._failure
        return self._state.view()

    # ---- callers ----

    async def read_index(self, *, at_least: LogIndex | None, stale_ok: bool) -> LogIndex:
        """See `ports_log.ReplicatedLog`."""
        if stale_ok:
            return self.applied
        if at_least is not None:
            await self.wait_applied(at_least)
            return self.applied
        self._check()
        ticket, answer = self._waiting.for_read()
        begun_ns = self.clock.monotonic_ns()
        try:
            self.replica.read(ticket)
            self._pump_soon()
            index = LogIndex(await answer)
            self.confirmed_ns = begun_ns
            return index
        finally:
            if self._waiting.reads.pop(ticket, None) is not None:
                self.replica.forget(ticket)

    async def wait_applied(self, index: LogIndex) -> None:
        """See `ports_log.ReplicatedLog`."""
        await self.wait_for(lambda: self.applied >= index)

    async def wait_for(self, condition: Callable[[], bool]) -> None:
        """Wait until something that only this node's progress can change is so; the caller bounds the wait.

        Raises:
            McrError: the log failed.
        """
        while not condition():
            if self._failure is not None:
                raise self._failure
            # What was put off is due now.
            self._pump_soon()
            await self._waiting.progress()

    def decide(self, work: Callable[[Replica], None]) -> None:
        """Let the replica do something, and carry out what follows from it.

        Raises:
            RaftError: whatever `work` raises.
        """
        work(self.replica)
        self._pump()

    async def wait_failed(self) -> McrError:
        """Wait until the log takes no more proposals, and return why."""
        await self._failed.wait()
        assert self._failure is not None
        return self._failure

    async def propose(self, command: Command) -> Outcome:
        """See `ports_log.ReplicatedLog`."""
        self._check()
        data = codec.encode(command)
        async with self._room:
            self._check()
            ticket, answer = self._waiting.for_answer()
            try:
                self.replica.propose(ticket, data)
                if self.replica.is_idle:
                    # Nobody to share entries with.
                    self._pump()
                else:
                    self._pump_soon()
                return await answer
            finally:
                if self._waiting.answers.pop(ticket, None) is not None:
                    self.replica.forget(ticket, data)

    async def run(self, work: Callable[[], Result]) -> Result:
        """Run blocking reads beside the event loop."""
        return await self._shared_reads.run(work)

    async def start(self, peers: Peers | None = None) -> None:
        """Begin to take part; a sole voter has applied all it ever acknowledged when this returns."""
        if peers is not None:
            self._peers = peers
        self._tell_peers()
        self._tasks.begin(self._tick_for_ever)
        last = self.replica.last
        if self.replica.is_sole_voter and self.replica.commit < last:
            # What a sole voter holds is committed; but raft says so only of what a term of its own follows.
            self.replica.begin_term_alone()
        self._pump()
        # The state may lag behind the log, in which the others joined: then it is no sole voter any more.
        await self.wait_for(lambda: not self.replica.is_sole_voter or self.applied >= last)

    async def close(self) -> None:
        """Stop; who still waits is told."""
        self._telling.cancel()
        self._advancing.stop()
        await self._tasks.close()
        await self._appending.close()
        await self._shelf.close()
        self._fail(FailedError("proposal", "the node was closed before it was decided"))

    # ---- ports.PeerEvents ----

    def deliver(self, messages: Sequence[Message]) -> None:
        """See `ports.PeerEvents`."""
        if self._is_halted:
            return
        for message in messages:
            try:
                self.replica.deliver(message)
            except InvalidMessageError:
                # Dropped: old news of a former member, or a peer that is broken. It changes nothing.
                continue
            except HaltError as error:
                self._fail(CorruptStoreError("the log", str(error)))
                return
        # At once, for what comes together comes in one call.
        self._pump()

    def accept_forwarded(self, term: int, commands: Sequence[bytes]) -> None:
        """See `ports.PeerEvents`."""
        if not self._is_halted:
            self.replica.accept_forwarded(term, commands)
            self._pump_soon()

    def introduce(self, node_id: int, address: str) -> None:
        """Know where a node is reached that speaks to this one."""
        self._peers.introduce(node_id, address)

    def accept_snapshot(self, message: Message, sink: SnapshotSink) -> None:
        """Take in a snapshot of which every byte has arrived."""
        assert message.snapshot is not None
        if self._failure is not None:
            # A state that is wrong is replaced otherwise, and by one thing at a time: `runtime.reseeding`.
            return
        self._writer.expect(message.snapshot, sink)
        self.deliver([message])

    def report_unreachable(self, node_id: int) -> None:
        """See `ports.PeerEvents`."""
        self.replica.report_unreachable(node_id)
        self._pump()

    def report_snapshot(self, node_id: int, *, failed: bool) -> None:
        """See `ports.PeerEvents`."""
        self.replica.report_snapshot(node_id, failed=failed)
        self._pump()

    # ---- carrying out ----

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure
        # A leader that was found since the last tick counts.
        if self._patience.is_over and not self.leader:
            raise self._patience.error()

    def _pump_soon(self) -> None:
        """Pump after this turn of the loop: whatever else comes in it shares entries, rounds and messages."""
        if not self._pump_due:
            self._pump_due = True
            asyncio.get_running_loop().call_soon(self._pump)

    def _pump(self, written: Sequence[Append] = (), *, may_apply: bool = False) -> None:
        """Carry out what is to be done, until there is nothing more to do now.

        Args:
            written: what the log holds now.
            may_apply: although the log's thread has just been given something. It needs the interpreter's
                lock for a moment, and gets it when the event loop looks for events.
        """
        self._pump_due = False
        if self._is_halted:
            return
        if self._is_pumping:
            # From within: whoever is at it looks again before it ends.
            assert not written, "the log's thread speaks in turns of its own"
            self._is_more = True
            return
        self._is_pumping = True
        try:
            if written:
                self._appended(written)
            is_more = True
            while is_more:
                is_more = self._step(may_apply=may_apply)
        except McrError as error:
            # The log could not be read back.
            self._fail(error)
        except HaltError as error:
            self._fail(CorruptStoreError("the log", str(error)))
        except BaseException as error:
            self._fail(failure_of(error))
            raise
        finally:
            self._is_pumping = False
            # Also when nothing more can be applied: what was said before holds.
            self._peers.flush()

    def _step(self, *, may_apply: bool) -> bool:
        """Do what raft wants now; return whether it may want more after it."""
        self._is_more = False
        self._carry_out(self.replica.take_effects())
        self._peers.flush()
        done = self._appending.advance(is_alone=self.replica.is_sole_voter)
        if done:
            self._appended(done)
        if not self._advancing.is_due:
            self._advancing.rest()
            return self._is_more or bool(done)
        if may_apply or not self._appending.is_writing:
            self._advancing.advance()
            return True
        if self.is_leader and not self._apply_due:
            self._apply_due = True
            asyncio.get_running_loop().call_soon(self._apply_soon)
        return self._is_more or bool(done)

    def _is_foreseeable(self, batch: Sequence[Append]) -> bool:
        return bool(self._waiting.answers) and len(batch) == 1 and are_few(batch[0].message.entries)

    def _foresee(self, batch: Sequence[Append]) -> None:
        """While disks are waited for, work out what somebody here waits to hear of what is being written."""
        entries, replica = batch[0].message.entries, self.replica
        if entries and entries[0].index == replica.applied + 1 and entries[-1].index == replica.last:
            try:
                self._advancing.foresee(entries)
            except McrError as error:
                self._fail(error)
            except BaseException as error:
                self._fail(failure_of(error))
                raise

    def _apply_soon(self) -> None:
        self._apply_due = False
        self._pump(may_apply=True)

    def _carry_out(self, effects: Sequence[Effect]) -> None:
        self._telling.look(self.replica, effects)
        for effect in effects:
            match effect:
                case Append():
                    self._appending.put(effect)
                case Apply():
                    self._advancing.put(effect)
                case Send(message):
                    self._send(message)
                case Forward(to, term, commands):
                    self._peers.forward(to, term, commands)
                case Answer(ticket, outcome):
                    self._waiting.answer(ticket, outcome)
                case AnswerRead(ticket, index):
                    self._waiting.answer_read(ticket, index)

    def _send(self, message: Message) -> None:
        if message.type is not MessageType.SNAPSHOT:
            self._peers.send(message)
            return
        assert message.snapshot is not None
        source = self._shelf.source(message.snapshot.index)
        if source is None:
            self.replica.report_snapshot(message.to, failed=True)
        else:
            self._peers.send_snapshot(message, source)

    def _on_written(self, batch: Sequence[Append], error: BaseException | None) -> None:
        if self._is_halted:
            return
        if error is not None:
            self._fail(failure_of(error))
            return
        self._pump(batch, may_apply=True)

    def _on_applied(self, apply: Apply, outcomes: Sequence[Outcome | None]) -> None:
        self.replica.on_applied(apply, outcomes)
        self._waiting.wake()

    def _appended(self, batch: Sequence[Append]) -> None:
        for append in batch:
            if append.message.snapshot is not None:
                self._applier.reload()
                self.replica.on_snapshot_installed(decode_membership(self._state.configuration()))
                self._tell_peers()
            self.replica.on_appended(append)
        self._waiting.wake()

    async def _tick_for_ever(self) -> None:
        loop = asyncio.get_running_loop()
        tick_s = self.timing.tick_ms / 1000
        due_s = loop.time() + tick_s
        while True:
            await asyncio.sleep(max(0.0, due_s - loop.time()))
            # A loop that was held up does not catch up on ticks: a pause is no reason for an election storm.
            due_s = max(due_s + tick_s, loop.time())
            self.replica.tick()
            is_over = self._patience.tick(has_leader=bool(self.leader))
            # Those who wait for a leader, or for another one, look again.
            self._waiting.wake()
            if is_over:
                self._waiting.turn_away(self._patience.error())
            self._pump()

    def _fail(self, error: McrError) -> None:
        self._failure = self._failure or error
        self._failed.set()
        self._is_halted = self._is_halted or not isinstance(error, DivergedError)
        self._waiting.turn_away(error)
        self._waiting.wake()

    def _tell_peers(self) -> None:
        if self.membership != self._told:
            self._told = self.membership
            self._peers.update(self.membership.members)
