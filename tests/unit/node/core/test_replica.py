"""The rules of the log of one voter."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcr.model import LogIndex
from mcr_node.core.replica import Apply, Replica


def replica(last: int = 0, applied: int = 0) -> Replica:
    return Replica(last=LogIndex(last), last_term=3, applied=LogIndex(applied))


def test_a_restart_starts_a_new_term_and_goes_on_numbering() -> None:
    entries = replica(last=7, applied=7).propose([b"a", b"b"]).entries
    assert [(entry.index, entry.term, entry.data) for entry in entries] == [(8, 4, b"a"), (9, 4, b"b")]


def test_what_was_persisted_but_not_applied_is_applied_at_the_start() -> None:
    assert replica(last=7, applied=4).recover() == Apply(LogIndex(5), LogIndex(7))
    assert replica(last=7, applied=7).recover() is None


def test_nothing_is_applied_before_it_is_persisted() -> None:
    machine = replica()
    machine.propose([b"a"])
    with pytest.raises(AssertionError, match="durable"):
        machine.on_applied(LogIndex(1))


def test_entries_are_applied_in_order() -> None:
    machine = replica()
    machine.propose([b"a", b"b"])
    machine.on_persisted(LogIndex(2))
    with pytest.raises(AssertionError, match="in order"):
        machine.on_applied(LogIndex(2))


def test_a_state_ahead_of_the_log_is_refused() -> None:
    with pytest.raises(AssertionError, match="ahead"):
        replica(last=1, applied=2)


@given(st.lists(st.integers(1, 20), max_size=20))
def test_each_proposal_is_applied_exactly_once_in_log_order(batches: list[int]) -> None:
    machine = replica()
    applied: list[int] = []
    for size in batches:
        persist = machine.propose([b"x"] * size)
        ready = machine.on_persisted(persist.entries[-1].index)
        for index in range(ready.first, ready.last + 1):
            machine.on_applied(LogIndex(index))
            applied.append(index)
    assert applied == list(range(1, sum(batches) + 1))
