"""Refs: how a name moves, and the commands on branches and tags.

Laws:
    Every move writes one MoveRow under the next generation, and one event under its log index. Generations of
    a name have no gaps, and go on when a deleted name is made again. The RefRow is the latest move; a deleted
    name has none.
    Exactly the refs that point at a version have a PointerRow at it.
    A tag never moves. The default branch is deleted with its model only (`trash`).
"""

from collections.abc import Mapping

from mcr.errors import AlreadyExistsError, ProtectedError
from mcr.model import ParameterValue, RefKind, VersionId
from mcr.record import version_id
from mcr.references import DEFAULT_BRANCH
from mcr_node.core.state import deletions, events, keys, lookup
from mcr_node.core.state.commands import CreateBranch, CreateTag, DeleteBranch
from mcr_node.core.state.keys import RefName
from mcr_node.core.state.outcomes import RefResult
from mcr_node.core.state.records import POINTER, MoveRow, RefRow, read
from mcr_node.core.state.step import Step


def move(
    step: Step,
    of: RefName,
    *,
    number: int,
    identity: VersionId,
    verb: str,
    reason: str,
    below: int = 0,
    evidence: Mapping[str, ParameterValue] | None = None,
) -> RefRow:
    """Point a name at a version, making it when it does not exist; protection stays, what waits does not.

    Only channels have a `below` (see `RefRow`): what was before a branch's head follows from its parents.
    `evidence` is that of a policy that decided the move.
    """
    overlay = step.overlay
    before = read(overlay, keys.ref(of), RefRow)
    last = lookup.last_generation(overlay, of) if before is None else before.generation
    row = RefRow(
        number=number,
        version_id=identity,
        generation=last + 1,
        below=below,
        actor=step.principal,
        reason=reason,
        at_ms=step.at_ms,
        protection={} if before is None else before.protection,
        protected_by="" if before is None else before.protected_by,
        frozen=None if before is None else before.frozen,
    )
    overlay.put(keys.ref(of), row.pack())
    if before is not None:
        overlay.delete(keys.pointer(of, before.number))
    overlay.put(keys.pointer(of, number), POINTER)
    _write_history(step, of, row, verb, evidence)
    return row


def _write_history(
    step: Step,
    of: RefName,
    row: RefRow,
    verb: str,
    evidence: Mapping[str, ParameterValue] | None = None,
) -> None:
    entry = MoveRow(
        number=row.number,
        version_id=row.version_id,
        below=row.below,
        verb=verb,
        actor=row.actor,
        reason=row.reason,
        at_ms=row.at_ms,
        index=step.index,
        evidence=evidence,
    )
    step.overlay.put(keys.move(of, row.generation), entry.pack())
    events.keep(step, of, row.generation)


def create(step: Step, command: CreateBranch | CreateTag) -> RefResult:
    """Make a branch or tag.

    Raises:
        ModelNotFoundError, ReferenceNotFoundError, VersionDeletedError: there is no such version.
        AlreadyExistsError: the name exists, wherever it points.
    """
    kind = RefKind.BRANCH if isinstance(command, CreateBranch) else RefKind.TAG
    of = RefName(command.model, kind, command.name)
    identity = version_id(lookup.record_bytes(step.overlay, command.model, command.number))
    deletions.check_there(step.overlay, command.model, command.number)
    existing = read(step.overlay, keys.ref(of), RefRow)
    if existing is not None:
        raise AlreadyExistsError(str(kind), command.name, f"at v{existing.number}")
    row = move(step, of, number=command.number, identity=identity, verb="create", reason="")
    return RefResult(lookup.ref_of(of, row))


def delete_branch(step: Step, command: DeleteBranch) -> RefResult:
    """Delete a branch.

    Raises:
        ModelNotFoundError, ReferenceNotFoundError: there is no such branch.
        ProtectedError: it is the default branch, which a reference without `@` means.
    """
    of = RefName(command.model, RefKind.BRANCH, command.name)
    before = lookup.ref_row(step.overlay, of)
    if of.name == DEFAULT_BRANCH:
        raise ProtectedError(str(of), "the default branch cannot be deleted")
    return delete(step, of, before, command.reason)


def delete(step: Step, of: RefName, before: RefRow, reason: str) -> RefResult:
    """Delete a ref; its history stays, and says so."""
    row = RefRow(
        number=0,
        version_id=b"",
        generation=before.generation + 1,
        below=0,
        actor=step.principal,
        reason=reason,
        at_ms=step.at_ms,
    )
    step.overlay.delete(keys.ref(of))
    step.overlay.delete(keys.pointer(of, before.number))
    _write_history(step, of, row, "delete")
    return RefResult(lookup.ref_of(of, row))
