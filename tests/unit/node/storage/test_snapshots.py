"""Snapshots: what arrives is what was sent, byte for byte, or nothing changes."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest

from mcr.errors import CorruptStoreError, FailedError
from mcr.model import LogIndex
from mcr_node.core.state.digest import Divergence
from mcr_node.ports import SnapshotFile, SnapshotManifest, SnapshotSink, SnapshotSource, StatePosition
from mcr_node.storage import snapshots as snapshots_module
from mcr_node.storage.database import Database
from mcr_node.storage.disk import Disk, Handle
from mcr_node.storage.snapshots import SnapshotFolder
from mcr_node.storage.state_store import StateStore

DIGEST = b"\x07" * 32
# Of a write that nothing holds up.
WRITE_S_MAX = 10.0
ROWS = [(b"key%05d" % number, number.to_bytes(100, "big")) for number in range(3000)]


@dataclass
class Node:
    state: StateStore
    snapshots: SnapshotFolder

    def rows(self) -> list[tuple[bytes, bytes]]:
        return list(self.state.view().scan(b"\x01", b"\xff"))


def opened(path: Path) -> Node:
    state = StateStore.open(path / "state", path.name.encode())
    return Node(state, SnapshotFolder.open(path / "snapshots", state))


@pytest.fixture
def sender(tmp_path: Path) -> Iterator[Node]:
    node = opened(tmp_path / "sender")
    node.state.write([*ROWS], LogIndex(40), DIGEST, applied_term=3, configuration=b"one and two")
    yield node
    node.state.close()


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Node]:
    node = opened(tmp_path / "receiver")
    node.state.write([(b"old", b"row")], LogIndex(2), DIGEST, applied_term=1, configuration=b"one")
    yield node
    node.state.close()


def transfer(source: SnapshotSource, sink: SnapshotSink, *, length_bytes: int = 10_000) -> None:
    while (wanted := sink.wanted()) is not None:
        name, offset = wanted
        sink.write(name, offset, source.read(name, offset, length_bytes))


def test_installed_snapshot_is_the_state_that_was_exported(
    sender: Node, receiver: Node, tmp_path: Path
) -> None:
    # given
    source = sender.snapshots.export()
    sender.state.write([(b"later", b"row")], LogIndex(41), DIGEST, applied_term=3)
    view = receiver.state.view()

    # when
    sink = receiver.snapshots.receive(source.manifest)
    transfer(source, sink)
    position = sink.install()

    # then
    assert position == StatePosition(LogIndex(40), 3, DIGEST, b"one and two")
    assert receiver.state.position() == position
    assert receiver.state.installed() == (40, 3)
    assert receiver.rows() == ROWS
    assert (view.get(b"key00007"), view.get(b"old")) == (dict(ROWS)[b"key00007"], None)
    # It is the receiver's own from here on.
    receiver.state.write([(b"new", b"row")], LogIndex(41), DIGEST, applied_term=4)
    assert receiver.state.installed() is None
    receiver.state.close()
    again = opened(tmp_path / "receiver")
    assert again.state.position() == StatePosition(LogIndex(41), 4, DIGEST, b"one and two")
    assert again.rows() == sorted([*ROWS, (b"new", b"row")])
    assert sorted(path.name for path in (tmp_path / "receiver").iterdir()) == ["snapshots", "state"]
    again.state.close()


def test_scan_of_the_state_that_was_replaced_fails_instead_of_ending(sender: Node, receiver: Node) -> None:
    receiver.state.write([*ROWS], LogIndex(3), DIGEST, applied_term=1)
    scan = receiver.state.view().scan(b"key", b"kez")
    next(scan)
    source = sender.snapshots.export()
    sink = receiver.snapshots.receive(source.manifest)
    transfer(source, sink)

    sink.install()

    with pytest.raises(FailedError, match="replaced during a scan"):
        next(scan)


def test_state_is_written_while_its_tables_are_and_then_little_is_left_to_copy(
    sender: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The binding makes a checkpoint with the interpreter's lock held, and writes tables for it then."""
    left: list[int] = []
    flush, checkpoint = Database.flush, Database.checkpoint

    def write_meanwhile(database: Database) -> None:
        flush(database)
        # From another thread: if it needed what is held here, it would never be done.
        with ThreadPoolExecutor(1) as other:
            write = partial(sender.state.write, [(b"new", b"row")], LogIndex(41), DIGEST, applied_term=3)
            other.submit(write).result(timeout=WRITE_S_MAX)

    def look(database: Database, path: Path) -> None:
        rows = database._opened().property_int_value("rocksdb.num-entries-active-mem-table")
        assert rows is not None
        left.append(rows)
        checkpoint(database, path)

    monkeypatch.setattr(Database, "flush", write_meanwhile)
    monkeypatch.setattr(Database, "checkpoint", look)
    source = sender.snapshots.export()

    assert 0 < left[0] < len(ROWS) / 100, "only what was written since"
    assert source.manifest.position.applied == LogIndex(41)


