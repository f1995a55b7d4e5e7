"""Errors that pass: what goes on for days waits them out, and tries again."""

import asyncio

from mcr.errors import (
    DeadlineError,
    DurabilityError,
    MissingChunkError,
    NodeBusyError,
    NoQuorumError,
    OutOfSpaceError,
    UnavailableError,
)

# By themselves, as soon as nodes are back.
UNREACHABLE = (UnavailableError, NoQuorumError, DeadlineError, NodeBusyError)
# Or when an operator has looked: nothing that whoever waits could do better.
PASSING = (*UNREACHABLE, DurabilityError, MissingChunkError, OutOfSpaceError)
# Soon at first, as a node may just be restarting, then rarely.
AGAIN_S_MIN, AGAIN_S_MAX = 1.0, 30.0


class Again:
    """How long to wait before the next try; longer each time."""

    def __init__(self) -> None:
        self._pause_s = AGAIN_S_MIN

    async def wait(self) -> None:
        """Wait."""
        pause_s, self._pause_s = self._pause_s, min(2 * self._pause_s, AGAIN_S_MAX)
        await asyncio.sleep(pause_s)
