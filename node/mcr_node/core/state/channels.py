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
"""

from dataclasses import dataclass, replace
from typing import assert_never

from mcr.errors import HeadMovedError, InvalidArgumentError, ReferenceNotFoundError
from mcr.model import RefKind, VersionId
from mcr.record import version_id
from mcr_node.core.state import deletions, keys, lookup, protection, refs
from mcr_node.core.state.commands import (
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
        protection.check_move(step.overlay, before.protection, of, lookup.read_record(data), step.principal)
        if before.number == command.number:
            _stand(step, of, command.number, before.generation, rolled_back=False)
            return RefResult(lookup.ref_of(of, before), already=True)
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


def _check_generation(of: RefName, expected: int, before: RefRow | None) -> None:
    actual = 0 if before is None else before.generation
    if actual != expected:
        said = [f"generation {number}" if number else "none" for number in (expected, actual)]
        raise HeadMovedError(said[0], said[1], str(of))


def _stand(step: Step, of: RefName, number: int, generation: int, *, rolled_back: bool) -> None:
    row = StandingRow(generation=generation, rolled_back=rolled_back)
    step.overlay.put(keys.standing(of, number), row.pack())


def _rolled_back(view: View, of: RefName, number: int) -> bool:
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
    _stand(step, of, before.number, before.generation, rolled_back=True)
    chosen = isinstance(command.target, NumberTarget)
    marked = not chosen and _rolled_back(step.overlay, of, target.number)
    row = refs.move(
        step,
        of,
        number=target.number,
        identity=target.identity,
        verb="rollback",
        reason=command.reason,
        below=target.below,
    )
    _stand(step, of, target.number, row.generation, rolled_back=marked)
    return RefResult(lookup.ref_of(of, row))


@dataclass(frozen=True, slots=True)
class _Entry:
    """A place in the chain of what was in force: a version, and the generation below it."""

    number: int
    identity: VersionId
    below: int


def _below(step: Step, of: RefName, entry: RefRow | _Entry) -> _Entry:
    """Return what was in force before an entry; what was deleted since is passed over."""
    below = entry.below
    for _ in range(DELETED_STEPS_MAX):
        if below == 0:
            break
        row = lookup.move_row(step.overlay, of, below)
        if deletions.deletion_of(step.overlay, of.model, row.number) is None:
            return _Entry(row.number, VersionId(row.version_id), row.below)
        below = row.below
    reason = f"nothing to go back to: nothing was in force before v{entry.number}"
    if entry.below:
        reason = f"nothing to go back to: what was in force before v{entry.number} was deleted"
    raise ReferenceNotFoundError(of.model, str(of), reason)


def _last_good(step: Step, of: RefName, before: RefRow) -> _Entry:
    entry: RefRow | _Entry = before
    for _ in range(LAST_GOOD_STEPS_MAX):
        if entry.below == 0:
            break
        entry = _below(step, of, entry)
        # The version to leave is no way back either, although its mark is only about to be set.
        if entry.number != before.number and not _rolled_back(step.overlay, of, entry.number):
            return entry
    reason = "no earlier version that was not rolled back from; choose one by its number"
    raise ReferenceNotFoundError(of.model, str(of), reason)


def _named(step: Step, of: RefName, before: RefRow, number: int) -> _Entry:
    data = lookup.record_bytes(step.overlay, of.model, number)
    deletions.check_there(step.overlay, of.model, number)
    if number == before.number:
        raise InvalidArgumentError("target", f"{of} is at v{number} already")
    standing = read(step.overlay, keys.standing(of, number), StandingRow)
    if standing is None:
        protection.check_move(step.overlay, before.protection, of, lookup.read_record(data), step.principal)
        # Not what is left, but what was before it: going on back must not return to what was left.
        return _Entry(number, version_id(data), before.below)
    earlier = lookup.move_row(step.overlay, of, standing.generation)
    return _Entry(number, version_id(data), earlier.below)


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
