"""Group commit: one action for all who wait, and never one that began before they came."""

import threading
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from mcr.errors import OutOfSpaceError
from mcr_node.storage.group_commit import GroupCommit


class CountedCondition(threading.Condition):
    """A condition that says when a thread has begun to wait."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting = threading.Semaphore(0)

    def wait(self, timeout: float | None = None) -> bool:
        # Whoever takes the lock after this finds the thread waiting.
        self.waiting.release()
        return super().wait(timeout)


class Stage:
    """An action that stops in the middle until it is let go, and fails as told."""

    def __init__(self, *outcomes: BaseException | None) -> None:
        self.outcomes = list(outcomes)
        self.runs = 0
        self.began = threading.Semaphore(0)
        self.go = threading.Semaphore(0)
        self.commit = GroupCommit(self._act)
        self.condition = CountedCondition()
        self.commit._condition = self.condition

    def _act(self) -> None:
        self.runs += 1
        self.began.release()
        self.go.acquire()
        outcome = self.outcomes.pop(0)
        if outcome is not None:
            raise outcome

    def five_behind_one(self, pool: ThreadPoolExecutor) -> tuple[Future[None], list[Future[None]]]:
        """Return a call that is in the action, and five that wait behind it."""
        first = pool.submit(self.commit.run)
        self.began.acquire()
        others = [pool.submit(self.commit.run) for _ in range(5)]
        for _ in others:
            self.condition.waiting.acquire()
        return first, others


def test_callers_that_come_meanwhile_share_the_next_round() -> None:
    stage = Stage(None, None)

    with ThreadPoolExecutor(6) as pool:
        first, others = stage.five_behind_one(pool)
        stage.go.release(2)
        assert [call.exception() for call in (first, *others)] == [None] * 6

    assert stage.runs == 2


def test_everyone_in_a_round_learns_of_its_failure_and_nobody_else() -> None:
    full = OutOfSpaceError("disk", "full")
    stage = Stage(None, full, None)

    with ThreadPoolExecutor(6) as pool:
        first, others = stage.five_behind_one(pool)
        stage.go.release(3)
        errors = [other.exception() for other in others]

    assert first.exception() is None
    assert [str(error) for error in errors] == [str(full)] * 5
    assert len({id(error) for error in errors}) == 5
    stage.commit.run()
    assert stage.runs == 3


def test_a_round_that_was_interrupted_is_run_again_for_the_others() -> None:
    stage = Stage(None, KeyboardInterrupt(), *[None] * 4)

    with ThreadPoolExecutor(6) as pool:
        _, others = stage.five_behind_one(pool)
        stage.go.release(6)
        outcomes = [other.exception() for other in others]

    assert sorted(map(repr, outcomes)) == ["KeyboardInterrupt()"] + ["None"] * 4
    assert stage.runs >= 3


def test_a_failure_is_raised_as_it_is_to_the_one_who_met_it() -> None:
    full = OutOfSpaceError("disk", "full")
    stage = Stage(full)
    stage.go.release()

    with pytest.raises(OutOfSpaceError) as raised:
        stage.commit.run()

    assert raised.value is full


def test_what_was_done_before_a_call_is_in_the_round_it_waits_for() -> None:
    lock = threading.Lock()
    put: list[int] = []
    durable: set[int] = set()

    def act() -> None:
        with lock:
            taken = list(put)
        durable.update(taken)

    commit = GroupCommit(act)

    def put_and_commit(number: int) -> bool:
        with lock:
            put.append(number)
        commit.run()
        return number in durable

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(put_and_commit, range(300)))
