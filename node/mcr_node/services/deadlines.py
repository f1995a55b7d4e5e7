"""How long the caller of the call under way still waits, for what is asked of other nodes on its behalf."""

import asyncio
from contextvars import ContextVar

_until_s: ContextVar[float | None] = ContextVar("until_s", default=None)


def set_time_left(seconds: float | None) -> None:
    """Note for the task at hand how long its caller waits; None = nobody said."""
    _until_s.set(None if seconds is None else asyncio.get_running_loop().time() + seconds)


def time_left_s() -> float | None:
    """Return how long the caller of the task at hand still waits; None when no caller does."""
    until_s = _until_s.get()
    return None if until_s is None else max(0.0, until_s - asyncio.get_running_loop().time())
