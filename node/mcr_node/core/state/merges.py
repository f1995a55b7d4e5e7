"""Merges: versions of two parents, and merges that wait until people have decided their conflicts.

Laws:
    A merge has two parents: the head that its branch was at, then what was merged. Its document is kept for
    ever, and its record names the document's digest, so the version's id vouches for how it was computed.
    What waits is bounded: MERGES_WAITING_MAX a model, MERGE_CONFLICTS_MAX conflicts each. It ends by its
    version or by being dropped, and takes its conflicts along. Its number is never given again.
    `open_count` is how many conflicts have no choice. A version that ends a waiting merge is accepted only
    when that is 0, and only with the parents that the merge was opened with: nothing undecided is published.
"""

from dataclasses import replace
from itertools import islice
from typing import assert_never

from mcr.errors import ConflictsLeftError, InvalidArgumentError, MergeNotFoundError
from mcr.model import RefKind, VersionKind, digest
from mcr.record import Record, version_id
from mcr_node.core.state import collecting, deletions, fence, keys, lookup, versions
from mcr_node.core.state.keys import RefName
from mcr_node.core.state.merge_checks import MERGE_CONFLICTS_MAX, MERGES_WAITING_MAX
from mcr_node.core.state.merge_commands import (
    CommitMerge,
    DropMerge,
    MergeCommand,
    OpenMerge,
    ResolveConflicts,
)
from mcr_node.core.state.outcomes import MergeResult, VersionResult
from mcr_node.core.state.records import ConflictRow, DocumentRow, MergesRow, RefRow, WaitingRow, read
from mcr_node.core.state.step import Step
from mcr_node.core.state.texts import shown
from mcr_node.core.state.view import View


def carry_out(step: Step, command: MergeCommand) -> VersionResult | MergeResult:
    """Carry out one command; what they raise stands with each."""
    match command:
        case CommitMerge():
            return _commit(step, command)
        case OpenMerge():
            return _open(step, command)
        case ResolveConflicts():
            return _resolve(step, command)
        case DropMerge():
            waiting_row(step.overlay, command.model, command.merge)
            _forget(step, command.model, command.merge)
            return MergeResult(command.merge, 0)
        case other:
            assert_never(other)


def waiting_row(view: View, model: str, merge: int) -> WaitingRow:
    """Return the row of a merge that waits.

    Raises:
        ModelNotFoundError: there is no such model.
        MergeNotFoundError: there is none of that number, or no longer.
    """
    row = read(view, keys.waiting(model, merge), WaitingRow) if merge else None
    if row is None:
        lookup.model_row(view, model)
        last = (read(view, keys.merges(model), MergesRow) or MergesRow()).last
        reason = "it was published or dropped" if 0 < merge <= last else "there is none"
        raise MergeNotFoundError(model, str(merge), reason)
    return row


def _commit(step: Step, command: CommitMerge) -> VersionResult:
    """Make the version.

    Raises:
        HeadMovedError: the branch is not at `ours`.
        ModelNotFoundError, ReferenceNotFoundError: there is no such version.
        MergeNotFoundError, ConflictsLeftError: of the waiting merge that it ends.
        InvalidArgumentError: that one is of other versions.
        SealOutdatedError: garbage was marked since its chunks were looked for.
        MembersChangedError: somebody is leaving whose copies were counted on.
    """
    overlay, model = step.overlay, command.model
    branch = RefName(model, RefKind.BRANCH, command.branch)
    if command.merge:
        _check_ready(step, command)
    head = read(overlay, keys.ref(branch), RefRow)
    versions.check_head(branch, command.ours, head)
    collecting.check_round(overlay, command.gc_round)
    fence.check_sealed(overlay, command.layout_epoch)
    model_row = lookup.model_row(overlay, model)
    parents = (command.ours, command.theirs)
    record = Record(
        model=model,
        number=model_row.version_count + 1,
        created_at_ms=step.at_ms,
        creator=step.principal,
        description=command.description,
        parameters=command.parameters,
        branch=command.branch,
        kind=VersionKind.MERGE,
        parents=parents,
        parent_ids=tuple(version_id(lookup.record_bytes(overlay, model, parent)) for parent in parents),
        target_number=0,
        manifest=command.manifest,
        bytes_total=command.bytes_total,
        file_count=command.file_count,
        chunk_count=command.chunk_count,
        merge_document=digest(command.document),
    )
    document = DocumentRow(document=command.document)
    overlay.put(keys.merge_document(model, record.number), document.pack())
    if command.merge:
        _forget(step, model, command.merge)
    return versions.add(step, record, model_row, verb="merge", reason="")


