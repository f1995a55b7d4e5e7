"""Writing at a place in a file, long runs of it past the page cache.

Model bytes are written once and seldom read soon after by the same machine, yet the page cache makes each
write pay for them: pages are allocated, charged, copied into and written back. For 1 GiB that took 2.0 s of
processor time in the kernel and 2.4 s until it was durable; with O_DIRECT 0.1 s and 0.9 s, and another 0.15 s
for the copy into an aligned buffer, on the machine where this was decided. And what others keep in the cache
stays there.

Only whole pages go that way. What is left at both ends of a run goes through the page cache, as a short run
does, so no page is ever written by both ways at a time, and a file needs no padding. Durability is unchanged:
it takes an fdatasync of the file, which covers both ways. Where a file system refuses O_DIRECT, all is
buffered.
"""

import errno
import mmap
import os
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
# One direct write: long enough to keep the device busy; 1 to 8 MiB measured alike.
STAGING_BYTES = 2 * MIB


def aligned_memory(length_bytes: int) -> memoryview:
    """Return zeroed memory that starts at a page; from it, direct writes need no copy."""
    return memoryview(mmap.mmap(-1, length_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))


class _Staging(threading.local):
    """One aligned buffer a thread, made at its first direct write."""

    def __init__(self) -> None:
        self.view = aligned_memory(STAGING_BYTES)


_staging = _Staging()


def open_direct(descriptor: int) -> int | None:
    """Return a second descriptor of an open file for `write_at`; None where direct writes are not to be had.

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
        direct: `open_direct(descriptor)`; None = buffered writes only.
        buffers: any number, empty ones included.
        offset_bytes: where the first byte goes.

    Raises:
        OSError: any part may have been written.
    """
    views = [view for buffer in buffers if (view := memoryview(buffer).cast("B")).nbytes]
    first, last = _whole_pages(offset_bytes, sum(view.nbytes for view in views))
    if direct is None or last - first < DIRECT_BYTES_MIN:
        _write_buffered(descriptor, views, offset_bytes)
        return
    head, rest = _split(views, first - offset_bytes)
    middle, tail = _split(rest, last - first)
    _write_buffered(descriptor, head, offset_bytes)
    at = first
    for piece in _aligned(middle):
        _write_pages(descriptor, direct, piece, at)
        at += piece.nbytes
    _write_buffered(descriptor, tail, last)


def write_placed(descriptor: int, direct: int | None, data: memoryview, offset_bytes: int) -> None:
    """Write bytes that lie in memory as they do in the file: at the same place within a page.

    As `write_at`, without the copy. What does not lie so is written all the same, through the page cache.

    Args:
        descriptor: of a file open for writing.
        direct: `open_direct(descriptor)`; None = buffered writes only.
        offset_bytes: where the first byte goes.
        data: from `aligned_memory`, starting `offset_bytes % ALIGNMENT_BYTES` after the start of a page.

    Raises:
        OSError: any part may have been written.
    """
    first, last = _whole_pages(offset_bytes, data.nbytes)
    if direct is None or last - first < DIRECT_BYTES_MIN:
        _write_buffered(descriptor, [data], offset_bytes)
        return
    if first > offset_bytes:
        _write_buffered(descriptor, [data[: first - offset_bytes]], offset_bytes)
    _write_pages(descriptor, direct, data[first - offset_bytes : last - offset_bytes], first)
    if last < offset_bytes + data.nbytes:
        _write_buffered(descriptor, [data[last - offset_bytes :]], last)


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


def _write_pages(descriptor: int, direct: int, piece: memoryview, offset_bytes: int) -> None:
    """Write whole pages past the page cache, or through it where that is refused or cut short."""
    try:
        if os.pwrite(direct, piece, offset_bytes) == piece.nbytes:
            return
    except OSError as error:
        # A device with larger blocks, or memory that it cannot reach.
        if error.errno != errno.EINVAL:
            raise
    _write_buffered(descriptor, [piece], offset_bytes)


def _write_buffered(descriptor: int, views: Sequence[memoryview], offset_bytes: int) -> None:
    first, left = 0, list(views)
    while first < len(left):
        count = os.pwritev(descriptor, left[first : first + BUFFERS_PER_WRITE_MAX], offset_bytes)
        offset_bytes += count
        while first < len(left) and count >= left[first].nbytes:
            count -= left[first].nbytes
            first += 1
        if count:
            left[first] = left[first][count:]
