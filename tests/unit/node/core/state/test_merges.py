"""Merges in the replicated state: two parents, what waits for decisions, where two versions meet."""

import pytest

from mcr.model import DIGEST_BYTES, VersionKind, digest
from mcr_node.core.state import lookup, merge_queries
from mcr_node.core.state.codec import decode, encode
from mcr_node.core.state.merge_checks import (
    MERGE_CONFLICTS_MAX,
    MERGE_DOCUMENT_BYTES_MAX,
    MERGES_WAITING_MAX,
)
from mcr_node.core.state.outcomes import MergeResult, VersionResult
from mcr_node.core.state.queries import PAGE_MAX
from tests.support import merge_commands
from tests.support.state_world import MODEL, StateWorld


@pytest.fixture
def world() -> StateWorld:
    """v1 on main, v2 on main, v3 on exp (from v2), v4 on main."""
    world = StateWorld()
    world.commits(2)
    world.commits(1, "exp")
    world.commits(1)
    return world


def base(world: StateWorld, ours: int, theirs: int) -> int:
    return merge_queries.merge_base(world.view, MODEL, ours, theirs)


def test_a_merge_has_both_parents_and_its_document(world: StateWorld) -> None:
    made = world.accept(merge_commands.merge(world, 4, 3, document=b"mean of all"), VersionResult)

    record = lookup.record(world.view, MODEL, made.number)
    assert record.kind is VersionKind.MERGE
    assert record.parents == (4, 3)
    assert record.merge_document == digest(b"mean of all")
    assert len(record.merge_document) == DIGEST_BYTES
    assert merge_queries.document(world.view, MODEL, made.number) == b"mean of all"


def test_a_merge_whose_branch_has_moved_is_rejected(world: StateWorld) -> None:
    code, fields = world.reject(merge_commands.merge(world, 2, 3))
    assert code == "head_moved"
    assert fields["actual"] == "v4"


def test_a_version_is_not_merged_into_itself(world: StateWorld) -> None:
    assert world.reject(merge_commands.merge(world, 4, 4))[0] == "invalid_argument"
    assert world.reject(merge_commands.open_merge(world, 4, 4))[0] == "invalid_argument"


def test_unknown_versions_are_not_merged(world: StateWorld) -> None:
    assert world.reject(merge_commands.merge(world, 4, 9))[0] == "reference_not_found"
    assert world.reject(merge_commands.open_merge(world, 4, 9))[0] == "reference_not_found"
    assert world.reject(merge_commands.open_merge(world, 4, 3, base=9))[0] == "reference_not_found"


def test_nothing_is_published_while_a_conflict_is_open(world: StateWorld) -> None:
    merge = world.accept(merge_commands.open_merge(world, 4, 3, names=("w", "b")), MergeResult).merge
    assert world.accept(merge_commands.resolve(world, merge, {"w": "ours"}), MergeResult).open_count == 1

    code, fields = world.reject(merge_commands.merge(world, 4, 3, merge=merge))
    assert (code, fields["conflicts"]) == ("conflicts_left", 1)

    world.principal = "bob"
    assert world.accept(merge_commands.resolve(world, merge, {"b": "theirs"}), MergeResult).open_count == 0
    world.accept(merge_commands.merge(world, 4, 3, merge=merge), VersionResult)
    assert merge_queries.list_waiting(world.view, MODEL, after=0, limit=PAGE_MAX) == []


def test_decisions_keep_who_made_them_and_may_be_changed(world: StateWorld) -> None:
    merge = world.accept(merge_commands.open_merge(world, 4, 3), MergeResult).merge
    world.accept(merge_commands.resolve(world, merge, {"w": "ours"}), MergeResult)
    world.principal = "bob"

    assert world.accept(merge_commands.resolve(world, merge, {"w": "slerp:0.5"}), MergeResult).open_count == 0

    waiting, (conflict,) = merge_queries.list_conflicts(world.view, MODEL, merge, after="", limit=10)
    assert (conflict.row.choice, conflict.row.decider) == ("slerp:0.5", "bob")
    assert (waiting.row.creator, waiting.row.open_count) == ("alice", 0)


def test_a_decision_about_an_unknown_conflict_changes_none(world: StateWorld) -> None:
    merge = world.accept(merge_commands.open_merge(world, 4, 3, names=("w", "b")), MergeResult).merge

    assert (
        world.reject(merge_commands.resolve(world, merge, {"w": "ours", "x": "ours"}))[0]
        == "invalid_argument"
    )

    _, found = merge_queries.list_conflicts(world.view, MODEL, merge, after="", limit=10)
    assert [conflict.row.choice for conflict in found] == ["", ""]


