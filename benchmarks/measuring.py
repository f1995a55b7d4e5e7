"""Running a command and weighing it: wall time, processor time, peak memory; the state of the page cache.

This module, and every script that starts measured commands, stays small and imports no NumPy: Linux counts
the memory of the process that forks into the child's `ru_maxrss`, so a large parent is billed to the child.
"""

import compileall
import importlib.util
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB
MESSAGE_CHARACTERS_MAX = 2000
_TAKE = """
import mmap, sys
mmap.mmap(-1, int(sys.argv[1]), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE).close()
"""
# Answers each line with one more area held; when they are too many, all are given back, and the host gets its
# time to take them.
_HOLD = """
import mmap, sys, time
length_bytes, areas_max, rest_s = map(int, sys.argv[1:])
held = []
for line in sys.stdin:
    if len(held) == areas_max:
        for area in held:
            area.close()
        held.clear()
        time.sleep(rest_s)
    held.append(mmap.mmap(-1, length_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE))
    print(len(held), flush=True)
"""
# Linux reports a sixteenth of the free blocks to the host every two seconds: after this, six of seven.
HOST_TAKES_S = 60
DROP_CACHES = Path("/proc/sys/vm/drop_caches")


@dataclass(frozen=True, slots=True)
class Run:
    """One measured command.

    Attributes:
        seconds: wall time from start to exit, the start of the process included.
        cpu_seconds: user and system time of the process and the children it waited for.
        peak_bytes: largest resident set of the process or one of those children.
        settle_seconds: a `sync` of the whole machine right after it: what the command left to the kernel.
        output: its standard output.
    """

    seconds: float
    cpu_seconds: float
    peak_bytes: int
    settle_seconds: float
    output: str


class CommandFailedError(Exception):
    """A measured command did not exit with 0; its figures would mean nothing."""


def compile_programs() -> None:
    """Compile what the measured commands import, as pip does when it installs.

    A checkout compiles modules when they are first imported; where bytecode may not be written
    (PYTHONDONTWRITEBYTECODE), or a file has changed since, each command would do it anew.
    """
    for name in ("mcr", "mcr_node"):
        found = importlib.util.find_spec(name)
        assert found is not None, name
        for folder in found.submodule_search_locations or ():
            compileall.compile_dir(folder, quiet=2)


def run(
    command: Sequence[str], *, environment: Mapping[str, str] | None = None, folder: Path | None = None
) -> Run:
    """Run `command` to its end and measure it.

    Dirty pages of earlier work are written out first, so that they are not billed to this command. Its output
    goes to files, which need no reader: nothing but the command runs meanwhile.

    Raises:
        CommandFailedError: it exited with anything but 0.
    """
    os.sync()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as talk:
        start = time.perf_counter()
        process = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=talk,
            env=_environment(environment or {}),
            cwd=folder,
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        # Reaped by wait4; without the code Popen would warn of a child left behind.
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            raise CommandFailedError(
                f"{' '.join(command)}: exit status {process.returncode}\n{_tail(talk)}\n{_tail(out)}"
            )
        out.seek(0)
        output = out.read().decode(errors="replace")
    start = time.perf_counter()
    os.sync()
    settle_seconds = time.perf_counter() - start
    return Run(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * KIB, settle_seconds, output)


def _environment(extra: Mapping[str, str]) -> dict[str, str]:
    """Return what a user's shell would give: Python programs keep their compiled modules."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"} | dict(
        extra
    )


def _tail(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")[-MESSAGE_CHARACTERS_MAX:].strip()


def make_cold(*folders: Path) -> str:
    """Take files out of the page cache; returns how, for the report.

    As root the whole cache is dropped. Otherwise the kernel is asked for each file, which does as much for
    files that nobody has open or mapped; folders and inodes stay cached then.
    """
    os.sync()
    if os.access(DROP_CACHES, os.W_OK):
        DROP_CACHES.write_text("3\n")
        return "cold: page cache, folders and inodes dropped"
    for file in _files(folders):
        with file.open("rb") as opened:
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return "cold: pages of the files dropped"


def make_warm(*folders: Path) -> None:
    """Read every file once, so that its pages are cached."""
    buffer = bytearray(4 * MIB)
    for file in _files(folders):
        with file.open("rb", buffering=0) as opened:
            while opened.readinto(buffer):
                pass


def take_memory(length_bytes: int) -> None:
    """Take so much memory and give it back, so that the next command finds what it needs at hand.

    A virtual machine returns memory to its host when nobody has used it for two seconds, and taking it again
    is dear: 1.7 to 5.3 s for 2 GiB were seen. Else whoever comes after much was freed pays least, and who
    comes after much was read pays most: 1.8 and 3.4 s for the same command.
    """
    # By a process of its own: what this one ever held would be billed to the commands, see above.
    subprocess.run((sys.executable, "-c", _TAKE, str(length_bytes)), check=True)


class HeldMemory:
    """Holds memory, more each time, so that the next command finds none that another has used just before.

    The opposite of `take_memory`: all commands pay for memory that the host has taken back. What is held
    stays below half of what is there; then all of it goes back, and the host is given a minute to take it.
    """

    def __init__(self, length_bytes: int) -> None:
        """Hold `length_bytes` more at each `take`."""
        areas_max = max(1, available_bytes() // 2 // length_bytes)
        # A process of its own, as in `take_memory`.
        self._process = subprocess.Popen(
            (sys.executable, "-c", _HOLD, str(length_bytes), str(areas_max), str(HOST_TAKES_S)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    @property
    def pid(self) -> int:
        """Of the process that holds it."""
        return self._process.pid

    def take(self) -> None:
        """Take memory, that used last first, and keep it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        if not self._process.stdout.readline():
            raise CommandFailedError("the process that holds memory has ended; is there enough of it?")

    def close(self) -> None:
        """Give all back."""
        self._process.communicate()


def available_bytes() -> int:
    """Return the memory that can be had without swapping."""
    (line,) = (line for line in Path("/proc/meminfo").read_text().splitlines() if "MemAvailable" in line)
    return int(line.split()[1]) * KIB


def disk_bytes(folder: Path) -> int:
    """Return the bytes that the files under `folder` hold (lengths, not allocated blocks)."""
    return sum(file.stat().st_size for file in _files([folder]))


def remove(folder: Path) -> None:
    """Remove a folder and all in it; nothing happens where there is none."""
    if folder.exists():
        shutil.rmtree(folder)


def _files(folders: Iterable[Path]) -> Iterator[Path]:
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and not path.is_symlink():
                yield path


@dataclass(frozen=True, slots=True)
class Spread:
    """Several measurements of one thing."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle one."""
        return statistics.median(self.values)

    def text(self, *, digits: int = 2) -> str:
        """Return `median (least-most)`."""
        low, high = min(self.values), max(self.values)
        return f"{self.median:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return rows as aligned columns, the first to the left, the others to the right."""
    lines = [tuple(head), *(tuple(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]

    def joined(line: Sequence[str]) -> str:
        cells = [line[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        return "  ".join(cells).rstrip()

    return "\n".join([joined(lines[0]), "  ".join("-" * width for width in widths), *map(joined, lines[1:])])
