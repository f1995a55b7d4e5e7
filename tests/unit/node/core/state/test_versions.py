"""Commits and rollbacks of branches."""

import pytest

from mcr.model import RefKind, Version, VersionKind
from mcr.record import version_id
from mcr_node.core.state import queries, versions
from mcr_node.core.state.commands import LastGoodTarget, NumberTarget
from mcr_node.core.state.outcomes import VersionResult
from tests.support.state_world import MODEL, START_MS, StateWorld


def version(world: StateWorld, number: int) -> Version:
    return queries.get_version(world.view, MODEL, number)


def head(world: StateWorld, branch: str = "main") -> int:
    return queries.get_ref(world.view, MODEL, RefKind.BRANCH, branch).number


def test_first_commit_makes_the_model_and_its_branch() -> None:
    world = StateWorld()

    result = world.accept(
        world.commit(description="first", parameters={"lr": 1e-4}, metrics={"loss": 0.5}), VersionResult
    )

    assert result.number == 1
    made = version(world, 1)
    assert made.id == result.id.hex()
    assert (made.model, made.number, made.creator, made.description) == (MODEL, 1, "alice", "first")
    assert (made.parents, made.parent_ids, made.kind) == ((), (), VersionKind.COMMIT)
    assert (made.parameters, made.metrics, made.refs) == ({"lr": 1e-4}, {"loss": 0.5}, ("branch:main",))
    assert (made.branch, made.target_number, made.created_at_ms) == ("main", 0, START_MS + 1000)
    [summary] = queries.list_models(world.view, "", 10)
    assert (summary.name, summary.version_count) == (MODEL, 1)


def test_an_id_can_be_computed_again_from_the_stored_record() -> None:
    world = StateWorld()
    world.commits(2)

    data = queries.get_record(world.view, MODEL, 2)

    assert version_id(data).hex() == version(world, 2).id
    assert version(world, 2).parent_ids == (version(world, 1).id,)


def test_commits_are_numbered_without_gaps_whatever_was_rejected_between() -> None:
    world = StateWorld()
    world.commits(1)
    world.reject(world.commit(expected_head=7))
    world.commits(1)
    world.reject(world.commit("other", parent=9))
    world.commits(1, "other")

    numbers = [each.number for each in queries.list_versions(world.view, MODEL, before=None, limit=10)]

    assert numbers == [3, 2, 1]


def test_models_are_numbered_apart() -> None:
    world = StateWorld()
    world.commits(2)
    world.model = "vision/resnet50x"
    world.commits(1)

    names = [(each.name, each.version_count) for each in queries.list_models(world.view, "", 10)]

    assert names == [(MODEL, 2), ("vision/resnet50x", 1)]


def test_a_commit_hangs_on_the_head_of_its_branch() -> None:
    world = StateWorld()
    world.commits(3)

    assert version(world, 3).parents == (2,)
    assert head(world) == 3
    assert version(world, 2).refs == ()


def test_a_new_branch_starts_from_main_or_from_the_given_parent() -> None:
    world = StateWorld()
    world.commits(2)

    world.commits(1, "from-main")
    world.accept(world.commit("from-v1", parent=1), VersionResult)

    assert version(world, 3).parents == (2,)
    assert version(world, 4).parents == (1,)
    assert (head(world), head(world, "from-main"), head(world, "from-v1")) == (2, 3, 4)


def test_a_new_branch_without_a_main_starts_without_a_parent() -> None:
    world = StateWorld()
    world.commits(1, "left")

    world.commits(1, "right")

    assert version(world, 2).parents == ()


def test_a_given_parent_on_an_existing_branch_is_the_only_parent() -> None:
    world = StateWorld()
    world.commits(3)

    world.accept(world.commit(parent=1), VersionResult)

    assert version(world, 4).parents == (1,)
    assert head(world) == 4


def test_a_parent_that_does_not_exist_is_refused() -> None:
    world = StateWorld()

    assert world.reject(world.commit(parent=1))[0] == "model_not_found"
    world.commits(1)
    code, fields = world.reject(world.commit(parent=2))

    assert (code, fields["reference"]) == ("reference_not_found", "v2")
    assert "newest is v1" in str(fields["reason"])


def test_stale_head_is_rejected_and_leaves_no_trace() -> None:
    world = StateWorld()
    world.commits(2)

    code, fields = world.reject(world.commit(expected_head=1))

    assert code == "head_moved"
    assert fields == {"expected": "v1", "actual": "v2", "ref": "branch:main"}


def test_an_expected_head_of_zero_means_that_the_branch_must_not_exist() -> None:
    world = StateWorld()
    world.accept(world.commit(expected_head=0), VersionResult)

    again = world.reject(world.commit(expected_head=0))
    missing = world.reject(world.commit("exp", expected_head=1))

    assert again == ("head_moved", {"expected": "none", "actual": "v1", "ref": "branch:main"})
    assert missing == ("head_moved", {"expected": "v1", "actual": "none", "ref": "branch:exp"})


def test_the_expected_head_is_accepted() -> None:
    world = StateWorld()
    world.commits(1)

    assert world.accept(world.commit(expected_head=1), VersionResult).number == 2


