"""mcr's embedded store against restic, Borg and the limits of the machine: whole commands, one run.

    python -m benchmarks.embedded_store --size-mib 1024 --repetitions 3 --json results.json

Stages, each over all systems in turn, in an order that rotates, so that noise hits all alike:

    first      commit of a model into an empty store, a minute after it was written
    again      commit of the same folder, nothing touched: what a habit costs
    rewritten  commit of the same bytes in a new file: everything must be read and hashed
    changed    commit of the next version: 5 % of the bytes lie in tensors that changed
    warm       checkout of that version, store in the page cache
    cold       checkout of that version, page cache dropped
    warm+sync, cold+sync   the same once more until the disk holds it: mcr by `--sync`; the others, which have
               no such option, with the time of a sync of the machine that follows

The source is in the page cache for every commit. Dirty pages are written out before each command. The target
of a checkout does not exist, so in `warm` and `cold` all leave the writing to the kernel; every checkout is
compared with its source afterwards. Limits are the better of two tries, before and after the stages of a
repetition.

What a command pays for memory depends on who had it before (`benchmarks.measuring.take_memory`); `--memory`
says what it finds:

    taken      memory for two copies of the model was taken just before and given back
    fresh      the memory that was used just before is held by another process
    left       nothing is done: it finds what the command before it left
"""

import argparse
import filecmp
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.measuring import (
    MIB,
    HeldMemory,
    Run,
    Spread,
    compile_programs,
    disk_bytes,
    make_cold,
    make_warm,
    remove,
    run,
    table,
    take_memory,
)
from benchmarks.peers import NotInstalledError, System, peers

MODEL = "bench/llama"
FILE_NAME = "model.safetensors"
SETTLED_S = 61
COMMIT_STAGES = ("first", "again", "rewritten", "changed")
CHECKOUT_STAGES = ("warm", "cold")
SYNCED_STAGES = tuple(f"{stage}+sync" for stage in CHECKOUT_STAGES)
STAGES = (*COMMIT_STAGES, *CHECKOUT_STAGES, *SYNCED_STAGES)
VERSION_OF_STAGE = {stage: number for number, stage in enumerate(COMMIT_STAGES, start=1)}
# The work that a stage cannot avoid, by the names of `benchmarks.limits`. A chunk's name is its BLAKE3, a
# record holds each file's SHA-256; they can be computed side by side, so the dearest of all is the bound.
LIMITS: Mapping[str, tuple[str, ...]] = {
    "first": ("write_sync", "sha256_1", "blake3_1"),
    "again": (),
    "rewritten": ("sha256_1", "blake3_1"),
    "changed": ("sha256_1", "blake3_1"),
    "warm": ("blake3_2",),
    "cold": ("read_cold", "blake3_2"),
    "warm+sync": ("write_sync", "blake3_2"),
    "cold+sync": ("write_sync", "read_cold", "blake3_2"),
}
MEMORY = ("taken", "fresh", "left")
# Of a model: what a command and the removal of what it made leave behind is no more.
HELD_COPIES = 3
ROOT = Path(__file__).resolve().parent.parent


@dataclass
class Mcr:
    """mcr through its command line, as installed beside this interpreter."""

    label: str
    store: Path
    encoding: str
    references: list[str] = field(default_factory=list)
    command: str = str(Path(sys.executable).with_name("mcr"))

    def version(self) -> str:
        """Return what `mcr version` says."""
        if shutil.which(self.command) is None:
            raise NotInstalledError("mcr is not installed beside this interpreter; its rows are left out")
        return run((self.command, "version")).output.splitlines()[0]

    def init(self) -> None:
        """Make the embedded store, and forget the one before."""
        self.references.clear()
        run((self.command, "init", str(self.store), "--encoding", self.encoding))

    def commit(self, folder: Path) -> Run:
        """Commit the folder."""
        done = self._run("commit", MODEL, str(folder), "-m", "benchmark", "--json")
        self.references.append(str(json.loads(done.output.splitlines()[-1])["version"]))
        return done

    def checkout(self, number: int, target: Path) -> Run:
        """Check out what the commit of that number made."""
        return self._run("checkout", f"{MODEL}@{self.references[number - 1]}", str(target), "--json")

    def checkout_synced(self, number: int, target: Path) -> Run:
        """The same, and the disk holds it."""
        version = f"{MODEL}@{self.references[number - 1]}"
        return self._run("checkout", version, str(target), "--json", "--sync")

    def _run(self, *arguments: str) -> Run:
        return run((self.command, *arguments), environment={"MCR_CLUSTER": str(self.store)})


