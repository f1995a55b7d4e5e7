"""A pytest plugin that seeds one defect: `MCR_DEFECT=name pytest -p tests.mutation.plugin …`."""

import os
from contextlib import ExitStack

import pytest

from tests.mutation.defects import ALL

VARIABLE = "MCR_DEFECT"


def pytest_configure(config: pytest.Config) -> None:
    name = os.environ.get(VARIABLE)
    if name is None:
        return
    if name not in ALL:
        raise pytest.UsageError(f"{VARIABLE}={name} names no defect")
    stack = ExitStack()
    stack.enter_context(ALL[name]())
    config.add_cleanup(stack.close)
