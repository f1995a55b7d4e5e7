"""What clients of a real cluster saw, checked against what it holds in the end: linearizable, exactly once.

Every answer of a node names its place in the log, and so does everything in the history of a ref. So the
order that a search would have to find is known: it is the log. A history is linearizable when

- every write that was answered is in the log, where it was told;
- what a read returned was so at some place, not before the one it was told;
- no operation has a place before one that was answered when it began.

(Herlihy and Wing, "Linearizability", 1990.) Writes that were not answered are in the log or are not.

`check` is pure and knows no cluster; `test_history.py` shows that each law can be broken.
"""

import bisect
import heapq
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

# Of each kind of violation so many are told; the others would say the same.
TOLD_MAX = 5


class Kind(StrEnum):
    """What a client asked for."""

    COMMIT = "commit"
    MOVE = "channel move"
    CHANNEL_ROLLBACK = "channel rollback"
    BRANCH_ROLLBACK = "branch rollback"
    READ_HEAD = "head read"
    READ_CHANNEL = "channel read"
    CHECKOUT = "checkout"

    @property
    def is_write(self) -> bool:
        """Whether it makes an entry of the log."""
        return self in (Kind.COMMIT, Kind.MOVE, Kind.CHANNEL_ROLLBACK, Kind.BRANCH_ROLLBACK)

    @property
    def is_of_channel(self) -> bool:
        """Whether it is about the channel; else about the branch."""
        return self in (Kind.MOVE, Kind.CHANNEL_ROLLBACK, Kind.READ_CHANNEL)


@dataclass(frozen=True, slots=True)
class Seen:
    """Where a ref is: the version, and how often the ref was moved. Of a ref that does not exist: zeros."""

    number: int = 0
    generation: int = 0


@dataclass(frozen=True, slots=True)
class Operation:
    """One call of a client.

    Attributes:
        text: of a write, the description or reason that only this one has.
        begun_s, ended_s: of one clock.
        index: the place in the log that the answer names; 0 = no answer.
        seen: what the answer says of the ref; a branch tells no generation, so 0 there.
        version_id: of the version that was made or read.
        error: why there is no answer.
        is_refused: the cluster said that it did not happen, and why.
        stalled_s: how much of the time the client's own process stood still.
        calls: how many there were one after the other: a commit may be repeated under its request id.
    """

    client: str
    kind: Kind
    text: str
    begun_s: float
    ended_s: float
    index: int = 0
    seen: Seen = field(default_factory=Seen)
    version_id: str = ""
    error: str = ""
    is_refused: bool = False
    calls: int = 1
    stalled_s: float = 0.0

    @property
    def is_answered(self) -> bool:
        """Whether it was done, as far as the client knows."""
        return not self.error


@dataclass(frozen=True, slots=True)
class Move:
    """One entry of the history of a ref, with the text of the write that made it."""

    index: int
    seen: Seen
    text: str
    version_id: str


@dataclass(frozen=True, slots=True)
class Truth:
    """What the healed cluster holds, from the oldest: the histories of its branch and channel, its versions.

    Attributes:
        versions: number, id and description of each.
    """

    branch: tuple[Move, ...]
    channel: tuple[Move, ...]
    versions: tuple[tuple[int, str, str], ...]


@dataclass(frozen=True, slots=True)
class Report:
    """What `check` found.

    Attributes:
        violations: as sentences; empty when all laws hold.
        reads_ahead: reads that saw more than the place they name has; allowed, and said.
    """

    violations: tuple[str, ...]
    reads_ahead: int


def check(operations: Sequence[Operation], truth: Truth, *, call_s_max: float) -> Report:
    """Check all laws; `call_s_max` bounds every call, answered or not."""
    reads_ahead = 0
    found = [*_numbering(truth), *_once(operations, truth), *_in_time(operations, call_s_max)]
    for violation in _in_order(operations, truth):
        if violation is None:
            reads_ahead += 1
        else:
            found.append(violation)
    return Report(tuple(_told(found)), reads_ahead)


def _told(found: Sequence[str]) -> Iterator[str]:
    """Yield the first few of each kind, and how many more there are."""
    kinds: Counter[str] = Counter()
    for violation in found:
        kind = violation.partition(":")[0]
        kinds[kind] += 1
        if kinds[kind] <= TOLD_MAX:
            yield violation
    for kind, count in kinds.items():
        if count > TOLD_MAX:
            yield f"{kind}: {count - TOLD_MAX} more"


def _numbering(truth: Truth) -> Iterator[str]:
    numbers = [number for number, _, _ in truth.versions]
    if numbers != list(range(1, len(numbers) + 1)):
        yield f"gap: the versions are numbered {numbers}"
    for name, moves in (("branch", truth.branch), ("channel", truth.channel)):
        generations = [move.seen.generation for move in moves]
        if generations != list(range(1, len(moves) + 1)):
            yield f"gap: the moves of the {name} are numbered {generations}"
        if any(one.index >= other.index for one, other in itertools.pairwise(moves)):
            yield f"disorder: the moves of the {name} are not in the order of the log"
    heads = [(move.seen.number, move.version_id) for move in truth.branch]
    if heads != [(number, version_id) for number, version_id, _ in truth.versions]:
        yield "disorder: the history of the branch does not name its versions one by one"
    known = {number for number, _, _ in truth.versions}
    if strangers := sorted({move.seen.number for move in truth.channel} - known):
        yield f"disorder: the channel was at versions {strangers}, which are not there"


