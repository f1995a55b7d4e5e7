"""Laws of measuring: a command's own figures, and nothing but them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import measuring
from benchmarks.measuring import MIB, Spread

ROOT = Path(__file__).parents[3]


# In a small process, as a benchmark is: the memory of the one that forks is billed to the command, and that
# of a test runner after many tests may be larger than any command's.
PROGRAM = """
import json, sys
from dataclasses import asdict
from benchmarks import measuring
measuring.take_memory(512 << 20)
small = (sys.executable, "-c", "print('small')")
large = (sys.executable, "-c", "x = b'x' * (256 << 20); print('large')")
print(json.dumps([asdict(measuring.run(command)) for command in (small, large)]))
"""


def test_peak_memory_and_output_are_those_of_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, check=True
    )
    one, other = (measuring.Run(**values) for values in json.loads(done.stdout))

    assert (one.output, other.output) == ("small\n", "large\n")
    assert other.peak_bytes - one.peak_bytes > 200 * MIB
    assert one.peak_bytes < 200 * MIB, "nor is the memory billed to it that was taken before"
    assert one.seconds > 0
    assert one.cpu_seconds > 0


def test_memory_is_held_up_to_half_of_what_there_is_and_then_given_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(measuring, "available_bytes", lambda: 300 * MIB)
    monkeypatch.setattr(measuring, "HOST_TAKES_S", 0)
    held = measuring.HeldMemory(64 * MIB)
    found = []

    for _ in range(4):
        held.take()
        found.append(round(_resident_bytes(held.pid) / (64 * MIB)))

    held.close()
    assert found == [1, 2, 1, 2]


def test_the_memory_that_is_available_is_part_of_what_the_machine_has() -> None:
    all_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < measuring.available_bytes() < all_bytes


def _resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_command_that_fails_gives_no_figures_but_its_words() -> None:
    with pytest.raises(measuring.CommandFailedError, match="exit status 3\nsad"):
        measuring.run((sys.executable, "-c", "import sys; print('sad', file=sys.stderr); sys.exit(3)"))


def test_a_command_gets_its_folder_and_environment(tmp_path: Path) -> None:
    program = "import os; print(os.getcwd(), os.environ['COLOUR'])"
    done = measuring.run((sys.executable, "-c", program), environment={"COLOUR": "blue"}, folder=tmp_path)
    assert done.output == f"{tmp_path} blue\n"


def test_a_python_command_may_keep_its_compiled_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    done = measuring.run((sys.executable, "-c", "import sys; print(sys.dont_write_bytecode)"))
    assert done.output == "False\n"


def test_the_size_of_a_folder_is_that_of_its_files(tmp_path: Path) -> None:
    # given
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "a").write_bytes(bytes(100))
    (tmp_path / "b").write_bytes(bytes(23))
    (tmp_path / "link").symlink_to("b")
    # when, then
    assert measuring.disk_bytes(tmp_path) == 123
    measuring.make_warm(tmp_path)
    measuring.remove(tmp_path / "inner")
    measuring.remove(tmp_path / "inner")
    assert measuring.disk_bytes(tmp_path) == 23


def test_a_table_lines_up_and_a_spread_shows_its_range() -> None:
    # given
    spread = Spread((3.0, 1.0, 2.0))
    # when
    text = measuring.table(("what", "seconds"), [("a", spread.text()), ("longer", "1")])
    # then
    assert spread.median == 2
    assert text.splitlines() == [
        "what             seconds",
        "------  ----------------",
        "a       2.00 (1.00-3.00)",
        "longer                 1",
    ]
