"""Seeded defects can be entered, leave no trace, and some of them are found; all of them: `make mutants`."""

import pytest

from tests.mutation.core_defects import TEXT_DEFECTS
from tests.mutation.defects import ALL
from tests.mutation.patching import TextDefect
from tests.mutation.run import examine, simulate
from tests.mutation.state_defects import STATE_DEFECTS, story_that_finds
from tests.simulation.cluster.defects import DEFECTS


@pytest.mark.parametrize("defect", [*TEXT_DEFECTS, *STATE_DEFECTS], ids=lambda defect: defect.name)
def test_a_defect_finds_its_place_and_leaves_no_trace(defect: TextDefect) -> None:
    function = defect.function()
    good = function.__code__

    with defect():
        assert function.__code__ != good

    assert function.__code__ is good


def test_a_defect_whose_place_is_gone_is_an_error() -> None:
    gone = TextDefect("gone", "raft.raft:reset", "no such text", "")

    with pytest.raises(AssertionError, match="0 times"), gone():
        pass


def test_names_are_of_one_defect_each() -> None:
    assert len(ALL) == len(TEXT_DEFECTS) + len(DEFECTS)


@pytest.mark.parametrize("name", ["vote_is_not_recorded", "conflict_is_not_cut_off"])
def test_unit_tests_find_a_defect(name: str) -> None:
    assert "unit" in examine(name, ["unit"], 0, ask_all=True).found


@pytest.mark.parametrize(
    "name",
    ["acknowledgement_leaves_before_the_write", "read_without_a_quorum", "half_of_the_votes_win"],
)
def test_the_simulation_finds_a_defect(name: str) -> None:
    assert simulate(name, seeds=20, first=1) is not None


# One for each law of the ledger, each found within a few stories.
_OF_EACH_LAW = ("numbers_have_a_gap", "a_named_version_is_deleted", "a_pinned_version_is_deleted",
                "a_deletion_leaves_no_move")  # fmt: skip


@pytest.mark.parametrize(
    "defect",
    [
        pytest.param(defect, id=defect.name, marks=() if defect.name in _OF_EACH_LAW else pytest.mark.slow)
        for defect in STATE_DEFECTS
    ],
)
def test_the_ledger_finds_a_defect_of_the_state(defect: TextDefect) -> None:
    assert story_that_finds(defect, stories=400) is not None