def test_transfer_goes_on_where_it_was_interrupted(sender: Node, receiver: Node) -> None:
    source = sender.snapshots.export()
    sink = receiver.snapshots.receive(source.manifest)
    largest = max(source.manifest.files, key=lambda file: file.size_bytes)
    while sink.wanted() != (largest.name, 700):
        name, offset = sink.wanted() or ("", 0)
        sink.write(name, offset, source.read(name, offset, 700))

    # A range that came twice, or too early, changes nothing.
    for wrong in (0, 1400):
        with pytest.raises(CorruptStoreError, match="do not continue"):
            sink.write(largest.name, wrong, source.read(largest.name, wrong, 700))

    transfer(source, sink)
    sink.install()
    assert receiver.rows() == ROWS


class WatchedDisk(Disk):
    """Notes what is made durable."""

    def __init__(self) -> None:
        self.synced: list[Path] = []

    def fdatasync(self, handle: Handle) -> None:
        super().fdatasync(handle)
        self.synced.append(handle.path)


def test_each_file_is_durable_before_the_next_one_comes(sender: Node, receiver: Node, tmp_path: Path) -> None:
    # given
    disk = WatchedDisk()
    source = sender.snapshots.export()
    names = [file.name for file in source.manifest.files]
    folder = SnapshotFolder.open(tmp_path / "receiver" / "watched", receiver.state, disk)
    sink = folder.receive(source.manifest)
    wanted = sink.wanted()

    while wanted is not None:
        # when
        name, offset = wanted
        sink.write(name, offset, source.read(name, offset, 10_000))
        wanted = sink.wanted()

        # then
        arrived = names if wanted is None else names[: names.index(wanted[0])]
        assert [path.name for path in disk.synced] == arrived


def test_newer_snapshot_takes_the_place_of_the_one_before(sender: Node, tmp_path: Path) -> None:
    first = sender.snapshots.export()
    name = "CURRENT"

    second = sender.snapshots.export()

    with pytest.raises(FailedError, match="begin again"):
        first.read(name, 0, 10)
    assert second.read(name, 0, 10)
    assert len(list((tmp_path / "sender" / "snapshots").iterdir())) == 1


def test_what_is_received_anew_ends_what_was_being_received(
    sender: Node, receiver: Node, tmp_path: Path
) -> None:
    source = sender.snapshots.export()
    first = receiver.snapshots.receive(source.manifest)

    second = receiver.snapshots.receive(source.manifest)

    name, offset = first.wanted() or ("", 0)
    with pytest.raises(FailedError, match="begin again"):
        first.write(name, offset, source.read(name, offset, 10))
    assert len(list((tmp_path / "receiver" / "snapshots").iterdir())) == 1
    transfer(source, second)
    second.install()
    assert receiver.rows() == ROWS


@dataclass
class FlippingSource:
    """A source, or a network, that changes a bit of one file."""

    source: SnapshotSource
    flipped: str

    @property
    def manifest(self) -> SnapshotManifest:
        return self.source.manifest

    def read(self, name: str, offset: int, length_bytes: int) -> bytes:
        data = self.source.read(name, offset, length_bytes)
        return bytes((data[0] ^ 1,)) + data[1:] if (name, offset) == (self.flipped, 0) else data


def test_flipped_bit_is_refused_and_the_state_is_as_it_was(sender: Node, receiver: Node) -> None:
    source = sender.snapshots.export()
    before = receiver.state.position(), receiver.rows()
    for file in source.manifest.files:
        if file.size_bytes == 0:
            continue
        sink = receiver.snapshots.receive(source.manifest)
        with pytest.raises(CorruptStoreError, match="not those of the snapshot"):
            transfer(FlippingSource(source, file.name), sink)
        with pytest.raises(FailedError):
            sink.install()
    assert (receiver.state.position(), receiver.rows()) == before


def test_snapshot_of_another_position_than_its_manifest_says_is_refused(sender: Node, receiver: Node) -> None:
    source = sender.snapshots.export()
    wrong = replace(source.manifest, position=replace(source.manifest.position, applied_term=9))
    sink = receiver.snapshots.receive(wrong)
    transfer(source, sink)

    with pytest.raises(CorruptStoreError, match="or differs"):
        sink.install()

    assert receiver.state.applied() == 2
    assert receiver.rows() == [(b"old", b"row")]


