"""The core behaves as the scenario files of etcd's Raft library say, file by file.

The files are data of another project and not kept here. MCR_RAFT_CONFORMANCE names their folder; without it
the folder beside this repository is looked at, the one that `make conformance` takes.
"""

import os
from pathlib import Path

import pytest

from tests.conformance.raft.datadriven import parse, without_logs
from tests.conformance.raft.run import main, run_file, scenario_files

REPOSITORY = Path(__file__).parents[2]
FOLDER = Path(
    os.environ.get("MCR_RAFT_CONFORMANCE", REPOSITORY.parent / "shared" / "conformance" / "etcd-raft")
)
FILES = scenario_files(FOLDER)

ELECTION = """\
# One voter elects itself.
add-nodes 1 voters=(1) index=3
----
INFO whatever is logged is not compared

campaign 1
----
ok

process-ready 1
----
Ready MustSync=true:
Lead:0 State:StateCandidate
HardState Term:1 Vote:{vote} Commit:3
"""


@pytest.mark.skipif(
    not FILES, reason=f"no scenario files in {FOLDER}; set MCR_RAFT_CONFORMANCE to their folder"
)
@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.parent.name}/{path.stem}")
def test_core_does_what_the_scenario_file_says(path: Path) -> None:
    difference = run_file(path)

    assert not difference, "\n".join(difference)


@pytest.mark.parametrize(("vote", "status"), [(1, 0), (2, 1)])
def test_a_file_passes_only_if_every_output_agrees(tmp_path: Path, vote: int, status: int) -> None:
    (tmp_path / "election.txt").write_text(ELECTION.format(vote=vote))

    assert main([str(tmp_path)]) == status


def test_a_folder_without_files_does_not_pass(tmp_path: Path) -> None:
    assert main([str(tmp_path)]) == 1


def test_arguments_in_parentheses_may_hold_spaces() -> None:
    (directive,) = parse("deliver-msgs 1 2 drop=(3, 4) x=y\nin\n----\nout\n\n# end\n")

    assert directive.words() == ("1", "2")
    assert directive.values("drop") == ("3", "4")
    assert directive.value("x", "") == "y"
    assert directive.input == "in"
    assert directive.expected == "out"


def test_log_lines_are_not_compared_and_nothing_left_reads_ok() -> None:
    assert without_logs("INFO a\n  DEBUG b\n") == "ok"
    assert without_logs("> 1\n  INFO a\n  INFORMATION\n") == "> 1\n  INFORMATION"
