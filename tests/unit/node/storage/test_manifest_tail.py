"""A MANIFEST whose last record is torn opens; one whose record has a damaged length is refused, in time."""

import shutil
from pathlib import Path

import pytest

from mcr.errors import CorruptStoreError
from mcr_node.storage.database import Database
from mcr_node.storage.manifest_tail import check_manifest


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "database"
    for session in range(4):
        opened = Database.open(path)
        opened.write([(b"key%d-%d" % (session, number), bytes(100)) for number in range(50)])
        opened.sync()
        opened.close()
    return path


def manifest_of(path: Path) -> Path:
    return path / (path / "CURRENT").read_text().strip()


def lengths(data: bytes) -> list[int]:
    """Return where the lengths of the records stand; all are in one block."""
    places, place = [], 0
    while place < len(data):
        places.append(place + 4)
        place += 7 + int.from_bytes(data[place + 4 : place + 6], "little")
    return places


def test_a_sound_manifest_passes(database: Path) -> None:
    check_manifest(database)


def test_every_record_that_seems_to_reach_beyond_the_end_but_is_whole_is_refused(
    database: Path, tmp_path: Path
) -> None:
    sound = manifest_of(database).read_bytes()
    places = lengths(sound)
    assert len(places) > 3
    for place in places:
        copy = tmp_path / "copy"
        shutil.copytree(database, copy)
        data = bytearray(sound)
        data[place + 1] ^= 0x04
        manifest_of(copy).write_bytes(data)

        with pytest.raises(CorruptStoreError, match="length of the record"):
            Database.open(copy)

        shutil.rmtree(copy)


@pytest.mark.parametrize("bit", [2, 3, 4, 5, 6, 7])
def test_a_record_of_a_type_that_stands_in_no_manifest_is_refused(database: Path, bit: int) -> None:
    # Type 1 with bit 2 flipped is 5, a record of a log whose file is used again: opening it never returned.
    manifest = manifest_of(database)
    data = bytearray(manifest.read_bytes())
    data[lengths(bytes(data))[-2] + 2] ^= 1 << bit
    manifest.write_bytes(data)

    with pytest.raises(CorruptStoreError, match="is of type"):
        Database.open(database)


@pytest.mark.parametrize("missing", range(1, 6))
def test_a_torn_tail_passes(database: Path, missing: int) -> None:
    manifest = manifest_of(database)
    manifest.write_bytes(manifest.read_bytes()[:-missing])

    check_manifest(database)
