"""Retention in the state: rules, and deletions by them that are checked again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcr.errors import InvalidArgumentError
from mcr.model import RefKind
from mcr.retention_rules import parse_rules
from mcr_node.core.state import deletions, retention, retention_queries
from mcr_node.core.state.commands import Command
from mcr_node.core.state.outcomes import Accepted, CountResult, DeletedResult, ReceiptResult, RefResult
from mcr_node.core.state.retention_commands import RetireVersions, SetRetention
from mcr_node.core.state.retention_decision import decide
from mcr_node.core.state.roots import Uses
from tests.support import state_trash
from tests.support.state_commands import check_invariants, sequences
from tests.support.state_world import StateWorld


def set_rules(world: StateWorld, *texts: str, branch: str = "") -> SetRetention:
    rules = parse_rules(texts) if texts else None
    return SetRetention(
        request_id=world.request_id(),
        principal=world.principal,
        at_ms=world.at_ms,
        model=world.model,
        branch=branch,
        last=rules.last if rules else 0,
        best=tuple((each.count, each.metric, each.goal) for each in rules.best) if rules else (),
        every=rules.every if rules else 0,
        age_min_ms=rules.age_min_ms if rules else 0,
        trash_ms=rules.trash_ms if rules else 0,
        is_none=rules is None,
    )


def retire(world: StateWorld, *numbers: int, generation: int = 1, branch: str = "") -> RetireVersions:
    return RetireVersions(
        request_id=world.request_id(),
        principal=world.principal,
        at_ms=world.at_ms,
        model=world.model,
        branch=branch,
        generation=generation,
        numbers=numbers,
    )


@pytest.fixture
def world() -> StateWorld:
    """Six versions on main, of which v6 is the head."""
    world = StateWorld()
    world.commits(6)
    return world


def gone(world: StateWorld, command: RetireVersions) -> tuple[int, ...]:
    return world.accept(command, DeletedResult).numbers


def test_rules_are_kept_by_branch_with_a_generation_that_is_never_used_twice(world: StateWorld) -> None:
    world.accept(set_rules(world, "last=2"), CountResult)
    world.accept(set_rules(world, "last=3", branch="dev"), CountResult)
    world.accept(set_rules(world), CountResult)
    assert [each.branch for each in retention.rules_of_model(world.view, world.model)] == ["dev"]
    world.accept(set_rules(world, "best=2:loss:min", "trash=1d"), CountResult)
    found = retention.rules_of_model(world.view, world.model)
    assert [(each.branch, each.generation) for each in found] == [("", 3), ("dev", 2)]
    assert found[0].rules == parse_rules(["best=2:loss:min", "trash=1d"])
    assert retention.model_with_rules_after(world.view, "") == world.model
    assert retention.model_with_rules_after(world.view, world.model) is None


def test_what_goes_by_rules_is_in_the_trash_with_the_rules_as_its_reason(world: StateWorld) -> None:
    world.accept(set_rules(world, "last=2", "trash=1d"), CountResult)
    assert gone(world, retire(world, 1, 2)) == (1, 2)
    found = deletions.deletion_of(world.view, world.model, 1)
    assert found is not None
    assert found.row.reason == "retention: not kept by last=2"
    assert found.row.until_ms - found.row.at_ms == 86_400_000
    world.accept(state_trash.restore(world, 1), CountResult)
    assert deletions.deletion_of(world.view, world.model, 1) is None


def test_a_version_that_is_needed_by_now_stays(world: StateWorld) -> None:
    world.accept(set_rules(world, "last=1"), CountResult)
    # Decided while nothing needed them; then:
    world.accept(world.create_tag("release", 1), RefResult)
    world.accept(world.acknowledge(2), ReceiptResult)
    world.accept(state_trash.pin(world, 3), CountResult)
    world.channel_set(4)
    assert gone(world, retire(world, 1, 2, 3, 4, 5, 6)) == (5,)


def test_other_rules_are_another_decision(world: StateWorld) -> None:
    assert world.reject(retire(world, 1))[0] == "reference_not_found"
    world.accept(set_rules(world, "last=2"), CountResult)
    world.accept(set_rules(world, "last=5"), CountResult)
    assert world.reject(retire(world, 1, generation=1))[0] == "head_moved"
    assert gone(world, retire(world, 1, generation=2)) == (1,)


def test_what_is_deleted_is_no_candidate_and_pages_join_without_a_gap(world: StateWorld) -> None:
    world.accept(state_trash.delete(world, 2, 4), DeletedResult)
    found, before = [], 0
    while True:
        page, before = retention_queries.candidates(
            world.view, world.model, before=before, limit=2, metrics=("loss",), with_uses=True
        )
        found += page
        if not before:
            break
    assert [candidate.number for candidate in found] == [6, 5, 3, 1]
    assert found[0].uses == ("branch:main is at it",)
    verdicts = decide(found, {"": parse_rules(["last=2"])}, now_ms=world.at_ms)
    assert [verdict.number for verdict in verdicts if verdict.goes] == [3, 1]


def test_rules_of_too_many_branches_are_refused(world: StateWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "BRANCHES_MAX", 2)
    for branch in ("a", "b"):
        world.accept(set_rules(world, "last=1", branch=branch), CountResult)
    assert world.reject(set_rules(world, "last=1", branch="c"))[0] == "invalid_argument"
    world.accept(set_rules(world, "last=2", branch="b"), CountResult)
    world.accept(set_rules(world, branch="a"), CountResult)
    world.accept(set_rules(world, "last=1", branch="c"), CountResult)


@pytest.mark.parametrize("numbers", [(), (0,), (2, 2), (2, 1), tuple(range(1, 258))])
def test_numbers_out_of_order_are_refused(world: StateWorld, numbers: tuple[int, ...]) -> None:
    world.accept(set_rules(world, "last=1"), CountResult)
    with pytest.raises(InvalidArgumentError):
        retention.check(retire(world, *numbers))


@given(sequences, st.sampled_from(["last=1", "every=3", "best=1:loss:min", "age=1s"]))
def test_a_round_in_any_state_takes_nothing_that_is_needed_and_a_second_one_nothing(
    commands: list[Command], rule: str
) -> None:
    world = StateWorld(model="a/one", at_ms=0)
    for command in commands:
        world.apply(command)
    world.at_ms = 10**11
    if not isinstance(world.apply(set_rules(world, rule)), Accepted):
        # The model itself is in the trash.
        return
    uses = Uses(world.view, world.model)
    for is_first in (True, False):
        branches = retention.rules_of_model(world.view, world.model)
        rules = {each.branch: each.rules for each in branches}
        found, _ = retention_queries.candidates(
            world.view, world.model, before=0, limit=1000, metrics=("loss",), with_uses=True
        )
        verdicts = decide(found, rules, now_ms=world.at_ms)
        for each in branches:
            numbers = [
                verdict.number
                for verdict in verdicts
                if verdict.goes and (verdict.branch if verdict.branch in rules else "") == each.branch
            ]
            if numbers:
                asked = tuple(sorted(numbers))
                assert is_first
                assert (
                    gone(world, retire(world, *asked, branch=each.branch, generation=each.generation))
                    == asked
                )
                assert not any(uses.of(number) for number in asked)
        check_invariants(world.view)


def test_a_branch_that_is_gone_keeps_its_rules(world: StateWorld) -> None:
    world.commits(1, "dev")
    world.accept(set_rules(world, "last=1", branch="dev"), CountResult)
    world.accept(state_trash.delete_name(world, RefKind.BRANCH, "dev"), RefResult)
    assert gone(world, retire(world, 7, branch="dev")) == (7,)
