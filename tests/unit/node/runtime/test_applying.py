"""Applying: a state that is found wrong is fenced first, and never written again."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from mcr.errors import DivergedError, OutOfSpaceError
from mcr.model import LogIndex, RequestId
from mcr_node.core.members import Member, Membership, decode_membership
from mcr_node.core.raft.messages import ConfState, Entry, EntryType
from mcr_node.core.state import codec
from mcr_node.core.state.commands import CheckDigest, CommitVersion
from mcr_node.core.state.digest import Divergence
from mcr_node.runtime.applying import Applier
from mcr_node.storage.state_store import StateStore
from tests.conformance.memory_state_store import MemoryStateStore
from tests.unit.node.runtime.test_runner import commit

IDENTITY = b"i" * 16
OTHER = bytes([7] * 32)


@pytest.fixture
def state(tmp_path: Path) -> Iterator[StateStore]:
    found = StateStore.open(tmp_path / "state", IDENTITY)
    yield found
    found.close()


def entries(first: int, last: int) -> list[Entry]:
    return [
        Entry(1, index, EntryType.NORMAL, codec.encode(commit(index))) for index in range(first, last + 1)
    ]


def check(at: int, index: int, digest: bytes) -> Entry:
    command = CheckDigest(
        request_id=RequestId(b"x"), principal="mcr", at_ms=0, index=LogIndex(index), digest=digest
    )
    return Entry(1, at, EntryType.NORMAL, codec.encode(command))


def test_the_right_digest_changes_nothing_but_the_place_in_the_log(state: StateStore) -> None:
    applier = Applier(state, state, digest_entries=5)
    applier.apply(entries(1, 5))
    rows = list(state.view().scan(b"\x01", b"\xff"))
    applier.apply([check(6, 5, state.state_digest())])
    assert state.applied() == 6
    assert list(state.view().scan(b"\x01", b"\xff")) == rows
    assert applier.failure is None


def test_a_wrong_state_is_fenced_before_anything_beyond_is_applied_and_stays_so(
    state: StateStore, tmp_path: Path
) -> None:
    applier = Applier(state, state, digest_entries=5)
    # In one batch with what comes before and after.
    with pytest.raises(DivergedError, match="index 5"):
        applier.apply([*entries(1, 5), check(6, 5, OTHER), *entries(7, 9)])
    assert state.applied() < 6
    with pytest.raises(DivergedError):
        applier.apply(entries(1, 1))
    with pytest.raises(DivergedError):
        state.export(tmp_path / "copy")
    state.close()

    again = StateStore.open(tmp_path / "state", IDENTITY)
    found = again.divergence()
    assert found is not None
    assert (found.index, found.found_at, found.theirs) == (5, 6, OTHER)
    with pytest.raises(DivergedError):
        Applier(again, again, digest_entries=5).apply(entries(1, 1))
    again.close()


def test_a_wrong_state_is_fenced_before_what_follows_is_worked_out_on_it(state: StateStore) -> None:
    applier = Applier(state, state, digest_entries=5)
    # As if it could not be carried out on what this state has come to.
    unreadable = Entry(1, 7, EntryType.NORMAL, b"\xff")
    with pytest.raises(DivergedError):
        applier.apply([*entries(1, 5), check(6, 5, OTHER), unreadable])
    assert state.divergence() is not None


def test_a_node_that_does_not_know_its_digest_there_goes_on(state: StateStore) -> None:
    Applier(state, state, digest_entries=5).apply(entries(1, 5))
    restarted = Applier(state, state, digest_entries=5)
    restarted.apply([check(6, 5, OTHER)])
    assert state.applied() == 6


class FullFence:
    def fence(self, divergence: Divergence) -> None:
        raise OutOfSpaceError("state", "no space left")

    def divergence(self) -> Divergence | None:
        return None


def test_a_wrong_state_is_out_of_service_even_when_that_cannot_be_noted(state: StateStore) -> None:
    applier = Applier(state, FullFence(), digest_entries=5)
    applier.apply(entries(1, 5))
    with pytest.raises(DivergedError):
        applier.apply([check(6, 5, OTHER)])
    with pytest.raises(DivergedError):
        applier.apply(entries(6, 6))


@pytest.mark.parametrize("digest", [None, OTHER], ids=["the right digest", "a wrong one"])
def test_what_was_foreseen_is_what_would_have_come(state: StateStore, digest: bytes | None) -> None:
    """Outcomes, rows, digests and what is found wrong: as if nobody had looked ahead."""
    plain_state = MemoryStateStore()
    plain, ahead = Applier(plain_state, digest_entries=2), Applier(state, state, digest_entries=2)
    for first in range(1, 9, 2):
        # The second of each pair is refused.
        pair = [
            *entries(first, first),
            Entry(1, first + 1, EntryType.NORMAL, codec.encode(refused(first + 1))),
        ]
        ahead.foresee(pair)
        assert state.applied() == first - 1
        assert ahead.apply(pair) == plain.apply(pair)
        assert state.position() == plain_state.position()
    rows = list(state.view().scan(b"\x01", b"\xff"))
    assert rows == list(plain_state.view().scan(b"\x01", b"\xff"))
    assert ahead.digests.known == plain.digests.known
    last = check(9, 8, digest or plain_state.state_digest())
    ahead.foresee([last])
    assert ahead.failure is None
    if digest is None:
        assert ahead.apply([last]) == plain.apply([last])
    else:
        with pytest.raises(DivergedError):
            ahead.apply([last])
        assert state.applied() == 8


def refused(number: int) -> CommitVersion:
    return commit(number, expected_head=10_000)


def by_another_leader() -> list[Entry]:
    """What comes in the place of `entries(3, 3)`."""
    return [Entry(2, 3, EntryType.NORMAL, codec.encode(commit(1_000)))]


def test_what_was_foreseen_of_an_entry_that_never_came_is_forgotten() -> None:
    plain_state, state = MemoryStateStore(), MemoryStateStore()
    plain, ahead = Applier(plain_state), Applier(state)
    for applier in (plain, ahead):
        applier.apply(entries(1, 2))
    ahead.foresee(entries(3, 3))
    # One of another leader takes its place.
    assert ahead.apply(by_another_leader()) == plain.apply(by_another_leader())
    assert state.position() == plain_state.position()


def test_what_was_foreseen_before_the_members_changed_is_worked_out_anew() -> None:
    plain_state, state = MemoryStateStore(), MemoryStateStore()
    plain, ahead = Applier(plain_state), Applier(state)
    alone = Membership(ConfState(voters=(1,)), (Member(1, "alone"),))
    for applier in (plain, ahead):
        applier.apply(entries(1, 2))
        if applier is ahead:
            ahead.foresee(entries(4, 4))
        applier.apply_change(Entry(1, 3, EntryType.CONF_CHANGE_V2, b""), alone)
        applier.apply(entries(4, 4))
    # The digest is a chain: of what was foreseen it would lack the change.
    assert state.position() == plain_state.position()


def test_what_was_foreseen_is_not_applied_to_a_state_that_came_by_snapshot() -> None:
    source = MemoryStateStore()
    Applier(source).apply(entries(1, 3))
    state = MemoryStateStore()
    ahead = Applier(state)
    ahead.foresee(entries(4, 4))
    position = source.position()
    rows = list(source.view().scan(b"\x01", b"\xff"))
    state.write(rows, position.applied, position.state_digest, applied_term=position.applied_term)
    ahead.reload()
    ahead.apply(entries(4, 4))
    Applier(source).apply(entries(4, 4))
    assert state.position() == source.position()


def test_who_the_members_are_survives_a_loss_of_power_once_it_was_answered() -> None:
    state = MemoryStateStore()
    applier = Applier(state)
    applier.apply(entries(1, 3))
    alone = Membership(ConfState(voters=(1,)), (Member(1, "alone"),))

    applier.apply_change(Entry(1, 4, EntryType.CONF_CHANGE_V2, b""), alone)
    applier.apply(entries(5, 6))
    state.lose_unsynced()

    assert state.applied() == 4
    assert decode_membership(state.configuration()) == alone
