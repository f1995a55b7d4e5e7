"""Upload sessions: one version from many writers."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mcr.bases import BaseVersion
from mcr.model import ChunkId, LogIndex, RequestId
from mcr_node.core.state import codec, queries, session_checks, session_rows, sessions, space_keys
from mcr_node.core.state.apply import apply
from mcr_node.core.state.commands import Command
from mcr_node.core.state.outcomes import Accepted, SessionResult, VersionResult
from mcr_node.core.state.records import read
from mcr_node.core.state.session_rows import SessionsRow
from mcr_node.core.state.space_records import FenceRow
from mcr_node.core.state.view import prefix_end
from tests.support.session_commands import LIFETIME_MS, abort, begin, check_sessions, part_manifest, put, seal
from tests.support.state_world import MODEL, StateWorld

GOLDEN = Path(__file__).parents[4] / "conformance" / "golden" / "commands_sessions_1.txt"


def begun(*names: str, content: int = 1) -> StateWorld:
    """A world with a session and some parts."""
    world = StateWorld()
    world.accept(begin(world), SessionResult)
    for name in names:
        world.accept(put(world, name, content=content), SessionResult)
    return world


def row_count(world: StateWorld, prefix: bytes) -> int:
    return len(list(world.view.scan(prefix, prefix_end(prefix))))


def test_parts_of_many_writers_become_one_version() -> None:
    world = begun("rank0", "rank1")

    result = world.accept(seal(world, 2), VersionResult)

    version = queries.get_version(world.view, MODEL, result.number)
    assert (version.number, version.branch, version.description) == (1, "main", "from many")
    assert version.manifest == seal(world, 2).manifest
    check_sessions(world.view)


def test_all_writers_may_begin_and_the_first_one_does() -> None:
    world = StateWorld()
    first = world.accept(begin(world), SessionResult)

    second = world.accept(begin(world), SessionResult)

    assert (second.serial, second.already) == (first.serial, True)
    assert world.reject(begin(world, branch="other"))[0] == "session_ended"


def test_the_same_part_again_changes_nothing_and_other_bytes_are_a_conflict() -> None:
    world = begun("rank0")

    again = world.accept(put(world, "rank0"), SessionResult)

    assert (again.already, again.generation) == (True, 1)
    code, fields = world.reject(put(world, "rank0", content=2))
    assert (code, fields["part"]) == ("part_conflict", "rank0")
    assert world.reject(put(world, "rank0", is_folder=True))[0] == "part_conflict"


@pytest.mark.parametrize(("first", "second"), [("a", "a/b/c"), ("a/b", "a"), ("a/b", "a/b/c")])
def test_no_part_lies_inside_another(first: str, second: str) -> None:
    for is_folder in (False, True):
        world = begun()
        world.accept(put(world, first, is_folder=is_folder), SessionResult)

        assert world.reject(put(world, second))[0] == "part_conflict"


def test_parts_stand_in_the_order_of_their_paths_in_the_manifest() -> None:
    world = begun("a-b", "a.b", "b")
    world.accept(put(world, "a", is_folder=True), SessionResult)

    span = session_rows.parts_after(1, b"")
    paths = [session_rows.path_in(key) for key, _ in world.view.scan(*span)]

    assert paths == [b"a-b", b"a.b", b"a/", b"b"]


def test_a_part_that_came_meanwhile_makes_a_seal_fail() -> None:
    world = begun("rank0", "rank1")

    assert world.reject(seal(world, 1))[0] == "session_changed"
    assert world.accept(seal(world, 2), VersionResult).number == 1


def test_whoever_seals_again_gets_the_same_version() -> None:
    world = begun("rank0")
    first = world.accept(seal(world, 1), VersionResult)

    assert world.accept(seal(world, 1), VersionResult) == first
    assert world.accept(replace(seal(world, 9), principal="bob"), VersionResult) == first
    assert queries.list_versions(world.view, MODEL, before=None, limit=9)[0].number == 1


def test_the_head_must_be_as_expected_at_the_beginning_and_at_the_end() -> None:
    world = StateWorld()
    world.commits(1)
    assert world.reject(begin(world, expected_head=0))[0] == "head_moved"
    world.accept(begin(world, expected_head=1), SessionResult)
    world.accept(put(world, "rank0"), SessionResult)
    world.commits(1)

    assert world.reject(seal(world, 1))[0] == "head_moved"
    check_sessions(world.view)


def test_what_ended_takes_nothing_more_and_says_why() -> None:
    world = begun("rank0")
    world.accept(abort(world, reason="nan in rank 3"), SessionResult)

    code, fields = world.reject(put(world, "rank1"))

    assert (code, fields["ended"]) == ("session_ended", "was aborted: nan in rank 3")
    assert world.reject(seal(world, 1))[0] == "session_ended"
    assert world.accept(abort(world), SessionResult).already
    assert world.reject(put(world, "rank0", "another"))[0] == "session_not_found"


def test_a_name_is_free_again_after_an_abort_but_not_after_a_seal() -> None:
    world = begun("rank0")
    world.accept(abort(world), SessionResult)

    assert world.accept(begin(world), SessionResult).generation == 0
    world.accept(put(world, "rank0"), SessionResult)
    world.accept(seal(world, 1), VersionResult)

    assert world.reject(begin(world))[1]["ended"] == "was sealed as v1"


def test_what_nobody_puts_anything_into_expires_in_log_time() -> None:
    world = begun("rank0")
    world.at_ms += LIFETIME_MS - 2000
    world.accept(put(world, "rank1"), SessionResult)
    world.at_ms += LIFETIME_MS - 2000
    world.accept(put(world, "rank2"), SessionResult)
    world.at_ms += LIFETIME_MS + 1

    assert world.reject(put(world, "rank3"))[1]["ended"] == "expired: nothing was put into it for too long"
    assert world.reject(seal(world, 3))[0] == "session_ended"

    world.accept(begin(world, "another"), SessionResult)
    assert read(world.view, session_rows.SESSIONS, SessionsRow) == SessionsRow(1, 1, world.at_ms - 1)
    check_sessions(world.view)


def test_parts_of_open_sessions_are_roots_until_it_ends() -> None:
    world = StateWorld()
    for name in ("sealed", "aborted", "idle", "open"):
        world.accept(begin(world, name), SessionResult)
    for place, name in enumerate(("sealed", "aborted", "idle", "open")):
        world.accept(put(world, "rank0", name, content=1 + place), SessionResult)
    assert set(sessions.roots(world.view)) == {part_manifest(content) for content in (1, 2, 3, 4)}

    world.accept(seal(world, 1, "sealed"), VersionResult)
    world.accept(abort(world, "aborted"), SessionResult)
    assert set(sessions.roots(world.view)) == {part_manifest(3), part_manifest(4)}

    world.at_ms += LIFETIME_MS - 60_000
    world.accept(put(world, "rank0", "open", content=4), SessionResult)
    world.at_ms += 60_000
    # Whatever moves log time ends what idled, also a command that knows nothing of sessions.
    world.commits(1)
    assert list(sessions.roots(world.view)) == [part_manifest(4)]


def test_what_an_ended_session_leaves_is_removed_a_little_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "REMOVALS_MAX", 4)
    world = begun(*(f"rank{number}" for number in range(10)))
    world.accept(seal(world, 10), VersionResult)
    left = [row_count(world, b"T")]

    for number in range(4):
        world.accept(begin(world, f"next{number}"), SessionResult)
        assert len(world.changes) <= 4 + 10
        left.append(row_count(world, b"T"))

    assert left == [10, 6, 2, 0, 0]
    assert row_count(world, b"Sg") == 0


def test_ended_sessions_are_forgotten_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "ENDED_MAX", 2)
    world = StateWorld()
    for number in range(6):
        world.accept(begin(world, f"s{number}"), SessionResult)
        world.accept(abort(world, f"s{number}"), SessionResult)

    assert row_count(world, b"Sn") <= 3
    assert world.reject(put(world, "rank0", "s0"))[0] == "session_not_found"
    assert world.reject(put(world, "rank0", "s5"))[0] == "session_ended"
    check_sessions(world.view)


def test_sessions_parts_and_names_have_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "OPEN_MAX", 1)
    monkeypatch.setattr(sessions, "PARTS_MAX", 2)
    monkeypatch.setattr(sessions, "NAME_BYTES_TOTAL_MAX", 12)
    world = begun("rank0", "rank10")

    assert world.reject(begin(world, "second"))[0] == "out_of_space"
    assert world.reject(put(world, "r"))[0] == "out_of_space"
    monkeypatch.setattr(sessions, "PARTS_MAX", 9)
    assert world.reject(put(world, "rank2"))[0] == "out_of_space"
    assert world.accept(put(world, "r"), SessionResult).generation == 3


@pytest.mark.parametrize(
    "values",
    [
        {"name": ""},
        {"name": "/rank0"},
        {"name": "a/../b"},
        {"name": "x" * (session_checks.PART_NAME_BYTES_MAX + 1)},
        {"manifest": ChunkId(b"short")},
        {"bytes_total": -1},
        {"chunk_count": 2**64},
    ],
)
def test_a_part_out_of_bounds_is_refused(values: dict[str, Any]) -> None:
    world = begun()

    world.reject(replace(put(world, "rank0"), **values))


@pytest.mark.parametrize("lifetime_ms", [0, session_checks.LIFETIME_MS_MAX + 1])
def test_a_lifetime_out_of_bounds_is_refused(lifetime_ms: int) -> None:
    world = StateWorld()

    assert world.reject(begin(world, lifetime_ms=lifetime_ms))[1]["argument"] == "lifetime_ms"


def test_what_was_found_among_members_that_no_longer_count_is_refused() -> None:
    world = begun("rank0")
    world.view.write([(space_keys.FENCE, FenceRow(epoch=7).pack())])

    assert world.reject(replace(put(world, "rank1"), layout_epoch=6))[0] == "members_changed"
    assert world.reject(replace(seal(world, 1), layout_epoch=6))[0] == "members_changed"
    world.accept(replace(put(world, "rank1"), layout_epoch=7), SessionResult)


def test_what_was_found_in_an_earlier_round_of_garbage_is_refused() -> None:
    world = begun("rank0")

    assert world.reject(replace(put(world, "rank1"), gc_round=3))[0] == "seal_outdated"
    assert world.reject(replace(seal(world, 1), gc_round=3))[0] == "seal_outdated"


def test_a_retry_returns_the_first_outcome_also_after_the_session_is_forgotten() -> None:
    world = begun("rank0")
    command = seal(world, 1)
    first = world.apply(command)

    again, changes = apply(world.view, LogIndex(world.index + 1), replace(command, at_ms=world.at_ms + 5))

    assert isinstance(first, Accepted)
    assert again == replace(first, already_applied=True)
    assert changes == []


def golden_commands() -> dict[str, Command]:
    world = StateWorld(next_request=b"request-0001")
    commands: dict[str, Command] = {
        "begin": begin(world, expected_head=3, parent=2, parameters={"lr": 0.5}),
        "begin_least": begin(world),
        "begin_with_base": begin(world, base=BaseVersion("llm/base", 3, "ab" * 32)),
        "put": put(world, "ranks/größe-0"),
        "put_folder": put(world, "ranks", is_folder=True),
        "seal": seal(world, 2),
        "abort": abort(world, reason="nan"),
    }
    return {
        name: replace(command, request_id=RequestId(b"request-0001"), at_ms=1_763_900_000_000)
        for name, command in commands.items()
    }


def test_bytes_of_format_1_still_decode_to_the_same_commands() -> None:
    lines = [line.split() for line in GOLDEN.read_text().splitlines() if line and not line.startswith("#")]

    assert {name: codec.decode(bytes.fromhex(data)) for name, data in lines} == golden_commands()


def test_every_command_survives_the_way_into_the_log_and_back() -> None:
    for command in golden_commands().values():
        assert codec.decode(codec.encode(command)) == command
