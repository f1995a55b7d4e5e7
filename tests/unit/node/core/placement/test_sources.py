"""Whom to ask for a chunk: laws over drawn members and measurements."""

from hypothesis import given
from hypothesis import strategies as st

from mcr.model import MIB
from mcr_node.core.members import Member
from mcr_node.core.placement import sources
from mcr_node.core.placement.ring import ranked
from mcr_node.core.placement.sources import Source

KEYS = st.binary(min_size=32, max_size=32)
MEMBERS = st.lists(
    st.builds(
        lambda number, site: Member(number, f"n{number}", f"n{number}:1", site),
        st.integers(1, 40),
        st.sampled_from(["east", "west", "north"]),
    ),
    min_size=2,
    max_size=9,
    unique_by=lambda member: member.node_id,
)


@st.composite
def measured(draw: st.DrawFn) -> list[Source]:
    return [
        Source(
            member,
            latency_us=draw(st.integers(0, 200_000)),
            bytes_per_s=draw(st.integers(0, 10**10)),
            waiting_bytes=draw(st.integers(0, 1 << 30)),
            is_failing=draw(st.booleans()),
        )
        for member in draw(MEMBERS)
    ]


@given(measured(), st.integers(0, 4 * MIB), st.randoms())
def test_the_order_keeps_everybody_and_forgets_the_order_of_the_question(
    found: list[Source], length_bytes: int, chance: st.DataObject
) -> None:
    order = sources.ordered(found, "east", length_bytes)
    mixed = list(found)
    chance.shuffle(mixed)  # type: ignore[attr-defined]
    assert sources.ordered(mixed, "east", length_bytes) == order
    assert sorted(one.member.node_id for one in order) == sorted(one.member.node_id for one in found)


@given(measured(), st.integers(0, 4 * MIB))
def test_the_own_site_comes_first_and_the_soonest_within_a_site(
    found: list[Source], length_bytes: int
) -> None:
    order = sources.ordered(found, "east", length_bytes)
    ranks = [
        (one.is_failing, one.member.site != "east", sources.expected_us(one, length_bytes)) for one in order
    ]
    assert ranks == sorted(ranks)


@given(measured(), st.data())
def test_nobody_is_asked_twice_in_a_row_while_there_is_another(
    found: list[Source], data: st.DataObject
) -> None:
    failed = data.draw(st.sampled_from(found)).member.node_id
    order = sources.ordered(found, "east", MIB, failed=failed)
    assert order[-1].member.node_id == failed
    assert order[0].member.node_id != failed


@given(KEYS, MEMBERS)
def test_all_nodes_of_a_site_leave_a_chunk_to_the_same_one_of_them(key: bytes, members: list[Member]) -> None:
    for me in members:
        others = [one for one in members if one is not me]
        found = sources.relay(key, me, others)
        assert found.site == me.site
        assert found == ranked(key, [one for one in members if one.site == me.site])[0]


@given(KEYS, MEMBERS)
def test_without_the_one_that_failed_only_what_it_would_fetch_goes_to_another(
    key: bytes, members: list[Member]
) -> None:
    me, *others = members
    before = sources.relay(key, me, others)
    for gone in others:
        after = sources.relay(key, me, [one for one in others if one is not gone])
        assert (after == before) == (gone != before)


@given(measured(), st.integers(0, 4 * MIB))
def test_what_is_expected_grows_with_what_waits_and_shrinks_with_the_rate(
    found: list[Source], length_bytes: int
) -> None:
    for one in found:
        expected = sources.expected_us(one, length_bytes)
        more = Source(one.member, one.latency_us, one.bytes_per_s, one.waiting_bytes + MIB)
        assert sources.expected_us(more, length_bytes) >= expected
        if one.bytes_per_s:
            faster = Source(one.member, one.latency_us, 2 * one.bytes_per_s, one.waiting_bytes)
            assert sources.expected_us(faster, length_bytes) <= expected


@given(measured(), st.integers(0, 4 * MIB))
def test_a_second_node_is_asked_neither_at_once_nor_only_after_long(
    found: list[Source], length_bytes: int
) -> None:
    for one in found:
        after_us = sources.hedge_after_us(one, length_bytes)
        assert sources.HEDGE_US_MIN <= after_us <= sources.HEDGE_US_MAX


def test_a_node_that_still_sends_is_left_alone_unless_another_one_is_far_quicker() -> None:
    slow = Source(Member(1, "a"), 1000, 1_000_000, 8 * MIB)
    alike = Source(Member(2, "b"), 1000, 1_000_000, 8 * MIB)
    quick = Source(Member(3, "c"), 1000, 100_000_000, 0)
    assert not sources.is_worth_a_hedge(slow, 10_000, alike, MIB)
    assert sources.is_worth_a_hedge(slow, 10_000, quick, MIB)
    assert sources.is_worth_a_hedge(slow, sources.HEDGE_US_MAX, alike, MIB)


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_what_is_asked_for_twice_in_vain_is_a_small_share(fetched: int, lost: int) -> None:
    if sources.may_hedge(fetched, lost):
        assert lost + 1 <= sources.HEDGES_AT_FIRST + fetched / sources.HEDGE_SHARE
    assert sources.may_hedge(fetched, 0)
