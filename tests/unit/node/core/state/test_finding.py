"""Searching a history in bounded steps: nothing left out, nothing twice, whatever its shape."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcr.errors import InvalidArgumentError
from mcr.finding import Conditions, parse_metric_condition, parse_parameter_condition
from mcr_node.core.state import finding, queries
from mcr_node.core.state.finding import LINES_MAX, LOOKED_AT_MAX, Search
from mcr_node.core.state.outcomes import Accepted, RefResult, VersionResult
from tests.support.merge_commands import merge
from tests.support.state_world import MODEL, START_MS, StateWorld

EVERYTHING = Conditions()


def found(
    world: StateWorld,
    conditions: Conditions,
    *,
    start: int,
    ancestry: bool = False,
    room: int | None = None,
) -> list[int]:
    """Search to the end, in pages of `room` versions."""
    numbers: list[int] = []
    rest: tuple[int, ...] = (start,)
    while rest:
        search = Search(world.view, MODEL, conditions, start=rest, ancestry=ancestry)
        page: list[int] = []
        for number in search:
            if room is not None and len(page) == room:
                search.put_back(number)
                break
            page.append(number)
        numbers += page
        rest = search.rest
    return numbers


def test_versions_are_found_by_all_conditions_together() -> None:
    world = StateWorld()
    for number in range(1, 9):
        world.principal = "ann" if number % 2 else "ci-7"
        world.accept(
            world.commit(parameters={"lr": number / 10}, metrics={"loss": float(9 - number)}), VersionResult
        )
    world.accept(world.create_tag("release-1", 3), RefResult)
    world.accept(world.create_tag("other", 5), RefResult)
    loss = parse_metric_condition("loss<6.5")
    rate = parse_parameter_condition("lr<=0.7")
    made = queries.get_version(world.view, MODEL, 5).created_at_ms

    for conditions, numbers in [
        (EVERYTHING, [8, 7, 6, 5, 4, 3, 2, 1]),
        (Conditions(metrics=(loss,)), [8, 7, 6, 5, 4, 3]),
        (Conditions(metrics=(loss,), parameters=(rate,)), [7, 6, 5, 4, 3]),
        (Conditions(metrics=(loss,), parameters=(rate,), creator="ann"), [7, 5, 3]),
        (Conditions(creator="ci-*", until_ms=made), [4, 2]),
        (Conditions(since_ms=made), [8, 7, 6, 5]),
        (Conditions(tags=("release-*",)), [3]),
        (Conditions(tags=("*",), since_ms=made), [5]),
        (Conditions(creator="nobody"), []),
    ]:
        assert found(world, conditions, start=8) == numbers


def test_the_latest_report_counts() -> None:
    world = StateWorld()
    world.commits(1)
    condition = Conditions(metrics=(parse_metric_condition("loss<1"),))
    assert found(world, condition, start=1) == []
    world.apply(world.report(1, {"loss": 0.5}))
    assert found(world, condition, start=1) == [1]
    world.apply(world.report(1, {"loss": 1.5}))
    assert found(world, condition, start=1) == []


def test_one_search_looks_at_a_bounded_number_of_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finding, "LOOKED_AT_MAX", 3)
    world = StateWorld()
    world.commits(8)
    search = Search(world.view, MODEL, Conditions(creator="nobody"), start=[8], ancestry=False)
    assert list(search) == []
    assert search.rest == (5,)
    assert found(world, EVERYTHING, start=8) == [8, 7, 6, 5, 4, 3, 2, 1]
    assert LOOKED_AT_MAX > 3


def test_a_search_back_to_a_time_ends_there() -> None:
    world = StateWorld()
    world.commits(8)
    made = queries.get_version(world.view, MODEL, 6).created_at_ms
    assert made > START_MS
    search = Search(world.view, MODEL, Conditions(since_ms=made), start=[8], ancestry=False)
    assert list(search) == [8, 7, 6]
    assert search.rest == ()


def test_impossible_places_to_go_on_from_are_refused() -> None:
    world = StateWorld()
    world.commits(1)
    for start in ([0], [2**64 - 1], [1] * (LINES_MAX + 1)):
        with pytest.raises(InvalidArgumentError):
            Search(world.view, MODEL, EVERYTHING, start=start, ancestry=True)


@given(st.data())
def test_pages_of_any_size_find_the_ancestry_once_each(data: st.DataObject) -> None:
    world = StateWorld()
    newest = world.accept(world.commit(), VersionResult).number
    for step in range(data.draw(st.integers(0, 14))):
        parent = data.draw(st.integers(1, newest))
        if data.draw(st.booleans()):
            newest = world.accept(world.commit(f"line-{step}", parent=parent), VersionResult).number
        else:
            branch = queries.get_version(world.view, MODEL, newest).branch
            outcome = world.apply(merge(world, newest, parent, branch))
            if isinstance(outcome, Accepted):
                newest += 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finding, "LOOKED_AT_MAX", data.draw(st.integers(2, 5)))
        room = data.draw(st.integers(1, 4))
        for ancestry in (False, True):
            expected = (
                [each.number for each in queries.list_ancestry(world.view, MODEL, newest, 1000)]
                if ancestry
                else list(range(newest, 0, -1))
            )
            assert found(world, EVERYTHING, start=newest, ancestry=ancestry, room=room) == expected
