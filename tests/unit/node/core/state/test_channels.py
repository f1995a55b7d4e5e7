"""Channels: sets, rollbacks that never roll forward, rules."""

import pytest

from mcr.model import ParameterValue, RefKind
from mcr_node.core.state import channels, queries
from mcr_node.core.state.commands import LastGoodTarget
from mcr_node.core.state.outcomes import RefResult, VersionResult
from tests.support.state_world import MODEL, StateWorld

GOOD = LastGoodTarget()


def world_with(versions: int) -> StateWorld:
    world = StateWorld()
    world.commits(versions)
    return world


def test_a_set_makes_the_channel_and_counts_its_moves() -> None:
    world = world_with(2)

    first = world.accept(world.set_channel(1, reason="launch"), RefResult)
    second = world.accept(world.set_channel(2), RefResult)

    assert (first.ref.number, first.ref.generation, first.ref.reason, first.already) == (
        1,
        1,
        "launch",
        False,
    )
    assert (second.ref.number, second.ref.generation) == (2, 2)
    assert queries.get_ref(world.view, MODEL, RefKind.CHANNEL, "production") == second.ref
    moves = queries.ref_history(
        world.view, MODEL, RefKind.CHANNEL, "production", before_generation=None, limit=9
    )
    assert [(move.verb, move.number, move.log_index, move.actor) for move in moves] == [
        ("set", 2, 4, "alice"),
        ("set", 1, 3, "alice"),
    ]


def test_setting_a_channel_where_it_is_moves_nothing() -> None:
    world = world_with(1)
    world.channel_set(1)

    again = world.accept(world.set_channel(1, reason="again"), RefResult)

    assert again.already
    assert (again.ref.generation, again.ref.reason) == (1, "")


def test_a_set_needs_a_version() -> None:
    world = StateWorld()

    assert world.reject(world.set_channel(1))[0] == "model_not_found"
    world.commits(1)
    assert world.reject(world.set_channel(2))[0] == "reference_not_found"


def test_a_set_on_a_stale_generation_is_rejected() -> None:
    world = world_with(3)
    world.accept(world.set_channel(1, expected=0), RefResult)
    world.accept(world.set_channel(2, expected=1), RefResult)

    stale = world.reject(world.set_channel(3, expected=1))
    exists = world.reject(world.set_channel(3, expected=0))
    missing = world.reject(world.set_channel(3, "canary", expected=4))

    assert stale == (
        "head_moved",
        {"expected": "generation 1", "actual": "generation 2", "ref": "channel:production"},
    )
    assert exists[1]["expected"] == "none"
    assert (missing[1]["expected"], missing[1]["actual"]) == ("generation 4", "none")


def test_rolling_back_again_and_again_never_rolls_forward() -> None:
    world = world_with(3)
    world.channel_set(1, 2, 3)

    back = [world.channel_back(), world.channel_back()]
    code, fields = world.reject(world.roll_back_channel())

    assert [(ref.number, ref.generation) for ref in back] == [(2, 4), (1, 5)]
    assert (code, fields["reference"]) == ("reference_not_found", "channel:production")
    assert "nothing was in force before v1" in str(fields["reason"])


def test_a_set_after_a_rollback_goes_back_to_what_the_rollback_restored() -> None:
    world = world_with(4)
    world.channel_set(1, 2, 3)
    world.channel_back()
    world.channel_set(4)

    assert [world.channel_back().number, world.channel_back().number] == [2, 1]


def test_last_good_passes_over_versions_that_were_rolled_back_from() -> None:
    world = world_with(4)
    world.channel_set(1, 2)
    world.channel_back(1)  # v2 is bad
    world.channel_set(3)
    world.channel_back(2)  # v3 is bad; v2 was chosen by number, so it counts as good again
    world.channel_back()  # v2 is bad
    world.channel_set(4)

    assert world.channel_back(GOOD).number == 1


