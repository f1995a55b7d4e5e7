"""What every `ports.StateStore` and its view promise, run on RocksDB and in memory; and that both agree."""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcr.errors import CorruptStoreError, StoreBusyError, StoreFormatError
from mcr.model import LogIndex
from mcr_node.core.state.apply import apply
from mcr_node.core.state.commands import Command
from mcr_node.core.state.digest import DIGEST_START, next_digest
from mcr_node.core.state.outcomes import Outcome
from mcr_node.core.state.view import Overlay
from mcr_node.ports import StatePosition
from mcr_node.ports import StateStore as StateStorePort
from mcr_node.storage.database import Database
from mcr_node.storage.state_store import StateStore
from tests.conformance.memory_state_store import MemoryStateStore
from tests.support.state_commands import check_invariants, sequences

IDENTITY = b"store-1"
DIGEST = b"\x07" * 32
Change = tuple[bytes, bytes | None]


@pytest.fixture(params=["memory", "rocksdb"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StateStorePort]:
    opened: StateStorePort
    opened = (
        MemoryStateStore() if request.param == "memory" else StateStore.open(tmp_path / "state", IDENTITY)
    )
    yield opened
    opened.close()


def test_a_new_store_is_empty_and_at_the_start(store: StateStorePort) -> None:
    assert (store.applied(), store.state_digest()) == (0, DIGEST_START)
    assert list(store.view().scan(b"\x01", b"\xff")) == []
    assert store.view().get(b"key") is None


def test_a_write_is_visible_with_its_index_and_digest(store: StateStorePort) -> None:
    store.write([(b"a", b"1"), (b"b", b""), (b"gone", None)], LogIndex(3), DIGEST, applied_term=1)
    store.write([(b"a", None), (b"c", b"3")], LogIndex(4), DIGEST_START, applied_term=1)
    store.sync()

    assert (store.applied(), store.state_digest()) == (4, DIGEST_START)
    assert [store.view().get(key) for key in (b"a", b"b", b"c")] == [None, b"", b"3"]


def test_an_entry_that_changes_nothing_moves_the_index(store: StateStorePort) -> None:
    store.write([], LogIndex(1), DIGEST, applied_term=1)

    assert (store.applied(), store.state_digest()) == (1, DIGEST)
    assert list(store.view().scan(b"\x01", b"\xff")) == []


def test_term_and_configuration_are_written_with_the_index(store: StateStorePort) -> None:
    assert store.position() == StatePosition(LogIndex(0), 0, DIGEST_START, b"")

    store.write([], LogIndex(1), DIGEST, applied_term=2, configuration=b"one")
    store.write([], LogIndex(2), DIGEST, applied_term=3)
    assert (store.applied_term(), store.configuration()) == (3, b"one")

    store.write([], LogIndex(3), DIGEST, applied_term=3, configuration=b"")
    assert store.position() == StatePosition(LogIndex(3), 3, DIGEST, b"")


def test_a_view_taken_before_a_write_sees_it(store: StateStorePort) -> None:
    view = store.view()

    store.write([(b"a", b"1")], LogIndex(1), DIGEST, applied_term=1)

    assert view.get(b"a") == b"1"


def test_a_scan_takes_its_start_and_leaves_its_end_in_both_directions(store: StateStorePort) -> None:
    rows = [(bytes([byte]), bytes([byte])) for byte in (1, 65, 66, 67, 127, 128, 255)]
    store.write([*reversed(rows)], LogIndex(1), DIGEST, applied_term=1)
    view = store.view()

    assert list(view.scan(b"A", b"C")) == [(b"A", b"A"), (b"B", b"B")]
    assert list(view.scan(b"A", b"C", reverse=True)) == [(b"B", b"B"), (b"A", b"A")]
    assert list(view.scan(b"@", b"B\x00", reverse=True)) == [(b"B", b"B"), (b"A", b"A")]
    assert list(view.scan(b"C", b"A")) == []
    assert list(view.scan(b"A", b"A")) == []
    # Bytes are compared without a sign.
    assert [key for key, _ in view.scan(b"\x01", b"\xff")] == [key for key, _ in rows[:-1]]


def test_a_scan_is_lazy(store: StateStorePort) -> None:
    store.write([(b"k%04d" % number, b"") for number in range(1000)], LogIndex(1), DIGEST, applied_term=1)

    scan = store.view().scan(b"k", b"l", reverse=True)

    assert [next(scan)[0], next(scan)[0]] == [b"k0999", b"k0998"]


@given(
    st.lists(st.lists(st.tuples(st.binary(min_size=1, max_size=3), st.none() | st.binary(max_size=3)))),
    st.lists(st.tuples(st.binary(max_size=3), st.binary(max_size=3), st.booleans()), min_size=1),
)
@settings(max_examples=10)
def test_both_views_read_the_same_through_an_overlay(
    batches: list[list[Change]], spans: list[tuple[bytes, bytes, bool]]
) -> None:
    memory = MemoryStateStore()
    with tempfile.TemporaryDirectory() as folder:
        disk = StateStore.open(Path(folder) / "state", IDENTITY)
        for number, batch in enumerate(batches, start=1):
            # The store keeps keys that start with NUL for itself.
            changes = list({b"k" + key: (b"k" + key, value) for key, value in batch}.values())
            for store in (memory, disk):
                store.write(changes, LogIndex(number), DIGEST, applied_term=1)
        overlays = [Overlay(memory.view()), Overlay(disk.view())]
        for overlay in overlays:
            overlay.put(b"k\x01", b"overlaid")
            overlay.delete(b"k\x02")
        for start, end, reverse in spans:
            rows = [list(overlay.scan(b"k" + start, b"k" + end, reverse=reverse)) for overlay in overlays]
            assert rows[0] == rows[1]
        disk.close()


def run(store: StateStorePort, commands: Sequence[Command]) -> list[Outcome]:
    """Apply commands as a node does."""
    outcomes = []
    for index, command in enumerate(commands, start=store.applied() + 1):
        outcome, changes = apply(store.view(), LogIndex(index), command)
        digest = next_digest(store.state_digest(), LogIndex(index), changes)
        store.write(changes, LogIndex(index), digest, applied_term=1)
        outcomes.append(outcome)
    return outcomes


@given(sequences, st.integers(0, 40))
@settings(max_examples=20)
def test_the_same_commands_give_the_same_outcomes_and_digests_on_disk_and_in_memory(
    commands: list[Command], reopened_after: int
) -> None:
    memory = MemoryStateStore()
    with tempfile.TemporaryDirectory() as folder:
        disk = StateStore.open(Path(folder) / "state", IDENTITY)
        outcomes = run(disk, commands[:reopened_after])
        disk.close()
        disk = StateStore.open(Path(folder) / "state", IDENTITY)
        outcomes += run(disk, commands[reopened_after:])

        expected = run(memory, commands)

        assert [repr(outcome) for outcome in outcomes] == [repr(outcome) for outcome in expected]
        assert disk.state_digest() == memory.state_digest()
        assert list(disk.view().scan(b"\x01", b"\xff")) == list(memory.view().scan(b"\x01", b"\xff"))
        check_invariants(disk.view())
        disk.close()


def test_replaying_what_was_lost_gives_the_same_state(store: StateStorePort) -> None:
    changes: list[Change] = [(b"a", b"1")]
    store.write(changes, LogIndex(1), DIGEST, applied_term=1)
    store.sync()
    store.write([(b"a", b"2"), (b"b", b"3")], LogIndex(2), DIGEST_START, applied_term=1)
    if isinstance(store, MemoryStateStore):
        store.lose_unsynced()
        assert (store.applied(), store.view().get(b"a"), store.view().get(b"b")) == (1, b"1", None)
        store.write([(b"a", b"2"), (b"b", b"3")], LogIndex(2), DIGEST_START, applied_term=1)

    assert (store.applied(), store.view().get(b"a"), store.view().get(b"b")) == (2, b"2", b"3")


# The store on disk


def test_what_was_written_is_there_after_reopening(tmp_path: Path) -> None:
    store = StateStore.open(tmp_path, IDENTITY)
    store.write([(b"a", b"1")], LogIndex(7), DIGEST, applied_term=1)
    store.sync()
    store.close()

    again = StateStore.open(tmp_path, IDENTITY)

    assert (again.applied(), again.state_digest(), again.view().get(b"a")) == (7, DIGEST, b"1")
    again.close()


def test_a_state_of_format_one_is_read_and_becomes_two_with_the_first_write(tmp_path: Path) -> None:
    # given: the bytes as releases wrote them that knew no terms
    position = (7).to_bytes(8, "big") + DIGEST
    own = [
        (b"\x00format", bytes(7) + b"\x01"),
        (b"\x00identity", IDENTITY),
        (b"\x00position", position),
    ]
    Database.open(tmp_path / "state", founding=[*own, (b"a", b"1")]).close()

    # when
    store = StateStore.open(tmp_path / "state", IDENTITY)

    # then
    assert store.position() == StatePosition(LogIndex(7), 0, DIGEST, b"")
    store.write([(b"b", b"2")], LogIndex(8), DIGEST_START, applied_term=3, configuration=b"one")
    store.close()
    database = Database.open(tmp_path / "state")
    assert dict(database.scan(b"", b"\xff")) == {
        b"\x00configuration": b"one",
        b"\x00format": bytes(7) + b"\x02",
        b"\x00identity": IDENTITY,
        b"\x00position": (8).to_bytes(8, "big") + DIGEST_START + (3).to_bytes(8, "big"),
        b"a": b"1",
        b"b": b"2",
    }
    database.close()
    store = StateStore.open(tmp_path / "state", IDENTITY)
    assert store.position() == StatePosition(LogIndex(8), 3, DIGEST_START, b"one")
    store.close()


def test_a_checkpoint_is_a_store_at_its_own_index(tmp_path: Path) -> None:
    store = StateStore.open(tmp_path / "state", IDENTITY)
    store.write([(b"a", b"1")], LogIndex(7), DIGEST, applied_term=1)

    position = store.export(tmp_path / "copy")
    store.write([(b"a", b"2")], LogIndex(8), DIGEST_START, applied_term=1)

    copy = StateStore.open(tmp_path / "copy", IDENTITY)
    assert (copy.position(), copy.view().get(b"a")) == (position, b"1")
    assert (position.applied, position.state_digest) == (7, DIGEST)
    copy.close()
    store.close()


def test_the_state_of_another_store_is_refused(tmp_path: Path) -> None:
    StateStore.open(tmp_path, IDENTITY).close()

    with pytest.raises(CorruptStoreError, match="another store"):
        StateStore.open(tmp_path, b"store-2")
    StateStore.open(tmp_path, IDENTITY).close()


def test_a_second_opening_is_refused(tmp_path: Path) -> None:
    store = StateStore.open(tmp_path, IDENTITY)

    with pytest.raises(StoreBusyError):
        StateStore.open(tmp_path, IDENTITY)
    store.close()


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ((b"\x00format", (3).to_bytes(8, "big")), StoreFormatError),
        ((b"\x00format", bytes(8)), CorruptStoreError),
        ((b"\x00format", b"1"), CorruptStoreError),
        ((b"\x00format", None), CorruptStoreError),
        ((b"\x00position", None), CorruptStoreError),
        ((b"\x00position", bytes(47)), CorruptStoreError),
    ],
)
def test_a_store_whose_own_keys_are_wrong_is_refused(
    tmp_path: Path, change: Change, error: type[Exception]
) -> None:
    store = StateStore.open(tmp_path, IDENTITY)
    store.write([(b"a", b"1")], LogIndex(1), DIGEST, applied_term=1)
    store.close()
    database = Database.open(tmp_path)
    database.write([change])
    database.close()

    with pytest.raises(error):
        StateStore.open(tmp_path, IDENTITY)


