"""The disk is asked for what somebody relies on, and for nothing else."""

from mcr_node.core.promises import Promises
from mcr_node.core.raft.messages import (
    APPEND_QUEUE,
    ConfState,
    Entry,
    EntryType,
    HardState,
    Message,
    MessageType,
    Snapshot,
)


def append(
    term: int = 0, vote: int = 0, commit: int = 0, *, entries: int = 0, snapshot: bool = False
) -> Message:
    return Message(
        MessageType.STORAGE_APPEND,
        APPEND_QUEUE,
        1,
        term,
        commit=commit,
        vote=vote,
        entries=tuple(Entry(1, number, EntryType.NORMAL, b"x") for number in range(1, entries + 1)),
        snapshot=Snapshot(5, 1, ConfState((1,))) if snapshot else None,
    )


def test_a_commit_index_alone_is_not_written() -> None:
    promises = Promises(HardState(3, 2))

    assert not promises.needs_disk(append(3, 2, commit=9), is_alone=False)
    assert not promises.needs_disk(append(), is_alone=False)


def test_a_sole_voter_writes_it_because_nobody_else_knows() -> None:
    assert Promises(HardState(3, 2)).needs_disk(append(3, 2, commit=9), is_alone=True)


def test_terms_votes_entries_and_snapshots_are_written() -> None:
    for wanted in (
        append(4, 0),
        append(3, 1),
        append(3, 2, entries=1),
        append(entries=1),
        append(snapshot=True),
    ):
        assert Promises(HardState(3, 2)).needs_disk(wanted, is_alone=False)


def test_a_promise_is_written_once() -> None:
    promises = Promises(HardState(3, 0))

    assert promises.needs_disk(append(3, 2), is_alone=False)
    assert not promises.needs_disk(append(3, 2, commit=1), is_alone=False)
    assert promises.needs_disk(append(4, 0), is_alone=False)
    assert promises.needs_disk(append(4, 2), is_alone=False)


def test_a_commit_index_that_was_not_written_is_owed_and_the_newest_one_counts() -> None:
    promises = Promises(HardState(3, 2, 5))
    assert promises.owed is None

    promises.needs_disk(append(3, 2, commit=6), is_alone=False)
    promises.needs_disk(append(), is_alone=False)
    promises.needs_disk(append(3, 2, commit=7), is_alone=False)

    assert promises.owed == HardState(3, 2, 7)
