"""Whether a long history costs anything: the same commands on a store with few and with very many versions.

    python -m benchmarks.many_versions --few 100 --many 100000

Both stores hold one model. `log -n 20`, `show`, `commit` and `rollback` are measured as whole commands, the
two stores in turn. The claim is that every ratio many / few stays near 1, in time and in memory.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.measuring import MIB, Run, Spread, compile_programs, disk_bytes, run, table

MODEL = "bench/long"
COMMAND = str(Path(sys.executable).with_name("mcr"))
ROOT = Path(__file__).resolve().parent.parent
FILE_BYTES = 4096
PROGRESS_EVERY = 5_000
CONTENTS = 50
COMMITS_AT_ONCE = 200


def fill(store: Path, count: int) -> None:
    """Make `count` versions of one model in the store at `store`.

    The first commits store a file each. Then the node is asked for one version after the other over these
    manifests, many at a time, which is what a commit does after its upload: the log shares its disk syncs.
    """
    # Imported here: the process that starts the measured commands must stay small.
    import asyncio

    import mcr
    from mcr.v1 import versions_pb2 as pb

    with tempfile.TemporaryDirectory() as name, mcr.connect(str(store)) as cluster:
        file = Path(name) / "weights.bin"
        model = cluster.model(MODEL)
        manifests = []
        for number in range(1, min(count, CONTENTS) + 1):
            file.write_bytes(number.to_bytes(8, "little") * (FILE_BYTES // 8))
            manifests.append(model.commit(name, message=f"step {number}").manifest)

    async def rest() -> None:
        client = await mcr.aio.connect(store)
        versions = client._connection.versions  # noqa: SLF001 - below the public API on purpose
        start = time.perf_counter()

        async def commit(number: int) -> None:
            header = pb.WriteHeader(request_id=b"fill %d" % number)
            await versions.commit_version(
                pb.CommitVersionRequest(
                    header=header,
                    model=MODEL,
                    branch="main",
                    description=f"step {number}",
                    manifest=manifests[number % len(manifests)],
                )
            )

        for first in range(CONTENTS + 1, count + 1, COMMITS_AT_ONCE):
            numbers = range(first, min(first + COMMITS_AT_ONCE, count + 1))
            await asyncio.gather(*(commit(number) for number in numbers))
            if first // PROGRESS_EVERY != (first + COMMITS_AT_ONCE) // PROGRESS_EVERY:
                rate = first / (time.perf_counter() - start)
                print(f"  {first} of {count} versions, {rate:.0f}/s", file=sys.stderr, flush=True)
        await client.close()

    asyncio.run(rest())


def measure(stores: dict[str, Path], source: Path, *, repetitions: int) -> dict[str, dict[str, list[Run]]]:
    """Return the measured commands by command and store, in turn over the stores."""
    runs: dict[str, dict[str, list[Run]]] = {}
    for turn in range(repetitions):
        for what in ("log", "show", "commit", "rollback"):
            names = list(stores)
            for label in names if turn % 2 == 0 else reversed(names):
                if what == "commit":
                    # With equal files nothing would be stored; the commit that is measured stores something.
                    (source / "weights.bin").write_bytes(f"{label} {turn}".encode() * FILE_BYTES)
                done = run(_command(what, source), environment={"MCR_CLUSTER": str(stores[label])})
                runs.setdefault(what, {}).setdefault(label, []).append(done)
    return runs


def _command(what: str, source: Path) -> Sequence[str]:
    arguments = {
        "log": ("log", MODEL, "-n", "20"),
        "show": ("show", f"{MODEL}@v50"),
        "commit": ("commit", MODEL, str(source), "-m", "one more"),
        "rollback": ("rollback", MODEL, "--branch", "main", "--to", "v50"),
    }
    return (COMMAND, *arguments[what], "--json")


def render(runs: dict[str, dict[str, list[Run]]], few: str, many: str) -> str:
    """Return the table: seconds, the ratio of each repetition, peak memory."""
    rows = []
    for what, by_store in runs.items():
        seconds = {
            label: Spread(tuple(done.seconds for done in done_runs)) for label, done_runs in by_store.items()
        }
        peaks = {
            label: max(done.peak_bytes for done in done_runs) / MIB for label, done_runs in by_store.items()
        }
        pairs = zip(seconds[many].values, seconds[few].values, strict=True)
        ratio = Spread(tuple(one / other for one, other in pairs))
        rows.append(
            (
                what,
                seconds[few].text(),
                seconds[many].text(),
                ratio.text(),
                f"{peaks[few]:.0f}",
                f"{peaks[many]:.0f}",
                f"{peaks[many] / peaks[few]:.2f}",
            )
        )
    head = ("command", f"{few}, s", f"{many}, s", "ratio", f"{few}, MiB", f"{many}, MiB", "ratio")
    return table(head, rows)


def main() -> None:
    """Fill two stores, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--few", type=int, default=100)
    parser.add_argument("--many", type=int, default=100_000)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--json", type=Path, help="write every single figure there")
    parser.add_argument("--fill", nargs=2, metavar=("STORE", "COUNT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.fill is not None:
        fill(Path(options.fill[0]), int(options.fill[1]))
        return
    compile_programs()
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="mcr-bench-") as name:
        folder = Path(name)
        few, many = f"{options.few} versions", f"{options.many} versions"
        stores = {few: folder / "few", many: folder / "many"}
        for label, count in ((few, options.few), (many, options.many)):
            run((COMMAND, "init", str(stores[label])))
            filled = run(
                (sys.executable, "-m", "benchmarks.many_versions", "--fill", str(stores[label]), str(count)),
                folder=ROOT,
            )
            rate = count / filled.seconds
            size = disk_bytes(stores[label]) / count
            print(f"{label}: filled at {rate:.0f} commits/s, {size:.0f} bytes on disk a version")
        source = folder / "source"
        source.mkdir()
        runs = measure(stores, source, repetitions=options.repetitions)
    print(render(runs, few, many))
    if options.json is not None:
        raw = {what: {label: [asdict(done) for done in found] for label, found in by_store.items()}
               for what, by_store in runs.items()}  # fmt: skip
        options.json.write_text(json.dumps(raw, indent=1) + "\n")


if __name__ == "__main__":
    main()
