"""Rounds of garbage collection, and leases, in the replicated state."""

from dataclasses import replace

from mcr_node.core.state import collecting
from mcr_node.core.state.outcomes import Accepted, CountResult, RoundResult, VersionResult
from tests.support.state_trash import hold, mark, release
from tests.support.state_world import StateWorld


def test_a_commit_sealed_before_a_mark_is_refused_after_it() -> None:
    world = StateWorld()
    sealed = replace(world.commit(), gc_round=0)
    world.accept(mark(world), RoundResult)

    code, fields = world.reject(sealed)

    assert (code, fields) == ("seal_outdated", {"sealed_round": 0, "present_round": 1})
    world.accept(replace(sealed, gc_round=1), VersionResult)


def test_a_commit_that_was_accepted_is_still_known_in_a_later_round() -> None:
    world = StateWorld()
    sealed = replace(world.commit(), gc_round=0)
    world.accept(sealed, VersionResult)
    world.accept(mark(world), RoundResult)

    again = world.apply(replace(sealed, gc_round=1, lease=b"another"))

    assert isinstance(again, Accepted)
    assert again.already_applied


def test_a_mark_follows_the_one_that_its_proposer_saw() -> None:
    world = StateWorld()
    first, second = mark(world), mark(world)

    assert world.accept(first, RoundResult).round == 1
    assert world.reject(second)[0] == "head_moved"


def test_marks_are_an_interval_apart() -> None:
    world = StateWorld()
    world.accept(mark(world, interval_ms=60_000), RoundResult)

    assert world.reject(mark(world, interval_ms=60_000))[0] == "failed"
    world.at_ms += 60_000
    world.accept(mark(world, interval_ms=60_000), RoundResult)


def test_what_came_in_this_round_or_the_last_is_held() -> None:
    world = StateWorld()
    for _ in range(5):
        world.accept(mark(world), RoundResult)

    assert collecting.held_since(world.view) == 4


def test_a_lease_holds_what_came_since_it_was_taken() -> None:
    world = StateWorld()
    world.accept(mark(world), RoundResult)
    world.accept(mark(world), RoundResult)
    assert world.accept(hold(world), RoundResult).round == 2
    for _ in range(3):
        world.accept(mark(world), RoundResult)

    assert collecting.held_since(world.view) == 1
    assert world.accept(release(world), CountResult).count == 1
    assert world.accept(release(world), CountResult).count == 0
    assert collecting.held_since(world.view) == 4


def test_a_commit_gives_the_lease_of_its_upload_back() -> None:
    world = StateWorld()
    world.accept(hold(world, b"mine"), RoundResult)
    world.accept(hold(world, b"other"), RoundResult)

    world.accept(replace(world.commit(), lease=b"mine"), VersionResult)

    assert collecting.collecting_row(world.view).lease_count == 1


def test_a_lease_that_is_not_renewed_lapses_in_log_time() -> None:
    world = StateWorld()
    world.accept(hold(world, hold_ms=5000), RoundResult)
    world.accept(hold(world, hold_ms=9000), RoundResult)
    world.at_ms += 5000
    for _ in range(3):
        world.accept(mark(world), RoundResult)
    assert collecting.held_since(world.view) == -1

    world.at_ms += 20_000
    world.accept(mark(world), RoundResult)

    assert collecting.held_since(world.view) == 3
    assert world.accept(hold(world), RoundResult).round == 4, "it begins anew, and says so"


def test_leases_are_bounded_and_lapsed_ones_make_room() -> None:
    world = StateWorld()
    for number in range(collecting.LEASES_MAX):
        world.accept(hold(world, b"%d" % number, hold_ms=10**7 * (1 + number % 2)), RoundResult)

    assert world.reject(hold(world, b"one more"))[0] == "node_busy"
    world.at_ms += 10**7
    world.accept(hold(world, b"one more"), RoundResult)
    assert collecting.collecting_row(world.view).lease_count == collecting.LEASES_MAX // 2 + 1
