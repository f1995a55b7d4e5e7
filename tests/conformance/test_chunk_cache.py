"""What every `ports_cache.ChunkCache` keeps: the fake that others are tested on, and the real one."""

from collections.abc import Callable
from pathlib import Path

import pytest

from mcr.model import KIB, MIB, Chunk
from mcr_node.ports_cache import ChunkCache
from mcr_node.storage.chunk_cache import FileChunkCache
from tests.conformance.memory_chunk_cache import MemoryChunkCache

Open = Callable[[int], ChunkCache]


@pytest.fixture(params=["memory", "files"])
def open_cache(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    def open_it(bytes_max: int) -> ChunkCache:
        if request.param == "memory":
            return MemoryChunkCache(bytes_max)
        return FileChunkCache.open(tmp_path / "cache", lambda _: bytes_max)

    return open_it


def chunk(number: int, length_bytes: int = 100 * KIB) -> Chunk:
    return Chunk.of(number.to_bytes(4, "big") * (length_bytes // 4))


def test_what_was_put_is_found_until_it_gives_way(open_cache: Open) -> None:
    cache = open_cache(64 * MIB)
    one, other = chunk(1), chunk(2)
    cache.put([one, one])
    assert cache.get(one.id) == one.data
    assert cache.get(other.id) is None
    assert cache.held([one.id, other.id]) == {one.id}
    assert cache.stats().chunk_count == 1
    cache.close()


def test_it_never_takes_more_than_it_was_given_and_keeps_the_newest(open_cache: Open) -> None:
    cache = open_cache(20 * MIB)
    chunks = [chunk(number, 1 * MIB) for number in range(60)]
    for one in chunks:
        cache.put([one])
        assert cache.stats().bytes_used <= 20 * MIB
    assert cache.get(chunks[-1].id) == chunks[-1].data
    assert cache.get(chunks[0].id) is None
    assert cache.stats().chunk_count >= 8
    cache.close()


def test_where_there_is_no_room_nothing_is_kept_and_nothing_fails(open_cache: Open) -> None:
    cache = open_cache(0)
    cache.put([chunk(1)])
    assert cache.get(chunk(1).id) is None
    assert cache.stats().bytes_used == 0
    cache.close()
