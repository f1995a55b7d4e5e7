"""Who needs a chunk that cannot be read, on a store in this process."""

from pathlib import Path

import pytest

import mcr
from mcr.errors import CorruptChunkError, LostChunkError

MODEL = "vision/net"


def flip(folder: Path, content: bytes) -> None:
    for file in folder.rglob("*.pack"):
        data = file.read_bytes()
        at = data.find(content)
        if at >= 0:
            with file.open("r+b") as opened:
                opened.seek(at)
                opened.write(bytes([content[0] ^ 1]))
            return
    raise AssertionError("it is in no file")


def test_a_read_of_what_is_damaged_names_the_chunk_and_all_files_and_versions_that_need_it(
    tmp_path: Path,
) -> None:
    mcr.init(tmp_path / "store", encoding="raw")
    shared = b"needed by two files of two versions " * 100
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.bin").write_bytes(shared)
    (tmp_path / "in" / "b.bin").write_bytes(shared)
    with mcr.connect(str(tmp_path / "store")) as client:
        model = client.model(MODEL)
        model.commit(tmp_path / "in")
        (tmp_path / "in" / "c.bin").write_bytes(b"more")
        model.commit(tmp_path / "in")
        (tmp_path / "in" / "a.bin").unlink()
        (tmp_path / "in" / "b.bin").unlink()
        model.commit(tmp_path / "in")
    flip(tmp_path / "store", shared[:64])
    with mcr.connect(str(tmp_path / "store")) as client:
        model = client.model(MODEL)
        for _ in range(2):
            # The first read finds it damaged, the next one finds it gone.
            with pytest.raises(LostChunkError) as caught:
                model.checkout("v1", tmp_path / "out")
            assert caught.value.files == "a.bin, b.bin"
            assert caught.value.versions == f"{MODEL}@v2, {MODEL}@v1"
        model.checkout("v3", tmp_path / "out")


def test_what_no_version_needs_is_named_alone(tmp_path: Path) -> None:
    mcr.init(tmp_path / "store", encoding="raw")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.bin").write_bytes(b"here")
    with mcr.connect(str(tmp_path / "store")) as client:
        model = client.model(MODEL)
        version = model.show(model.commit(tmp_path / "in").name)
    flip(tmp_path / "store", bytes.fromhex(version.id)[:0] or b"a.bin")
    with mcr.connect(str(tmp_path / "store")) as client, pytest.raises((LostChunkError, CorruptChunkError)):
        client.model(MODEL).checkout("v1", tmp_path / "out")