class _Line:
    """The history of one ref, asked by place and by what was seen; a run has tens of thousands of each."""

    def __init__(self, moves: Sequence[Move], *, is_channel: bool) -> None:
        self._moves = moves
        self._indexes = [move.index for move in moves]
        self._is_channel = is_channel
        self._begins: dict[tuple[Seen, str], int] = {}
        for move in moves:
            self._begins.setdefault(self._key(move.seen, move.version_id), move.index)

    def _key(self, seen: Seen, version_id: str) -> tuple[Seen, str]:
        # A branch tells no generation.
        return (seen, "") if self._is_channel else (Seen(seen.number), version_id)

    def at(self, place: int) -> Move | None:
        """Return the move in force at a place of the log; None before the first."""
        position = bisect.bisect_right(self._indexes, place) - 1
        return self._moves[position] if position >= 0 else None

    def begin(self, operation: Operation) -> int:
        """Return the place since which the ref was what an operation saw; 0 when it never was."""
        return self._begins.get(self._key(operation.seen, operation.version_id), 0)

    def fits(self, operation: Operation, move: Move) -> bool:
        """Whether an operation saw the ref as this move left it."""
        seen = self._key(operation.seen, operation.version_id)
        return seen == self._key(move.seen, move.version_id)


def _once(operations: Sequence[Operation], truth: Truth) -> Iterator[str]:
    """Each write that was answered is there once, as answered; each one that is there was asked for."""
    writes = {operation.text: operation for operation in operations if operation.kind.is_write}
    for moves in (truth.branch, truth.channel):
        for text, count in Counter(move.text for move in moves).items():
            if count > 1:
                yield f"doubled: {text!r} is there {count} times"
            if text not in writes:
                yield f"from nowhere: {text!r} was never asked for"
            elif writes[text].is_refused:
                yield f"refused, yet done: {text!r} ({writes[text].error})"
    described = {(number, version_id): text for number, version_id, text in truth.versions}
    there = {(move.text, move.index): move for moves in (truth.branch, truth.channel) for move in moves}
    channel = _Line(truth.channel, is_channel=True)
    moved = {move.text for move in truth.channel}
    for operation in operations:
        if not operation.kind.is_write or not operation.is_answered:
            continue
        move = there.get((operation.text, operation.index))
        if move is None and operation.text not in moved and _changed_nothing(operation, channel):
            continue
        if move is None:
            yield f"lost: {operation.text!r} was answered at {operation.index} and is not there"
            continue
        told = (operation.seen.number, operation.version_id)
        if told != (move.seen.number, move.version_id):
            yield f"wrong answer: {operation.text!r} was told {told}, not {move}"
        elif not operation.kind.is_of_channel and not described.get(told, "").endswith(operation.text):
            yield f"wrong record: {told} is described as {described.get(told)!r}, not {operation.text!r}"


def _changed_nothing(operation: Operation, channel: _Line) -> bool:
    """Whether a channel was set to where it was: an entry of the log that is no move."""
    now = channel.at(operation.index)
    return operation.kind is Kind.MOVE and now is not None and channel.fits(operation, now)


def _in_time(operations: Sequence[Operation], call_s_max: float) -> Iterator[str]:
    for operation in operations:
        elapsed_s = operation.ended_s - operation.begun_s - operation.stalled_s
        if elapsed_s > call_s_max * operation.calls:
            yield f"hung: {operation.kind} of {operation.client} took {elapsed_s:.1f} s {operation.error}"


def _in_order(operations: Sequence[Operation], truth: Truth) -> Iterator[str | None]:
    """Find a place for every operation, each as early as may be; yield what has none.

    Early is best: a place only bounds what begins after the answer. None for a read that saw what is newer
    than the place its answer names.
    """
    places: dict[str, int] = {
        move.text: move.index for moves in (truth.branch, truth.channel) for move in moves
    }
    branch, channel = _Line(truth.branch, is_channel=False), _Line(truth.channel, is_channel=True)
    # Of those that began: when they ended, and their place.
    under_way: list[tuple[float, int]] = []
    floor = 0
    for operation in sorted(operations, key=lambda operation: operation.begun_s):
        while under_way and under_way[0][0] < operation.begun_s:
            floor = max(floor, heapq.heappop(under_way)[1])
        if operation.kind.is_write:
            # A channel that was set to where it was has its place by the answer alone.
            place = places.get(operation.text, operation.index)
            if place and place <= floor:
                yield f"back in time: {operation.text!r} is at {place}, begun after an answer at {floor}"
        else:
            place = max(floor, operation.index)
            if operation.is_answered:
                line = channel if operation.kind.is_of_channel else branch
                yield from _read_fits(operation, line, place, floor)
                place = max(place, line.begin(operation))
        if operation.is_answered:
            heapq.heappush(under_way, (operation.ended_s, place))


def _read_fits(operation: Operation, line: _Line, place: int, floor: int) -> Iterator[str | None]:
    if operation.kind is Kind.CHECKOUT:
        # Of a version by its number, which never changes; its bytes were compared by the client.
        return
    now = line.at(place)
    if (now is None and operation.seen == Seen()) or (now is not None and line.fits(operation, now)):
        return
    begin = line.begin(operation)
    what = f"{operation.kind} of {operation.client} saw {operation.seen}"
    if not begin and operation.seen != Seen():
        yield f"wrong read: {what}, which never was"
    elif begin > place:
        yield None
    else:
        yield f"stale read: {what} at {operation.index}, begun after an answer at {floor}, when it was {now}"
