"""Retention in the state: the rules of each branch, and deletions by them.

Laws:
    A deletion by rules is decided outside (`retention_decision`), some time before, over all versions; here
    it is checked again for what may have changed since. Other rules: nothing goes. Something needs a version
    by now (a name, a channel's way back, a receipt, a pin): that one stays, the others go.
    Bounded: rules of so many branches a model, so many versions a command.

Family `k` of `keys`: model NUL branch, a RetentionRow for each branch with rules.
"""

from collections.abc import Sequence
from itertools import islice
from typing import assert_never

from mcr.errors import HeadMovedError, InvalidArgumentError, ReferenceNotFoundError
from mcr.references import check_model, check_name
from mcr.retention_rules import BestRule, BranchRules, RetentionRules, check_rules
from mcr.values import dataclass
from mcr_node.core.state import lookup, trash
from mcr_node.core.state.keys import NUMBER_MAX, Span
from mcr_node.core.state.outcomes import CountResult, DeletedResult
from mcr_node.core.state.records import Row, read
from mcr_node.core.state.retention_commands import RetentionCommand, RetireVersions, SetRetention
from mcr_node.core.state.retention_decision import reason_to_go
from mcr_node.core.state.step import Step
from mcr_node.core.state.texts import check_number
from mcr_node.core.state.trash_commands import DeleteVersions
from mcr_node.core.state.view import View, prefix_end

# More than people look after; they are read at each decision.
BRANCHES_MAX = 256
_NUL = b"\x00"


@dataclass(frozen=True, slots=True)
class RetentionRow(Row):
    """The rules of one branch.

    Attributes:
        last, best, every, age_min_ms, trash_ms: see RetentionRules; each of `best` as count, metric, goal.
        generation: counts the changes of this model's rules, so that none is used twice.
        actor, at_ms: of the latest change.
    """

    last: int
    best: Sequence[Sequence[int | str]]
    every: int
    age_min_ms: int
    trash_ms: int
    generation: int
    actor: str
    at_ms: int


@dataclass(frozen=True, slots=True)
class RetentionsRow(Row):
    """What concerns the rules of all branches of a model: how often they changed."""

    changes: int = 0


def rules_key(model: str, branch: str) -> bytes:
    """Key of a RetentionRow."""
    return b"k" + model.encode() + _NUL + branch.encode()


def rules_span(model: str) -> Span:
    """The rules of all branches of a model, those for all others first."""
    prefix = rules_key(model, "")
    return prefix, prefix_end(prefix)


def models_span(after: str) -> Span:
    """The rules of all models whose name comes after one."""
    return b"k" + (after.encode() + b"\x01" if after else b""), prefix_end(b"k")


def model_in(key: bytes) -> str:
    """Return the model in the key of a RetentionRow."""
    return key[1:].partition(_NUL)[0].decode()


def _changes_key(model: str) -> bytes:
    return b"n" + model.encode()


def check(command: RetentionCommand) -> None:
    """Check what needs no state.

    Raises:
        InvalidArgumentError, InvalidNameError: says what and why.
    """
    check_model(command.model)
    if command.branch:
        check_name("branch", command.branch)
    match command:
        case SetRetention():
            if not command.is_none:
                check_rules(_rules(command))
        case RetireVersions():
            check_number("generation", command.generation, 1)
            if not 0 < len(command.numbers) <= trash.DELETIONS_MAX:
                raise InvalidArgumentError("numbers", f"there are {len(command.numbers)}")
            before = 0
            for number in command.numbers:
                if not before < number <= NUMBER_MAX:
                    raise InvalidArgumentError("numbers", f"{number} does not come after {before}")
                before = number
        case RetentionCommand():
            raise AssertionError("the base of commands is no command")
        case other:
            assert_never(other)


def _rules(command: SetRetention) -> RetentionRules:
    return RetentionRules(
        last=command.last,
        best=tuple(BestRule(*each) for each in command.best),
        every=command.every,
        age_min_ms=command.age_min_ms,
        trash_ms=command.trash_ms,
    )


