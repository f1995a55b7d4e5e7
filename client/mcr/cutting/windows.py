"""Cutting a file, window by window, into the pieces that become chunks.

Tensors are cut into fixed blocks counted from their own start, so a tensor gives the same chunks wherever it
stands and whatever the container. What lies between them, and files without tensors, are cut by content
(FastCDC, Xia et al., USENIX ATC 2016; here the 2020 variant), so inserted bytes shift no later cut for long.
"""

from bisect import bisect_right
from collections.abc import Iterator
from operator import attrgetter
from typing import Literal

from pyfastcdc import FastCDC

from mcr.cutting.spans import ELEMENT_BYTES, ELEMENT_BYTES_OTHER, CutPlan
from mcr.model import BLOCK_BYTES, CHUNK_BYTES_MAX, KIB, MIB
from mcr.values import dataclass

# All of these decide where old data was cut: changing one makes every such byte new to the store once.
CONTENT_NORMALIZATION: Literal[1] = 1
CONTENT_SEED = 0


@dataclass(frozen=True, slots=True)
class ContentSizes:
    """How finely to cut by content.

    Attributes:
        whole_bytes_max: a stretch this short stays one piece: cutting it saves less than index entries cost.
    """

    min_bytes: int
    average_bytes: int
    max_bytes: int
    whole_bytes_max: int


COARSE = ContentSizes(16 * KIB, 64 * KIB, 256 * KIB, 64 * KIB)
"""For files without tensors, and for long stretches between tensors."""
FINE = ContentSizes(256, 512, 2 * KIB, 4 * KIB)
"""For headers and graphs. An exported graph repeats names, attributes and stack traces in each node: the
650 KB graph of a real ONNX export holds 140 KB of distinct pieces this fine, 310 KB at twice the size, all of
it at four times."""
FINE_REGION_BYTES_MAX = 1 * MIB
"""A longer stretch is cut coarsely, which bounds how many pieces it gives."""

SMALL_TENSOR_BYTES_MAX = 512 * KIB
SMALL_BLOCK_BYTES = 64 * KIB
"""Blocks of small tensors. Exporters reorder the gates of recurrent layers, which moves such blocks."""


def block_bytes(length_bytes: int) -> int:
    """Return the size of the blocks that a tensor of `length_bytes` is cut into."""
    return SMALL_BLOCK_BYTES if length_bytes <= SMALL_TENSOR_BYTES_MAX else BLOCK_BYTES


WINDOW_BYTES = 2 * CHUNK_BYTES_MAX
"""How much of a file to hold while cutting."""
WINDOW_BYTES_MIN = max(BLOCK_BYTES, COARSE.max_bytes)
"""The smallest window that always holds a whole piece."""