@dataclass(frozen=True, slots=True)
class Report:
    """All that one run of this script found.

    Attributes:
        runs: measured commands by stage and system, one a repetition.
        store_bytes: bytes on disk after the first and after the changed commit, by system.
        limits: seconds by limit, one a repetition.
        notes: what was measured on what.
    """

    runs: dict[str, dict[str, list[Run]]]
    store_bytes: dict[str, dict[str, int]]
    limits: dict[str, list[float]]
    notes: list[str]


def measure(
    folder: Path, systems: Sequence[System], *, size_mib: int, repetitions: int, memory: str
) -> Report:
    """Measure every stage of every system, `repetitions` times, in `folder`; `memory` is one of `MEMORY`."""
    runs: dict[str, dict[str, list[Run]]] = {stage: {} for stage in STAGES}
    report = Report(runs, {}, {}, [])
    data = folder / "data"
    _tool("benchmarks.checkpoints", str(data), "--size-mib", str(size_mib))
    for number in range(repetitions):
        print(f"repetition {number + 1} of {repetitions}", file=sys.stderr, flush=True)
        before = _limits(folder, size_mib)
        with _memory(memory, size_mib * MIB) as prepare:
            _repeat(folder, data, systems, report, turn=number, prepare=prepare)
        for name, seconds in _limits(folder, size_mib).items():
            report.limits.setdefault(name, []).append(min(seconds, before[name]))
    return report


@contextmanager
def _memory(kind: str, model_bytes: int) -> Iterator[Callable[[], None]]:
    """Lend what is to be done before each command."""
    match kind:
        case "taken":
            yield lambda: take_memory(2 * model_bytes)
        case "fresh":
            held = HeldMemory(HELD_COPIES * model_bytes)
            try:
                yield held.take
            finally:
                held.close()
        case _:
            assert kind == "left", kind
            yield lambda: None


def _limits(folder: Path, size_mib: int) -> dict[str, float]:
    output = _tool("benchmarks.limits", str(folder / "limits"), "--size-mib", str(size_mib), "--json")
    return {str(name): float(seconds) for name, seconds in json.loads(output).items()}


def _tool(module: str, *arguments: str) -> str:
    return run((sys.executable, "-m", module, *arguments), folder=ROOT).output


def _repeat(
    folder: Path,
    data: Path,
    systems: Sequence[System],
    report: Report,
    *,
    turn: int,
    prepare: Callable[[], None],
) -> None:
    """Go through all stages once, with new stores."""
    source, target = folder / "model", folder / "target"
    for system in systems:
        remove(system.store)
        system.init()
    for position, stage in enumerate(STAGES):
        if stage in ("first", "rewritten", "changed"):
            _place(data / ("changed" if stage == "changed" else "first") / FILE_NAME, source)
        if stage == "first":
            # What was written just now may be written to again: only what has settled counts as untouched.
            time.sleep(SETTLED_S)
        if stage.startswith("warm"):
            # All of them before any is measured: reading one takes memory that the command before it left.
            make_warm(*(system.store for system in systems))
        for step in range(len(systems)):
            system = systems[(step + position + turn) % len(systems)]
            if stage in COMMIT_STAGES:
                make_warm(source)
                prepare()
                done = system.commit(source)
            else:
                remove(target)
                make_cold(system.store) if stage.startswith("cold") else make_warm(system.store)
                prepare()
                checkout = system.checkout_synced if stage in SYNCED_STAGES else system.checkout
                done = checkout(VERSION_OF_STAGE["changed"], target)
                _verify(source / FILE_NAME, target)
                remove(target)
            report.runs[stage].setdefault(system.label, []).append(done)
            if stage in ("first", "changed"):
                report.store_bytes.setdefault(stage, {})[system.label] = disk_bytes(system.store)
            print(f"  {stage:10} {system.label:12} {done.seconds:7.2f} s", file=sys.stderr, flush=True)
    for system in systems:
        remove(system.store)


def _place(file: Path, folder: Path) -> None:
    """Put a copy of `file` into `folder` as a new inode, so that no store's memory of the old one applies."""
    folder.mkdir(exist_ok=True)
    fresh = folder.parent / "fresh.safetensors"
    shutil.copyfile(file, fresh)
    os.replace(fresh, folder / FILE_NAME)


def _verify(expected: Path, target: Path) -> None:
    found = list(target.rglob(FILE_NAME))
    if len(found) != 1 or not filecmp.cmp(expected, found[0], shallow=False):
        raise AssertionError(f"the checkout below {target} is not the version that was committed")


