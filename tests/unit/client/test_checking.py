"""A check names every chunk that is gone or damaged and all versions that need it, and asks few questions."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import pytest

from mcr import checking
from mcr.checking import check_versions
from mcr.manifest import ManifestBuilder
from mcr.model import CheckReport, Chunk, ChunkId, ChunkRef, Version
from tests.conformance.memory_chunk_store import MemoryChunkStore
from tests.unit.client.manifest.samples import file_entry

CHUNK_BYTES = 1000


@dataclass(frozen=True, slots=True)
class Some:
    """What a check asks of a version."""

    reference: str
    manifest: ChunkId
    is_purged: bool = False


class Store:
    """A store, and versions in it."""

    def __init__(self) -> None:
        self.chunks = MemoryChunkStore()
        self.versions: list[Some] = []
        self.calls: list[str] = []

    async def get(self, ids: Sequence[ChunkId]) -> list[bytes]:
        self.calls.append("get")
        await asyncio.sleep(0)
        return [self.chunks.get(one) for one in ids]

    async def missing(self, ids: Sequence[ChunkId]) -> set[ChunkId]:
        self.calls.append("missing")
        return self.chunks.missing(ids)

    def commit(self, *contents: int, is_purged: bool = False) -> list[Chunk]:
        """Make a version of some files, one chunk each; return these, and the list of files last."""
        made: list[Chunk] = []
        builder = ManifestBuilder(made.append)
        content = [Chunk.of(b"%8d" % number * 125) for number in contents]
        for number, chunk in enumerate(content):
            entry = file_entry(f"file{number:03}", CHUNK_BYTES, content=number)
            builder.add(entry, [ChunkRef(chunk.id, CHUNK_BYTES)])
        root = builder.finish().root
        if not is_purged:
            self.chunks.put(content + made)
        self.versions.append(Some(f"a/b@v{len(self.versions) + 1}", root, is_purged))
        return content + made

    def check(self, *, deep: bool, seen: list[tuple[int, int]] | None = None) -> CheckReport:
        async def all_versions() -> AsyncIterator[Version]:
            for version in self.versions:
                yield cast("Version", version)

        def progress(done: int, total: int) -> None:
            if seen is not None:
                seen.append((done, total))

        transport: Any = self
        return asyncio.run(
            check_versions(transport, all_versions(), len(self.versions), deep=deep, progress=progress)
        )


@pytest.fixture(params=[1, 2, 16])
def store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr(checking, "VERSIONS_AT_ONCE", request.param)
    return Store()


def test_a_sound_store_has_each_chunk_checked_once(store: Store) -> None:
    made = [store.commit(number, number + 1, 1000) for number in range(20)]
    store.commit(7, 8, is_purged=True)
    seen: list[tuple[int, int]] = []
    report = store.check(deep=True, seen=seen)
    assert report.chunks_checked == len({chunk.id for chunks in made for chunk in chunks})
    assert (report.chunks_damaged, report.versions_affected, report.problems) == ((), (), ())
    assert seen[-1] == (21, 21)


def test_what_is_damaged_is_named_with_all_versions_that_need_it(store: Store) -> None:
    shared = store.commit(1, 2)
    store.commit(3, 4)
    store.commit(2, 5)
    store.commit(1, 2)
    store.chunks.damage(shared[1].id)
    # Only looked at, it is there.
    assert store.check(deep=False).chunks_damaged == ()
    report = store.check(deep=True)
    assert report.chunks_damaged == (shared[1].id.hex(),)
    assert report.versions_affected == ("a/b@v1", "a/b@v3", "a/b@v4")
    assert report.problems == ()


def test_what_is_gone_is_found_without_reading_the_rest(store: Store) -> None:
    store.commit(1, 2)
    gone = store.commit(3, 4)
    store.chunks.remove([gone[0].id, gone[1].id])
    report = store.check(deep=False)
    assert set(report.chunks_damaged) == {gone[0].id.hex(), gone[1].id.hex()}
    assert report.versions_affected == ("a/b@v2",)


def test_a_list_of_files_that_is_gone_is_a_problem_of_its_version(store: Store) -> None:
    store.commit(1)
    lost = store.commit(2)
    store.commit(3)
    store.chunks.remove([lost[-1].id])
    report = store.check(deep=True)
    assert report.versions_affected == ("a/b@v2",)
    assert len(report.problems) == 1
    assert "a/b@v2" in report.problems[0]
    assert report.chunks_damaged == (lost[-1].id.hex(),)


def test_versions_share_questions() -> None:
    store = Store()
    versions = 4 * checking.VERSIONS_AT_ONCE
    for number in range(versions):
        store.commit(2 * number, 2 * number + 1)
    store.check(deep=True)
    chunks = 3 * versions
    assert store.calls.count("missing") == 4
    # One for the list of files of each version, and what is read together.
    assert store.calls.count("get") <= versions + chunks / checking.CHUNKS_AT_ONCE + 4
