"""The checker of histories notices every kind of lie."""

from dataclasses import replace

import pytest

from tests.chaos.history import Kind, Move, Operation, Seen, Truth, check

ONE = Operation("a", Kind.COMMIT, "c1", 0, 1, 10, Seen(1), "id1")
TWO = Operation("b", Kind.COMMIT, "c2", 2, 3, 20, Seen(2), "id2")
SET = Operation("a", Kind.MOVE, "m1", 4, 5, 30, Seen(2, 1), "id2")
BACK = Operation("b", Kind.CHANNEL_ROLLBACK, "m2", 6, 7, 40, Seen(1, 2), "id1")
READ = Operation("b", Kind.READ_CHANNEL, "", 8, 9, 40, Seen(1, 2), "id1")
HEAD = Operation("a", Kind.READ_HEAD, "", 8, 9, 41, Seen(2), "id2")
GOOD = (ONE, TWO, SET, BACK, READ, HEAD)
TRUTH = Truth(
    branch=(Move(10, Seen(1, 1), "c1", "id1"), Move(20, Seen(2, 2), "c2", "id2")),
    channel=(Move(30, Seen(2, 1), "m1", "id2"), Move(40, Seen(1, 2), "m2", "id1")),
    versions=((1, "id1", "c1"), (2, "id2", "c2")),
)


def violations(*operations: Operation, truth: Truth = TRUTH) -> str:
    return "\n".join(check(operations, truth, call_s_max=5).violations)


def with_one(operation: Operation, **changes: object) -> tuple[Operation, ...]:
    return tuple(replace(one, **changes) if one is operation else one for one in GOOD)  # type: ignore[arg-type]


def test_a_true_history_is_accepted() -> None:
    assert check(GOOD, TRUTH, call_s_max=5).violations == ()


@pytest.mark.parametrize("operation", [ONE, TWO, SET, BACK], ids=lambda one: one.text)
def test_what_became_of_an_unanswered_write_is_free(operation: Operation) -> None:
    unknown = with_one(operation, error="DeadlineError", index=0, seen=Seen())
    assert violations(*unknown) == ""
    gone = replace(TRUTH, channel=TRUTH.channel[:1])
    free = [one for one in GOOD if one not in (BACK, READ)]
    assert violations(*free, replace(BACK, error="DeadlineError", index=0), truth=gone) == ""


def test_an_acknowledged_write_that_is_not_there_is_lost() -> None:
    lost = replace(TRUTH, branch=TRUTH.branch[:1], versions=TRUTH.versions[:1], channel=())
    assert "lost: 'c2'" in violations(ONE, TWO, truth=lost)


def test_a_write_answered_at_another_place_is_lost() -> None:
    assert "lost: 'm1' was answered at 31" in violations(*with_one(SET, index=31))


def test_a_channel_may_be_set_to_where_it_is_and_that_has_a_place_too() -> None:
    same = Operation("c", Kind.MOVE, "m3", 10, 11, 50, Seen(1, 2), "id1")
    assert violations(*GOOD, same) == ""
    assert "lost: 'm3'" in violations(*GOOD, replace(same, seen=Seen(2, 1), version_id="id2"))
    assert "back in time: 'm3' is at 35" in violations(*GOOD, replace(same, index=35, seen=Seen(2, 1)))


def test_a_write_that_is_there_twice_is_doubled() -> None:
    doubled = replace(
        TRUTH,
        branch=(*TRUTH.branch, Move(50, Seen(3, 3), "c2", "id3")),
        versions=(*TRUTH.versions, (3, "id3", "c2")),
    )
    assert "doubled: 'c2'" in violations(*GOOD, truth=doubled)


def test_a_write_that_nobody_asked_for_comes_from_nowhere() -> None:
    assert "from nowhere: 'c2'" in violations(*[one for one in GOOD if one is not TWO])


def test_what_was_refused_must_not_be_there() -> None:
    assert "refused, yet done: 'm2'" in violations(*with_one(BACK, error="HeadMovedError", is_refused=True))