def test_last_good_skips_a_bad_version_that_stands_in_between() -> None:
    world = world_with(4)
    world.channel_set(1, 2, 3, 2, 4)
    world.channel_back()  # to v2; v4 is bad
    world.channel_back()  # to v3; v2 is bad
    world.channel_set(4)

    assert world.channel_back(GOOD).number == 3
    assert world.channel_back(GOOD).number == 1  # v2 in between is bad
    code, fields = world.reject(world.roll_back_channel(GOOD))

    assert code == "reference_not_found"
    assert "not rolled back from" in str(fields["reason"])


def test_last_good_is_never_the_version_to_leave() -> None:
    world = world_with(2)
    world.channel_set(2, 1, 2)

    assert world.channel_back(GOOD).number == 1


def test_setting_a_version_again_clears_its_mark() -> None:
    world = world_with(3)
    world.channel_set(1, 2)
    world.channel_back()  # v2 is bad
    world.channel_set(2, 3)

    assert world.channel_back(GOOD).number == 2


def test_setting_the_present_version_clears_its_mark() -> None:
    world = world_with(3)
    world.channel_set(1, 2, 1)
    world.channel_back()  # v1 is bad
    world.channel_back()  # to v1 all the same: previous looks at no marks
    world.channel_set(1, 3)

    assert world.channel_back(GOOD).number == 1


def test_previous_on_a_marked_version_leaves_its_mark() -> None:
    world = world_with(3)
    world.channel_set(1, 2, 1)
    world.channel_back()  # v1 is bad
    world.channel_back()  # to v1 all the same
    world.channel_set(3)

    assert world.reject(world.roll_back_channel(GOOD))[0] == "reference_not_found"
    assert world.channel_back().number == 1


def test_a_rollback_to_a_number_goes_on_back_from_there() -> None:
    world = world_with(4)
    world.channel_set(1, 2, 3, 4)

    assert world.channel_back(2).number == 2
    assert world.channel_back().number == 1


def test_a_rollback_to_a_version_never_deployed_does_not_return_to_what_was_left() -> None:
    world = world_with(4)
    world.channel_set(1, 3)

    assert world.channel_back(2).number == 2
    assert world.channel_back().number == 1


def test_a_rollback_to_the_present_version_is_refused() -> None:
    world = world_with(2)
    world.channel_set(1, 2)

    code, fields = world.reject(world.roll_back_channel(2))

    assert (code, fields) == (
        "invalid_argument",
        {"argument": "target", "reason": "channel:production is at v2 already"},
    )


def test_a_rollback_of_what_does_not_exist_is_refused() -> None:
    world = StateWorld()

    assert world.reject(world.roll_back_channel())[0] == "model_not_found"
    world.commits(2)
    assert world.reject(world.roll_back_channel())[1]["reason"] == "no such channel"
    world.channel_set(1)
    assert world.reject(world.roll_back_channel(9))[1]["reference"] == "v9"
    assert world.reject(world.roll_back_channel(GOOD))[0] == "reference_not_found"


def test_the_search_for_a_good_version_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    world = world_with(3)
    world.channel_set(3, 1, 2, 1, 2, 1)
    world.channel_back()
    world.channel_back()
    assert world.channel_back(GOOD).number == 3
    world = world_with(3)
    world.channel_set(3, 1, 2, 1, 2, 1)
    world.channel_back()
    world.channel_back()
    monkeypatch.setattr(channels, "LAST_GOOD_STEPS_MAX", 2)

    assert world.reject(world.roll_back_channel(GOOD))[0] == "reference_not_found"


# Protection


def test_only_actors_move_a_protected_channel() -> None:
    world = world_with(2)
    world.channel_set(1)
    rules: dict[str, ParameterValue] = {"actors": ["ci", "carol"]}
    protected = world.accept(world.protect(rules), RefResult)

    refused = world.reject(world.set_channel(2))
    world.principal = "ci"
    moved = world.channel_set(2)

    assert (protected.ref.protection, protected.ref.generation, protected.already) == (rules, 1, False)
    assert refused == ("protected", {"ref": "channel:production", "reason": "alice is none of its actors"})
    assert (moved.number, moved.protection) == (2, rules)
    world.principal = "bob"
    assert world.reject(world.roll_back_channel())[0] == "protected"
    assert world.reject(world.roll_back_channel(1))[0] == "protected"


