"""What one run of a command holds: how it prints, where the store is, when its time is up."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import field
from types import FrameType
from typing import TYPE_CHECKING

from mcr.cli import settings
from mcr.cli.output import Output
from mcr.errors import DeadlineError
from mcr.values import dataclass

if TYPE_CHECKING:
    from mcr.client import Client


@dataclass(frozen=True, slots=True)
class Common:
    """The options every command takes, as given; None where they were not."""

    cluster: str | None = None
    profile: str | None = None
    stale: bool = False
    json: bool = False
    quiet: bool = False
    timeout_s: float | None = None
    progress: bool | None = None


class _TimeIsUp(KeyboardInterrupt):
    """The deadline passed. An interruption to all that is cleaned up on the way, as Ctrl-C is."""


@dataclass(slots=True)
class Deadline:
    """Bounds a command by wall time.

    A timer signal rather than a limit on each call: it also ends what is not a call, such as hashing, a pipe
    that nobody reads, or a parameter file that is a FIFO. The command ends on the same road as with Ctrl-C,
    which a store must survive anyway.

    Attributes:
        what: is under way; named in the error.
    """

    what: str
    seconds: float | None = field(default=None, init=False)

    def start(self, seconds: float) -> None:
        """Begin to count; the first call counts, later ones do nothing."""
        # Only the main thread gets signals. In another (an embedding program) the client's own limit holds.
        if self.seconds is not None or threading.current_thread() is not threading.main_thread():
            return

        def expire(_signal: int, _frame: FrameType | None) -> None:
            raise _TimeIsUp

        signal.signal(signal.SIGALRM, expire)
        signal.setitimer(signal.ITIMER_REAL, seconds)
        self.seconds = seconds

    def stop(self) -> None:
        """Stop counting."""
        if self.seconds is not None:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)


@dataclass(slots=True)
class Session:
    """One run of one command."""

    common: Common
    output: Output
    deadline: Deadline

    def settings(self) -> settings.Settings:
        """Decide where the store is.

        Raises:
            McrError: see `mcr.cli.settings.resolve`.
        """
        return settings.resolve(
            cluster=self.common.cluster,
            profile=self.common.profile,
            timeout_s=self.common.timeout_s,
            around=settings.surroundings(),
        )

    @contextmanager
    def connect(self, *, endless: bool = False) -> "Iterator[Client]":
        """Open the store for the length of a block.

        Args:
            endless: the block goes on until it is ended, so a limit that stands in the settings file bounds
                its calls, and only `--timeout` all of it.

        Raises:
            McrError: nothing says where it is, or it cannot be opened.
        """
        found = self.settings()
        if found.timeout_s is not None and not endless:
            self.deadline.start(found.timeout_s)
        # Imported late: the client brings NumPy and RocksDB, which `mcr --help` does without.
        from mcr.client import connect

        command, self.deadline.what = self.deadline.what, f"opening {found.where}"
        with connect(found.where, timeout_s=found.timeout_s, stale_ok=self.common.stale) as client:
            self.deadline.what = command
            yield client


@contextmanager
def session(common: Common, *, what: str) -> Iterator[Session]:
    """Begin a run, its time limit included."""
    deadline = Deadline(what)
    if common.timeout_s is not None:
        deadline.start(common.timeout_s)
    try:
        yield Session(common, Output(common.json, common.quiet, common.progress), deadline)
    except _TimeIsUp as end:
        assert deadline.seconds is not None, "a deadline that passed was set"
        raise DeadlineError(f"{deadline.seconds:g}", deadline.what) from end
    finally:
        deadline.stop()
