"""Kill the log, and the installation of a snapshot, at every durable step.

Whatever `sync` had returned for is there; a truncation is one with its append; a hard state never goes back;
an installation is all or nothing, and the log fits the state that is found.
"""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import pytest

from mcr.model import Buffer, LogIndex
from mcr_node.ports import HardState, LogEntry
from mcr_node.storage import log_store
from mcr_node.storage.disk import Disk, Handle
from mcr_node.storage.log_store import RocksLogStore
from mcr_node.storage.snapshots import SnapshotFolder
from mcr_node.storage.state_store import StateStore
from tests.crash.power import Power, When
from tests.faults import Keep
from tests.faults_database import CrashPoint, FaultyDatabase, image_of

IDENTITY = b"i" * 16
DIGEST = b"\x07" * 32
EVERYTHING = 2**40
# The loops end by themselves when a run gets through; this only bounds one that never would.
OPERATIONS_MAX = 300
KEEPS: tuple[Keep, ...] = ("none", "torn", "all")


class FolderDisk(Disk):
    """A real disk that counts what makes bytes and names durable, and knows what power loss takes back.

    Renames and removals last once their folder is synced; of those that do not yet, a prefix may
    (file systems write them in order). A file lasts as it was at its last sync.
    """

    def __init__(self, power: Power, graveyard: Path) -> None:
        self._power = power
        self._graveyard = graveyard
        self._undo: list[tuple[set[Path], Path, Path]] = []
        self._synced: dict[int, tuple[int, int]] = {}
        graveyard.mkdir()

    @contextmanager
    def _step(self, name: str) -> Iterator[None]:
        with self._power.step(name):
            yield

    def rename(self, source: Path, target: Path) -> None:
        with self._step(f"rename to {target.name}"):
            super().rename(source, target)
            self._undo.append(({source.parent, target.parent}, target, source))

    def remove_tree(self, path: Path) -> None:
        if path.exists():
            with self._step(f"removal of {path.name}"):
                grave = self._graveyard / str(len(list(self._graveyard.iterdir())))
                path.rename(grave)
                self._undo.append(({path.parent}, grave, path))

    def sync_directory(self, path: Path) -> None:
        with self._step(f"sync of {path.name}"):
            for folders, _, _ in self._undo:
                folders.discard(path)
            while self._undo and not self._undo[0][0]:
                self._undo.pop(0)

    def pwritev(self, handle: Handle, buffers: Sequence[Buffer], offset: int) -> None:
        with self._step("pwritev"):
            super().pwritev(handle, buffers, offset)

    def fdatasync(self, handle: Handle) -> None:
        with self._step("fdatasync"):
            status = os.fstat(handle.descriptor)
            self._synced[status.st_ino] = (status.st_size, status.st_mtime_ns)

    def replace(self, path: Path, data: Buffer) -> None:
        with self._step("replace"):
            Disk().replace(path, data)

    def take_back(self, root: Path, *, keep: Keep, seed: int) -> None:
        """Make of the folder what is found after power loss; no copy, for inodes say which file is which."""
        kept = {"none": 0, "all": len(self._undo), "torn": seed % (len(self._undo) + 1)}[keep]
        for _, now, before in reversed(self._undo[kept:]):
            now.rename(before)
        if keep == "all":
            return
        for folder in [root / "state.new", *(root / "snapshots").glob("receive-*")]:
            for path in folder.glob("*"):
                status = path.stat()
                if self._synced.get(status.st_ino) != (status.st_size, status.st_mtime_ns):
                    os.truncate(path, 0)


def entries(first: int, last: int, term: int) -> list[LogEntry]:
    return [
        LogEntry(LogIndex(index), term, b"%d of %d" % (index, term), index % 3)
        for index in range(first, last + 1)
    ]


@dataclass
class Promises:
    """What a log was told, and what it said was durable.

    Attributes:
        contents: (entries, floor, hard state) after each write, oldest first.
        durable: place of the oldest that a crash may go back to.
    """

    contents: list[tuple[list[LogEntry], int, HardState]] = field(
        default_factory=lambda: [([], 0, HardState())]
    )
    durable: int = 0

    def note(self, held: list[LogEntry], floor: int, hard: HardState) -> None:
        self.contents.append((held, floor, hard))


