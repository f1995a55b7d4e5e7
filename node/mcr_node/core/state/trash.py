"""Deletions, and the way back from them.

Laws:
    A deleted version keeps its number and its record. It can be restored until its time in the trash is over
    (log time) or somebody gives it up; from then on never.
    What something needs (`roots`) is not deleted. A model goes only when nothing but its default branch names
    versions of it, and its numbers go on when somebody makes it again.
    Each command touches a bounded number of rows.
"""

from dataclasses import replace
from itertools import islice

from mcr.errors import (
    InvalidArgumentError,
    ProtectedError,
    VersionDeletedError,
    VersionInUseError,
)
from mcr.model import RefKind, VersionId
from mcr.record import version_id
from mcr.references import DEFAULT_BRANCH
from mcr_node.core.state import deletions, keys, lookup, protection, quotas, receipts, refs, trash_keys
from mcr_node.core.state.deletions import Deletion
from mcr_node.core.state.keys import RefName
from mcr_node.core.state.outcomes import CountResult, DeletedResult, RefResult
from mcr_node.core.state.records import RefRow, WaitingRow, read
from mcr_node.core.state.roots import Uses
from mcr_node.core.state.step import Step
from mcr_node.core.state.trash_commands import (
    DeleteModel,
    DeleteName,
    DeleteVersions,
    EmptyTrash,
    PinVersion,
    RestoreVersions,
    UnpinVersion,
)
from mcr_node.core.state.trash_keys import Trashed
from mcr_node.core.state.trash_records import CollectingRow, PinRow, TrashAgeRow, TrashRow

# Versions in one command; also what one mark gives up at most. Each is a few rows of some 200 bytes.
DELETIONS_MAX = 256
# What is in use when its time in the trash is over is looked at again after so long.
POSTPONED_MS = 86_400_000
# Uses of a version that an error names.
USES_NAMED_MAX = 3


def delete_versions(step: Step, command: DeleteVersions) -> DeletedResult:
    """Put versions into the trash.

    Raises:
        ModelNotFoundError, ReferenceNotFoundError: there is no such version.
        VersionDeletedError: one of them is gone for good.
        VersionInUseError: one of them is needed; says by what.
    """
    uses = Uses(step.overlay, command.model)
    until_ms = step.at_ms + command.keep_ms
    deleted: list[int] = []
    for number in command.numbers:
        lookup.record_bytes(step.overlay, command.model, number)
        before = deletions.deletion_of(step.overlay, command.model, number)
        if before is not None:
            if before.row.is_purged and not command.skip_in_use:
                raise VersionDeletedError(command.model, f"v{number}", deletions.PURGED)
            continue
        if found := uses.of(number):
            if command.skip_in_use:
                continue
            raise VersionInUseError(command.model, f"v{number}", "; ".join(found[:USES_NAMED_MAX]))
        _put(step, Trashed(command.model, number), reason=command.reason, until_ms=until_ms)
        deleted.append(number)
    return DeletedResult(tuple(deleted), until_ms)


def _put(step: Step, of: Trashed, *, reason: str, until_ms: int, head: int = 0) -> None:
    row = TrashRow(
        actor=step.principal, reason=reason, at_ms=step.at_ms, index=step.index, until_ms=until_ms, head=head
    )
    step.overlay.put(trash_keys.trash(of), row.pack())
    step.overlay.put(trash_keys.trash_age(of, until_ms), TrashAgeRow().pack())


def delete_name(step: Step, command: DeleteName) -> RefResult:
    """Delete a branch, tag or channel.

    Raises:
        ModelNotFoundError, ReferenceNotFoundError: there is none of that name.
        ProtectedError: it is the default branch, or a channel with actors, of which this is none.
    """
    of = RefName(command.model, command.kind, command.name)
    before = lookup.ref_row(step.overlay, of)
    if command.kind is RefKind.CHANNEL:
        protection.check_actor(before.protection, of, step.principal)
    elif command.kind is RefKind.BRANCH and command.name == DEFAULT_BRANCH:
        raise ProtectedError(str(of), "the default branch cannot be deleted")
    return refs.delete(step, of, before, command.reason)


