"""How a command that goes on until it is told otherwise is told so."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class _EndedError(KeyboardInterrupt):
    """SIGTERM came. An interruption to all that is cleaned up on the way, as Ctrl-C is."""


@contextmanager
def until_sigterm() -> Iterator[None]:
    """Run a block that a SIGTERM ends in order, and well: that is how a supervisor ends a service.

    Ctrl-C ends it too, and is an interruption to the caller (status 130).
    """
    # Only the main thread gets signals; in another (an embedding program) the caller has its own ways.
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(_signal: int, _frame: FrameType | None) -> None:
        # Once: a second one must not break into the cleaning up.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise _EndedError

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    except _EndedError:
        return
    finally:
        signal.signal(signal.SIGTERM, before)
