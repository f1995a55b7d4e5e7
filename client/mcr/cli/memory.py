"""How this process uses memory again: for commands that move gigabytes through buffers of a megabyte."""

import sys
from typing import Final

# Of <malloc.h>, in glibc since 1992.
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_MIB: Final = 1 << 20
# More than any buffer, and than what a command has in use at once; both below what glibc takes as an int.
MMAP_THRESHOLD_BYTES: Final = 32 * _MIB
TRIM_THRESHOLD_BYTES: Final = 256 * _MIB


def keep_freed() -> bool:
    """Keep what is freed for the next buffer; return whether the C library can.

    By default glibc gives each large buffer back to the system at once. The next one is then fresh, and its
    pages, 256 a megabyte, are mapped and cleared one by one when they are touched: measured, twice as long as
    BLAKE3 takes for the same bytes. A command ends soon, and with it what it kept. A library must not decide
    this for the program it is part of, so only commands do, and of them those that move the bytes of models:
    loading ctypes takes as long as a small command can spare.
    """
    if sys.platform != "linux":
        return False
    import ctypes

    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        # Another C library, such as musl.
        return False
    kept = [
        mallopt(_M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES),
        mallopt(_M_TRIM_THRESHOLD, TRIM_THRESHOLD_BYTES),
    ]
    return all(kept)
