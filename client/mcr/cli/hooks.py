"""Running the user's command when something happened: by the shell, in a process group, within a time."""

import asyncio
import os
import signal
from collections.abc import Mapping
from contextlib import suppress

from mcr.errors import DeadlineError, FailedError

# What a program gets to end in order before it is ended.
GRACE_S = 5.0
_SHELL = "/bin/sh"
# Where its talk goes: stdout is for our data.
_STDERR = 2


async def run_hook(command: str, environment: Mapping[str, str], *, timeout_s: float) -> None:
    """Run a command of the shell to its end; its stdout goes to our stderr.

    Args:
        command: as the shell takes it.
        environment: all of it.
        timeout_s: after this the command, and all that it started in its process group, is ended.

    Raises:
        FailedError: its exit status was not 0, or a signal ended it.
        DeadlineError: the time was up.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            _SHELL,
            "-c",
            command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=_STDERR,
            env=dict(environment),
            # So that what it starts ends with it, and Ctrl-C reaches it through us only.
            start_new_session=True,
        )
    except OSError as error:
        raise FailedError(f"running {command!r}", error.strerror or str(error)) from error
    try:
        async with asyncio.timeout(timeout_s):
            status = await process.wait()
    except TimeoutError as error:
        await _end(process)
        raise DeadlineError(f"{timeout_s:g}", f"running {command!r}") from error
    except asyncio.CancelledError:
        await _end(process)
        raise
    if status < 0:
        raise FailedError(f"running {command!r}", f"{signal.Signals(-status).name} ended it")
    if status:
        raise FailedError(f"running {command!r}", f"its exit status was {status}")


async def _end(process: asyncio.subprocess.Process) -> None:
    for number, patience_s in ((signal.SIGTERM, GRACE_S), (signal.SIGKILL, None)):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                await process.wait()
