"""What a layout would move: by the real placement, of the real chunks or of an unbiased part of them."""

from dataclasses import replace

import pytest

from mcr.model import ChunkId, digest
from mcr_node.core.members import Member
from mcr_node.core.placement.ring import goal, holders
from mcr_node.services.planning import Sample, planned

MEMBERS = [Member(number, f"n{number}", f"h:{number}", site="ab"[number % 2]) for number in range(1, 6)]
LENGTH_BYTES = 1000


def sample_of(count: int, most: int = 1 << 17) -> Sample:
    sample = Sample(most)
    for number in range(count):
        sample.add(ChunkId(digest(b"%d" % number)), LENGTH_BYTES)
    return sample


def test_nothing_moves_where_nothing_changes() -> None:
    plan = planned(sample_of(500), MEMBERS, list(reversed(MEMBERS)))
    assert (plan.chunks, plan.looked_at, plan.chunks_moved, plan.bytes_moved) == (500, 500, 0, 0)


def test_only_what_a_member_that_leaves_holds_moves() -> None:
    sample = sample_of(2000)
    gone, stay = MEMBERS[0], MEMBERS[1:]
    plan = planned(sample, MEMBERS, stay)
    held = [one for one in sample.lengths if gone in holders(one, MEMBERS, goal(MEMBERS, 2))]
    assert plan.bytes_moved == len(held) * LENGTH_BYTES == plan.bytes_out[gone.node_id]
    assert plan.bytes_out.keys() == {gone.node_id}
    assert plan.chunks_moved == len(held)
    assert sum(plan.bytes_in.values()) == plan.bytes_moved


def test_a_member_that_comes_gets_its_share_and_takes_it_from_the_others() -> None:
    fresh = Member(9, "n9", "h:9", site="a")
    plan = planned(sample_of(3000), MEMBERS, [*MEMBERS, fresh])
    assert plan.bytes_in[fresh.node_id] > 0.9 * plan.bytes_moved
    # A sixth of 6,000 copies, if sites were no matter.
    assert 0.6 < plan.bytes_in[fresh.node_id] / (1000 * LENGTH_BYTES) < 1.4


def test_more_capacity_draws_chunks_and_less_gives_them_away() -> None:
    more = [replace(MEMBERS[0], capacity_bytes=8 * 1024**4), *MEMBERS[1:]]
    plan = planned(sample_of(2000), MEMBERS, more)
    assert plan.bytes_in.keys() == {MEMBERS[0].node_id}
    back = planned(sample_of(2000), more, MEMBERS)
    assert (back.bytes_moved, back.bytes_in) == (plan.bytes_moved, plan.bytes_out)


def test_copies_are_spread_over_sites_and_stay_so_as_long_as_there_are_two() -> None:
    for members in (MEMBERS, MEMBERS[1:], MEMBERS[:2]):
        wanted = goal(members, 2)
        assert (wanted.copies, wanted.sites) == (2, 2)
        for number in range(200):
            found = holders(digest(b"%d" % number), members, wanted)
            assert len({member.site for member in found}) == 2
    alone = [member for member in MEMBERS if member.site == "a"]
    assert (goal(alone, 2).copies, goal(alone, 2).sites) == (2, 1)
    assert (goal([], 2).copies, goal(alone[:1], 2).copies) == (1, 1)


@pytest.mark.parametrize("count", [4000, 20_000])
def test_a_sample_is_bounded_and_close_to_the_truth(count: int) -> None:
    sample = sample_of(count, most=1000)
    assert 400 < len(sample.lengths) <= 1000
    plan, truth = planned(sample, MEMBERS, MEMBERS[1:]), planned(sample_of(count), MEMBERS, MEMBERS[1:])
    assert plan.looked_at == len(sample.lengths)
    assert abs(plan.chunks / truth.chunks - 1) < 0.15
    assert abs(plan.bytes_moved / truth.bytes_moved - 1) < 0.2
