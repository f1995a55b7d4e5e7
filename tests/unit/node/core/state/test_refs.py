"""Branches and tags as names: made, deleted, never lost."""

import pytest

from mcr.errors import ReferenceNotFoundError
from mcr.model import RefKind
from mcr_node.core.state import queries
from mcr_node.core.state.outcomes import RefResult
from tests.support.state_world import MODEL, StateWorld


def verbs(world: StateWorld, kind: RefKind, name: str) -> list[tuple[int, str, int]]:
    moves = queries.ref_history(world.view, MODEL, kind, name, before_generation=None, limit=100)
    return [(move.generation, move.verb, move.number) for move in moves]


def test_a_branch_can_be_made_at_any_version() -> None:
    world = StateWorld()
    world.commits(2)

    ref = world.accept(world.create_branch("exp", 1), RefResult).ref

    assert (ref.kind, ref.name, ref.number, ref.generation, ref.actor) == (
        RefKind.BRANCH,
        "exp",
        1,
        1,
        "alice",
    )
    assert ref == queries.get_ref(world.view, MODEL, RefKind.BRANCH, "exp")
    assert queries.get_version(world.view, MODEL, 1).refs == ("branch:exp",)
    assert ref.version_id == queries.get_version(world.view, MODEL, 1).id


def test_a_name_that_exists_is_not_made_again() -> None:
    world = StateWorld()
    world.commits(2)
    world.accept(world.create_tag("release", 1), RefResult)

    branch = world.reject(world.create_branch("main", 1))
    tag = world.reject(world.create_tag("release", 1))

    assert branch == ("already_exists", {"kind": "branch", "name": "main", "at": "at v2"})
    assert tag == ("already_exists", {"kind": "tag", "name": "release", "at": "at v1"})


def test_a_tag_a_branch_and_a_channel_may_share_a_name() -> None:
    world = StateWorld()
    world.commits(2)

    world.accept(world.create_tag("main", 1), RefResult)
    world.channel_set(1, channel="main")

    assert queries.get_version(world.view, MODEL, 1).refs == ("channel:main", "tag:main")
    assert queries.get_version(world.view, MODEL, 2).refs == ("branch:main",)


def test_a_ref_needs_a_version() -> None:
    world = StateWorld()

    assert world.reject(world.create_tag("release", 1))[0] == "model_not_found"
    world.commits(1)
    assert world.reject(world.create_tag("release", 2))[1]["reference"] == "v2"
    assert world.reject(world.create_branch("exp", 2))[1]["reference"] == "v2"


def test_a_deleted_branch_keeps_its_history_and_goes_on_counting() -> None:
    world = StateWorld()
    world.commits(2)
    world.accept(world.create_branch("exp", 1), RefResult)

    gone = world.accept(world.delete_branch("exp", "done"), RefResult).ref

    assert (gone.number, gone.version_id, gone.generation, gone.reason) == (0, "", 2, "done")
    assert queries.get_version(world.view, MODEL, 1).refs == ()
    with pytest.raises(ReferenceNotFoundError, match="the branch was deleted"):
        queries.get_ref(world.view, MODEL, RefKind.BRANCH, "exp")
    assert [ref.name for ref in queries.list_refs(world.view, MODEL, RefKind.BRANCH)] == ["main"]

    world.accept(world.create_branch("exp", 2), RefResult)
    world.commits(1, "exp")

    assert verbs(world, RefKind.BRANCH, "exp") == [
        (4, "commit", 3),
        (3, "create", 2),
        (2, "delete", 0),
        (1, "create", 1),
    ]


def test_the_default_branch_cannot_be_deleted() -> None:
    world = StateWorld()
    world.commits(1)

    code, fields = world.reject(world.delete_branch("main"))

    assert (code, fields["ref"]) == ("protected", "branch:main")


def test_a_branch_that_does_not_exist_cannot_be_deleted() -> None:
    world = StateWorld()

    assert world.reject(world.delete_branch("main"))[0] == "model_not_found"
    world.commits(1)
    assert world.reject(world.delete_branch("exp"))[1]["reason"] == "no such branch"


def test_a_name_is_not_taken_for_the_start_of_another() -> None:
    world = StateWorld()
    world.commits(2)
    for name in ("exp", "exp-2", "exp.3", "ex"):
        world.accept(world.create_branch(name, 1), RefResult)
    world.accept(world.delete_branch("exp"), RefResult)

    assert [ref.name for ref in queries.list_refs(world.view, MODEL, RefKind.BRANCH)] == [
        "ex",
        "exp-2",
        "exp.3",
        "main",
    ]
    assert verbs(world, RefKind.BRANCH, "exp") == [(2, "delete", 0), (1, "create", 1)]
    assert verbs(world, RefKind.BRANCH, "ex") == [(1, "create", 1)]