def _check_ready(step: Step, command: CommitMerge) -> None:
    row = waiting_row(step.overlay, command.model, command.merge)
    if row.open_count:
        raise ConflictsLeftError(command.model, command.merge, row.open_count)
    if (row.branch, row.ours, row.theirs) != (command.branch, command.ours, command.theirs):
        reason = f"merge {command.merge} is of v{row.theirs} into {row.branch} at v{row.ours}"
        raise InvalidArgumentError("merge", reason)


def _open(step: Step, command: OpenMerge) -> MergeResult:
    """Keep a merge with its conflicts.

    Raises:
        ModelNotFoundError, ReferenceNotFoundError: there is no such version.
        VersionDeletedError: one of them is in the trash; restore it.
        HeadMovedError: the branch is not at `ours`: deciding would be for nothing.
        InvalidArgumentError: too many wait already.
    """
    overlay, model = step.overlay, command.model
    for number in (command.ours, command.theirs, command.base):
        if number:
            lookup.record_bytes(overlay, model, number)
            # From now on nobody deletes it (`roots`), but what was in the trash before would go from there.
            deletions.check_there(overlay, model, number)
    branch = RefName(model, RefKind.BRANCH, command.branch)
    versions.check_head(branch, command.ours, read(overlay, keys.ref(branch), RefRow))
    all_row = read(overlay, keys.merges(model), MergesRow) or MergesRow()
    if all_row.count >= MERGES_WAITING_MAX:
        reason = f"{all_row.count} wait already; end or drop some (mcr conflicts {model})"
        raise InvalidArgumentError("merges", reason)
    merge = all_row.last + 1
    overlay.put(keys.merges(model), MergesRow(last=merge, count=all_row.count + 1).pack())
    row = WaitingRow(
        branch=command.branch,
        ours=command.ours,
        theirs=command.theirs,
        base=command.base,
        document=command.document,
        conflict_count=len(command.conflicts),
        open_count=len(command.conflicts),
        creator=step.principal,
        at_ms=step.at_ms,
    )
    overlay.put(keys.waiting(model, merge), row.pack())
    for name, detail in command.conflicts:
        overlay.put(keys.conflict(model, merge, name), ConflictRow(detail=detail).pack())
    return MergeResult(merge, row.open_count)


def _resolve(step: Step, command: ResolveConflicts) -> MergeResult:
    """Keep decisions, all of them or none.

    Raises:
        ModelNotFoundError, MergeNotFoundError: there is no such merge.
        InvalidArgumentError: it has no such conflict.
    """
    overlay, model, merge = step.overlay, command.model, command.merge
    row = waiting_row(overlay, model, merge)
    open_count = row.open_count
    for name, choice in command.choices:
        key = keys.conflict(model, merge, name)
        conflict = read(overlay, key, ConflictRow)
        if conflict is None:
            raise InvalidArgumentError("conflict", f"merge {merge} has none called {shown(name)!r}")
        open_count -= not conflict.choice
        decided = replace(conflict, choice=choice, decider=step.principal, at_ms=step.at_ms)
        overlay.put(key, decided.pack())
    overlay.put(keys.waiting(model, merge), replace(row, open_count=open_count).pack())
    return MergeResult(merge, open_count)


def _forget(step: Step, model: str, merge: int) -> None:
    overlay = step.overlay
    all_row = read(overlay, keys.merges(model), MergesRow)
    assert all_row is not None, "a merge that waits was counted"
    overlay.put(keys.merges(model), replace(all_row, count=all_row.count - 1).pack())
    overlay.delete(keys.waiting(model, merge))
    rows = list(islice(overlay.scan(*keys.conflicts_after(model, merge, "")), MERGE_CONFLICTS_MAX))
    for key, _ in rows:
        overlay.delete(key)
