"""The lines left of a log."""

from collections.abc import Sequence

from mcr.cli.graph import Graph


def drawn(history: Sequence[tuple[int, tuple[int, ...]]]) -> list[str]:
    graph = Graph()
    rows: list[str] = []
    for number, parents in history:
        above, star, below = graph.rows(number, parents)
        rows += [*above, f"{star} {number}", *below]
    return rows


def test_a_line_of_descent_is_one_column() -> None:
    assert drawn([(3, (2,)), (2, (1,)), (1, ())]) == ["* 3", "* 2", "* 1"]


def test_two_branches_meet_in_their_common_parent() -> None:
    assert drawn([(4, (2,)), (3, (2,)), (2, (1,)), (1, ())]) == [
        "* 4",
        "| * 3",
        "|/",
        "* 2",
        "* 1",
    ]


def test_three_branches_keep_their_columns() -> None:
    assert drawn([(5, (1,)), (4, (1,)), (3, (2,)), (2, (1,)), (1, ())]) == [
        "* 5",
        "| * 4",
        "| | * 3",
        "| | * 2",
        "|/  |",
        "|__/",
        "* 1",
    ]


def test_a_merge_opens_a_column_and_closes_it_at_the_fork() -> None:
    assert drawn([(4, (3, 2)), (3, (1,)), (2, (1,)), (1, ())]) == [
        "* 4",
        "|\\",
        "* | 3",
        "| * 2",
        "|/",
        "* 1",
    ]


def test_a_root_frees_its_column_for_the_next_line() -> None:
    assert drawn([(4, ()), (3, (2,)), (2, ())]) == ["* 4", "* 3", "* 2"]


def test_a_free_column_is_used_again_and_the_others_stay() -> None:
    history = [(9, (1,)), (8, (5,)), (7, (1,)), (5, ()), (4, (1,)), (1, ())]
    assert drawn(history) == [
        "* 9",
        "| * 8",
        "| | * 7",
        "| * | 5",
        "| * | 4",
        "|/  |",
        "|__/",
        "* 1",
    ]


def test_a_merge_with_an_open_line_reaches_over_to_it() -> None:
    assert drawn([(5, (1,)), (4, (3, 1)), (3, (1,)), (1, ())]) == [
        "* 5",
        "| * 4",
        "|/|",
        "| * 3",
        "|/",
        "* 1",
    ]
