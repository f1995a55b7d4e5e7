"""Single flipped bits in every file of a stopped log and state: refused, or without effect; never believed.

More flips, or one again: BIT_FLIPS=1000 BIT_FLIP_SEED=7 pytest tests/unit/node/storage/test_bit_flips.py
"""

import os
import random
import shutil
from pathlib import Path

import pytest

from mcr.errors import CorruptStoreError, FailedError, StoreFormatError
from mcr.model import LogIndex
from mcr_node.core.state.digest import next_digest
from mcr_node.ports import HardState, LogEntry
from mcr_node.storage.log_store import RocksLogStore
from mcr_node.storage.state_store import StateStore
from tests.faults_database import Faults, FaultyDatabase, image_of

IDENTITY = b"i" * 16
EVERYTHING = 2**40
LAST = 300
HARD = HardState(7, 2, LogIndex(290))
SEED = int(os.environ.get("BIT_FLIP_SEED", "20261125"))
FLIPS = int(os.environ.get("BIT_FLIPS", "100"))
Content = tuple[list[LogEntry], HardState, int, bytes, list[tuple[bytes, bytes]]]


def entry(index: int) -> LogEntry:
    return LogEntry(LogIndex(index), 1 + index // 60, random.Random(index).randbytes(120), index % 3)


def apply_to(state: StateStore, entries: list[LogEntry]) -> None:
    for each in entries:
        changes: list[tuple[bytes, bytes | None]] = [(b"row%03d" % (each.index % 50), each.data)]
        digest = next_digest(state.state_digest(), each.index, changes)
        state.write(
            changes, each.index, digest, applied_term=each.term, configuration=b"members %d" % each.index
        )


def build(root: Path, *, crashed: bool) -> Path:
    """Make a log and a state over three sessions, the last of which is closed or crashes after a sync."""
    work, faults = root / "work", Faults()
    work.mkdir(parents=True)
    for first, last in ((1, 100), (101, 200), (201, LAST)):
        opener = FaultyDatabase.opener(faults)
        log = RocksLogStore.open(work / "log", IDENTITY, open_database=opener)
        state = StateStore.open(work / "state", IDENTITY, open_database=opener)
        entries = [entry(index) for index in range(first, last + 1)]
        log.write(entries[:50], HardState(entries[49].term))
        log.write(entries[50:], HARD if last == LAST else HardState(entries[-1].term))
        log.sync()
        apply_to(state, entries[:90])
        state.sync()
        if last == 200:
            log.compact(LogIndex(20))
        if last == LAST and crashed:
            for name in ("log", "state"):
                image_of(work / name, faults.synced_wal_bytes, root / "stopped" / name)
        log.close()
        state.close()
    if not crashed:
        shutil.copytree(work, root / "stopped")
    return root / "stopped"


def everything_in(path: Path) -> Content:
    """Open both as a node does, apply what the state lacks, and read all there is."""
    state = StateStore.open(path / "state", IDENTITY)
    try:
        log = RocksLogStore.open(path / "log", IDENTITY, last_at_least=state.applied())
        try:
            first, last = log.bounds()
            if state.applied() < first - 1:
                raise CorruptStoreError(str(path), "the state ends before the log begins")
            apply_to(state, log.read(LogIndex(state.applied() + 1), last, bytes_max=EVERYTHING))
            hard = log.hard_state()
            entries = log.read(first, last, bytes_max=EVERYTHING)
            position = state.position()
            rows = list(state.view().scan(b"\x01", b"\xff"))
            return entries, hard, position.applied, position.state_digest + position.configuration, rows
        finally:
            log.close()
    finally:
        state.close()


@pytest.mark.parametrize("crashed", [False, True], ids=["closed", "crashed"])
def test_no_flipped_bit_is_believed(tmp_path: Path, crashed: bool) -> None:
    # given
    stopped = build(tmp_path, crashed=crashed)
    shutil.copytree(stopped, tmp_path / "sound")
    expected = everything_in(tmp_path / "sound")
    assert [each.index for each in expected[0]] == list(range(21, LAST + 1))
    assert expected[1] == HardState(HARD.term, HARD.vote, HARD.commit)
    files = [path for path in sorted(stopped.rglob("*")) if path.is_file() and path.stat().st_size]
    assert {path.suffix for path in files} >= {".sst", ".mark", ".json"} | ({".log"} if crashed else set())
    chance = random.Random(SEED)
    refused = unharmed = 0

    for number in range(FLIPS):
        # when: each file in turn, so that small ones, which decide much, get their share
        file = files[number % len(files)]
        bit = chance.randrange(file.stat().st_size * 8)
        copy = tmp_path / str(number)
        shutil.copytree(stopped, copy)
        hurt = copy / file.relative_to(stopped)
        data = bytearray(hurt.read_bytes())
        data[bit // 8] ^= 1 << bit % 8
        hurt.write_bytes(data)

        # then
        try:
            found = everything_in(copy)
        except (CorruptStoreError, StoreFormatError, FailedError):
            refused += 1
        else:
            where = f"bit {bit} of {file.relative_to(stopped)}, seed {SEED}, flip {number}"
            assert found == expected, f"believed: {where}"
            unharmed += 1
        shutil.rmtree(copy)

    print(f"seed {SEED}: {FLIPS} flips, {refused} refused, {unharmed} without effect")  # noqa: T201 - the report
    assert refused > FLIPS // 5
