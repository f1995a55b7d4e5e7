"""Channels: what a fleet should be running, and how it goes back.

The law: a rollback never rolls forward by accident. Each entry of a channel's history keeps `below`, the
generation it was set on top of. A rollback lands on an older entry and takes over that entry's `below`:

    set v1     g1  below 0
    set v2     g2  below g1
    set v3     g3  below g2
    rollback   g4  v2, below g1       (not g3, so the next one does not return to v3)
    rollback   g5  v1, below 0
    rollback   rejected: nothing was in force before v1

A rollback marks the version it leaves as rolled back; "last good" passes over marked versions. Choosing a
version by name, with a set or a rollback to its number, clears its mark.

A frozen channel is moved by no policy, and where it is frozen for all by nobody forward; back always, since
going back is what is left when something is wrong. Where two people must agree, a set waits until somebody
else approves; the rules hold for whoever asked, and again when it is approved.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import assert_never, cast

from mcr.errors import HeadMovedError, InvalidArgumentError, ProtectedError, ReferenceNotFoundError
from mcr.model import ParameterValue, RefKind, VersionId
from mcr.policy_rules import ALL
from mcr.record import version_id
from mcr.values import dataclass
from mcr_node.core.state import deletions, keys, lookup, protection, refs
from mcr_node.core.state.commands import (
    ApproveMove,
    FreezeChannel,
    LastGoodTarget,
    MoveChannel,
    NumberTarget,
    PreviousTarget,
    ProtectChannel,
    RollbackChannel,
)
from mcr_node.core.state.keys import RefName
from mcr_node.core.state.outcomes import RefResult
from mcr_node.core.state.records import RefRow, StandingRow, read
from mcr_node.core.state.step import Step
from mcr_node.core.state.view import View

# A search for the last good version reads at most this many entries, so that applying a command costs the
# same however long the history is. It passes only over versions set again and again and rolled back each
# time.
LAST_GOOD_STEPS_MAX = 256
# Deleted versions that one step back passes over; what is nearer than a few steps is not deleted (`roots`).
DELETED_STEPS_MAX = 64


def set_channel(step: Step, command: MoveChannel) -> RefResult:
    """Point a channel at a version. Where it points there already, nothing moves and the result says so.

    Raises:
        ModelNotFoundError, ReferenceNotFoundError: there is no such version.
        HeadMovedError: the channel is not at the expected generation.
        ProtectedError: its rules are not met.
    """
    of = RefName(command.model, RefKind.CHANNEL, command.channel)
    data = lookup.record_bytes(step.overlay, of.model, command.number)
    deletions.check_there(step.overlay, of.model, command.number)
    before = read(step.overlay, keys.ref(of), RefRow)
    if command.expected_generation is not None:
        _check_generation(of, command.expected_generation, before)
    if before is not None:
        check_not_frozen(of, before)
        record = lookup.read_record(data)
        protection.check_move(
            step.overlay, before.protection, of, record, step.principal, available=command.available
        )
        if before.number == command.number:
            _stand(step, of, command.number, before.generation, rolled_back=False)
            return RefResult(lookup.ref_of(of, before), already=True)
        if protection.needs_two(before.protection):
            return _ask(step, of, before, command)
    row = refs.move(
        step,
        of,
        number=command.number,
        identity=version_id(data),
        verb="set",
        reason=command.reason,
        below=0 if before is None else before.generation,
    )
    _stand(step, of, command.number, row.generation, rolled_back=False)
    return RefResult(lookup.ref_of(of, row))


def _ask(step: Step, of: RefName, before: RefRow, command: MoveChannel) -> RefResult:
    """Keep a move until somebody else approves it; what was asked before is dropped for it."""
    pending: dict[str, ParameterValue] = {
        "number": command.number,
        "actor": step.principal,
        "reason": command.reason,
        "at_ms": step.at_ms,
        "index": step.index,
    }
    row = replace(before, pending=pending)
    step.overlay.put(keys.ref(of), row.pack())
    return RefResult(lookup.ref_of(of, row), waits=True)


def approve(step: Step, command: ApproveMove) -> RefResult:
    """Make a move that somebody else asked for, or drop what was asked.

    Raises:
        ModelNotFoundError, ReferenceNotFoundError: no such channel, or nothing waits.
        HeadMovedError: what waits is another request.
        VersionDeletedError: the version was deleted meanwhile: what only waits keeps nothing.
        ProtectedError: a rule is not met, or whoever asked approves.
    """
    of = RefName(command.model, RefKind.CHANNEL, command.channel)
    before = lookup.ref_row(step.overlay, of)
    pending = before.pending
    if pending is None:
        raise ReferenceNotFoundError(of.model, str(of), "no move waits for approval")
    if pending["index"] != command.request:
        raise HeadMovedError(f"request {command.request}", f"request {pending['index']}", str(of))
    protection.check_actor(before.protection, of, step.principal)
    if command.withdraw:
        row = replace(before, pending=None)
        step.overlay.put(keys.ref(of), row.pack())
        return RefResult(lookup.ref_of(of, row))
    asked_by, number, reason = str(pending["actor"]), cast("int", pending["number"]), str(pending["reason"])
    if asked_by == step.principal:
        raise ProtectedError(str(of), f"{step.principal} asked for the move, so another one must approve it")
    check_not_frozen(of, before)
    data = lookup.record_bytes(step.overlay, of.model, number)
    deletions.check_there(step.overlay, of.model, number)
    protection.check_move(
        step.overlay, before.protection, of, lookup.read_record(data), asked_by, available=command.available
    )
    row = refs.move(
        step,
        of,
        number=number,
        identity=version_id(data),
        verb="set",
        reason=reason,
        below=before.generation,
        evidence={"asked_by": asked_by, "asked_at_ms": pending["at_ms"], "approved_by": step.principal},
    )
    _stand(step, of, number, row.generation, rolled_back=False)
    return RefResult(lookup.ref_of(of, row))


def check_not_frozen(of: RefName, before: RefRow) -> None:
    """Check that people may move a channel forward.

    Raises:
        ProtectedError: it is frozen for all.
    """
    frozen = before.frozen
    if frozen is not None and frozen["level"] == ALL:
        reason = (
            f"it is frozen by {frozen['actor']} ({frozen['reason'] or 'no reason given'}); unfreeze it first"
        )
        raise ProtectedError(str(of), reason)


def freeze(step: Step, of: RefName, before: RefRow, level: str, reason: str) -> RefRow:
    """Freeze a channel for policies or for all, or with "" unfreeze it; it stays where it is."""
    frozen: dict[str, ParameterValue] = {
        "level": level,
        "actor": step.principal,
        "reason": reason,
        "at_ms": step.at_ms,
    }
    row = replace(before, frozen=frozen if level else None)
    step.overlay.put(keys.ref(of), row.pack())
    return row


def freeze_channel(step: Step, command: FreezeChannel) -> RefResult:
    """Freeze a channel, or unfreeze it.

    Raises:
        ModelNotFoundError, ReferenceNotFoundError: there is no such channel.
        ProtectedError: its rules do not let this principal move it.
    """
    of = RefName(command.model, RefKind.CHANNEL, command.channel)
    before = lookup.ref_row(step.overlay, of)
    protection.check_actor(before.protection, of, step.principal)
    row = freeze(step, of, before, command.level, command.reason)
    return RefResult(lookup.ref_of(of, row), already=before.frozen is None and row.frozen is None)


def _check_generation(of: RefName, expected: int, before: RefRow | None) -> None:
    actual = 0 if before is None else before.generation
    if actual != expected:
        said = [f"generation {number}" if number else "none" for number in (expected, actual)]
        raise HeadMovedError(said[0], said[1], str(of))


def _stand(step: Step, of: RefName, number: int, generation: int, *, rolled_back: bool) -> None:
    row = StandingRow(generation=generation, rolled_back=rolled_back)
    step.overlay.put(keys.standing(of, number), row.pack())


def was_at(view: View, of: RefName, number: int) -> bool:
    """Tell whether a channel ever was at a version."""
    return view.get(keys.standing(of, number)) is not None


def rolled_back(view: View, of: RefName, number: int) -> bool:
    """Tell whether a rollback left a version since it was last chosen by name."""
    standing = read(view, keys.standing(of, number), StandingRow)
    return standing is not None and standing.rolled_back


def roll_back_channel(step: Step, command: RollbackChannel) -> RefResult:
    """Move a channel back.

    Rules on actors hold for every rollback; rules on versions only where the target was never on this
    channel, so that no rule made later stands in the way of going back to what ran before.

    Raises:
        ModelNotFoundError, ReferenceNotFoundError: no such channel or version, or nothing to go back to.
        InvalidArgumentError: the channel is at the target already.
        ProtectedError: its rules are not met.
    """
    of = RefName(command.model, RefKind.CHANNEL, command.channel)
    before = lookup.ref_row(step.overlay, of)
    protection.check_actor(before.protection, of, step.principal)
    match command.target:
        case PreviousTarget():
            target = _below(step, of, before)
        case LastGoodTarget():
            target = _last_good(step, of, before)
        case NumberTarget(number):
            target = _named(step, of, before, number)
        case other:
            assert_never(other)
    chosen = isinstance(command.target, NumberTarget)
    row = go_back(step, of, before, target, reason=command.reason, chosen=chosen)
    return RefResult(lookup.ref_of(of, row))


@dataclass(frozen=True, slots=True)
class Entry:
    """A place in the chain of what was in force: a version, and the generation below it."""

    number: int
    identity: VersionId
    below: int


def go_back(
    step: Step,
    of: RefName,
    before: RefRow,
    target: Entry,
    *,
    reason: str,
    chosen: bool,
    evidence: Mapping[str, ParameterValue] | None = None,
) -> RefRow:
    """Move a channel back to an earlier place.

    Args:
        step: its principal is who did it.
        of: the channel.
        before: where it is.
        target: where it goes.
        reason: kept in the history.
        chosen: somebody named the version, which clears its mark of a rollback.
        evidence: why a policy decided it; kept in the history.
    """
    _stand(step, of, before.number, before.generation, rolled_back=True)
    marked = not chosen and rolled_back(step.overlay, of, target.number)
    row = refs.move(
        step,
        of,
        number=target.number,
        identity=target.identity,
        verb="rollback",
        reason=reason,
        below=target.below,
        evidence=evidence,
    )
    _stand(step, of, target.number, row.generation, rolled_back=marked)
    return row


def earlier(view: View, of: RefName, before: RefRow) -> Iterator[Entry]:
    """Yield what was in force before, nearest first, but for what was deleted since; bounded."""
    entry: RefRow | Entry = before
    for _ in range(LAST_GOOD_STEPS_MAX):
        if entry.below == 0:
            return
        row = lookup.move_row(view, of, entry.below)
        entry = Entry(row.number, VersionId(row.version_id), row.below)
        if deletions.deletion_of(view, of.model, entry.number) is None:
            yield entry


def entry_at(view: View, of: RefName, before: RefRow, number: int) -> Entry:
    """Return the place of a version in a channel's history; one that never was there stands where it is now.

    Raises:
        ModelNotFoundError, ReferenceNotFoundError: there is no such version.
    """
    identity = version_id(lookup.record_bytes(view, of.model, number))
    standing = read(view, keys.standing(of, number), StandingRow)
    if standing is None:
        # Not what is left, but what was before it: going on back must not return to what was left.
        return Entry(number, identity, before.below)
    return Entry(number, identity, lookup.move_row(view, of, standing.generation).below)


def _below(step: Step, of: RefName, entry: RefRow) -> Entry:
    for found in earlier(step.overlay, of, entry):
        return found
    reason = f"nothing to go back to: nothing was in force before v{entry.number}"
    if entry.below:
        reason = f"nothing to go back to: what was in force before v{entry.number} was deleted"
    raise ReferenceNotFoundError(of.model, str(of), reason)


def _last_good(step: Step, of: RefName, before: RefRow) -> Entry:
    for entry in earlier(step.overlay, of, before):
        # The version to leave is no way back either, although its mark is only about to be set.
        if entry.number != before.number and not rolled_back(step.overlay, of, entry.number):
            return entry
    reason = "no earlier version that was not rolled back from; choose one by its number"
    raise ReferenceNotFoundError(of.model, str(of), reason)


def _named(step: Step, of: RefName, before: RefRow, number: int) -> Entry:
    data = lookup.record_bytes(step.overlay, of.model, number)
    deletions.check_there(step.overlay, of.model, number)
    if number == before.number:
        raise InvalidArgumentError("target", f"{of} is at v{number} already")
    if not was_at(step.overlay, of, number):
        protection.check_move(step.overlay, before.protection, of, lookup.read_record(data), step.principal)
        if protection.needs_two(before.protection):
            raise ProtectedError(
                str(of), f"it never was at v{number}, so two must agree: ask for it with a set"
            )
    return entry_at(step.overlay, of, before, number)


def protect_channel(step: Step, command: ProtectChannel) -> RefResult:
    """Replace a channel's rules. The generation stays, since nothing moves.

    Raises:
        ModelNotFoundError, ReferenceNotFoundError: there is no such channel.
        ProtectedError: only its actors, and whoever set the present rules, may change them.
    """
    of = RefName(command.model, RefKind.CHANNEL, command.channel)
    before = lookup.ref_row(step.overlay, of)
    if before.protected_by != step.principal:
        protection.check_actor(before.protection, of, step.principal)
    row = replace(before, protection=command.protection, protected_by=step.principal)
    step.overlay.put(keys.ref(of), row.pack())
    return RefResult(lookup.ref_of(of, row), already=before.protection == command.protection)
