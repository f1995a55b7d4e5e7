"""What versions were derived from: named in records, listed where they came from, whatever is deleted."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcr.bases import BaseVersion
from mcr.model import Version
from mcr.record import decode_record, encode_record, version_id
from mcr_node.core.state import queries, sessions
from mcr_node.core.state.commands import NumberTarget
from mcr_node.core.state.outcomes import Accepted, SessionResult, VersionResult
from tests.support.session_commands import abort, begin, check_sessions, put, seal
from tests.support.state_trash import delete, delete_model, empty
from tests.support.state_world import StateWorld

FOUNDATION, TUNED = "llm/base", "llm/tuned"


def base_of(model: str, number: int, world: StateWorld) -> BaseVersion:
    return BaseVersion(model, number, queries.get_version(world.view, model, number).id)


def commit(world: StateWorld, model: str, base: BaseVersion | None = None) -> int:
    world.model = model
    return world.accept(world.commit(base=base), VersionResult).number


def derived(world: StateWorld, model: str, number: int, *, page: int = 1000) -> list[Version]:
    """List all, a page after the other."""
    found: list[Version] = []
    while True:
        after = (found[-1].model, found[-1].number) if found else ("", 0)
        more = queries.list_derived(world.view, model, number, after=after, limit=page)
        found += more
        if len(more) < page:
            return found


def test_a_base_stands_in_the_record_and_its_id_vouches_for_it() -> None:
    world = StateWorld()
    commit(world, FOUNDATION)
    base = base_of(FOUNDATION, 1, world)

    commit(world, TUNED, base)

    data = queries.get_record(world.view, TUNED, 1)
    record = decode_record(data)
    assert record.base == base
    assert encode_record(record) == data
    version = queries.get_version(world.view, TUNED, 1)
    assert (version.base, version.id) == (base, version_id(data).hex())
    assert version_id(encode_record(replace(record, base=None))) != version_id(data)
    assert [each.reference for each in derived(world, FOUNDATION, 1)] == [f"{TUNED}@v1"]
    assert derived(world, TUNED, 1) == []


def test_a_record_without_a_base_has_the_bytes_that_it_always_had() -> None:
    world = StateWorld()
    commit(world, FOUNDATION)

    assert b"base" not in queries.get_record(world.view, FOUNDATION, 1).replace(FOUNDATION.encode(), b"")


@pytest.mark.parametrize("what", ["model", "number", "id", "deleted", "model_deleted"])
def test_a_base_that_is_not_there_is_refused_and_leaves_no_trace(what: str) -> None:
    world = StateWorld()
    commit(world, FOUNDATION)
    commit(world, FOUNDATION)
    base = base_of(FOUNDATION, 1, world)
    expected = "reference_not_found"
    match what:
        case "model":
            base, expected = replace(base, model="llm/none"), "model_not_found"
        case "number":
            base = replace(base, number=3)
        case "id":
            base = replace(base, id="00" * 32)
        case "deleted":
            assert isinstance(world.apply(delete(world, 1)), Accepted)
            expected = "version_deleted"
        case _:
            assert isinstance(world.apply(delete_model(world)), Accepted)
            expected = "version_deleted"
    world.model = TUNED

    code, _ = world.reject(world.commit(base=base))

    assert code == expected


def test_what_was_derived_goes_on_to_name_a_base_that_was_deleted() -> None:
    world = StateWorld()
    commit(world, FOUNDATION)
    commit(world, FOUNDATION)
    base = base_of(FOUNDATION, 1, world)
    commit(world, TUNED, base)

    world.model = FOUNDATION
    assert isinstance(world.apply(delete(world, 1)), Accepted)
    assert isinstance(world.apply(empty(world, 1)), Accepted)

    assert queries.get_version(world.view, TUNED, 1).base == base
    assert queries.get_version(world.view, FOUNDATION, 1).is_purged
    assert [each.reference for each in derived(world, FOUNDATION, 1)] == [f"{TUNED}@v1"]


def test_a_derived_version_that_was_deleted_is_listed_as_such() -> None:
    world = StateWorld()
    commit(world, FOUNDATION)
    base = base_of(FOUNDATION, 1, world)
    commit(world, TUNED, base)
    commit(world, TUNED)

    assert isinstance(world.apply(delete(world, 1)), Accepted)

    (found,) = derived(world, FOUNDATION, 1)
    assert found.deleted_at_ms > 0


def test_a_rollback_names_the_base_of_what_it_restores() -> None:
    world = StateWorld()
    commit(world, FOUNDATION)
    base = base_of(FOUNDATION, 1, world)
    commit(world, TUNED, base)
    commit(world, TUNED)

    back = world.accept(world.roll_back_branch(target=NumberTarget(1)), VersionResult).number

    assert queries.get_version(world.view, TUNED, back).base == base
    assert [each.number for each in derived(world, FOUNDATION, 1)] == [1, back]


def test_a_session_names_the_base_with_which_it_was_begun_also_when_that_goes_meanwhile() -> None:
    world = StateWorld()
    commit(world, FOUNDATION)
    commit(world, FOUNDATION)
    base = base_of(FOUNDATION, 1, world)
    world.model = TUNED
    assert world.reject(begin(world, base=replace(base, id="00" * 32)))[0] == "reference_not_found"
    world.accept(begin(world, base=base), SessionResult)
    assert world.accept(begin(world, base=base), SessionResult).already
    assert world.reject(begin(world))[0] == "session_ended"
    world.accept(put(world, "rank0"), SessionResult)
    world.model = FOUNDATION
    assert isinstance(world.apply(delete(world, 1)), Accepted)
    world.model = TUNED

    sealed = world.accept(seal(world, 1), VersionResult)

    assert queries.get_version(world.view, TUNED, sealed.number).base == base
    assert [each.number for each in derived(world, FOUNDATION, 1)] == [1]
    check_sessions(world.view)


def test_what_a_session_was_derived_from_is_forgotten_with_it() -> None:
    world = StateWorld()
    commit(world, FOUNDATION)
    base = base_of(FOUNDATION, 1, world)
    serial = world.accept(begin(world, base=base), SessionResult).serial
    world.accept(abort(world), SessionResult)
    assert sessions.base_of(world.view, serial) == base

    world.at_ms += sessions.ENDED_MS_MAX + 1_000
    world.accept(begin(world, "other"), SessionResult)

    assert sessions.base_of(world.view, serial) is None


def test_a_retry_with_another_base_is_another_request() -> None:
    world = StateWorld()
    commit(world, FOUNDATION)
    world.model = TUNED
    command = world.commit(base=base_of(FOUNDATION, 1, world))
    first = world.accept(command, VersionResult)

    assert world.accept(command, VersionResult) == first
    code, _ = world.reject(replace(command, base=None))

    assert code == "request_reused"


_models = st.sampled_from(["a/b", "a/b.c", "a/bc", "z/z"])


@given(st.lists(st.tuples(_models, st.none() | st.integers(0, 100)), max_size=30), st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_pages_list_exactly_the_versions_whose_records_name_one(
    acts: list[tuple[str, int | None]], page: int
) -> None:
    # given
    world = StateWorld()
    made: list[BaseVersion] = []
    for model, chosen in acts:
        base = None if chosen is None or not made else made[chosen % len(made)]
        made.append(base_of(model, commit(world, model, base), world))
    # when, then
    for each in made:
        versions = [queries.get_version(world.view, other.model, other.number) for other in made]
        expected = sorted((version.model, version.number) for version in versions if version.base == each)
        found = derived(world, each.model, each.number, page=page)
        assert [(version.model, version.number) for version in found] == expected
