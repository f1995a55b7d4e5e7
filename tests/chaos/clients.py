"""Clients that ask a cluster for everything at once, and note what they asked for and what they were told."""

import asyncio
import random
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from mcr import _wire, aio
from mcr.errors import (
    ConflictError,
    DeadlineError,
    DurabilityError,
    McrError,
    NodeBusyError,
    NoQuorumError,
    NotAllowedError,
    NotFoundError,
    OutOfSpaceError,
    SealOutdatedError,
    UnavailableError,
    UsageError,
)
from mcr.model import RefKind
from mcr.v1 import versions_pb2 as pb
from tests.chaos.history import Kind, Operation, Seen
from tests.support.served import bytes_from

MODEL = "chaos/net"
CHANNEL = "production"
FILE_BYTES = 20_000
# Now and then it is more than one chunk.
LARGE_FILE_BYTES = 2_500_000
LARGE_EVERY = 40
# What a client gives a call. A call that changes the store and is given up once waits for its answer as long
# again (`mcr.blocking.decided`); the rest is for a loaded machine.
CALL_S = 10.0
CALL_S_MAX = 2 * CALL_S + 5.0
# Between two calls of a client: more of them would only make the log longer.
THINK_S_MAX = 0.4
STALL_LOOK_S = 0.25
# Before a client begins what a blow is to fall into; commits come many times a second.
MOMENT_WAIT_S = 10.0
# What the cluster decided and will not change its mind about.
_REFUSALS = (ConflictError, NotAllowedError, NotFoundError, UsageError)
_WEIGHTS = {
    Kind.COMMIT: 25,
    Kind.MOVE: 12,
    Kind.CHANNEL_ROLLBACK: 4,
    Kind.BRANCH_ROLLBACK: 4,
    Kind.READ_HEAD: 20,
    Kind.READ_CHANNEL: 20,
    Kind.CHECKOUT: 15,
}
# Kinds of single-minded clients. Who does everything soon waits, at a node that is cut off, for a write or
# for content, and asks no more. One that only reads goes on where a node answers what it must not; one that
# only writes to the log is there in the second in which an old leader takes itself for one.
READS = (Kind.READ_HEAD, Kind.READ_CHANNEL)
LOG_WRITES = (Kind.MOVE, Kind.CHANNEL_ROLLBACK)
# One that loads models all the time.
LOADS = (Kind.CHECKOUT,)
# These ask only for what was acknowledged.
_OF_WHAT_IS_THERE = (Kind.MOVE, Kind.READ_HEAD, Kind.READ_CHANNEL, Kind.CHECKOUT)
# What passes, and says so; anything else means that something broke.
_PASSING = (
    DurabilityError,
    UnavailableError,
    NoQuorumError,
    OutOfSpaceError,
    DeadlineError,
    NodeBusyError,
)
# Of the commits: bytes that another model has just deleted.
AGAIN = 0.15
# Of the commits: done again under the same request id, by another way into the cluster.
REPEATED = 0.2


@dataclass(slots=True)
class Recorder:
    """What all clients did.

    Attributes:
        wrong: what a client saw that may never be.
        commits: of those that were acknowledged, the number and the seed of the bytes.
        dropped: seeds of bytes that another model deleted, the last ones last.
    """

    operations: list[Operation] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    commits: list[tuple[int, int]] = field(default_factory=list)
    dropped: list[int] = field(default_factory=list)
    seeds: int = 0
    # When this process itself stood still, as on a machine that has too much to do: from, until.
    stalls: list[tuple[float, float]] = field(default_factory=list)
    _begun: threading.Condition = field(default_factory=threading.Condition)
    _begun_count: Counter[Kind] = field(default_factory=Counter)
    _answered_count: Counter[Kind] = field(default_factory=Counter)

    def note_begun(self, kind: Kind) -> None:
        """Tell who waits for it that a client begins something now."""
        with self._begun:
            self._begun_count[kind] += 1
            self._begun.notify_all()

    def note_answered(self, kind: Kind) -> None:
        """Tell who waits for it that a client was told that something is done."""
        with self._begun:
            self._answered_count[kind] += 1
            self._begun.notify_all()

    def wait_begun(self, kinds: Sequence[Kind]) -> None:
        """Wait until a client begins something of these kinds; from another thread."""
        self._wait_more(self._begun_count, kinds)

    def wait_answered(self, kinds: Sequence[Kind]) -> None:
        """Wait until a client is told that something of these kinds is done; from another thread."""
        self._wait_more(self._answered_count, kinds)

    def _wait_more(self, counts: Counter[Kind], kinds: Sequence[Kind]) -> None:
        with self._begun:
            before = sum(counts[kind] for kind in kinds)
            self._begun.wait_for(lambda: sum(counts[kind] for kind in kinds) > before, MOMENT_WAIT_S)

    async def watch(self, ending: asyncio.Event) -> None:
        """Note when nothing moves here, for which no node is to blame."""
        while not ending.is_set():
            asleep_s = time.perf_counter()
            await asyncio.sleep(STALL_LOOK_S)
            late_s = time.perf_counter() - asleep_s - STALL_LOOK_S
            if late_s > STALL_LOOK_S:
                self.stalls.append((asleep_s + STALL_LOOK_S, time.perf_counter()))

    def stalled_s(self, begun_s: float, ended_s: float) -> float:
        """Return how much of a span this process stood still."""
        recent = [(since_s, until_s) for since_s, until_s in self.stalls if until_s > begun_s]
        return sum(min(until_s, ended_s) - max(since_s, begun_s) for since_s, until_s in recent)

    def seed(self) -> int:
        """Return a seed that no other commit has."""
        self.seeds += 1
        return self.seeds


