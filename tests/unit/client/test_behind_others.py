"""Loading code without taking the processor from others."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mcr.behind_others import NICENESS, load_behind_others

SOURCE = """
import os
import threading

niceness = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="threads have a priority of their own on Linux only")
def test_modules_are_loaded_behind_others_and_their_user_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "slow_to_load.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    before = os.getpriority(os.PRIO_PROCESS, 0)

    load_behind_others("slow_to_load")

    assert sys.modules["slow_to_load"].niceness == max(before, NICENESS)
    assert os.getpriority(os.PRIO_PROCESS, 0) == before
    del sys.modules["slow_to_load"]


@pytest.mark.skipif(sys.platform != "linux", reason="threads have a priority of their own on Linux only")
def test_who_is_further_behind_stays_there() -> None:
    program = (
        "import os, threading; os.nice(15); from mcr import behind_others as b; "
        "b._step_back(); print(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert int(done.stdout) >= 15


@pytest.mark.skipif(sys.platform != "linux", reason="threads have a priority of their own on Linux only")
def test_where_stepping_back_is_forbidden_modules_are_loaded_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: int) -> None:
        raise PermissionError

    (tmp_path / "slow_to_load.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(os, "setpriority", forbidden)

    load_behind_others("slow_to_load")

    assert sys.modules.pop("slow_to_load").niceness == os.getpriority(os.PRIO_PROCESS, 0)


def test_a_module_that_is_missing_is_named() -> None:
    with pytest.raises(ModuleNotFoundError) as raised:
        load_behind_others("mcr.no_such_module")

    assert raised.value.name == "mcr.no_such_module"


@pytest.mark.skipif(sys.platform != "linux", reason="it looks for threads where Linux lists them")
def test_loading_a_node_s_code_starts_no_thread() -> None:
    program = "import os, mcr_node.main, mcr_node.among_others; print(len(os.listdir('/proc/self/task')))"

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout == "1\n"
