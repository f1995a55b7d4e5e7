"""A file is held against the parent's: all of it where it is the same, and little of it where it is not."""

import asyncio
import os
import random
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

import mcr
from mcr import matching
from mcr.aio import AsyncClient
from mcr.manifest import Span, drain_async, walk_chunks, walk_files
from mcr.model import MIB, ChunkId
from mcr.scanning import open_source, scan
from mcr_node.assembly import open_node
from mcr_node.embedded import EmbeddedNode
from mcr_node.services.myself import Myself
from mcr_node.services.walking import versions_of

CONTENT = random.Random(1).randbytes(4 * MIB)
SIZE_BYTES = len(CONTENT)


@dataclass(frozen=True)
class Compared:
    """What came of holding one file against the parent's.

    Attributes:
        advanced_bytes: how much of it was found to be the same.
        offsets: where the chunks of the parent's file begin.
    """

    same: bool
    advanced_bytes: int
    offsets: tuple[int, ...]


@pytest.fixture(autouse=True)
def every_chunk_is_a_stretch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matching, "STRETCH_BYTES", 1)


def compare(folder: Path, contents: list[bytes]) -> list[Compared]:
    """Commit CONTENT, then hold each of `contents`, of the same size, against it."""
    mcr.init(folder / "store")
    (folder / "in").mkdir()
    path = folder / "in" / "weights.bin"
    path.write_bytes(CONTENT)

    async def story() -> list[Compared]:
        node = await open_node(folder / "store", Myself("n", str(folder)))
        await node.runner.start()
        connection = EmbeddedNode(node, "test")
        results = []
        with ThreadPoolExecutor(2) as executor:
            async with AsyncClient(connection) as client:
                model = client.model("vision/net")
                await model.commit(folder / "in")
                (parent,) = [version.manifest async for version in versions_of(node.log, model.name)]
                (row,) = [row async for row in drain_async(walk_files(parent), connection.chunks.get)]
                spans = [span async for span in drain_async(walk_chunks(row), connection.chunks.get)]
                for content in contents:
                    path.write_bytes(content)
                    (source,) = scan(folder / "in")
                    advanced: list[int] = []
                    descriptor = open_source(source)
                    try:
                        same = await matching.match(
                            connection.chunks, executor, source, descriptor, row, advanced.append
                        )
                    finally:
                        os.close(descriptor)
                    results.append(Compared(same, sum(advanced), tuple(span.offset_bytes for span in spans)))
        return results

    return asyncio.run(story())


def flipped(offset_bytes: int) -> bytes:
    content = bytearray(CONTENT)
    content[offset_bytes] ^= 1
    return bytes(content)


@pytest.mark.parametrize("ordered_max", [4, 9, 1024])
def test_all_of_a_file_is_compared_once_in_whatever_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ordered_max: int
) -> None:
    monkeypatch.setattr(matching, "CHUNKS_ORDERED_MAX", ordered_max)
    draw = random.Random(ordered_max)
    places = [0, SIZE_BYTES - 1, *(draw.randrange(SIZE_BYTES) for _ in range(4))]

    same, *others = compare(tmp_path, [CONTENT, *(flipped(place) for place in places)])

    assert (same.same, same.advanced_bytes) == (True, SIZE_BYTES)
    assert len(same.offsets) > matching.SAMPLED_OF, "the file has many chunks"
    for place, other in zip(places, others, strict=True):
        assert not other.same, f"the flipped bit at {place} was not seen"
        assert other.advanced_bytes < SIZE_BYTES


def test_a_file_of_tiny_chunks_is_not_held_in_memory() -> None:
    tiny = matching._Stretch((Span(0, ChunkId(bytes(32)), 1),) * 4096, 4096)

    async def stretches() -> AsyncGenerator[matching._Stretch, None]:
        for _ in range(20):
            yield tiny

    async def story() -> list[int]:
        return [sum(len(one.spans) for one in part) async for part in matching._parts(stretches())]

    held = asyncio.run(story())
    assert sum(held) == 20 * 4096
    assert max(held) <= matching.CHUNKS_ORDERED_MAX


def test_what_differs_at_the_end_of_a_file_is_met_before_most_of_it_is_read(tmp_path: Path) -> None:
    start = SIZE_BYTES * 2 // 3

    (differs,) = compare(tmp_path, [CONTENT[:start] + random.Random(2).randbytes(SIZE_BYTES - start)])

    assert not differs.same
    assert differs.advanced_bytes < SIZE_BYTES // 3