Step = Callable[[RocksLogStore], None]


def story() -> list[tuple[Step, tuple[list[LogEntry], int, HardState], bool]]:
    """Return steps, what the log holds after each, and whether that is durable when it returns."""
    mixed = [*entries(1, 3, 1), *entries(4, 5, 2)]
    grown = [*mixed, *entries(6, 9, 4)]
    return [
        (
            lambda log: log.write(entries(1, 6, 1), HardState(1, 1)),
            (entries(1, 6, 1), 0, HardState(1, 1)),
            False,
        ),
        (lambda log: log.sync(), (entries(1, 6, 1), 0, HardState(1, 1)), True),
        (lambda log: log.write([], HardState(2, 3)), (entries(1, 6, 1), 0, HardState(2, 3)), False),
        (lambda log: log.sync(), (entries(1, 6, 1), 0, HardState(2, 3)), True),
        (
            lambda log: log.write(entries(4, 5, 2), HardState(2, 3, LogIndex(3))),
            (mixed, 0, HardState(2, 3, LogIndex(3))),
            False,
        ),
        (
            lambda log: log.write(entries(6, 9, 4), HardState(4, 0, LogIndex(5))),
            (grown, 0, HardState(4, 0, LogIndex(5))),
            False,
        ),
        (lambda log: log.sync(), (grown, 0, HardState(4, 0, LogIndex(5))), True),
        (lambda log: log.compact(LogIndex(4)), (grown[4:], 4, HardState(4, 0, LogIndex(5))), True),
        (
            lambda log: log.write(entries(8, 8, 5), HardState(5, 2, LogIndex(6))),
            ([*grown[4:7], *entries(8, 8, 5)], 4, HardState(5, 2, LogIndex(6))),
            False,
        ),
        (
            lambda log: log.reset(LogIndex(7), 5, HardState(6, 1, LogIndex(7))),
            ([], 7, HardState(6, 1, LogIndex(7))),
            True,
        ),
        (
            lambda log: log.write(entries(8, 9, 6), HardState(6, 1, LogIndex(9))),
            (entries(8, 9, 6), 7, HardState(6, 1, LogIndex(9))),
            False,
        ),
        (lambda log: log.sync(), (entries(8, 9, 6), 7, HardState(6, 1, LogIndex(9))), True),
    ]


