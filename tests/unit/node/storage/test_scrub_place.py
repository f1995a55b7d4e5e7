"""The place of a scrub outlives the process, and a file that cannot be read only costs work."""

from pathlib import Path

import pytest

from mcr.model import ChunkId, digest
from mcr_node.ports_scrub import ScrubPlace
from mcr_node.storage.scrub_place import FILE, ScrubPlaceFile


@pytest.mark.parametrize("place", [ScrubPlace(), ScrubPlace(ChunkId(digest(b"x")), 17), ScrubPlace(None, 1)])
def test_what_was_kept_is_read_again(tmp_path: Path, place: ScrubPlace) -> None:
    ScrubPlaceFile(tmp_path).write(place)
    assert ScrubPlaceFile(tmp_path).read() == place


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"after": "zz", "ended_ms": 1}', "\x00", '{"after": 1}'])
def test_a_file_that_cannot_be_read_begins_anew(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    assert ScrubPlaceFile(tmp_path).read() == ScrubPlace()


def test_no_file_begins_anew(tmp_path: Path) -> None:
    assert ScrubPlaceFile(tmp_path).read() == ScrubPlace()
