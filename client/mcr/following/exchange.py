"""Two folders that change places in one step, which Python's library does not offer."""

import errno
import os
from pathlib import Path

# linux/fs.h; macOS has the same under another name and is not offered here.
RENAME_EXCHANGE = 2
_AT_FDCWD = -100


def exchange(one: Path, other: Path) -> None:
    """Let two paths change places: whoever opens either gets the one or the other, never nothing.

    Raises:
        OSError: the system or the file system cannot (ENOSYS, EINVAL), or a path is not there.
    """
    # Dear to load, and seldom used.
    import ctypes

    library = ctypes.CDLL(None, use_errno=True)
    call = getattr(library, "renameat2", None)
    if call is None:
        raise OSError(errno.ENOSYS, "this system cannot exchange folders", str(other))
    done = call(
        _AT_FDCWD,
        os.fsencode(one),
        _AT_FDCWD,
        os.fsencode(other),
        ctypes.c_uint(RENAME_EXCHANGE),
    )
    if done != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(other))
