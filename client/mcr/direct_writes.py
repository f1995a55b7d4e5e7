"""Writing at a place in a file, long runs of it past the page cache.

Model bytes are written once and seldom read soon after by the same machine, yet the page cache makes each
write pay for them: pages are allocated, zeroed, charged, and stay until somebody else needs the room. There
are two ways around it:

- Linux from 6.16 on writes a page back at once and drops it when told so (`RWF_DONTCACHE`). 1 GiB took 0.4 s
  of processor time in the kernel (1.6 to 2.2 s through the page cache, 0.15 s with O_DIRECT), and 1.9 s until
  it was durable, on a disk that took 3.7 s for a plain copy and 2.6 to 4.0 s with O_DIRECT, whatever the
  number and length of its writes: a disk that syncs takes no others, and what it holds already when the sync
  begins is written in the best order.
- O_DIRECT elsewhere: 0.1 s of processor time and 0.9 s until durable on a fast disk, and another 0.15 s for
  the copy into an aligned buffer, where the page cache took 2.0 s and 2.4 s.

Only whole pages go that way. What is left at both ends of a run goes through the page cache, as a short run
does, so no page is ever written by two ways at a time, and a file needs no padding. Durability is unchanged:
it takes an fdatasync of the file, which covers all ways. Where a file system knows neither, all is buffered.
"""

import errno
import mmap
import os
import re
import threading
from collections.abc import Iterator, Sequence

from mcr.model import MIB, Buffer

# What Linux takes in one pwritev (IOV_MAX).
BUFFERS_PER_WRITE_MAX = 1024
# Memory, offset and length of a direct write must be multiples of the device's block; 4 KiB is one of all
# that are in use, and the page size.
ALIGNMENT_BYTES = 4096
# Below this the two buffered ends and the extra call cost what the direct part saves.
DIRECT_BYTES_MIN = 256 * 1024
# Linux: write back at once and keep no page. `os` has the name from Python 3.15 on.
RWF_DONTCACHE = 0x80
# 6.14 had it first, with faults when a page was written again while it was dropped; 6.15 turned it off.
UNCACHED_LINUX_MIN = (6, 16)
# A kernel or a file system that does not know it.
_UNKNOWN = frozenset((errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS))
# One write to the page cache. The kernel takes one block of memory for each, up to 2 MiB, and large ones are
# those that a virtual machine gave back to its host: 1 GiB took 0.4 to 0.5 s in pieces of 64 and 256 KiB, 1.2
# in those of 1 MiB, 1.7 to 2.4 in longer ones.
CACHED_WRITE_BYTES = 256 * 1024
# One direct write: long enough to keep the device busy; 1 to 8 MiB measured alike.
STAGING_BYTES = 2 * MIB


def has_uncached(kernel: str, release: str) -> bool:
    """Tell whether `RWF_DONTCACHE` may be tried on a kernel, by its name and release (`os.uname`)."""
    numbers = tuple(int(number) for number in re.findall(r"\d+", release)[:2])
    return kernel == "Linux" and numbers >= UNCACHED_LINUX_MIN


HAS_UNCACHED = has_uncached(os.uname().sysname, os.uname().release)


def aligned_memory(length_bytes: int) -> memoryview:
    """Return zeroed memory that starts at a page; from it, direct writes need no copy."""
    return memoryview(mmap.mmap(-1, length_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))


class _Staging(threading.local):
    """One aligned buffer a thread, made at its first direct write."""

    def __init__(self) -> None:
        self.view = aligned_memory(STAGING_BYTES)


_staging = _Staging()


def open_direct(descriptor: int) -> int | None:
    """Return a second descriptor of an open file for `write_at`; None where O_DIRECT is not to be had.

    The caller closes it.
    """
    try:
        return os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_DIRECT | os.O_CLOEXEC)
    except OSError:
        # No O_DIRECT on this file system, or no /proc: an optimisation less, nothing else.
        return None


def write_at(descriptor: int, direct: int | None, buffers: Sequence[Buffer], offset_bytes: int) -> None:
    """Write all buffers one after the other; durable after an fdatasync of `descriptor`.

    Args:
        descriptor: of a file open for writing.
        direct: `open_direct(descriptor)`; for kernels that have no better way.
        buffers: any number, empty ones included.
        offset_bytes: where the first byte goes.

    Raises:
        OSError: any part may have been written.
    """
    views = _views(buffers)
    first, last = _whole_pages(offset_bytes, sum(view.nbytes for view in views))
    if last - first < DIRECT_BYTES_MIN:
        _write_buffered(descriptor, views, offset_bytes)
        return
    head, rest = _split(views, first - offset_bytes)
    middle, tail = _split(rest, last - first)
    _write_buffered(descriptor, head, offset_bytes)
    if not _write_uncached(descriptor, middle, first):
        _write_aligned(descriptor, direct, middle, first)
    _write_buffered(descriptor, tail, last)