@dataclass(slots=True)
class Told:
    """One answer."""

    index: int
    seen: Seen
    version_id: str


class ChaosClient:
    """One client, which does one thing after the other."""

    def __init__(
        self,
        name: str,
        way: aio.AsyncClient,
        recorder: Recorder,
        folder: Path,
        seed: int,
        *,
        kinds: Sequence[Kind] = tuple(Kind),
    ) -> None:
        """Note who it is.

        Args:
            name: of this client only.
            way: into the cluster, by one node or by any; its calls are bound to CALL_S.
            recorder: of all clients.
            folder: scratch room of its own.
            seed: of what it does.
            kinds: what it asks for.
        """
        self.name = name
        self.way = way
        # By which commits are repeated; set once all clients are there.
        self.other_way = way
        self.recorder = recorder
        self.folder = folder
        self.chance = random.Random(f"{seed} {name}")
        self._kinds = kinds
        self._writes = 0
        # What it saw last of the channel.
        self._generation = 0

    async def run(self, ending: asyncio.Event) -> None:
        """Go on until the end."""
        while not ending.is_set():
            weights = [_WEIGHTS[kind] for kind in self._kinds]
            await self.act(self.chance.choices(self._kinds, weights)[0])
            await asyncio.sleep(self.chance.uniform(0, THINK_S_MAX))

    async def act(self, kind: Kind) -> Operation:
        """Do one thing and record it."""
        match kind:
            case Kind.COMMIT:
                return await self.commit()
            case Kind.MOVE:
                return await self._record(kind, self._write_text(kind), self._move)
            case Kind.CHANNEL_ROLLBACK:
                return await self._record(kind, self._write_text(kind), self._roll_channel_back)
            case Kind.BRANCH_ROLLBACK:
                return await self._record(kind, self._write_text(kind), self._roll_branch_back)
            case Kind.READ_HEAD:
                return await self._record(kind, "", self._read_head)
            case Kind.READ_CHANNEL:
                return await self._record(kind, "", self._read_channel)
            case Kind.CHECKOUT:
                return await self._record(kind, "", self._check_out)

    def _write_text(self, kind: Kind) -> str:
        self._writes += 1
        return f"{self.name} {kind} {self._writes}"

    async def _record(self, kind: Kind, text: str, work: Callable[[str], Awaitable[Told]]) -> Operation:
        operation = await self._tried(kind, text, work)
        self.recorder.operations.append(operation)
        return operation

    async def _tried(self, kind: Kind, text: str, work: Callable[[str], Awaitable[Told]]) -> Operation:
        self.recorder.note_begun(kind)
        begun_s = time.perf_counter()
        error = ""
        is_refused = False
        told = Told(0, Seen(), "")
        try:
            async with asyncio.timeout(CALL_S):
                told = await work(text)
        except _REFUSALS as refusal:
            error, is_refused = f"{type(refusal).__name__}: {refusal.message}", True
            if isinstance(refusal, SealOutdatedError):
                # Says that nothing was entered, and may be repeated; but it says so for lack of luck only.
                is_refused = False
            if isinstance(refusal, NotFoundError) and kind in _OF_WHAT_IS_THERE:
                self.recorder.wrong.append(f"not found: {kind} of {self.name}: {error}")
        except _PASSING as failure:
            error = type(failure).__name__
        except McrError as failure:
            error = type(failure).__name__
            self.recorder.wrong.append(f"unexpected: {kind} of {self.name}: {error}: {failure.message}")
        except TimeoutError:
            error = "TimeoutError"
        except Exception as failure:  # noqa: BLE001 - a broken client is what this looks for too
            error = f"{type(failure).__name__}: {failure}"
            self.recorder.wrong.append(f"broken client: {kind} of {self.name} raised {error}")
        ended_s = time.perf_counter()
        return Operation(
            self.name,
            kind,
            text,
            begun_s,
            ended_s,
            index=told.index,
            seen=told.seen,
            version_id=told.version_id,
            error=error,
            is_refused=is_refused,
            stalled_s=self.recorder.stalled_s(begun_s, ended_s),
        )

    # ---- writes ----

    async def commit(self) -> Operation:
        """Commit; now and then do it again under the same request id, which must change nothing."""
        dropped = self.recorder.dropped[-5:]
        is_again = bool(dropped) and self.chance.random() < AGAIN
        seed = self.chance.choice(dropped) if is_again else self.recorder.seed()
        source = write_model(self.folder / "in", seed)
        text = self._write_text(Kind.COMMIT)

        async def by(way: aio.AsyncClient) -> Told:
            made = await way.model(MODEL).commit(source, message=text, request_id=text)
            return Told(made.log_index, Seen(made.number), made.id)

        operation = await self._tried(Kind.COMMIT, text, lambda _: by(self.way))
        if self.chance.random() < REPEATED:
            again = await self._tried(Kind.COMMIT, text, lambda _: by(self.other_way))
            operation = self._one_of(operation, again)
        if operation.is_answered:
            self.recorder.commits.append((operation.seen.number, seed))
            self.recorder.note_answered(Kind.COMMIT)
        self.recorder.operations.append(operation)
        return operation

    def _one_of(self, first: Operation, again: Operation) -> Operation:
        """Return the two tries of a commit as the one commit that they are."""
        for one, other in ((first, again), (again, first)):
            if one.is_answered and other.is_refused:
                self.recorder.wrong.append(f"refused, yet done: {one.text!r} ({other.error})")
        if first.is_answered and again.is_answered:
            tries = {(one.index, one.seen, one.version_id) for one in (first, again)}
            if len(tries) > 1:
                self.recorder.wrong.append(
                    f"doubled: {first.text!r} was answered by {sorted(map(str, tries))}"
                )
            # What was answered first bounds what begins after it.
            return first
        known = again if again.is_answered else first
        is_refused = first.is_refused and again.is_refused
        return replace(
            known,
            begun_s=first.begun_s,
            ended_s=again.ended_s,
            calls=2,
            is_refused=is_refused,
            stalled_s=first.stalled_s + again.stalled_s,
        )

    async def _move(self, text: str) -> Told:
        number, _ = self.chance.choice(self.recorder.commits[-20:])
        request = pb.MoveChannelRequest(
            header=_header(text), model=MODEL, channel=CHANNEL, number=number, reason=text
        )
        if self.chance.random() < 0.3:
            request.expected_generation = self._generation
        answer = await self.way._connection.versions.move_channel(request)
        return self._told_of_channel(answer.log_index, answer.ref)

    async def _roll_channel_back(self, text: str) -> Told:
        answer = await self.way._connection.versions.rollback_channel(
            pb.RollbackChannelRequest(
                header=_header(text),
                model=MODEL,
                channel=CHANNEL,
                reason=text,
                target=pb.ROLLBACK_TARGET_PREVIOUS,
            )
        )
        return self._told_of_channel(answer.log_index, answer.ref)

    async def _roll_branch_back(self, text: str) -> Told:
        answer = await self.way._connection.versions.rollback_branch(
            pb.RollbackBranchRequest(
                header=_header(text),
                model=MODEL,
                branch="main",
                reason=text,
                target=pb.ROLLBACK_TARGET_PREVIOUS,
            )
        )
        version = _wire.version_from_wire(answer.version, with_metrics=False)
        return Told(answer.log_index, Seen(version.number), version.id)

    # ---- reads ----

    async def _read_head(self, _: str) -> Told:
        request = pb.GetVersionRequest(reference=f"{MODEL}@branch:main")
        answer = await self.way._connection.versions.get_version(request)
        version = _wire.version_from_wire(answer.version, with_metrics=False)
        return Told(answer.log_index, Seen(version.number), version.id)

    async def _read_channel(self, _: str) -> Told:
        request = pb.ListRefsRequest(model=MODEL, kind=_wire.kind_to_wire(RefKind.CHANNEL), limit=10)
        answer = await self.way._connection.versions.list_refs(request)
        for ref in answer.refs:
            if ref.name == CHANNEL:
                return self._told_of_channel(answer.log_index, ref)
        return Told(answer.log_index, Seen(), "")

    def _told_of_channel(self, index: int, ref: pb.Ref) -> Told:
        self._generation = ref.generation
        return Told(index, Seen(ref.number, ref.generation), ref.version_id.hex())

    async def _check_out(self, _: str) -> Told:
        number, seed = self.chance.choice(self.recorder.commits)
        await self.check_out(number, seed)
        return Told(0, Seen(number), "")

    async def check_out(self, number: int, seed: int) -> None:
        """Check a version out and compare its bytes."""
        folder = self.folder / "out"
        await self.way.model(MODEL).checkout(f"v{number}", folder, delete=True)
        if (folder / "weights.bin").read_bytes() != model_bytes(seed):
            self.recorder.wrong.append(f"wrong bytes: v{number} as {self.name} got it")


def _header(text: str) -> pb.WriteHeader:
    return pb.WriteHeader(request_id=text.encode())


def model_bytes(seed: int) -> bytes:
    """Return the bytes of the model that has this seed."""
    return bytes_from(seed, FILE_BYTES if seed % LARGE_EVERY else LARGE_FILE_BYTES)


def write_model(folder: Path, seed: int) -> Path:
    """Write a model to commit, and return its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "weights.bin").write_bytes(model_bytes(seed))
    return folder
