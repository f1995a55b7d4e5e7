"""The folder of a store: made whole or not at all, one process at a time, never by an older release."""

import json
from pathlib import Path

import pytest

from mcr.errors import (
    AlreadyExistsError,
    CorruptStoreError,
    DestinationError,
    StoreBusyError,
    StoreFormatError,
    StoreNotFoundError,
)
from mcr_node.storage import store_folder
from mcr_node.storage.store_folder import STORE_FORMAT, StoreIdentity, StoreLock

IDENTITY = StoreIdentity(bytes(range(16)), "raw")


def test_a_made_store_says_who_it_is(tmp_path: Path) -> None:
    store_folder.create(tmp_path / "a" / "store", IDENTITY)
    assert store_folder.read(tmp_path / "a" / "store") == IDENTITY


def test_a_store_is_never_made_over_anything(tmp_path: Path) -> None:
    store_folder.create(tmp_path / "store", IDENTITY)
    with pytest.raises(AlreadyExistsError, match="store"):
        store_folder.create(tmp_path / "store", IDENTITY)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").touch()
    with pytest.raises(AlreadyExistsError, match="not empty"):
        store_folder.create(tmp_path / "photos", IDENTITY)
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["cat.jpg"]
    (tmp_path / "file").touch()
    with pytest.raises(DestinationError):
        store_folder.create(tmp_path / "file", IDENTITY)


def test_a_half_made_store_is_none_and_can_be_made_again(tmp_path: Path) -> None:
    (tmp_path / "STORE.new").write_text("{")
    with pytest.raises(StoreNotFoundError):
        store_folder.read(tmp_path)
    store_folder.create(tmp_path, IDENTITY)
    assert store_folder.read(tmp_path) == IDENTITY


def test_a_newer_format_is_refused_and_left_alone(tmp_path: Path) -> None:
    store_folder.create(tmp_path, IDENTITY)
    marker = tmp_path / "STORE"
    newer = json.loads(marker.read_text()) | {"format": STORE_FORMAT + 1}
    marker.write_text(json.dumps(newer))
    with pytest.raises(StoreFormatError) as raised:
        store_folder.read(tmp_path)
    assert (raised.value.found, raised.value.supported) == (STORE_FORMAT + 1, STORE_FORMAT)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"format":1,"id":"zz","encoding":"raw"}', '{"format":1,"id":"00","encoding":"raw"}'],
)
def test_a_damaged_marker_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "STORE").write_text(text)
    with pytest.raises(CorruptStoreError):
        store_folder.read(tmp_path)


def test_a_marker_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "STORE").mkdir()
    with pytest.raises(CorruptStoreError):
        store_folder.read(tmp_path)


def test_the_second_opener_is_told_who_has_the_store(tmp_path: Path) -> None:
    first, second = StoreLock(tmp_path), StoreLock(tmp_path)
    first.acquire()
    with pytest.raises(StoreBusyError) as raised:
        second.acquire()
    assert raised.value.process_id > 0
    first.release()
    second.acquire()
    second.release()
    second.release()
