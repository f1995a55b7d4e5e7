"""Work that leaves the processor to whoever else wants it."""

import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib import import_module

# Of Linux: a tenth of the processor time of who runs at 0, where both want it.
NICENESS = 10


def load_behind_others(*modules: str) -> None:
    """Import modules, at a lower priority than other processes'; the caller's own stays as it is.

    A node that joins has a second of this to do, beside nodes that serve, if it shares their machine. Nobody
    may raise a priority again without being privileged, but on Linux each thread has its own.

    Args:
        modules: full names. They must start no threads, which would keep the lower priority.

    Raises:
        ModuleNotFoundError: as an import here would.
    """
    with ThreadPoolExecutor(1, "mcr-loading", initializer=_step_back) as loader:
        loader.submit(lambda: [import_module(name) for name in modules]).result()


def _step_back() -> None:
    if sys.platform == "linux":
        # Whoever was started further behind stays there: only the privileged may come forward.
        niceness = max(NICENESS, os.getpriority(os.PRIO_PROCESS, 0))
        # It is a courtesy; a sandbox that forbids it must not keep a node from starting.
        with suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), niceness)