def write_cached(descriptor: int, buffers: Sequence[Buffer], offset_bytes: int) -> None:
    """Write all buffers to the page cache and leave it to the system when they go to the disk.

    Args:
        descriptor: of a file open for writing.
        buffers: any number, empty ones included.
        offset_bytes: where the first byte goes.

    Raises:
        OSError: any part may have been written.
    """
    left = _views(buffers)
    while left:
        piece, left = _split(left, CACHED_WRITE_BYTES)
        _write_buffered(descriptor, piece, offset_bytes)
        offset_bytes += sum(view.nbytes for view in piece)


def write_placed(descriptor: int, direct: int | None, data: memoryview, offset_bytes: int) -> None:
    """Write bytes that lie in memory as they do in the file: at the same place within a page.

    As `write_at`, without the copy. What does not lie so is written all the same, through the page cache.

    Args:
        descriptor: of a file open for writing.
        direct: `open_direct(descriptor)`; for kernels that have no better way.
        offset_bytes: where the first byte goes.
        data: from `aligned_memory`, starting `offset_bytes % ALIGNMENT_BYTES` after the start of a page.

    Raises:
        OSError: any part may have been written.
    """
    first, last = _whole_pages(offset_bytes, data.nbytes)
    if last - first < DIRECT_BYTES_MIN:
        _write_buffered(descriptor, [data], offset_bytes)
        return
    if first > offset_bytes:
        _write_buffered(descriptor, [data[: first - offset_bytes]], offset_bytes)
    pages = data[first - offset_bytes : last - offset_bytes]
    if not _write_uncached(descriptor, [pages], first):
        _write_pages(descriptor, direct, pages, first)
    if last < offset_bytes + data.nbytes:
        _write_buffered(descriptor, [data[last - offset_bytes :]], last)


def _views(buffers: Sequence[Buffer]) -> list[memoryview]:
    """Return the bytes of all buffers that have any."""
    return [view for buffer in buffers if (view := memoryview(buffer).cast("B")).nbytes]


def _whole_pages(offset_bytes: int, length_bytes: int) -> tuple[int, int]:
    """Return where the whole pages of a stretch begin and end; the end may come first where there is none."""
    first = -(-offset_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
    return first, (offset_bytes + length_bytes) // ALIGNMENT_BYTES * ALIGNMENT_BYTES


def _split(views: Sequence[memoryview], length_bytes: int) -> tuple[list[memoryview], list[memoryview]]:
    """Return the first `length_bytes` of the views, and the rest."""
    before: list[memoryview] = []
    for position, view in enumerate(views):
        if length_bytes < view.nbytes:
            before += [view[:length_bytes]] if length_bytes else []
            return before, [view[length_bytes:], *views[position + 1 :]]
        before.append(view)
        length_bytes -= view.nbytes
    return before, []


def _aligned(views: Sequence[memoryview]) -> Iterator[memoryview]:
    """Yield the bytes of all views by way of the staging buffer; the next piece overwrites the last."""
    staging = _staging.view
    filled = 0
    for view in views:
        while view.nbytes:
            count = min(view.nbytes, STAGING_BYTES - filled)
            staging[filled : filled + count] = view[:count]
            filled += count
            view = view[count:]
            if filled == STAGING_BYTES:
                yield staging
                filled = 0
    if filled:
        yield staging[:filled]


def _write_uncached(descriptor: int, views: Sequence[memoryview], offset_bytes: int) -> bool:
    """Write pages that are written back at once and dropped; tell whether that is possible."""
    if not HAS_UNCACHED:
        return False
    try:
        _write_buffered(descriptor, views, offset_bytes, RWF_DONTCACHE)
    except NotImplementedError:
        # Python was built where the C library has no pwritev2; it takes no flags then.
        return False
    except OSError as error:
        if error.errno not in _UNKNOWN:
            raise
        return False
    return True


def _write_aligned(
    descriptor: int, direct: int | None, views: Sequence[memoryview], offset_bytes: int
) -> None:
    """Write whole pages past the page cache by way of an aligned buffer."""
    for piece in _aligned(views) if direct is not None else views:
        _write_pages(descriptor, direct, piece, offset_bytes)
        offset_bytes += piece.nbytes


def _write_pages(descriptor: int, direct: int | None, piece: memoryview, offset_bytes: int) -> None:
    """Write whole pages past the page cache, or through it where that is refused or cut short."""
    try:
        if direct is not None and os.pwrite(direct, piece, offset_bytes) == piece.nbytes:
            return
    except OSError as error:
        # A device with larger blocks, or memory that it cannot reach.
        if error.errno != errno.EINVAL:
            raise
    _write_buffered(descriptor, [piece], offset_bytes)


def _write_buffered(descriptor: int, views: Sequence[memoryview], offset_bytes: int, flags: int = 0) -> None:
    first, left = 0, list(views)
    while first < len(left):
        count = os.pwritev(descriptor, left[first : first + BUFFERS_PER_WRITE_MAX], offset_bytes, flags)
        offset_bytes += count
        while first < len(left) and count >= left[first].nbytes:
            count -= left[first].nbytes
            first += 1
        if count:
            left[first] = left[first][count:]