def test_an_answer_must_name_what_was_made() -> None:
    assert "wrong answer: 'c1'" in violations(*with_one(ONE, version_id="id9"))
    assert "wrong answer: 'm2'" in violations(*with_one(BACK, seen=Seen(2, 2)))


@pytest.mark.parametrize(
    "truth",
    [
        replace(TRUTH, versions=((1, "id1", "c1"), (3, "id2", "c2"))),
        replace(TRUTH, channel=(TRUTH.channel[0], replace(TRUTH.channel[1], seen=Seen(1, 3)))),
    ],
    ids=["of versions", "of moves"],
)
def test_numbers_have_no_gap(truth: Truth) -> None:
    assert "gap: " in violations(*GOOD, truth=truth)


def test_history_is_in_the_order_of_the_log() -> None:
    turned = (replace(TRUTH.channel[0], index=40), replace(TRUTH.channel[1], index=30))
    assert "disorder: " in violations(truth=replace(TRUTH, channel=turned))
    assert "disorder: " in violations(truth=replace(TRUTH, versions=((1, "id1", "c1"), (2, "id9", "c2"))))


def test_a_write_goes_not_before_what_was_answered_when_it_began() -> None:
    """Also when nobody was told where it went."""
    for unknown in ({}, {"error": "DeadlineError", "index": 0}):
        late = with_one(TWO, begun_s=5.5, ended_s=5.6, **unknown)
        assert "back in time: 'c2' is at 20, begun after an answer at 30" in violations(*late)


def test_a_read_of_what_was_replaced_before_it_began_is_stale() -> None:
    stale = with_one(READ, seen=Seen(2, 1), version_id="id2", index=30)
    assert "stale read: channel read of b" in violations(*stale)
    assert "stale read: head read of a" in violations(
        *with_one(HEAD, seen=Seen(1), version_id="id1", index=12)
    )
    assert "stale read: channel read of b" in violations(*with_one(READ, seen=Seen(), version_id="", index=2))


def test_a_read_that_overlaps_a_write_may_see_it_or_not() -> None:
    for seen, version_id, index in ((Seen(2, 1), "id2", 30), (Seen(1, 2), "id1", 40)):
        overlapping = with_one(READ, begun_s=6.5, ended_s=6.6, seen=seen, version_id=version_id, index=index)
        assert violations(*overlapping) == ""


def test_reads_do_not_go_back_from_what_another_read_saw() -> None:
    slow = replace(BACK, begun_s=6, ended_s=20)
    first = replace(READ, begun_s=7, ended_s=8)
    second = replace(READ, client="c", begun_s=9, ended_s=10, seen=Seen(2, 1), version_id="id2", index=30)
    assert "stale read: channel read of c" in violations(ONE, TWO, SET, slow, first, second)


def test_a_read_may_see_more_than_the_place_it_names_and_binds_what_follows() -> None:
    """Its place is then that of what it saw."""
    ahead = replace(READ, index=35)
    assert violations(ONE, TWO, SET, BACK, ahead) == ""
    assert check(
        (ONE, TWO, SET, replace(BACK, ended_s=20), replace(ahead, begun_s=7)), TRUTH, call_s_max=50
    ).reads_ahead


def test_a_read_of_what_never_was_is_wrong() -> None:
    assert "wrong read: channel read of b" in violations(*with_one(READ, seen=Seen(9, 9)))


def test_a_call_that_does_not_end_in_time_hangs() -> None:
    assert "hung: channel move of a took 9.0 s" in violations(*with_one(SET, ended_s=13))


def test_a_call_during_which_the_client_itself_stood_still_does_not_hang() -> None:
    assert violations(*with_one(SET, ended_s=13, stalled_s=5)) == ""


def test_of_many_violations_of_a_kind_the_first_are_told() -> None:
    many = [replace(ONE, client=f"c{i}", text=f"t{i}") for i in range(20)]
    told = check(many, TRUTH, call_s_max=5).violations
    assert sum(one.startswith("lost") for one in told) == 6
    assert "lost: 15 more" in told