@pytest.mark.parametrize("keep", KEEPS)
@pytest.mark.parametrize("when", ["before", "after"])
def test_no_crash_point_breaks_a_promise_of_the_log(
    when: When, keep: Keep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A mark for each few entries, so that truncations meet it.
    monkeypatch.setattr(log_store, "MARK_ENTRIES", 2)
    for fail_at in count(1):
        assert fail_at <= OPERATIONS_MAX
        # given
        run = tmp_path / str(fail_at)
        run.mkdir()
        RocksLogStore.open(run / "log", IDENTITY).close()
        power = Power(fail_at=fail_at, when=when)
        log = RocksLogStore.open(
            run / "log",
            IDENTITY,
            disk=FolderDisk(power, run / "graves"),
            open_database=FaultyDatabase.opener(power),
        )
        promises = Promises()
        with suppress(CrashPoint):
            for step, content, durable in story():
                # Under way, it may be there or not.
                promises.note(*content)
                step(log)
                promises.durable = len(promises.contents) - 1 if durable else promises.durable

        # when
        kept = {"none": 0, "torn": fail_at * 7919 % 200, "all": 1 << 30}[keep]
        found = image_of(run / "log", power.synced_wal_bytes, run / "found", unsynced_bytes_kept=kept)
        ended = not power.off
        log._database.close()

        # then
        again = RocksLogStore.open(found, IDENTITY)
        first, last = again.bounds()
        held = (again.read(first, last, bytes_max=EVERYTHING), first - 1, again.hard_state())
        possible = promises.contents[promises.durable :]
        assert held in possible, f"crash {when} operation {fail_at} ({power.journal[-1]}), keeping {keep}"
        again.write(entries(last + 1, last + 1, 9), HardState(9))
        again.close()
        RocksLogStore.open(found, IDENTITY).close()
        if ended:
            assert fail_at > 15, "the story has many durable steps"
            return


def sent_snapshot(root: Path) -> SnapshotFolder:
    state = StateStore.open(root / "state", b"sender")
    rows: list[tuple[bytes, bytes | None]] = [(b"new%d" % number, bytes(100)) for number in range(50)]
    state.write(rows, LogIndex(40), DIGEST, applied_term=3, configuration=b"one and two")
    return SnapshotFolder.open(root / "snapshots", state)


def install(root: Path, disk: FolderDisk, power: Power, sender: SnapshotFolder) -> bool:
    """Receive and install a snapshot and reset the log to it; return whether that ended."""
    open_database = FaultyDatabase.opener(power)
    state: StateStore | None = None
    log: RocksLogStore | None = None
    try:
        state = StateStore.open(root / "state", IDENTITY, disk=disk, open_database=open_database)
        log = RocksLogStore.open(root / "log", IDENTITY, disk=disk, open_database=open_database)
        source = sender.export()
        sink = SnapshotFolder.open(root / "snapshots", state, disk).receive(source.manifest)
        while (wanted := sink.wanted()) is not None:
            sink.write(*wanted, source.read(*wanted, 1 << 20))
        position = sink.install()
        log.reset(position.applied, position.applied_term, HardState(4, 2, position.applied))
    except CrashPoint:
        return False
    else:
        return True
    finally:
        for store in (state, log):
            if store is not None:
                store._database.close()


@pytest.mark.parametrize("keep", KEEPS)
@pytest.mark.parametrize("when", ["before", "after"])
def test_no_crash_point_leaves_half_a_snapshot(when: When, keep: Keep, tmp_path: Path) -> None:
    (tmp_path / "sender").mkdir()
    sender = sent_snapshot(tmp_path / "sender")
    seen = set()
    for fail_at in count(1):
        assert fail_at <= OPERATIONS_MAX
        # given: a follower whose log has a tail that conflicts with the snapshot
        run = tmp_path / str(fail_at)
        run.mkdir()
        state = StateStore.open(run / "state", IDENTITY)
        state.write([(b"old", b"row")], LogIndex(2), DIGEST, applied_term=1, configuration=b"one")
        state.close()
        log = RocksLogStore.open(run / "log", IDENTITY)
        log.write(entries(1, 60, 1), HardState(4, 2, LogIndex(2)))
        log.close()

        # when
        power = Power(fail_at=fail_at, when=when)
        disk = FolderDisk(power, run / "graves")
        ended = install(run, disk, power, sender)
        disk.take_back(run, keep=keep, seed=fail_at * 7919)

        # then
        what = f"crash {when} operation {fail_at} ({power.journal[-1]}), keeping {keep}"
        state = StateStore.open(run / "state", IDENTITY)
        SnapshotFolder.open(run / "snapshots", state)
        log = RocksLogStore.open(
            run / "log", IDENTITY, last_at_least=state.applied(), installed=state.installed()
        )
        keys = [key for key, _ in state.view().scan(b"\x01", b"\xff")]
        found = (int(state.applied()), state.applied_term(), state.configuration(), len(keys))
        assert found in ((2, 1, b"one", 1), (40, 3, b"one and two", 50)), what
        assert log.bounds() == ((1, 60) if found[0] == 2 else (41, 40)), what
        assert log.hard_state() == HardState(4, 2, LogIndex(found[0])), what
        assert not ended or found[0] == 40, what
        assert sorted(path.name for path in run.iterdir() if path.name != "graves") == [
            "log",
            "log.mark",
            "snapshots",
            "state",
        ]
        seen.add(found[0])
        log.close()
        state.close()
        shutil.rmtree(run)
        if ended:
            assert seen == {2, 40}
            return