def test_what_verifies_installs_and_verifying_replaces_nothing(sender: Node, receiver: Node) -> None:
    before = receiver.rows()
    source = sender.snapshots.export()
    sink = receiver.snapshots.receive(source.manifest)
    with pytest.raises(CorruptStoreError, match="not arrived"):
        sink.verify()
    transfer(source, sink)

    sink.verify()
    sink.verify()

    assert receiver.rows() == before
    sink.install()
    assert receiver.rows() == sender.rows()


def test_what_would_not_install_does_not_verify(sender: Node, receiver: Node) -> None:
    before = receiver.rows()
    source = sender.snapshots.export()
    wrong = replace(source.manifest.position, applied=LogIndex(41))
    sink = receiver.snapshots.receive(replace(source.manifest, position=wrong))
    transfer(source, sink)

    with pytest.raises(CorruptStoreError, match="not at 41"):
        sink.verify()

    assert receiver.rows() == before


def test_snapshot_that_is_not_complete_is_not_installed(sender: Node, receiver: Node) -> None:
    sink = receiver.snapshots.receive(sender.snapshots.export().manifest)

    with pytest.raises(CorruptStoreError, match="has not arrived"):
        sink.install()


def file(name: str, size_bytes: int = 1, digest: bytes = DIGEST) -> SnapshotFile:
    return SnapshotFile(name, size_bytes, digest)


POSITION = StatePosition(LogIndex(9), 1, DIGEST, b"")


@pytest.mark.parametrize(
    "manifest",
    [
        SnapshotManifest(POSITION, (file("../../etc/passwd"),)),
        SnapshotManifest(POSITION, (file("000001.sst/../x"),)),
        SnapshotManifest(POSITION, (file("CURRENT\n"),)),
        SnapshotManifest(POSITION, (file(""),)),
        SnapshotManifest(POSITION, (file("CURRENT"), file("CURRENT"))),
        SnapshotManifest(POSITION, (file("CURRENT", -1),)),
        SnapshotManifest(POSITION, (file("CURRENT", 1, b"short"),)),
        SnapshotManifest(POSITION, (file("1.sst", 2**36), file("2.sst"))),
        SnapshotManifest(POSITION, tuple(file(f"{number}.sst") for number in range(10_001))),
        SnapshotManifest(replace(POSITION, applied=LogIndex(0)), ()),
        SnapshotManifest(replace(POSITION, applied_term=0), ()),
        SnapshotManifest(replace(POSITION, state_digest=b""), ()),
        SnapshotManifest(replace(POSITION, configuration=bytes(65 * 1024)), ()),
    ],
)
def test_manifest_that_no_export_makes_is_refused_before_anything_is_written(
    receiver: Node, tmp_path: Path, manifest: SnapshotManifest
) -> None:
    with pytest.raises(CorruptStoreError, match="the snapshot is refused"):
        receiver.snapshots.receive(manifest)

    assert list((tmp_path / "receiver" / "snapshots").iterdir()) == []


def test_range_that_does_not_fit_is_refused(
    sender: Node, receiver: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = sender.snapshots.export()
    sink = receiver.snapshots.receive(source.manifest)
    name, _ = sink.wanted() or ("", 0)
    whole = source.read(name, 0, 1 << 20)

    for data in (b"", whole + b"x"):
        with pytest.raises(CorruptStoreError, match="do not fit"):
            sink.write(name, 0, data)
    monkeypatch.setattr(snapshots_module, "RANGE_BYTES_MAX", 10)
    with pytest.raises(CorruptStoreError, match="do not fit"):
        sink.write(name, 0, whole[:11])


def test_leftovers_of_an_earlier_process_are_removed(sender: Node, tmp_path: Path) -> None:
    sender.snapshots.export()
    left = tmp_path / "sender" / "snapshots"
    assert list(left.iterdir())

    SnapshotFolder.open(left, sender.state)

    assert list(left.iterdir()) == []


def test_a_state_known_to_be_wrong_may_be_replaced_by_an_older_one_and_is_sound_then(
    sender: Node, receiver: Node, tmp_path: Path
) -> None:
    # given: it has applied more than the sender had when it made the snapshot
    receiver.state.write([(b"wrong", b"row")], LogIndex(90), DIGEST, applied_term=4)
    receiver.state.fence(Divergence(LogIndex(80), LogIndex(85), DIGEST, bytes(32)))
    source = sender.snapshots.export()

    # when
    sink = receiver.snapshots.receive(source.manifest)
    transfer(source, sink)
    sink.install()

    # then
    assert receiver.state.divergence() is None
    assert receiver.rows() == ROWS
    receiver.state.close()
    again = opened(tmp_path / "receiver")
    assert (again.state.applied(), again.state.divergence()) == (40, None)
    again.state.close()