def test_a_channel_takes_only_versions_made_on_its_branch() -> None:
    world = world_with(1)
    world.commits(1, "exp")
    world.channel_set(1)
    world.accept(world.protect({"branch": "main"}), RefResult)

    code, fields = world.reject(world.set_channel(2))

    assert code == "protected"
    assert fields["reason"] == "it takes versions of branch main; v2 was made on exp"


def test_a_channel_takes_only_versions_with_finite_values_of_its_metrics() -> None:
    world = world_with(4)
    world.channel_set(1)
    world.accept(world.protect({"metrics": ["loss", "accuracy"]}), RefResult)
    world.reported(2, {"accuracy": 0.9})
    world.reported(3, {"accuracy": 0.9, "loss": float("nan")})
    world.reported(4, {"accuracy": 0.9, "loss": 0.1})

    missing = world.reject(world.set_channel(2))
    not_finite = world.reject(world.set_channel(3))

    assert missing[1]["reason"] == "metric loss of v2 is not reported"
    assert not_finite[1]["reason"] == "metric loss of v3 is reported as nan"
    assert world.channel_set(4).number == 4


def test_rules_on_versions_do_not_stand_in_the_way_back_to_what_ran_before() -> None:
    world = world_with(4)
    world.channel_set(1, 2, 3)
    world.accept(world.protect({"metrics": ["loss"]}), RefResult)

    assert world.channel_back().number == 2
    assert world.channel_back(1).number == 1
    # But a version that never ran here has to meet them, or a rollback would be a way around them.
    assert world.reject(world.roll_back_channel(4))[0] == "protected"


def test_only_actors_and_whoever_set_them_change_the_rules() -> None:
    world = world_with(1)
    world.channel_set(1)
    world.accept(world.protect({"actors": ["ci"]}), RefResult)

    world.principal = "bob"
    refused = world.reject(world.protect({}))
    world.principal = "ci"
    world.accept(world.protect({"actors": ["ci"], "branch": "main"}), RefResult)
    world.principal = "alice"
    late = world.reject(world.protect({}))
    world.principal = "ci"
    cleared = world.accept(world.protect({}), RefResult)

    assert (refused[0], late[0]) == ("protected", "protected")
    assert cleared.ref.protection == {}
    assert world.accept(world.protect({}), RefResult).already


def test_a_channel_must_exist_to_be_protected() -> None:
    world = world_with(1)

    assert world.reject(world.protect({}))[1]["reason"] == "no such channel"


@pytest.mark.parametrize(
    ("rules", "code"),
    [
        ({"actor": ["ci"]}, "invalid_argument"),
        ({"\ud800": 1}, "invalid_argument"),
        ({"actors": "ci"}, "invalid_argument"),
        ({"actors": []}, "invalid_argument"),
        ({"actors": ["x"] * 101}, "invalid_argument"),
        ({"actors": ["x" * 257]}, "invalid_argument"),
        ({"actors": [""]}, "invalid_argument"),
        ({"actors": [1]}, "invalid_argument"),
        ({"actors": {"ci": 1}}, "invalid_argument"),
        ({"branch": 1}, "invalid_argument"),
        ({"branch": "no name"}, "invalid_name"),
        ({"metrics": ["a", ""]}, "invalid_argument"),
        ({"metrics": ["\n"]}, "invalid_argument"),
        ({"signers": []}, "invalid_argument"),
        ({"signers": "ab" * 32}, "invalid_argument"),
        ({"signers": ["ab" * 31]}, "invalid_argument"),
        ({"signers": ["AB" * 32]}, "invalid_argument"),
        ({"signers": ["ab" * 32] * 101}, "invalid_argument"),
    ],
)
def test_rules_that_do_not_have_their_form_are_refused(rules: dict[str, ParameterValue], code: str) -> None:
    world = world_with(1)
    world.channel_set(1)

    assert world.reject(world.protect(rules))[0] == code


def test_a_commit_does_not_move_a_channel() -> None:
    world = world_with(1)
    world.channel_set(1)

    world.accept(world.commit(), VersionResult)

    assert queries.get_ref(world.view, MODEL, RefKind.CHANNEL, "production").number == 1
