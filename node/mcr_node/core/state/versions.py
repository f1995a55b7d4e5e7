"""Versions: commits, and rollbacks of branches, which are commits too.

Laws:
    Versions of a model are numbered 1, 2, … without gaps, in log order. A record never changes.
    A rollback's `target_number` names the version that first had the content, never another rollback, so what
    a head holds and what came before it are found in one step, however often the branch went back.
"""

from collections.abc import Iterator, Mapping
from typing import assert_never

from mcr.bases import BaseVersion
from mcr.errors import HeadMovedError, InvalidArgumentError, ReferenceNotFoundError
from mcr.model import ParameterValue, RefKind, VersionId, VersionKind
from mcr.record import Record, encode_record, version_id
from mcr.references import DEFAULT_BRANCH
from mcr_node.core.state import collecting, deletions, fence, keys, lookup, metrics, quotas, refs
from mcr_node.core.state.commands import (
    CommitVersion,
    LastGoodTarget,
    NumberTarget,
    PreviousTarget,
    RollbackBranch,
)
from mcr_node.core.state.keys import RefName
from mcr_node.core.state.outcomes import VersionResult
from mcr_node.core.state.records import DerivedRow, IdRow, ModelRow, RefRow, StandingRow, read
from mcr_node.core.state.step import Step
from mcr_node.core.state.view import View

# As for channels: each step reads one record.
LAST_GOOD_STEPS_MAX = 256
# Deleted versions that one step back passes over.
DELETED_STEPS_MAX = 64


def commit(step: Step, command: CommitVersion, *, check_base_is_there: bool = True) -> VersionResult:
    """Make the next version and move its branch to it.

    A branch that does not exist is made. Its first version hangs on the given parent, else on the head of
    `main`, which is what somebody who commits to a new branch starts from; without a `main` it has no parent.

    Raises:
        HeadMovedError: the branch is not where the caller expected it.
        ModelNotFoundError, ReferenceNotFoundError: the given parent or base does not exist.
        InvalidArgumentError: too many metrics.
        SealOutdatedError: garbage was marked since its chunks were looked for.
        MembersChangedError: somebody is leaving since then.
        QuotaExceededError: it does not fit into a quota.
        VersionDeletedError: what it was derived from was deleted.
    """
    overlay, model = step.overlay, command.model
    branch = RefName(model, RefKind.BRANCH, command.branch)
    head = read(overlay, keys.ref(branch), RefRow)
    if command.expected_head is not None:
        check_head(branch, command.expected_head, head)
    collecting.check_round(overlay, command.gc_round)
    fence.check_sealed(overlay, command.layout_epoch)
    parent = command.parent
    if parent is None:
        start = head or read(overlay, keys.ref(RefName(model, RefKind.BRANCH, DEFAULT_BRANCH)), RefRow)
        parents = () if start is None else (start.number,)
        parent_ids = () if start is None else (VersionId(start.version_id),)
    else:
        parents = (parent,)
        parent_ids = (version_id(lookup.record_bytes(overlay, model, parent)),)
    if command.base is not None and check_base_is_there:
        check_base(overlay, command.base)
    model_row = read(overlay, keys.model(model), ModelRow)
    record = Record(
        model=model,
        number=1 if model_row is None else model_row.version_count + 1,
        created_at_ms=step.at_ms,
        creator=step.principal,
        description=command.description,
        parameters=command.parameters,
        branch=command.branch,
        kind=VersionKind.COMMIT,
        parents=parents,
        parent_ids=parent_ids,
        target_number=0,
        manifest=command.manifest,
        bytes_total=command.bytes_total,
        file_count=command.file_count,
        chunk_count=command.chunk_count,
        base=command.base,
    )
    result = add(step, record, model_row, verb="commit", reason="")
    collecting.drop_lease(step, command.lease)
    if command.metrics:
        metrics.keep(step, model, result.number, command.metrics, channel="")
    return result


def check_base(view: View, base: BaseVersion) -> None:
    """Check that there is the version that another one names as its base.

    Raises:
        ModelNotFoundError, ReferenceNotFoundError: there is none.
        VersionDeletedError: it was deleted. What names it already goes on to do so.
    """
    if version_id(lookup.record_bytes(view, base.model, base.number)).hex() != base.id:
        raise ReferenceNotFoundError(
            base.model, f"v{base.number}", "the version of that number has another id"
        )
    deletions.check_there(view, base.model, base.number)


def check_head(branch: RefName, expected: int, head: RefRow | None) -> None:
    """Check that a branch is where a caller expects it.

    Raises:
        HeadMovedError: it is not.
    """
    actual = 0 if head is None else head.number
    if actual != expected:
        said = [f"v{number}" if number else "none" for number in (expected, actual)]
        raise HeadMovedError(said[0], said[1], str(branch))


def add(
    step: Step,
    record: Record,
    model_row: ModelRow | None,
    *,
    verb: str,
    reason: str,
    evidence: Mapping[str, ParameterValue] | None = None,
) -> VersionResult:
    """Keep a record whose number is the next one, and move its branch to it."""
    quotas.charge(step, record)
    overlay, model = step.overlay, record.model
    data = encode_record(record)
    identity = version_id(data)
    overlay.put(keys.version(model, record.number), data)
    overlay.put(keys.version_id(model, identity), IdRow(number=record.number).pack())
    if record.base is not None:
        base = record.base
        overlay.put(keys.derived(base.model, base.number, model, record.number), DerivedRow().pack())
    created_at_ms = step.at_ms if model_row is None else model_row.created_at_ms
    row = ModelRow(version_count=record.number, created_at_ms=created_at_ms, updated_at_ms=step.at_ms)
    overlay.put(keys.model(model), row.pack())
    refs.move(
        step,
        RefName(model, RefKind.BRANCH, record.branch),
        number=record.number,
        identity=identity,
        verb=verb,
        reason=reason,
        evidence=evidence,
    )
    return VersionResult(record.number, identity)


