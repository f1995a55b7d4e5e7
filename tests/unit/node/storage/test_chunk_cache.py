"""The cache in files: what it finds again, and what it makes of damage. The port's laws: conformance."""

import errno
import os
from pathlib import Path

import pytest

from mcr.model import KIB, MIB, Chunk
from mcr_node.storage.chunk_cache import FileChunkCache

ROOM = 64 * MIB


def opened(folder: Path, room: int = ROOM) -> FileChunkCache:
    return FileChunkCache.open(folder, lambda _: room)


def filled(folder: Path, count: int) -> list[Chunk]:
    chunks = [Chunk.of(number.to_bytes(4, "big") * (64 * KIB)) for number in range(count)]
    cache = opened(folder)
    cache.put(chunks)
    cache.close()
    return chunks


def test_a_restart_finds_what_was_there(tmp_path: Path) -> None:
    chunks = filled(tmp_path, 40)
    cache = opened(tmp_path)
    assert [cache.get(one.id) for one in chunks] == [one.data for one in chunks]
    used_bytes = cache.stats().bytes_used
    cache.put([Chunk.of(b"new")])
    assert cache.get(Chunk.of(b"new").id) == b"new"
    assert cache.stats().bytes_used > used_bytes
    cache.close()


@pytest.mark.parametrize("cut", [1, 51, 56, 100 * KIB])
def test_a_torn_tail_is_forgotten_and_written_over(tmp_path: Path, cut: int) -> None:
    chunks = filled(tmp_path, 3)
    (file,) = tmp_path.iterdir()
    os.truncate(file, file.stat().st_size - cut)
    cache = opened(tmp_path)
    assert [cache.get(one.id) for one in chunks] == [chunks[0].data, chunks[1].data, None]
    cache.put(chunks)
    cache.close()
    cache = opened(tmp_path)
    assert [cache.get(one.id) for one in chunks] == [one.data for one in chunks]
    cache.close()


def test_a_flipped_byte_is_never_given(tmp_path: Path) -> None:
    chunks = filled(tmp_path, 3)
    (file,) = tmp_path.iterdir()
    with file.open("r+b") as damaged:
        damaged.seek(file.stat().st_size // 2)
        byte = damaged.read(1)[0]
        damaged.seek(-1, os.SEEK_CUR)
        damaged.write(bytes([byte ^ 1]))
    cache = opened(tmp_path)
    assert [cache.get(one.id) for one in chunks] == [chunks[0].data, None, chunks[2].data]
    assert cache.held([one.id for one in chunks]) == {chunks[0].id, chunks[2].id}
    cache.close()


def test_less_room_than_before_makes_the_oldest_go(tmp_path: Path) -> None:
    chunks = filled(tmp_path, 120)
    cache = opened(tmp_path, room=20 * MIB)
    cache.put([Chunk.of(b"new")])
    assert cache.stats().bytes_used <= 20 * MIB
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 20 * MIB
    assert cache.get(chunks[0].id) is None
    cache.close()


def test_a_full_disk_keeps_nothing_and_fails_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chunks = filled(tmp_path, 3)
    cache = opened(tmp_path)

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(os, "pwritev", full)
    cache.put([Chunk.of(b"new")])
    assert cache.get(Chunk.of(b"new").id) is None
    # It gave way at once.
    assert cache.stats().bytes_used == 0
    assert cache.get(chunks[0].id) is None
    cache.close()


def test_a_folder_that_cannot_be_used_is_an_empty_cache(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    cache = opened(tmp_path / "file")
    cache.put([Chunk.of(b"new")])
    assert cache.get(Chunk.of(b"new").id) is None
    assert cache.stats().bytes_max == 0
    cache.close()