def carry_out(step: Step, command: RetentionCommand) -> CountResult | DeletedResult:
    """Carry out a command."""
    match command:
        case SetRetention():
            return set_rules(step, command)
        case RetireVersions():
            return retire(step, command)
        case RetentionCommand():
            raise AssertionError("the base of commands is no command")
        case other:
            assert_never(other)


def set_rules(step: Step, command: SetRetention) -> CountResult:
    """Replace the rules of a branch.

    Raises:
        ModelNotFoundError: there is no such model.
        InvalidArgumentError: rules of too many branches.
    """
    overlay, model = step.overlay, command.model
    lookup.model_row(overlay, model)
    key = rules_key(model, command.branch)
    before = overlay.get(key)
    if command.is_none:
        if before is not None:
            overlay.delete(key)
        return CountResult(int(before is not None))
    if before is None and len(list(islice(overlay.scan(*rules_span(model)), BRANCHES_MAX))) == BRANCHES_MAX:
        raise InvalidArgumentError("branch", f"{model} has rules for {BRANCHES_MAX} branches already")
    changes = (read(overlay, _changes_key(model), RetentionsRow) or RetentionsRow()).changes + 1
    overlay.put(_changes_key(model), RetentionsRow(changes=changes).pack())
    row = RetentionRow(
        last=command.last,
        best=[list(each) for each in command.best],
        every=command.every,
        age_min_ms=command.age_min_ms,
        trash_ms=command.trash_ms,
        generation=changes,
        actor=step.principal,
        at_ms=step.at_ms,
    )
    overlay.put(key, row.pack())
    return CountResult(1)


def retire(step: Step, command: RetireVersions) -> DeletedResult:
    """Put versions into the trash by the rules of their branch.

    Raises:
        ModelNotFoundError, ReferenceNotFoundError: there is no such version, or the branch has no rules.
        HeadMovedError: the rules are others by now; decide anew.
    """
    lookup.model_row(step.overlay, command.model)
    row = read(step.overlay, rules_key(command.model, command.branch), RetentionRow)
    what = f"retention of branch {command.branch}" if command.branch else "retention"
    if row is None:
        raise ReferenceNotFoundError(command.model, what, "there are no such rules")
    if row.generation != command.generation:
        raise HeadMovedError(f"generation {command.generation}", f"generation {row.generation}", what)
    rules = rules_of(row)
    return trash.delete_versions(
        step,
        DeleteVersions(
            request_id=command.request_id,
            principal=command.principal,
            at_ms=command.at_ms,
            model=command.model,
            numbers=command.numbers,
            reason=reason_to_go(rules),
            keep_ms=rules.trash_ms,
            skip_in_use=True,
        ),
    )


def rules_of(row: RetentionRow) -> RetentionRules:
    """Return the rules of a row."""
    return RetentionRules(
        last=row.last,
        best=tuple(BestRule(int(count), str(metric), str(goal)) for count, metric, goal in row.best),
        every=row.every,
        age_min_ms=row.age_min_ms,
        trash_ms=row.trash_ms,
    )


def rules_of_model(view: View, model: str) -> list[BranchRules]:
    """Return the rules of all branches, those for all others first.

    Raises:
        ModelNotFoundError: there is no such model.
    """
    lookup.model_row(view, model)
    found: list[BranchRules] = []
    for key, value in view.scan(*rules_span(model)):
        row = RetentionRow.unpack(value)
        branch = key[len(rules_key(model, "")) :].decode()
        found.append(BranchRules(branch, rules_of(row), row.generation, row.actor, row.at_ms))
    return found


def model_with_rules_after(view: View, after: str) -> str | None:
    """Return the first model with rules whose name comes after one; None when there is none."""
    for key, _ in view.scan(*models_span(after)):
        return model_in(key)
    return None