def test_a_damaged_row_is_reported_and_never_read_as_missing(tmp_path: Path) -> None:
    store = StateStore.open(tmp_path, IDENTITY)
    rows: list[Change] = [(b"key%04d" % number, number.to_bytes(100, "big")) for number in range(2000)]
    store.write(rows, LogIndex(1), DIGEST, applied_term=1)
    store.close()
    table = max(tmp_path.glob("*.sst"), key=lambda path: path.stat().st_size)
    data = bytearray(table.read_bytes())
    data[len(data) // 4] ^= 1
    table.write_bytes(data)

    damaged = StateStore.open(tmp_path, IDENTITY)
    with pytest.raises(CorruptStoreError):
        list(damaged.view().scan(b"key", b"kez"))
    with pytest.raises(CorruptStoreError):
        [damaged.view().get(key) for key, _ in rows]
    damaged.close()


def test_a_missing_file_is_damage(tmp_path: Path) -> None:
    store = StateStore.open(tmp_path, IDENTITY)
    store.write([(b"key", b"value")], LogIndex(1), DIGEST, applied_term=1)
    store.close()
    for table in tmp_path.glob("*.sst"):
        table.unlink()

    with pytest.raises(CorruptStoreError):
        StateStore.open(tmp_path, IDENTITY)
