"""The news of a commit waits where entries follow each other soon, and nowhere else."""

from hypothesis import given
from hypothesis import strategies as st

from mcr_node.core.succession import FOLLOWS_S_MAX, Succession


def test_the_first_commit_is_told_at_once() -> None:
    succession = Succession()
    succession.appended(0.0)
    succession.committed(0.001)
    assert succession.wait_s == 0


def test_whoever_writes_again_and_again_carries_the_news_and_stops_doing_so_with_one_pause() -> None:
    succession = Succession()
    now_s = 0.0
    waits_s = []
    for pause_s in (0.001, 0.002, 1.0, 0.001, 0.001):
        succession.committed(now_s)
        waits_s.append(succession.wait_s)
        now_s += pause_s
        succession.appended(now_s)
        now_s += 0.5
    assert waits_s == [0.0, FOLLOWS_S_MAX, FOLLOWS_S_MAX, 0.0, FOLLOWS_S_MAX]


@given(st.lists(st.floats(0, 1), min_size=1))
def test_the_pause_is_counted_from_the_commit_however_often_it_is_said(pauses_s: list[float]) -> None:
    succession = Succession()
    for now_s in sorted(pauses_s):
        succession.committed(now_s)
    succession.appended(max(pauses_s) + 0.001)
    follows = max(pauses_s) + 0.001 - min(pauses_s) <= FOLLOWS_S_MAX
    assert (succession.wait_s > 0) == follows
