"""What this machine can do at best, measured in the same run as the thing that is judged against it.

    python -m benchmarks.limits FOLDER --size-mib 1024 --json

FOLDER must be on the disk where the store will be. Each limit is the cost of work that a store cannot avoid:
writing the bytes durably, hashing them, reading them. A benchmark starts this as a process of its own.
"""

import argparse
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import blake3

from benchmarks.measuring import MIB, make_cold, make_warm

PIECE_BYTES = 1 * MIB
# Incompressible, and longer than any window in which a file system would look for repeats.
POOL_BYTES = 64 * MIB


def measure(folder: Path, size_bytes: int) -> dict[str, float]:
    """Return the seconds each limit takes for `size_bytes`, by name.

    - `write_sync`: sequential writes and one fdatasync;
    - `blake3_1`, `blake3_2`: BLAKE3 over pieces of 1 MiB in memory, by one and two threads;
    - `sha256_1`: SHA-256 over the same, by one thread;
    - `read_warm`, `read_cold`: sequential read, from the page cache and from the disk;
    - `copy_warm`, `copy_cold`: read from page cache or disk, write, fdatasync: the least that a checkout
      does. A disk may read fast and write fast, but not both at once.
    """
    pool = os.urandom(min(POOL_BYTES, size_bytes))
    pieces = [memoryview(pool)[at : at + PIECE_BYTES] for at in range(0, len(pool), PIECE_BYTES)]
    target, copy = folder / "limits.bin", folder / "limits-copy.bin"
    rounds = size_bytes // len(pool)
    seconds: dict[str, float] = {}
    try:
        os.sync()
        seconds["write_sync"] = _timed(
            lambda: _write(target, lambda: (p for _ in range(rounds) for p in pieces))
        )
        seconds["blake3_1"] = _timed(lambda: _each(pieces * rounds, _blake3, threads=1))
        seconds["blake3_2"] = _timed(lambda: _each(pieces * rounds, _blake3, threads=2))
        seconds["sha256_1"] = _timed(lambda: _each(pieces * rounds, _sha256, threads=1))
        make_warm(folder)
        seconds["read_warm"] = _timed(lambda: _read(target))
        seconds["copy_warm"] = _timed(lambda: _write(copy, lambda: _blocks(target)))
        make_cold(folder)
        seconds["read_cold"] = _timed(lambda: _read(target))
        make_cold(folder)
        seconds["copy_cold"] = _timed(lambda: _write(copy, lambda: _blocks(target)))
    finally:
        target.unlink(missing_ok=True)
        copy.unlink(missing_ok=True)
    # Sizes that are no multiple of the pool are scaled, so that figures always stand for `size_bytes`.
    scale = size_bytes / (rounds * len(pool))
    return {name: value * scale for name, value in seconds.items()}


def _timed(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _write(path: Path, blocks: Callable[[], Iterator[memoryview]]) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        for block in blocks():
            os.write(descriptor, block)
        os.fdatasync(descriptor)
    finally:
        os.close(descriptor)


def _blocks(path: Path) -> Iterator[memoryview]:
    buffer = bytearray(PIECE_BYTES)
    with path.open("rb", buffering=0) as source:
        while length := source.readinto(buffer):
            yield memoryview(buffer)[:length]


def _read(path: Path) -> None:
    for _ in _blocks(path):
        pass


def _blake3(piece: memoryview) -> None:
    blake3.blake3(piece).digest()


def _sha256(piece: memoryview) -> None:
    hashlib.sha256(piece).digest()


def _each(pieces: list[memoryview], work: Callable[[memoryview], None], *, threads: int) -> None:
    """Do `work` on every piece; each thread takes every so-manieth."""

    def share(first: int) -> None:
        for piece in pieces[first::threads]:
            work(piece)

    with ThreadPoolExecutor(threads) as executor:
        list(executor.map(share, range(threads)))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size-mib", type=int, default=1024)
    parser.add_argument("--json", action="store_true", help="seconds by name, as one object")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    seconds = measure(options.folder, options.size_mib * MIB)
    if options.json:
        print(json.dumps(seconds))
        return
    for name, value in seconds.items():
        print(f"{name:12} {value:7.3f} s  {options.size_mib * MIB / value / 1e6:8.0f} MB/s")


if __name__ == "__main__":
    main()
