"""What a diff of two checkpoints costs: the whole `mcr diff A B --tensors` against reading both files.

    python -m benchmarks.diff --size-mib 1024 --plot change.png

Two pairs of checkpoints, made as fine-tuning makes them (`benchmarks.checkpoints`): in one, 5 % of the bytes
lie in tensors that changed; in the other every layer changed, 9 of 10 bytes, so nearly all of both versions
must be read, decoded and put into sums. A command is measured from its start to its end, on an embedded
store, in turn with reading: both files from start to end by one thread, from where the diff finds its bytes,
which is the page cache, or the disk after the cache was dropped. The ratio is the time of reading over that
of the diff: 1.0 = as fast as both files can be read at all. At least 0.3 is promised. Processor seconds are
printed beside it, because other work on the machine stretches a long command more often than a short one.
"""

import argparse
import json
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.measuring import MIB, Run, Spread, make_cold, make_warm, run, table

MODEL = "bench/diff"
PROMISED = 0.3
SHARES = {"last layers": 0.05, "every layer": 1.0}
FILE_NAME = "model.safetensors"
# Unbuffered, into one buffer: nothing but the kernel's copy. A process of its own, as the diff is.
READ = """
import sys
buffer = bytearray(1 << 20)
for path in sys.argv[1:]:
    with open(path, "rb", buffering=0) as file:
        while file.readinto(buffer):
            pass
"""


@dataclass
class Case:
    """One pair of checkpoints and what was measured on it."""

    name: str
    a: str
    b: str
    files: tuple[Path, Path]
    diffs: dict[str, list[Run]] = field(default_factory=dict)
    reads: dict[str, list[Run]] = field(default_factory=dict)

    def row(self, state: str, size_bytes: int) -> tuple[str, ...]:
        """Return the figures for one state of the page cache."""
        diff = Spread(tuple(each.seconds for each in self.diffs[state]))
        read = Spread(tuple(each.seconds for each in self.reads[state]))
        peak_bytes = max(each.peak_bytes for each in self.diffs[state])
        return (
            f"{self.name}, {state}",
            diff.text(),
            read.text(),
            f"{2 * size_bytes / diff.median / 1e6:.0f}",
            f"{read.median / diff.median:.2f}",
            f"{Spread(tuple(each.cpu_seconds for each in self.diffs[state])).median:.2f}",
            f"{Spread(tuple(each.cpu_seconds for each in self.reads[state])).median:.2f}",
            f"{peak_bytes / MIB:.0f}",
        )


def prepare(folder: Path, store: Path, size_mib: int) -> list[Case]:
    """Write the checkpoints and commit them."""
    _mcr("init", str(store))
    cases = []
    number = 0
    for name, share in SHARES.items():
        data = folder / name.replace(" ", "-")
        sizes = ["--size-mib", str(size_mib), "--share", str(share)]
        run([sys.executable, "-m", "benchmarks.checkpoints", str(data), *sizes])
        files = (data / "first" / FILE_NAME, data / "changed" / FILE_NAME)
        for file in files:
            _mcr("commit", MODEL, str(file), "-m", name, "--cluster", str(store))
        cases.append(Case(name, f"v{number + 1}", f"v{number + 2}", files))
        number += 2
    return cases


def measure(case: Case, store: Path, *, repetitions: int) -> None:
    """Diff and read in turn, each with its bytes cached and not."""
    command = ["diff", f"{MODEL}@{case.a}", case.b, "--tensors", "--json", "--cluster", str(store)]
    read = [sys.executable, "-c", READ, *map(str, case.files)]
    for _ in range(repetitions):
        make_cold(store, case.files[0].parent, case.files[1].parent)
        case.diffs.setdefault("cold", []).append(_mcr(*command))
        make_cold(store, case.files[0].parent, case.files[1].parent)
        case.reads.setdefault("cold", []).append(run(read))
        make_warm(store)
        case.diffs.setdefault("warm", []).append(_mcr(*command))
        make_warm(case.files[0].parent, case.files[1].parent)
        case.reads.setdefault("warm", []).append(run(read))


def _mcr(*arguments: str) -> Run:
    return run([sys.executable, "-m", "mcr.cli.main", *arguments])


def main() -> int:
    """Measure, print, and say whether the promise holds."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size-mib", type=int, default=1024)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where to put 8 times the size")
    parser.add_argument("--plot", type=Path, help="also draw the diff where every layer changed")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mcr-bench-", dir=given.folder) as scratch:
        root = Path(scratch)
        store = root / "store"
        cases = prepare(root, store, given.size_mib)
        size_bytes = cases[0].files[0].stat().st_size
        for case in cases:
            measure(case, store, repetitions=given.repetitions)
        if given.plot is not None:
            last = cases[-1]
            _mcr("diff", f"{MODEL}@{last.a}", last.b, "--plot", str(given.plot), "--cluster", str(store))
        compared = {case.name: _compared(case.diffs["warm"][0]) for case in cases}
    print(f"two checkpoints of {size_bytes / MIB:.0f} MiB, median (least-most) of {given.repetitions}")
    head = (
        "pair, page cache",
        "diff s",
        "read s",
        "MB/s",
        "read/diff",
        "diff cpu s",
        "read cpu s",
        "peak MiB",
    )
    print(table(head, (case.row(state, size_bytes) for case in cases for state in ("warm", "cold"))))
    print("; ".join(f"{name}: {tensors} tensors changed" for name, tensors in compared.items()))
    print(f"promised: read/diff of at least {PROMISED}")
    return 0


def _compared(diff: Run) -> int:
    tensors = json.loads(diff.output)["tensors"]
    return sum(each["kind"] == "changed" for each in tensors)


if __name__ == "__main__":
    sys.exit(main())