def delete_model(step: Step, command: DeleteModel) -> DeletedResult:
    """Put all versions of a model into the trash.

    Raises:
        ModelNotFoundError: there is none.
        VersionInUseError: something but the default branch needs a version.
    """
    overlay, model = step.overlay, command.model
    count = lookup.model_row(overlay, model).version_count
    main = RefName(model, RefKind.BRANCH, DEFAULT_BRANCH)
    head = read(overlay, keys.ref(main), RefRow)
    for kind in (RefKind.BRANCH, RefKind.TAG, RefKind.CHANNEL):
        for key, value in islice(overlay.scan(*keys.refs_after(model, kind, "")), 2):
            of = RefName(model, kind, keys.ref_in(model, key))
            if of != main:
                raise VersionInUseError(model, f"v{RefRow.unpack(value).number}", f"{of} is at it")
    for key, value in overlay.scan(*trash_keys.pins_after(model, 0)):
        pin = PinRow.unpack(value)
        raise VersionInUseError(model, f"v{trash_keys.number_in(key)}", f"{pin.actor} pinned it")
    for key, value in overlay.scan(*keys.waiting_after(model, 0)):
        theirs, merge = WaitingRow.unpack(value).theirs, keys.number_in(key)
        raise VersionInUseError(model, f"v{theirs}", f"merge {merge} waits for it (mcr conflicts)")
    for number in receipts.versions_in_use(overlay, model):
        if deletions.deletion_of(overlay, model, number) is None:
            raise VersionInUseError(model, f"v{number}", "somebody has it loaded (mcr served)")
    if head is not None:
        refs.delete(step, main, head, command.reason)
    until_ms = step.at_ms + command.keep_ms
    of_all = Trashed(model, count, whole_model=True)
    _put(step, of_all, reason=command.reason, until_ms=until_ms, head=0 if head is None else head.number)
    return DeletedResult((), until_ms)


def restore(step: Step, command: RestoreVersions) -> CountResult:
    """Take versions out of the trash; those that are not deleted stay as they are.

    Raises:
        ModelNotFoundError, ReferenceNotFoundError: there is no such version.
        VersionDeletedError: one of them is gone for good.
        InvalidArgumentError: one of them went with its model.
        NotFoundError: no model of that name is in the trash.
    """
    if not command.numbers:
        return _restore_model(step, command.model)
    restored = 0
    for number in command.numbers:
        lookup.record_bytes(step.overlay, command.model, number)
        found = deletions.deletion_of(step.overlay, command.model, number)
        if found is None:
            continue
        if found.row.is_purged:
            raise VersionDeletedError(command.model, f"v{number}", deletions.PURGED)
        if found.of.whole_model:
            raise InvalidArgumentError("numbers", f"v{number} was deleted with its model; restore the model")
        _take_out(step, found)
        restored += 1
    return CountResult(restored)


def _take_out(step: Step, found: Deletion) -> None:
    step.overlay.delete(trash_keys.trash(found.of))
    step.overlay.delete(trash_keys.trash_age(found.of, found.row.until_ms))


def _restore_model(step: Step, model: str) -> CountResult:
    found = _model_in_trash(step, model)
    _take_out(step, found)
    main = RefName(model, RefKind.BRANCH, DEFAULT_BRANCH)
    head = found.row.head
    if head and read(step.overlay, keys.ref(main), RefRow) is None:
        identity = VersionId(version_id(lookup.record_bytes(step.overlay, model, head)))
        refs.move(step, main, number=head, identity=identity, verb="restore", reason="")
    return CountResult(1)


def _model_in_trash(step: Step, model: str) -> Deletion:
    found = deletions.last_model_deletion(step.overlay, model)
    if found is None:
        lookup.model_row(step.overlay, model)
        raise InvalidArgumentError("model", f"{model} was not deleted; name the versions")
    if found.row.is_purged:
        raise VersionDeletedError(model, f"v{found.of.number}", deletions.PURGED)
    return found


