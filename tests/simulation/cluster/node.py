"""A node: what survives a crash, and the process that carries out what the replica decides.

The process does what `runtime/runner.py` does, on the virtual clock: one queue of appends, one of applied
entries, both beside the messages and ticks that come meanwhile.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from mcr_node.core.members import Membership, decode_membership
from mcr_node.core.promises import Promises
from mcr_node.core.raft.errors import HaltError, InvalidMessageError, UnknownPeerError
from mcr_node.core.raft.messages import ConfState, Entry, HardState, Message, MessageType, is_conf_change
from mcr_node.core.replica import Answer, AnswerRead, Append, Apply, Effect, Forward, Replica, Send, config_of
from mcr_node.core.state.outcomes import Outcome
from mcr_node.core.succession import Succession
from mcr_node.ports import StatePosition
from mcr_node.runtime.applying import are_few
from tests.simulation.cluster.applying import Memory, SparedApplier
from tests.simulation.cluster.disk import LogDisk, Rows, StateDisk
from tests.simulation.cluster.network import Network
from tests.simulation.cluster.world import MS, World

# Half of the product's, so that a minute holds twice the elections; a shorter one only beats more often.
TICK_US = 50 * MS
# As in the runner.
GATHER_US = 10 * MS
US_PER_S = 1_000_000
# Of the entries of which it could be worked out what they will do, so many are.
FORESEEN_PER_MILLE = 100
ELECTION_TICKS = 10
APPENDS_PER_SYNC_MAX = 64


@dataclass(slots=True)
class Habits:
    """How disks behave in this world."""

    write_us_max: int = 300
    sync_us_max: int = 2 * MS
    slow_sync_per_mille: int = 20
    slow_sync_us_max: int = 150 * MS
    apply_us_max: int = 500
    log_entries_kept_max: int = 60
    # How often a sync that is due is met by a crash, of leaders and of others.
    aimed_crash_per_mille: int = 0
    # How often a crash comes between the two disks that a snapshot replaces.
    half_installed_per_mille: int = 50


class Watcher(Memory, Protocol):
    """Who hears of everything; see `oracle`."""

    def started(self, host: "Host") -> None: ...
    def crashed(self, host: "Host") -> None: ...
    def effects_taken(self, process: "Process", effects: Sequence[Effect]) -> None: ...
    def synced(self, process: "Process", append: Append) -> None: ...
    def applied(
        self, process: "Process", entries: Sequence[Entry], outcomes: Sequence[Outcome | None]
    ) -> None: ...
    def stepped(self, process: "Process") -> None: ...


class Host:
    """A machine: its disks, and its process while it runs."""

    def __init__(
        self,
        node_id: int,
        at_start: Membership,
        world: World,
        network: Network,
        habits: Habits,
        watcher: Watcher,
    ) -> None:
        self.node_id = node_id
        self.world = world
        self.network = network
        self.habits = habits
        self.watcher = watcher
        self.state = StateDisk(at_start if len(at_start.conf.voters) > 1 else None)
        self.at_start = at_start
        self.log = LogDisk(self.state, at_start.conf)
        self.process: Process | None = None
        self.peers: dict[int, Host] = {}
        self.is_retired = False

    def start(self) -> None:
        assert self.process is None
        self.log.begin(self.state.installed)
        self.world.note(f"start {self.node_id} {self.log.now.hard} {self.log.last_index()}")
        self.watcher.started(self)
        self.process = Process(self)
        self.process.start()

    def crash(self, kept: tuple[int, int] | None = None) -> None:
        """Lose power: the process is gone, and of what was not synced all but `kept`.

        Args:
            kept: so many writes to the log and to the state; by default chance says how many.
        """
        if self.process is None:
            return
        if kept is None:
            kept = self.world.draw(self.log.unsynced + 1), self.world.draw(self.state.unsynced + 1)
        self.world.note(f"crash {self.node_id} keeps {kept}")
        self.process.is_alive = False
        self.process = None
        self.log.crash(kept[0])
        self.state.crash(kept[1])
        self.watcher.crashed(self)


class Process:
    """One life of a node."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.world = host.world
        self.node_id = host.node_id
        self.is_alive = True
        # A process that is stopped, or starved, finds all that came meanwhile waiting for it, in order.
        self.paused_until_us = 0
        membership = decode_membership(host.state.configuration())
        config = config_of(
            host.node_id,
            draw=host.world.draw,
            applied=host.state.applied(),
            election_ticks=ELECTION_TICKS,
            heartbeat_ticks=1,
        )
        host.log.make_snapshot = self._snapshot_position
        begins = membership.conf == ConfState()
        self.replica = Replica(config, host.log, host.at_start if begins else membership, is_told=not begins)
        self.replica.applied_term = host.state.applied_term()
        self.applier = SparedApplier(host.state, host.watcher, host.world)
        self.answers: dict[int, Callable[[Outcome], None]] = {}
        self.reads: dict[int, Callable[[int], None]] = {}
        self._tickets = 0
        self._appends: deque[Append] = deque()
        self._applies: deque[Apply] = deque()
        self._is_appending = False
        self._is_applying = False
        self._shelf: tuple[StatePosition, Rows] | None = None
        self._shelf_used = True
        self._is_exporting = False
        self._promises = Promises(host.log.now.hard)
        self._succession = Succession()
        self._news_due = False
        self._gathering_due = False
        self._sinks: dict[tuple[int, int], tuple[StatePosition, Rows]] = {}

    def start(self) -> None:
        self._later(self.world.between(1, TICK_US), self._tick)
        if self.replica.is_sole_voter and self.replica.commit < self.replica.last:
            self.replica.begin_term_alone()
        self.pump()

    # ---- callers ----

    def propose(self, command: bytes, answered: Callable[[Outcome], None]) -> int:
        self._tickets += 1
        self.answers[self._tickets] = answered
        ticket = self._tickets
        self._when_awake(lambda: self.replica.propose(ticket, command))
        return ticket

    def read(self, answered: Callable[[int], None]) -> int:
        self._tickets += 1
        self.reads[self._tickets] = answered
        ticket = self._tickets
        self._when_awake(lambda: self.replica.read(ticket))
        return ticket

    def forget(self, ticket: int, command: bytes | None) -> None:
        self.answers.pop(ticket, None)
        self.reads.pop(ticket, None)
        self.replica.forget(ticket, command)

    def _when_awake(self, work: Callable[[], None]) -> None:
        def now() -> None:
            work()
            self.pump()

        if self.paused_until_us > self.world.now_us:
            self._later(0, now)
        else:
            now()

    def decide(self, work: Callable[[Replica], None]) -> None:
        work(self.replica)
        self.pump()

    # ---- the network's side ----

    def deliver(self, message: Message, snapshot: tuple[StatePosition, Rows] | None = None) -> None:
        self.world.note(
            f"{message.sender}>{self.node_id} {message.type._name_} {message.term} {message.index}"
            f" {message.reject}"
        )
        if snapshot is not None:
            self._sinks[snapshot[0].applied, snapshot[0].applied_term] = snapshot
        try:
            self.replica.deliver(message)
        except UnknownPeerError:
            # Of a member that was removed meanwhile, or is not known to be one yet.
            return
        except InvalidMessageError as error:
            raise AssertionError(f"node {self.node_id} refuses what is honest: {error}") from error
        except HaltError as error:
            raise AssertionError(f"node {self.node_id} halts: {error}") from error
        self.pump()

    # ---- carrying out ----

    def pump(self) -> None:
        effects = self.replica.take_effects()
        self.host.watcher.effects_taken(self, effects)
        if effects:
            self._look_for_news(effects)
        if self.replica.is_gathering and not self._gathering_due:
            self._gathering_due = True
            self._later(GATHER_US, self._end_gathering)
        for effect in effects:
            self._carry_out(effect)
        self.host.watcher.stepped(self)

    def _look_for_news(self, effects: Sequence[Effect]) -> None:
        now_s = self.world.now_us / US_PER_S
        if any(isinstance(effect, Append) and effect.message.entries for effect in effects):
            self._succession.appended(now_s)
        if self.replica.has_news:
            self._succession.committed(now_s)
            if not self._news_due:
                self._news_due = True
                self._later(int(self._succession.wait_s * US_PER_S), self._tell_news)

    def _tell_news(self) -> None:
        self._news_due = False
        self.decide(Replica.tell_news)

    def _end_gathering(self) -> None:
        self._gathering_due = False
        self.decide(Replica.end_gathering)

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case Append():
                self._appends.append(effect)
                self._append_if_idle()
            case Apply():
                self._applies.append(effect)
                self._apply_if_idle()
            case Send(message):
                self._send(message)
            case Forward(to, term, commands):
                self._post(to, lambda peer: peer.accept_forwarded(term, commands))
            case Answer(ticket, outcome):
                answered = self.answers.pop(ticket, None)
                if answered is not None:
                    self._later(0, lambda: answered(outcome))
            case AnswerRead(ticket, index):
                read = self.reads.pop(ticket, None)
                if read is not None:
                    assert index <= self.host.state.applied(), "a read is served once its index is applied"
                    self._later(0, lambda: read(index))

    def accept_forwarded(self, term: int, commands: Sequence[bytes]) -> None:
        self.replica.accept_forwarded(term, commands)
        self.pump()

    def _post(self, to: int, arrive: Callable[["Process"], None]) -> None:
        peer = self.host.peers.get(to)
        if peer is None:
            return

        def arrived() -> None:
            if peer.process is not None:
                receiver = peer.process
                receiver._guarded(lambda: arrive(receiver))()

        self.host.network.send(self.node_id, to, arrived, lost=self._guarded(lambda: self._unreachable(to)))

    def _unreachable(self, to: int) -> None:
        self.replica.report_unreachable(to)
        self.pump()

    def _send(self, message: Message) -> None:
        if message.type is not MessageType.SNAPSHOT:
            self._post(message.to, lambda peer: peer.deliver(message))
            return
        shelf = self._shelf
        assert message.snapshot is not None
        if shelf is None or shelf[0].applied != message.snapshot.index:
            self.replica.report_snapshot(message.to, failed=True)
            return
        self._shelf_used = True
        self.world.count("snapshot sent")
        failed = [True]

        def arrive(peer: "Process") -> None:
            failed[0] = False
            peer.deliver(message, shelf)

        def report() -> None:
            self.replica.report_snapshot(message.to, failed=failed[0])
            self.pump()

        stream_us = self.world.between(1 * MS, 80 * MS)
        self._later(stream_us, lambda: self._post(message.to, arrive))
        self._later(stream_us + self.world.between(5 * MS, 400 * MS), report)

    # ---- the log's thread ----

    def _append_if_idle(self) -> None:
        if self._is_appending or not self._appends:
            return
        batch = list(self._appends)[: self.world.between(1, APPENDS_PER_SYNC_MAX)]
        if any(append.message.snapshot is not None for append in batch) and (
            self._applies or self._is_applying
        ):
            # The state is about to be replaced: nothing may be on its way into the old one.
            return
        for _ in batch:
            self._appends.popleft()
        self._is_appending = True
        self._later(self.world.between(1, self.host.habits.write_us_max), lambda: self._write(batch))

    def _write(self, batch: Sequence[Append]) -> None:
        needs_sync = False
        is_alone = self.replica.is_sole_voter
        owed = self._promises.owed
        if not sum([self._promises.needs_disk(append.message, is_alone=is_alone) for append in batch]):
            self._appended(batch, needs_sync=False)
            return
        self._promises.owed = None
        if owed is not None:
            self.host.log.write((), owed)
        for append in batch:
            message = append.message
            hard: HardState | None = None
            if message.term or message.vote or message.commit:
                hard = HardState(message.term, message.vote, message.commit)
            if message.snapshot is not None:
                needs_sync = True
                position, rows = self._sinks.pop((message.snapshot.index, message.snapshot.term))
                self.host.state.install(rows, position)
                if self.world.happens(self.host.habits.half_installed_per_mille):
                    self.world.count("crash between installed state and log")
                    self._crash_soon(0)
                    return
                self.host.log.reset(message.snapshot.index, message.snapshot.term, hard)
                hard = None
            if message.entries or hard is not None:
                self.host.log.write(message.entries, hard)
                needs_sync = needs_sync or bool(message.responses) or bool(message.entries)
        habits = self.host.habits
        delay_us = 0
        if needs_sync:
            delay_us = self.world.between(1, habits.sync_us_max)
            if self.world.happens(habits.slow_sync_per_mille):
                self.world.count("slow sync")
                delay_us = self.world.between(habits.sync_us_max, habits.slow_sync_us_max)
            aim = habits.aimed_crash_per_mille * (4 if self.replica.is_leader else 1)
            if self.world.happens(aim):
                self.world.count("crash at a sync")
                self._crash_soon(self.world.between(0, delay_us + 1))
        self._later(delay_us, lambda: self._appended(batch, needs_sync=needs_sync))

    def _crash_soon(self, delay_us: int) -> None:
        def crash() -> None:
            host = self.host
            host.crash()
            self.world.after(self.world.between(1 * MS, 1500 * MS), lambda: _restart(host))

        self._later(delay_us, crash)

    def _appended(self, batch: Sequence[Append], *, needs_sync: bool) -> None:
        if needs_sync:
            self.host.log.sync()
        for append in batch:
            if append.message.snapshot is not None:
                self.world.count("snapshot installed")
                self.applier.reload()
                self.replica.on_snapshot_installed(decode_membership(self.host.state.configuration()))
            self.host.watcher.synced(self, append)
            self.replica.on_appended(append)
        self._is_appending = False
        self.pump()
        self._foresee(batch[-1].message.entries)
        self._append_if_idle()

    def _foresee(self, entries: Sequence[Entry]) -> None:
        """Now and then work out what entries will do, as the product does where somebody waits for them."""
        is_next = bool(entries) and entries[0].index == self.replica.applied + 1
        is_busy = bool(self._applies) or self._is_applying
        if is_next and not is_busy and are_few(entries) and self.world.happens(FORESEEN_PER_MILLE):
            self.world.count("entries foreseen")
            self.applier.foresee(entries)

    # ---- the state's thread ----

    def _apply_if_idle(self) -> None:
        if self._is_applying or not self._applies:
            return
        self._is_applying = True
        apply = self._applies.popleft()
        self._later(self.world.between(1, self.host.habits.apply_us_max), lambda: self._apply(apply))

    def _apply(self, apply: Apply) -> None:
        outcomes: list[Outcome | None] = []
        run: list[Entry] = []
        for entry in apply.entries:
            if not is_conf_change(entry):
                run.append(entry)
                continue
            outcomes += self.applier.apply(run)
            run = []
            self.applier.apply_change(entry, self.replica.apply_change(entry))
            outcomes.append(None)
        outcomes += self.applier.apply(run)
        self.host.watcher.applied(self, apply.entries, outcomes)
        self.replica.on_applied(apply, outcomes)
        self._is_applying = False
        if self.world.happens(100):
            self.host.state.sync()
        self._cut_log_back()
        self.pump()
        self._apply_if_idle()
        self._append_if_idle()

    def _cut_log_back(self) -> None:
        log, kept_max = self.host.log, self.host.habits.log_entries_kept_max
        if self._is_appending or log.last_index() - log.first_index() < kept_max:
            return
        through = self.replica.applied - kept_max // 2
        if through >= log.first_index():
            self.host.state.sync()
            log.compact(through)
            self.world.count("log cut back")

    def _snapshot_position(self) -> StatePosition | None:
        if self._shelf is not None and not self._shelf_used:
            return self._shelf[0]
        if not self._is_exporting:
            self._is_exporting = True
            self._later(self.world.between(1 * MS, 30 * MS), self._export)
        return None

    def _export(self) -> None:
        self._is_exporting = False
        self.host.state.sync()
        self._shelf = (self.host.state.position(), self.host.state.rows())
        self._shelf_used = False

    # ---- time ----

    def _tick(self) -> None:
        self._later(
            TICK_US if not self.world.happens(10) else self.world.between(TICK_US, 20 * TICK_US), self._tick
        )
        self.replica.tick()
        self.pump()

    def _later(self, delay_us: int, action: Callable[[], None]) -> None:
        self.world.after(delay_us, self._guarded(action))

    def _guarded(self, action: Callable[[], None]) -> Callable[[], None]:
        def unless_dead() -> None:
            if not self.is_alive:
                return
            if self.paused_until_us > self.world.now_us:
                self.world.after(self.paused_until_us - self.world.now_us, unless_dead)
            else:
                action()

        return unless_dead


def _restart(host: Host) -> None:
    if host.process is None and not host.is_retired:
        host.start()
