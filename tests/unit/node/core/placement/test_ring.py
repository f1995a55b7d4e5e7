"""The laws of rendezvous hashing (Thaler and Ravishankar, 1998), and sites before nodes."""

import random
from collections import Counter
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from mcr.durability import Durability
from mcr.model import MIB, digest
from mcr_node.core.members import Member
from mcr_node.core.placement.ring import added, holders, is_met_by, ranked

GIB = 1024 * MIB
KEYS = [digest(number.to_bytes(4, "big")) for number in range(3_000)]

member = st.builds(
    lambda node_id, site, capacity: Member(node_id, f"n{node_id}", site=site, capacity_bytes=capacity * GIB),
    st.integers(1, 2**62),
    st.sampled_from(["", "east", "north", "west"]),
    st.sampled_from([0, 1, 100, 1024, 5000]),
)
tables = st.lists(member, min_size=1, max_size=12, unique_by=lambda one: one.node_id)
wishes = st.integers(1, 5).flatmap(
    lambda copies: st.builds(Durability, st.just(copies), st.integers(1, copies))
)
keys = st.binary(min_size=32, max_size=32)


def ids(members: tuple[Member, ...]) -> list[int]:
    return [member.node_id for member in members]


@given(keys, tables, wishes, st.randoms(use_true_random=False))
def test_the_order_of_the_table_does_not_matter(
    key: bytes, table: list[Member], wish: Durability, chance: random.Random
) -> None:
    shuffled = list(table)
    chance.shuffle(shuffled)
    assert holders(key, shuffled, wish) == holders(key, table, wish)
    assert ranked(key, shuffled) == ranked(key, table)


@given(keys, tables, wishes)
def test_there_are_as_many_copies_and_sites_as_there_can_be(
    key: bytes, table: list[Member], wish: Durability
) -> None:
    found = holders(key, table, wish)
    assert len(set(ids(found))) == len(found) == min(wish.copies, len(table))
    sites = {member.site for member in table}
    assert len({member.site for member in found}) >= min(wish.sites, len(sites))


@given(keys, tables, wishes, member)
def test_a_member_that_comes_or_goes_moves_only_what_it_takes_or_leaves(
    key: bytes, table: list[Member], wish: Durability, other: Member
) -> None:
    table = [one for one in table if one.node_id != other.node_id]
    without, with_it = set(ids(holders(key, table, wish))), set(ids(holders(key, [*table, other], wish)))
    if other.node_id in with_it:
        # In its place at most one goes.
        assert with_it - without == {other.node_id}
        assert len(without - with_it) <= 1
    else:
        assert with_it == without


@given(keys, tables, wishes, st.data())
def test_what_is_added_to_copies_held_anywhere_makes_them_enough(
    key: bytes, table: list[Member], wish: Durability, data: st.DataObject
) -> None:
    held = data.draw(st.lists(st.sampled_from(table), max_size=4, unique_by=lambda one: one.node_id))
    near = data.draw(st.sampled_from([None, "", "east"]))
    more = added(key, table, wish, held=held, near=near)
    assert not set(ids(more)) & {one.node_id for one in held}
    if is_met_by(wish, held):
        assert more == ()
    sites = {member.site for member in table}
    if len(table) >= wish.copies and len(sites) >= wish.sites:
        assert is_met_by(wish, [*held, *more])
        # Nobody is asked without need.
        assert not more or not is_met_by(wish, [*held, *more[:-1]])


def test_chunks_are_spread_by_capacity() -> None:
    table = [
        Member(i, f"n{i}", capacity_bytes=weight * GIB) for i, weight in enumerate((100, 200, 300, 400), 1)
    ]
    first = Counter(holders(key, table, Durability(1))[0].node_id for key in KEYS)
    for one in table:
        expected = len(KEYS) * one.capacity_bytes / (1000 * GIB)
        # Four standard deviations of a binomial of this size are at most 107.
        assert abs(first[one.node_id] - expected) < 110


def test_nodes_without_a_capacity_share_alike() -> None:
    table = [Member(i, f"n{i}") for i in range(1, 6)]
    held = Counter(one.node_id for key in KEYS for one in holders(key, table, Durability(2)))
    assert max(held.values()) < 1.1 * min(held.values())


def test_a_newcomer_takes_its_share_and_no_more() -> None:
    table = [Member(i, f"n{i}") for i in range(1, 5)]
    wish = Durability(2)
    moved = sum(
        set(holders(key, table, wish)) != set(holders(key, [*table, Member(9, "n9")], wish)) for key in KEYS
    )
    assert abs(moved / len(KEYS) - 2 / 5) < 0.04


def test_sites_come_before_nodes() -> None:
    east = [Member(i, f"e{i}", site="east") for i in range(1, 9)]
    table = [*east, Member(20, "w", site="west")]
    for key in KEYS[:200]:
        assert {one.site for one in holders(key, table, Durability(2, sites=2))} == {"east", "west"}


def test_a_copy_that_somebody_waits_for_is_near() -> None:
    mine = Member(1, "n1", site="east")
    table = [mine, Member(2, "n2", site="east"), *(Member(i, f"w{i}", site="west") for i in range(3, 9))]
    for key in KEYS[:200]:
        assert ids(added(key, table, Durability(2), held=[mine], near="east")) == [2]
        (far,) = added(key, table, Durability(2, sites=2), held=[mine], near="east")
        assert far.site == "west"


def test_the_placement_is_what_it_was() -> None:
    # It must not change between releases: nodes of two would undo each other's copies.
    table = [Member(i, f"n{i}", site="ab"[i % 2], capacity_bytes=i * GIB) for i in range(1, 8)]
    renamed = [replace(one, name="other", address="other:1") for one in table]
    found = [ids(holders(key, table, Durability(3, sites=2))) for key in KEYS[:3]]
    assert found == [ids(holders(key, renamed, Durability(3, sites=2))) for key in KEYS[:3]]
    assert found == [[7, 6, 4], [7, 6, 3], [7, 2, 3]]