def test_a_waiting_merge_is_only_ended_by_a_version_of_its_parents(world: StateWorld) -> None:
    merge = world.accept(merge_commands.open_merge(world, 4, 3), MergeResult).merge
    world.accept(merge_commands.resolve(world, merge, {"w": "ours"}), MergeResult)
    world.commits(1)

    assert world.reject(merge_commands.merge(world, 5, 3, merge=merge))[0] == "invalid_argument"
    assert world.reject(merge_commands.merge(world, 4, 3, merge=merge))[0] == "head_moved"


def test_a_dropped_merge_is_gone_and_its_number_is_not_given_again(world: StateWorld) -> None:
    first = world.accept(merge_commands.open_merge(world, 4, 3), MergeResult).merge
    world.accept(merge_commands.drop(world, first), MergeResult)

    code, fields = world.reject(merge_commands.resolve(world, first, {"w": "ours"}))
    assert (code, fields["reason"]) == ("merge_not_found", "it was published or dropped")
    assert world.accept(merge_commands.open_merge(world, 4, 3), MergeResult).merge == first + 1


def test_only_so_many_merges_wait(world: StateWorld) -> None:
    for _ in range(MERGES_WAITING_MAX):
        world.accept(merge_commands.open_merge(world, 4, 3), MergeResult)

    assert world.reject(merge_commands.open_merge(world, 4, 3))[0] == "invalid_argument"

    world.accept(merge_commands.drop(world, 1), MergeResult)
    world.accept(merge_commands.open_merge(world, 4, 3), MergeResult)


def test_limits_of_what_one_command_carries(world: StateWorld) -> None:
    assert world.reject(merge_commands.merge(world, 4, 3, document=b""))[0] == "invalid_argument"
    assert world.reject(merge_commands.merge(world, 4, 3, document=bytes(MERGE_DOCUMENT_BYTES_MAX + 1)))[
        0
    ] == ("invalid_argument")
    names = [f"w{place}" for place in range(MERGE_CONFLICTS_MAX + 1)]
    assert world.reject(merge_commands.open_merge(world, 4, 3, names=names))[0] == "invalid_argument"
    assert world.reject(merge_commands.open_merge(world, 4, 3, names=["w", "w"]))[0] == "invalid_argument"
    assert world.reject(merge_commands.open_merge(world, 4, 3, names=[]))[0] == "invalid_argument"
    world.accept(merge_commands.open_merge(world, 4, 3, names=names[1:]), MergeResult)


def test_conflicts_come_in_pages_by_name(world: StateWorld) -> None:
    names = ["a", "a.b", "b", "c\x00d"]
    merge = world.accept(merge_commands.open_merge(world, 4, 3, names=names), MergeResult).merge

    _, first = merge_queries.list_conflicts(world.view, MODEL, merge, after="", limit=2)
    _, rest = merge_queries.list_conflicts(world.view, MODEL, merge, after=first[-1].name, limit=9)

    assert [conflict.name for conflict in first + rest] == names


def test_commands_of_merges_are_read_as_they_were_written(world: StateWorld) -> None:
    for command in (
        merge_commands.merge(world, 4, 3, merge=2),
        merge_commands.open_merge(world, 4, 3, base=2, names=("b", "a")),
        merge_commands.resolve(world, 1, {"w": "ours", "b": "slerp:0.5"}),
        merge_commands.drop(world, 1),
    ):
        assert decode(encode(command)) == command


def test_the_base_is_the_newest_common_ancestor(world: StateWorld) -> None:
    assert base(world, 4, 3) == base(world, 3, 4) == 2
    assert base(world, 2, 4) == base(world, 4, 2) == 2
    assert base(world, 4, 4) == 4


def test_a_merge_moves_the_base(world: StateWorld) -> None:
    world.accept(merge_commands.merge(world, 4, 3), VersionResult)  # v5 on main
    world.commits(1, "exp")  # v6 from v3
    assert base(world, 5, 6) == 3


def test_crossed_histories_have_the_newest_of_their_bases(world: StateWorld) -> None:
    world.accept(merge_commands.merge(world, 4, 3), VersionResult)  # v5 on main: 4, 3
    world.accept(merge_commands.merge(world, 3, 4, "exp"), VersionResult)  # v6 on exp: 3, 4
    assert base(world, 5, 6) == base(world, 6, 5) == 4


def test_versions_without_a_common_ancestor_have_no_base() -> None:
    world = StateWorld()
    world.commits(1, "one")
    world.commits(1, "other")
    assert base(world, 1, 2) == 0


def test_a_version_that_is_no_merge_has_no_document(world: StateWorld) -> None:
    with pytest.raises(Exception, match="no merge"):
        merge_queries.document(world.view, MODEL, 1)