def render(report: Report, systems: Sequence[System], *, size_mib: int) -> str:
    """Return the tables: seconds, ratios, memory, sizes."""
    labels = [system.label for system in systems]
    limits = {name: Spread(tuple(values)) for name, values in report.limits.items()}
    seconds = {stage: {label: _seconds(report, stage, label) for label in labels} for stage in STAGES}
    parts = [
        f"{size_mib} MiB, seconds: median (least-most)",
        table(
            ("stage", *labels),
            [(stage, *(seconds[stage][label].text() for label in labels)) for stage in STAGES],
        ),
        "limits of this machine in the same run, seconds",
        table(
            ("limit", "seconds", "MB/s"),
            [
                (name, spread.text(), f"{size_mib * MIB / spread.median / 1e6:.0f}")
                for name, spread in limits.items()
            ],
        ),
        "times the dearest limit of the stage (1 = as fast as this machine can)",
        table(
            ("stage", "limit", *labels),
            [_limit_row(stage, labels, seconds, limits) for stage in STAGES if LIMITS[stage]],
        ),
    ]
    for own in [label for label in labels if label.startswith("mcr")]:
        others = [label for label in labels if not label.startswith("mcr")]
        if others:
            parts += [
                f"peer / {own} (above 1 = {own} is faster)",
                table(
                    ("stage", *others),
                    [
                        (stage, *(_ratio(seconds[stage][other], seconds[stage][own]) for other in others))
                        for stage in STAGES
                    ],
                ),
            ]
    parts += [
        "peak memory of a process, MiB (most of all repetitions)",
        table(
            ("stage", *labels),
            [
                (
                    stage,
                    *(
                        f"{max(r.peak_bytes for r in report.runs[stage][label]) / MIB:.0f}"
                        for label in labels
                    ),
                )
                for stage in STAGES
            ],
        ),
        "store on disk, MB",
        table(
            ("after", *labels),
            [
                (stage, *(f"{sizes[label] / 1e6:.1f}" for label in labels))
                for stage, sizes in report.store_bytes.items()
            ],
        ),
        "\n".join(report.notes),
    ]
    return "\n\n".join(parts)


def _seconds(report: Report, stage: str, label: str) -> Spread:
    """Return the time of a command, in the stages that wait for the disk with that of the sync after it."""
    runs = report.runs[stage][label]
    return Spread(
        tuple(done.seconds + (done.settle_seconds if stage in SYNCED_STAGES else 0.0) for done in runs)
    )


def _limit_row(
    stage: str,
    labels: Sequence[str],
    seconds: Mapping[str, Mapping[str, Spread]],
    limits: Mapping[str, Spread],
) -> tuple[str, ...]:
    dearest = max(LIMITS[stage], key=lambda name: limits[name].median)
    return (stage, dearest, *(_ratio(seconds[stage][label], limits[dearest]) for label in labels))


def _ratio(above: Spread, below: Spread) -> str:
    """Return the median of the ratios of the same repetition, and their range."""
    ratios = tuple(one / other for one, other in zip(above.values, below.values, strict=True))
    return Spread(ratios).text()


def installed(candidates: Sequence[System]) -> tuple[list[System], list[str]]:
    """Return the systems that are there, and for each its release or why it is left out."""
    found, notes = [], []
    for system in candidates:
        try:
            notes.append(f"{system.label}: {system.version()}")
        except NotInstalledError as error:
            notes.append(f"{system.label}: {error}")
        else:
            found.append(system)
    return found, notes


def main() -> None:
    """Measure, print the tables, and write the raw figures where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--size-mib", type=int, default=1024)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where to work; the disk that is measured", default=None)
    parser.add_argument(
        "--encodings", default="raw,auto", help="of mcr, comma-separated; empty leaves it out"
    )
    parser.add_argument("--memory", choices=MEMORY, default="taken", help="what a command finds")
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--json", type=Path, help="write every single figure there")
    options = parser.parse_args()
    compile_programs()
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="mcr-bench-") as name:
        folder = Path(name)
        encodings = [word for word in options.encodings.split(",") if word]
        candidates: list[System] = [Mcr(f"mcr {word}", folder / f"mcr-{word}", word) for word in encodings]
        candidates += [] if options.no_peers else peers(folder)
        systems, notes = installed(candidates)
        report = measure(
            folder,
            systems,
            size_mib=options.size_mib,
            repetitions=options.repetitions,
            memory=options.memory,
        )
        cold = make_cold(folder)
    report.notes.extend(
        [
            *notes,
            cold,
            f"memory: {options.memory}",
            f"{platform.platform()}, {os.cpu_count()} processors, {sys.version}",
        ]
    )
    print(render(report, systems, size_mib=options.size_mib))
    if options.json is not None:
        options.json.write_text(json.dumps(asdict(report), indent=1) + "\n")


if __name__ == "__main__":
    main()