NO_TENSOR = -1


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of a file that becomes one chunk, 1 to CHUNK_BYTES_MAX bytes.

    Attributes:
        offset_bytes: in the file.
        element_bytes: width of one element (1, 2, 4 or 8) inside a tensor, else 0.
        tensor: index into the plan's tensors, or NO_TENSOR. No piece crosses the border of a tensor.
    """

    offset_bytes: int
    length_bytes: int
    element_bytes: int
    tensor: int


@dataclass(frozen=True, slots=True)
class _Region:
    """A tensor, or all the bytes between two of them."""

    start: int
    stop: int
    tensor: int


def cut_window(plan: CutPlan, offset_bytes: int, window: memoryview, *, is_last: bool) -> list[Piece]:
    """Cut the pieces that lie wholly in a window; the same ones whatever the windows.

    Args:
        plan: of the file.
        offset_bytes: where the window starts: 0, or the end of the last piece of the window before.
        window: the file's bytes from there; borrowed. At least WINDOW_BYTES_MIN, unless the file ends.
        is_last: the window reaches the end of the file.

    Returns:
        Consecutive pieces from `offset_bytes`; all of the window if it is the last. What they leave uncovered
        is to be presented again, at the start of the next window.
    """
    end = offset_bytes + len(window)
    assert offset_bytes >= 0, "a window starts in the file"
    assert end <= plan.size_bytes, "a window ends in the file"
    assert is_last == (end == plan.size_bytes), "only the last window reaches the end of the file"
    assert is_last or len(window) >= WINDOW_BYTES_MIN, "a window holds at least one piece"
    pieces: list[Piece] = []
    for region in _regions(plan, offset_bytes, end):
        if region.tensor == NO_TENSOR:
            reached = _cut_gap(region, _sizes(plan, region), offset_bytes, window, pieces)
        else:
            reached = _cut_tensor(plan, region, offset_bytes, end, pieces)
        if reached < region.stop:
            break
    assert pieces or not window, "a window must make progress"
    return pieces


def cut_gap(data: memoryview, *, beside_tensors: bool) -> list[Piece]:
    """Cut all the bytes between two tensors, or before the first, as `cut_window` cuts them in a file.

    Args:
        data: the bytes; offsets of the pieces are counted from its start.
        beside_tensors: whether the file has tensors at all.
    """
    fine = beside_tensors and len(data) <= FINE_REGION_BYTES_MAX
    pieces: list[Piece] = []
    if data:
        _cut_gap(_Region(0, len(data), NO_TENSOR), FINE if fine else COARSE, 0, data, pieces)
    return pieces


def _regions(plan: CutPlan, position: int, end: int) -> Iterator[_Region]:
    """Yield the regions that touch `position` to `end`, in file order."""
    tensors = plan.tensors
    # The last tensor that starts at or before the position; found by halving, else windows would cost the
    # square of a large plan.
    index = bisect_right(tensors, position, key=attrgetter("offset_bytes")) - 1
    while position < end:
        stop = tensors[index].offset_bytes + tensors[index].length_bytes if index >= 0 else 0
        if position < stop:
            yield _Region(tensors[index].offset_bytes, stop, index)
            position = stop
            continue
        gap_start = stop
        index += 1
        gap_stop = tensors[index].offset_bytes if index < len(tensors) else plan.size_bytes
        # Empty where tensors touch, and before an empty tensor.
        if position < gap_stop:
            yield _Region(gap_start, gap_stop, NO_TENSOR)
            position = gap_stop


def _cut_tensor(plan: CutPlan, region: _Region, offset_bytes: int, end: int, pieces: list[Piece]) -> int:
    """Append the blocks of a tensor that lie in the window; return where the last one ends."""
    element_bytes = ELEMENT_BYTES.get(plan.tensors[region.tensor].dtype, ELEMENT_BYTES_OTHER)
    position = max(region.start, offset_bytes)
    block = block_bytes(region.stop - region.start)
    assert (position - region.start) % block == 0, "a window starts where a piece ends"
    while position < region.stop:
        length_bytes = min(block, region.stop - position)
        if position + length_bytes > end:
            break
        pieces.append(Piece(position, length_bytes, element_bytes, region.tensor))
        position += length_bytes
    return position


def _sizes(plan: CutPlan, region: _Region) -> ContentSizes:
    fine = bool(plan.tensors) and region.stop - region.start <= FINE_REGION_BYTES_MAX
    return FINE if fine else COARSE


def _cut_gap(
    region: _Region, sizes: ContentSizes, offset_bytes: int, window: memoryview, pieces: list[Piece]
) -> int:
    """Append the pieces of a gap that are certain; return where the last one ends."""
    position = max(region.start, offset_bytes)
    end = offset_bytes + len(window)
    is_whole = region.stop <= end
    if region.stop - region.start <= sizes.whole_bytes_max:
        if not is_whole:
            return position
        pieces.append(Piece(position, region.stop - position, 0, NO_TENSOR))
        return region.stop
    data = window[position - offset_bytes : min(region.stop, end) - offset_bytes]
    # The chunker holds nothing between chunks but its tables, so starting anew at a cut is going on; it must
    # not be shared by threads, and making one costs less than a microsecond.
    chunker = FastCDC(
        sizes.average_bytes,
        min_size=sizes.min_bytes,
        max_size=sizes.max_bytes,
        normalized_chunking=CONTENT_NORMALIZATION,
        seed=CONTENT_SEED,
    )
    base = position
    for chunk in chunker.cut_buf(data):
        # A cut depends on up to max_bytes bytes: with fewer in the window, and more to come, the next
        # window decides.
        if not is_whole and len(data) - chunk.offset < sizes.max_bytes:
            break
        pieces.append(Piece(base + chunk.offset, chunk.length, 0, NO_TENSOR))
        position = base + chunk.offset + chunk.length
    return position