def test_log_time_never_goes_back() -> None:
    world = StateWorld()
    world.at_ms = START_MS + 50_000
    world.commits(1)
    world.at_ms = START_MS

    world.commits(1)

    assert version(world, 2).created_at_ms == version(world, 1).created_at_ms == START_MS + 51_000


def test_a_rollback_makes_a_version_with_the_content_of_its_target() -> None:
    world = StateWorld()
    world.accept(world.commit(parameters={"lr": 1}, description="good"), VersionResult)
    world.commits(1)

    result = world.accept(world.roll_back_branch(reason="loss went up"), VersionResult)

    back, target = version(world, result.number), version(world, 1)
    assert (back.number, back.kind, back.target_number, back.parents) == (3, VersionKind.ROLLBACK, 1, (2,))
    assert (back.manifest, back.bytes_total, back.file_count, back.chunk_count, back.parameters) == (
        target.manifest,
        target.bytes_total,
        target.file_count,
        target.chunk_count,
        target.parameters,
    )
    assert back.description == "roll back to v1: loss went up"
    assert head(world) == 3
    [move] = queries.ref_history(world.view, MODEL, RefKind.BRANCH, "main", before_generation=None, limit=1)
    assert (move.verb, move.reason, move.number) == ("rollback", "loss went up", 3)


def test_a_rollback_keeps_a_description_that_is_given() -> None:
    world = StateWorld()
    world.commits(2)

    world.accept(world.roll_back_branch(description="back we go"), VersionResult)
    world.accept(world.roll_back_branch(target=NumberTarget(2)), VersionResult)

    assert version(world, 3).description == "back we go"
    assert version(world, 4).description == "roll back to v2"


def test_previous_goes_back_one_more_step_each_time() -> None:
    world = StateWorld()
    world.commits(3)

    targets = [
        version(world, world.accept(world.roll_back_branch(), VersionResult).number).target_number
        for _ in range(2)
    ]
    code, fields = world.reject(world.roll_back_branch())

    assert targets == [2, 1]
    assert (code, fields["reference"]) == ("reference_not_found", "branch:main")
    assert "v1 has no parent" in str(fields["reason"])


def test_previous_after_a_commit_on_a_rollback_is_what_the_rollback_restored() -> None:
    world = StateWorld()
    world.commits(2)
    world.accept(world.roll_back_branch(), VersionResult)  # v3 = v1
    world.commits(1)  # v4

    world.accept(world.roll_back_branch(), VersionResult)

    assert version(world, 5).target_number == 1


def test_a_rollback_to_a_rollback_names_the_version_that_had_the_content_first() -> None:
    world = StateWorld()
    world.commits(2)
    world.accept(world.roll_back_branch(), VersionResult)  # v3 = v1
    world.commits(1)

    world.accept(world.roll_back_branch(target=NumberTarget(3)), VersionResult)

    assert version(world, 5).target_number == 1


def test_last_good_passes_over_what_was_rolled_back_from() -> None:
    world = StateWorld()
    world.commits(3)
    world.accept(world.roll_back_branch(target=NumberTarget(1)), VersionResult)  # v4 = v1; v3 is bad
    world.accept(world.roll_back_branch(target=NumberTarget(2)), VersionResult)  # v5 = v2; v1 is bad
    world.accept(world.roll_back_branch(target=NumberTarget(3)), VersionResult)  # v6 = v3, chosen: good again
    world.accept(world.commit(), VersionResult)  # v7 on v6

    world.accept(world.roll_back_branch(target=LastGoodTarget()), VersionResult)
    assert version(world, 8).target_number == 3
    code, fields = world.reject(world.roll_back_branch(target=LastGoodTarget()))

    assert code == "reference_not_found"
    assert "v1 has no parent" in str(fields["reason"])


def test_the_search_for_a_good_version_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    world = StateWorld()
    world.commits(4)
    for number in (3, 2, 4):
        world.accept(world.roll_back_branch(target=NumberTarget(number)), VersionResult)
    world.commits(1)
    world.accept(world.roll_back_branch(), VersionResult)  # to v4, leaving the new one
    monkeypatch.setattr(versions, "LAST_GOOD_STEPS_MAX", 2)

    code, fields = world.reject(world.roll_back_branch(target=LastGoodTarget()))

    assert code == "reference_not_found"
    assert "choose one by its number" in str(fields["reason"])


@pytest.mark.parametrize("target", [2, 4])
def test_a_rollback_to_the_content_at_hand_is_refused(target: int) -> None:
    world = StateWorld()
    world.commits(3)
    world.accept(world.roll_back_branch(target=NumberTarget(2)), VersionResult)  # v4 = v2

    code, fields = world.reject(world.roll_back_branch(target=NumberTarget(target)))

    assert (code, fields["argument"]) == ("invalid_argument", "target")
    assert "has the content of v2 already" in str(fields["reason"])


def test_a_rollback_of_what_does_not_exist_is_refused() -> None:
    world = StateWorld()

    assert world.reject(world.roll_back_branch())[0] == "model_not_found"
    world.commits(2)
    assert world.reject(world.roll_back_branch("exp"))[1]["reason"] == "no such branch"
    assert world.reject(world.roll_back_branch(target=NumberTarget(9)))[1]["reference"] == "v9"
