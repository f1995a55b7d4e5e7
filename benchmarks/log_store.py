"""What the log costs above the least that durability costs: an append to a file and one fdatasync.

    python -m benchmarks.log_store FOLDER --seconds 1 --rounds 3

One entry of 500 bytes a batch, durable before the next; by one caller, and by 32 at once that share syncs.
Both are run in turn with the plain file, so that a noisy machine disturbs all alike.
"""

import argparse
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mcr.model import LogIndex
from mcr_node.ports import HardState, LogEntry
from mcr_node.storage.log_store import RocksLogStore

ENTRY_BYTES = 500
CALLERS_MAX = 32


class Plain:
    """A file that is appended to: the limit."""

    def __init__(self, folder: Path) -> None:
        self._descriptor = os.open(folder / "plain", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def put(self, data: bytes) -> None:
        """Append durably."""
        os.write(self._descriptor, data)
        os.fdatasync(self._descriptor)

    def close(self) -> None:
        """Release the file."""
        os.close(self._descriptor)


class Log:
    """The log, written under a lock, synced by whoever waits."""

    def __init__(self, folder: Path) -> None:
        self._log = RocksLogStore.open(folder / "log", b"benchmark")
        self._log.write([], HardState(1, 1))
        self._lock = threading.Lock()

    def put(self, data: bytes) -> None:
        """Append durably."""
        with self._lock:
            self._log.write([LogEntry(LogIndex(self._log.bounds()[1] + 1), 1, data)])
        self._log.sync()

    def close(self) -> None:
        """Release the files."""
        self._log.close()


def rate(put: Callable[[bytes], None], *, callers: int, seconds: float) -> float:
    """Return durable writes a second."""
    data = os.urandom(ENTRY_BYTES)
    end = time.perf_counter() + seconds

    def call() -> int:
        count = 0
        while time.perf_counter() < end:
            put(data)
            count += 1
        return count

    start = time.perf_counter()
    with ThreadPoolExecutor(callers) as pool:
        done = sum(pool.map(lambda _: call(), range(callers)))
    return done / (time.perf_counter() - start)


def measure(folder: Path, *, seconds: float, rounds: int) -> dict[str, list[float]]:
    """Return the rates of all rounds: of the plain file, of one caller of the log, and of many."""
    plain, log = Plain(folder), Log(folder)
    rates: dict[str, list[float]] = {"plain": [], "one": [], "many": []}
    try:
        for _ in range(rounds):
            rates["plain"].append(rate(plain.put, callers=1, seconds=seconds))
            rates["one"].append(rate(log.put, callers=1, seconds=seconds))
            rates["many"].append(rate(log.put, callers=CALLERS_MAX, seconds=seconds))
    finally:
        plain.close()
        log.close()
    return rates


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="on the disk where the store will be")
    parser.add_argument("--seconds", type=float, default=1.0, help="length of one measurement")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        rates = measure(Path(folder), seconds=options.seconds, rounds=options.rounds)
    limit = statistics.median(rates["plain"])
    print(f"file, append + fdatasync    {limit:8.0f}/s  1.00")
    for name, text in (("one", "log, 1 caller"), ("many", f"log, {CALLERS_MAX} callers")):
        ratios = [mine / plain for mine, plain in zip(rates[name], rates["plain"], strict=True)]
        print(
            f"{text:27} {statistics.median(rates[name]):8.0f}/s  {statistics.median(ratios):.2f}"
            f"  ({min(ratios):.2f} to {max(ratios):.2f})"
        )


if __name__ == "__main__":
    main()