def empty(step: Step, command: EmptyTrash) -> CountResult:
    """Give up what is in the trash; what was given up before stays so.

    Raises:
        ModelNotFoundError, ReferenceNotFoundError: there is no such version.
        InvalidArgumentError: one of them is not in the trash, or went with its model.
        VersionInUseError: somebody has one of them loaded.
    """
    present = _round(step)
    if not command.model:
        return purge_expired(step, present, everything=True)
    if not command.numbers:
        found = _model_in_trash(step, command.model)
        _check_unloaded(step, found.of)
        _purge(step, found.of, found.row, present)
        return CountResult(1)
    purged = 0
    for number in command.numbers:
        lookup.record_bytes(step.overlay, command.model, number)
        alone = Trashed(command.model, number)
        row = read(step.overlay, trash_keys.trash(alone), TrashRow)
        if row is None:
            raise InvalidArgumentError("numbers", f"v{number} is not in the trash by itself")
        if not row.is_purged:
            _check_unloaded(step, alone)
            _purge(step, alone, row, present)
            purged += 1
    return CountResult(purged)


def purge_expired(step: Step, present_round: int, *, everything: bool = False) -> CountResult:
    """Give up what was in the trash for long enough, or all of it: DELETIONS_MAX at most.

    What somebody loaded all the same stays there for a while more.
    """
    span = trash_keys.trash_ages(b"", None if everything else step.at_ms)
    due = [trash_keys.trashed_in(key) for key, _ in islice(step.overlay.scan(*span), DELETIONS_MAX + 1)]
    purged = 0
    for of in due[:DELETIONS_MAX]:
        row = read(step.overlay, trash_keys.trash(of), TrashRow)
        assert row is not None, "what has an age is in the trash"
        if _is_loaded(step, of):
            _postpone(step, of, row)
        else:
            _purge(step, of, row, present_round)
            purged += 1
    return CountResult(purged, more=len(due) > DELETIONS_MAX)


def _purge(step: Step, of: Trashed, row: TrashRow, present_round: int) -> None:
    quotas.release(step, of)
    step.overlay.delete(trash_keys.trash_age(of, row.until_ms))
    gone = replace(row, is_purged=True, purged_round=present_round)
    step.overlay.put(trash_keys.trash(of), gone.pack())


def _is_loaded(step: Step, of: Trashed) -> bool:
    if not of.whole_model:
        return receipts.is_in_use(step.overlay, of.model, of.number)
    return any(number <= of.number for number in receipts.versions_in_use(step.overlay, of.model))


def _check_unloaded(step: Step, of: Trashed) -> None:
    if _is_loaded(step, of):
        raise VersionInUseError(of.model, f"v{of.number}", "somebody has it loaded (mcr served)")


def _postpone(step: Step, of: Trashed, row: TrashRow) -> None:
    later = replace(row, until_ms=max(row.until_ms, step.at_ms) + POSTPONED_MS)
    step.overlay.delete(trash_keys.trash_age(of, row.until_ms))
    step.overlay.put(trash_keys.trash(of), later.pack())
    step.overlay.put(trash_keys.trash_age(of, later.until_ms), TrashAgeRow().pack())


def _round(step: Step) -> int:
    row = read(step.overlay, trash_keys.COLLECTING, CollectingRow)
    return 0 if row is None else row.round


def pin(step: Step, command: PinVersion) -> CountResult:
    """Keep a version from being deleted; a pin that is there stays, with its reason.

    Raises:
        ModelNotFoundError, ReferenceNotFoundError: there is no such version.
        VersionDeletedError: it is deleted.
    """
    lookup.record_bytes(step.overlay, command.model, command.number)
    deletions.check_there(step.overlay, command.model, command.number)
    key = trash_keys.pin(command.model, command.number)
    if step.overlay.get(key) is not None:
        return CountResult(0)
    step.overlay.put(key, PinRow(actor=step.principal, reason=command.reason, at_ms=step.at_ms).pack())
    return CountResult(1)


def unpin(step: Step, command: UnpinVersion) -> CountResult:
    """Take a pin away; done already where there is none.

    Raises:
        ModelNotFoundError, ReferenceNotFoundError: there is no such version.
    """
    lookup.record_bytes(step.overlay, command.model, command.number)
    key = trash_keys.pin(command.model, command.number)
    if step.overlay.get(key) is None:
        return CountResult(0)
    step.overlay.delete(key)
    return CountResult(1)
