import os
import signal
import threading

import pytest
from hypothesis import settings

# Each run looks at new cases; a failure prints the line that reproduces it. No deadline: machines differ.
settings.register_profile("ci", derandomize=False, print_blob=True, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

# A shell without job control starts what it does not wait for with SIGINT ignored, and every process from
# there on inherits that: no command under test would be interrupted.
if (
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    and threading.current_thread() is threading.main_thread()
):
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rewrite", action="store_true", help="rewrite golden scenarios with what happens now")


@pytest.fixture
def rewrite(request: pytest.FixtureRequest) -> bool:
    """Whether golden scenarios are rewritten instead of compared."""
    return bool(request.config.getoption("--rewrite"))
