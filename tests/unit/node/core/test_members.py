"""Membership: one record for votes and addresses, the same bytes on every node."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcr.errors import InvalidArgumentError
from mcr_node.core.members import (
    MEMBERS_MAX,
    NAME_BYTES_MAX,
    Member,
    Membership,
    Told,
    decode_context,
    decode_membership,
    encode_context,
    encode_membership,
)
from mcr_node.core.raft.messages import ConfState

members = st.builds(
    Member,
    node_id=st.integers(1, 1 << 62),
    name=st.text("abcxyz-0", min_size=1, max_size=20),
    address=st.text(":.0123456789", max_size=30),
    site=st.text("abc", max_size=5),
    capacity_bytes=st.integers(0, 1 << 60),
    awaited=st.booleans(),
)


@given(st.lists(members, max_size=5))
def test_a_context_reads_back_as_it_was_written(told: list[Member]) -> None:
    assert decode_context(encode_context(told)) == Told(tuple(told))


def test_a_membership_reads_back_and_empty_bytes_are_an_empty_one() -> None:
    conf = ConfState((1, 2), (3,), (1,), (4,), True)
    membership = Membership(conf, (Member(1, "a", "h:1", "s", 9), Member(3, "c")))
    assert decode_membership(encode_membership(membership)) == membership
    assert decode_membership(b"") == Membership()


def test_a_member_that_is_not_awaited_has_the_bytes_it_always_had() -> None:
    """Digests of configurations and snapshots of earlier releases stay what they were."""
    written = encode_context([Member(1, "a", "h:1", "s", 9)])
    assert b"awaited" not in written
    assert decode_context(written) == Told((Member(1, "a", "h:1", "s", 9, awaited=False),))


def test_a_change_keeps_who_stays_forgets_who_left_and_learns_what_was_told() -> None:
    before = Membership(ConfState((1, 2)), (Member(1, "a", "h:1"), Member(2, "b", "h:2")))

    after = before.after(ConfState((1,), (3,)), [Member(3, "c", "h:3"), Member(1, "a", "h:9")])

    assert after.members == (Member(1, "a", "h:9"), Member(3, "c", "h:3"))
    assert (after.named("b"), after.get(2)) == (None, None)


@pytest.mark.parametrize(
    "bad",
    [
        b"\xff",
        encode_membership(Membership()),
        encode_context([Member(1, "x" * (NAME_BYTES_MAX + 1))]),
        encode_context([Member(1, "")]),
        encode_context([Member(1, "a", "x" * 513)]),
        encode_context([Member(1, "a")] * (MEMBERS_MAX + 1)),
    ],
)
def test_what_is_no_context_is_refused(bad: bytes) -> None:
    with pytest.raises(InvalidArgumentError):
        decode_context(bad)