def roll_back_branch(step: Step, command: RollbackBranch) -> VersionResult:
    """Make a version with the content of an earlier one; its parent is the head, so nothing is lost.

    "Previous" is the first parent of the version that the head's content came from: going back twice goes
    back two steps. A target with the content that the head has already is refused, because nothing would
    change.

    Raises:
        ModelNotFoundError, ReferenceNotFoundError: no such branch or version, or nothing to go back to.
        InvalidArgumentError: the branch has that content already.
    """
    overlay, model = step.overlay, command.model
    branch = RefName(model, RefKind.BRANCH, command.branch)
    head = lookup.ref_row(overlay, branch)
    present = lookup.content_number(lookup.record(overlay, model, head.number))
    match command.target:
        case PreviousTarget():
            content = _content_before(step.overlay, branch, present)
        case LastGoodTarget():
            content = _last_good(step, branch, present)
        case NumberTarget(number):
            content = lookup.content_number(lookup.record(overlay, model, number))
            deletions.check_there(overlay, model, number)
        case other:
            assert_never(other)
    if content == present:
        raise InvalidArgumentError("target", f"{branch} has the content of v{content} already")
    mark(step, branch, present, head.generation, rolled_back=True)
    if isinstance(command.target, NumberTarget):
        mark(step, branch, content, head.generation + 1, rolled_back=False)
    return restore(step, branch, head, content, reason=command.reason, description=command.description)


def restore(
    step: Step,
    branch: RefName,
    head: RefRow,
    content: int,
    *,
    reason: str,
    description: str = "",
    evidence: Mapping[str, ParameterValue] | None = None,
) -> VersionResult:
    """Make a version with the content of another one on top of a branch's head.

    Args:
        step: its principal is the creator.
        branch: the branch.
        head: where it is.
        content: number of the version that first had the content.
        reason: kept in the history of the branch.
        description: of the new version; "" = made from the content and the reason.
        evidence: why a policy decided it; kept in the history of the branch.
    """
    overlay, model = step.overlay, branch.model
    target = lookup.record(overlay, model, content)
    model_row = lookup.model_row(overlay, model)
    record = Record(
        model=model,
        number=model_row.version_count + 1,
        created_at_ms=step.at_ms,
        creator=step.principal,
        description=description or _describe(content, reason),
        parameters=target.parameters,
        branch=branch.name,
        kind=VersionKind.ROLLBACK,
        parents=(head.number,),
        parent_ids=(version_id(lookup.record_bytes(overlay, model, head.number)),),
        target_number=content,
        manifest=target.manifest,
        bytes_total=target.bytes_total,
        file_count=target.file_count,
        chunk_count=target.chunk_count,
        base=target.base,
    )
    return add(step, record, model_row, verb="rollback", reason=reason, evidence=evidence)


def _describe(content: int, reason: str) -> str:
    return f"roll back to v{content}: {reason}" if reason else f"roll back to v{content}"


def _content_before(view: View, branch: RefName, content: int) -> int:
    """Return the content before one; what was deleted since is passed over."""
    model = branch.model
    at = content
    for _ in range(DELETED_STEPS_MAX):
        parents = lookup.record(view, model, at).parents
        if not parents:
            break
        found = lookup.content_number(lookup.record(view, model, parents[0]))
        if any(deletions.deletion_of(view, model, number) is None for number in (parents[0], found)):
            return found
        at = found
    what = "has no parent" if at == content else "has no parent that was not deleted"
    raise ReferenceNotFoundError(model, str(branch), f"nothing to go back to: v{content} {what}")


def contents_before(view: View, branch: RefName, present: int) -> Iterator[int]:
    """Yield the contents that a branch had before, nearest first; bounded."""
    content = present
    for _ in range(LAST_GOOD_STEPS_MAX):
        try:
            content = _content_before(view, branch, content)
        except ReferenceNotFoundError:
            return
        yield content


def _last_good(step: Step, branch: RefName, present: int) -> int:
    last = present
    for content in contents_before(step.overlay, branch, present):
        if not rolled_back(step.overlay, branch, content):
            return content
        last = content
    # Where there is no more, it raises what a rollback to the previous one would.
    _content_before(step.overlay, branch, last)
    reason = f"the {LAST_GOOD_STEPS_MAX} versions before were all rolled back from; choose one by its number"
    raise ReferenceNotFoundError(branch.model, str(branch), reason)


def rolled_back(view: View, branch: RefName, content: int) -> bool:
    """Tell whether a rollback left a content since it was last chosen by its number."""
    standing = read(view, keys.standing(branch, content), StandingRow)
    return standing is not None and standing.rolled_back


def mark(step: Step, branch: RefName, content: int, generation: int, *, rolled_back: bool) -> None:
    """Note whether a rollback leaves a content, or goes to it by its number."""
    row = StandingRow(generation=generation, rolled_back=rolled_back)
    step.overlay.put(keys.standing(branch, content), row.pack())
