"""Byte planes of arrays: each element rotated left by one bit, then the bytes of one place put together."""

import threading
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from mcr.model import KIB, Buffer

# A plane with more entropy than this (of 8 bits a byte), by a sample of this size, is noise.
_NOISE_BITS: Final = 7.9
_NOISE_SAMPLE_BYTES: Final = 16 * KIB
# Elements are turned into planes and back in blocks that stay in a third-level cache, in memory that is used
# again: touching fresh memory costs more than the arithmetic. Blocks for the second level are a fifth slower:
# they take more calls, and more turns of the interpreter's lock between threads that all do this.
_BLOCK_BYTES: Final = KIB * KIB
# What a thread keeps for the elements of a chunk; chunks of tensors are of 1 MiB or little more.
_JOINED_BYTES_MAX: Final = 2 * KIB * KIB
# Shifts to the left are written as products modulo 2^bits: NumPy checks how far each element is shifted, and
# takes more than twice as long for it on 16 bits.
_UNSIGNED: Final[dict[int, np.dtype[Any]]] = {2: np.dtype("<u2"), 4: np.dtype("<u4"), 8: np.dtype("<u8")}

_local = threading.local()


def _scratch(element_bytes: int, count: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return this thread's two arrays of `count` elements, at most a block, with anything in them."""
    arrays: dict[int, NDArray[Any]] = _local.__dict__.setdefault("arrays", {})
    if element_bytes not in arrays:
        arrays[element_bytes] = np.empty((2, _BLOCK_BYTES // element_bytes), _UNSIGNED[element_bytes])
    first, second = arrays[element_bytes]
    return first[:count], second[:count]


def joined_memory(length_bytes: int) -> memoryview:
    """Return memory for the elements of a whole chunk, with anything in it.

    It is this thread's, and used again by the next call.
    """
    if length_bytes > _JOINED_BYTES_MAX:
        return np.empty(length_bytes, np.uint8).data
    found: NDArray[np.uint8] | None = _local.__dict__.get("joined")
    if found is None or len(found) < length_bytes:
        found = _local.joined = np.empty(length_bytes, np.uint8)
    return found[:length_bytes].data


def is_noise(plane: NDArray[np.uint8]) -> bool:
    """Tell whether a plane has nothing that a coder could save, by a sample."""
    if len(plane) < 4 * _NOISE_SAMPLE_BYTES:
        return False
    start = (len(plane) - _NOISE_SAMPLE_BYTES) // 2
    counts = np.bincount(plane[start : start + _NOISE_SAMPLE_BYTES], minlength=256)
    shares = counts[counts > 0] / _NOISE_SAMPLE_BYTES
    return bool(-(shares * np.log2(shares)).sum() > _NOISE_BITS)


def split(view: memoryview, element_bytes: int, count: int) -> NDArray[np.uint8]:
    """Return the planes of the first `count` elements as rows, that of the lowest byte first."""
    elements: NDArray[Any] = np.frombuffer(view, _UNSIGNED[element_bytes], count)
    planes = np.empty((element_bytes, count), np.uint8)
    block_elements = _BLOCK_BYTES // element_bytes
    for start in range(0, count, block_elements):
        block = elements[start : start + block_elements]
        rotated, other = _scratch(element_bytes, len(block))
        np.multiply(block, 2, out=rotated)
        np.right_shift(block, 8 * element_bytes - 1, out=other)
        np.bitwise_or(rotated, other, out=rotated)
        for place, plane in enumerate(planes):
            if place:
                np.right_shift(rotated, 8, out=rotated)
            # A narrowing cast is vectorised, a strided slice is not.
            np.copyto(plane[start : start + len(block)], rotated, casting="unsafe")
    return planes


def join(rows: Sequence[Buffer], place: memoryview) -> None:
    """Write the elements whose planes these are to `place`, which is as long as all of them together.

    It may begin anywhere in memory; where it begins at a multiple of an element's width, it takes less time.
    """
    planes = [np.frombuffer(row, np.uint8) for row in rows]
    element_bytes, count = len(planes), len(planes[0])
    elements = np.frombuffer(place, _UNSIGNED[element_bytes])
    block_elements = _BLOCK_BYTES // element_bytes
    for start in range(0, count, block_elements):
        end = min(start + block_elements, count)
        rotated, other = _scratch(element_bytes, end - start)
        np.copyto(rotated, planes[-1][start:end])
        for plane in planes[-2::-1]:
            np.multiply(rotated, 256, out=rotated)
            np.copyto(other, plane[start:end])
            np.bitwise_or(rotated, other, out=rotated)
        np.right_shift(rotated, 1, out=other)
        np.multiply(rotated, 1 << (8 * element_bytes - 1), out=rotated)
        np.bitwise_or(rotated, other, out=elements[start:end])
