"""Every scenario about replicated state, and about a cluster, still ends as it is written."""

from pathlib import Path

import pytest

from tests.simulation import scenario
from tests.simulation.cluster_story import ClusterStory
from tests.simulation.policy_story import PolicyStory
from tests.simulation.state_story import StateStory

SCENARIOS = sorted((Path(__file__).parent / "scenarios").glob("*.txt"))
POLICY_SCENARIOS = sorted((Path(__file__).parent / "scenarios" / "policies").glob("*.txt"))
CLUSTER_SCENARIOS = sorted((Path(__file__).parent / "scenarios" / "cluster").glob("*.txt"))


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_the_story_ends_as_it_is_written(path: Path, rewrite: bool) -> None:
    scenario.run(path, StateStory().execute, rewrite=rewrite)


@pytest.mark.parametrize("path", POLICY_SCENARIOS, ids=lambda path: path.stem)
def test_policies_decide_as_it_is_written(path: Path, rewrite: bool) -> None:
    scenario.run(path, PolicyStory().execute, rewrite=rewrite)


def test_there_is_a_case_for_each_way_in_which_a_policy_can_decide() -> None:
    cases = [
        line for path in POLICY_SCENARIOS for line in path.read_text().splitlines() if line[:5] == "case "
    ]

    assert len(cases) >= 60


@pytest.mark.parametrize("path", CLUSTER_SCENARIOS, ids=lambda path: path.stem)
def test_the_story_of_a_cluster_ends_as_it_is_written(path: Path, rewrite: bool) -> None:
    scenario.run(path, ClusterStory().execute, rewrite=rewrite)


def test_a_story_that_ends_differently_is_told_with_its_line(tmp_path: Path) -> None:
    story = tmp_path / "story.txt"
    story.write_text("# A comment\ncommit\n----\naccepted index 1: v2\n")

    with pytest.raises(AssertionError, match=r"story\.txt:4: 'commit'\naccepted index 1: v1"):
        scenario.run(story, StateStory().execute, rewrite=False)


def test_rewriting_writes_what_happened_and_keeps_the_rest(tmp_path: Path) -> None:
    story = tmp_path / "story.txt"
    story.write_text("# A comment\ncommit\n\nresolve main\n----\nv7\n")

    scenario.run(story, StateStory().execute, rewrite=True)

    text = "# A comment\ncommit\n----\naccepted index 1: v1\n\nresolve main\n----\nv1\n"
    assert story.read_text() == text
    scenario.run(story, StateStory().execute, rewrite=False)
