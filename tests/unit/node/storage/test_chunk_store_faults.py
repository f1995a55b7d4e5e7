"""Crashes of the pack chunk store: fail at operation 1, 2, 3 …, look at what power loss leaves, go on.

Law for all of them: a chunk is there, exactly, once a `sync` after its `put` has returned, until it is
removed; and what is there without that is exact as well.
"""

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from mcr.errors import CorruptChunkError
from mcr.model import Chunk, ChunkId
from mcr_node.storage.chunk_store import PackChunkStore
from mcr_node.storage.disk import Handle, StorageFailure
from tests.faults import FaultyDisk, Image, Keep, PowerCutError

SEGMENT_BYTES = 1500
OUTCOMES: tuple[tuple[Keep, int], ...] = (("none", 0), ("all", 0), ("torn", 1), ("torn", 2))


def open_on(disk: FaultyDisk, path: Path) -> PackChunkStore:
    return PackChunkStore.open(
        path,
        encoding="raw",
        disk=disk,
        segment_bytes_max=SEGMENT_BYTES,
        reserve_bytes=0,
        open_database=disk.open_database,
    )


def open_image(image: Image) -> tuple[FaultyDisk, PackChunkStore]:
    disk = FaultyDisk(image.path, rows=image.rows)
    return disk, open_on(disk, image.path)


def chunks_of(seed: int, count: int) -> list[Chunk]:
    chance = random.Random(seed)
    return [Chunk.of(chance.randbytes(chance.randint(1, 400))) for _ in range(count)]


@dataclass
class Promises:
    """What callers of a store were told."""

    put: dict[ChunkId, Chunk] = field(default_factory=dict)
    acknowledged: set[ChunkId] = field(default_factory=set)

    def do_put(self, store: PackChunkStore, chunks: Sequence[Chunk]) -> None:
        self.put |= {chunk.id: chunk for chunk in chunks}
        store.put(chunks)

    def do_sync(self, store: PackChunkStore, promised: Sequence[Chunk]) -> None:
        store.sync()
        self.acknowledged |= {chunk.id for chunk in promised}

    def do_remove(self, store: PackChunkStore, chunks: Sequence[Chunk]) -> None:
        self.acknowledged -= {chunk.id for chunk in chunks}
        store.remove([chunk.id for chunk in chunks])

    def check(self, store: PackChunkStore) -> None:
        assert store.missing(sorted(self.acknowledged)) == set()
        for chunk_id in self.put.keys() - store.missing(list(self.put)):
            assert store.get(chunk_id) == self.put[chunk_id].data
        assert store.stats().quarantined == 0


Story = Callable[[PackChunkStore, Promises], None]


def story_of_puts(store: PackChunkStore, promises: Promises) -> None:
    chunks = chunks_of(1, 16)
    for start in range(0, 16, 4):
        promises.do_put(store, chunks[start : start + 4])
        if start != 8:
            promises.do_sync(store, chunks[: start + 4])
    promises.do_put(store, chunks_of(2, 3))


def story_of_compaction(store: PackChunkStore, promises: Promises) -> None:
    chunks = chunks_of(3, 14)
    promises.do_put(store, chunks)
    promises.do_sync(store, chunks)
    promises.do_remove(store, chunks[::2])
    promises.do_put(store, chunks_of(4, 2))
    store.compact(live_share_min=0.9)
    promises.do_put(store, chunks[:4])
    promises.do_sync(store, chunks[:4])
    store.compact(live_share_min=1.01)
    store.close()


STORIES: dict[str, Story] = {"puts": story_of_puts, "compaction": story_of_compaction}


def interrupted(
    path: Path, story: Story, when: Literal["before", "after"]
) -> Iterator[tuple[int, FaultyDisk, Promises]]:
    """Tell a story again and again, each time with the power cut one operation later, until it ends well."""
    for fail_at in itertools.count(1):
        root = path / f"{when}-{fail_at}"
        root.mkdir()
        disk, promises = FaultyDisk(root, fail_at=fail_at, when=when), Promises()
        try:
            story(open_on(disk, root), promises)
        except PowerCutError:
            yield fail_at, disk, promises
        else:
            yield fail_at, disk, promises
            return


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("name", STORIES)
def test_power_loss_at_any_operation_loses_nothing_acknowledged(
    tmp_path: Path, name: str, when: Literal["before", "after"]
) -> None:
    operations = 0
    for fail_at, disk, promises in interrupted(tmp_path, STORIES[name], when):
        operations = fail_at
        for keep, seed in OUTCOMES:
            image = disk.image_after_power_loss(tmp_path / f"{fail_at}-{keep}-{seed}", keep=keep, seed=seed)
            disk_after, store = open_image(image)
            promises.check(store)
            if seed != 1:
                continue
            # The store is as good as new: what is put and synced now survives the next power loss.
            everything = list(promises.put.values())
            store.put(everything)
            store.sync()
            again = disk_after.image_after_power_loss(
                tmp_path / f"{fail_at}-{keep}-{seed}-again", keep="none"
            )
            _, store = open_image(again)
            assert store.missing(list(promises.put)) == set()
            promises.check(store)
    assert operations > 15


def test_power_loss_during_recovery_loses_nothing_acknowledged(tmp_path: Path) -> None:
    # Given what a torn power loss leaves in the middle of a compaction
    root = tmp_path / "first"
    root.mkdir()
    first, promises = FaultyDisk(root, fail_at=33, when="after"), Promises()
    with pytest.raises(PowerCutError):
        story_of_compaction(open_on(first, root), promises)
    crashed = first.image_after_power_loss(tmp_path / "crashed", keep="torn", seed=5)

    # When the power goes again at any operation of opening it
    for fail_at in itertools.count(1):
        root = tmp_path / f"second-{fail_at}"
        crashed_copy = FaultyDisk(crashed.path, rows=crashed.rows).image_after_power_loss(root, keep="all")
        disk = FaultyDisk(root, rows=crashed_copy.rows, fail_at=fail_at)
        try:
            open_on(disk, root)
        except PowerCutError:
            pass
        else:
            break
        for keep, seed in OUTCOMES:
            image = disk.image_after_power_loss(tmp_path / f"{fail_at}-{keep}-{seed}", keep=keep, seed=seed)
            promises.check(open_image(image)[1])

    assert fail_at > 3


def test_what_a_failed_fdatasync_dropped_is_not_taken_for_durable_after_a_restart(tmp_path: Path) -> None:
    root = tmp_path / "store"
    root.mkdir()
    disk, promises = FaultyDisk(root, failure=StorageFailure), Promises()
    chunks = chunks_of(6, 4)
    store = open_on(disk, root)
    store.put(chunks)
    # Given an fdatasync that failed, so that the cache holds as clean what the disk never got
    disk.fail_next = "fdatasync"
    with pytest.raises(StorageFailure):
        store.sync()
    store.close()

    # When the process starts again without a reboot, finds the frames in the cache, and acknowledges them
    store = open_on(disk, root)
    assert store.recovered.frames_reindexed == 4
    assert store.put(chunks).chunks_new == 0
    promises.do_put(store, chunks)
    promises.do_sync(store, chunks)

    image = disk.image_after_power_loss(tmp_path / "image", keep="none")
    promises.check(open_image(image)[1])


def test_power_loss_after_a_compaction_brings_nothing_back(tmp_path: Path) -> None:
    root = tmp_path / "store"
    root.mkdir()
    disk, promises = FaultyDisk(root), Promises()
    chunks = chunks_of(3, 14)
    store = open_on(disk, root)
    promises.do_put(store, chunks)
    promises.do_sync(store, chunks)
    promises.do_remove(store, chunks[::2])
    store.compact(live_share_min=0.9)
    stats = store.stats()

    _, store = open_image(disk.image_after_power_loss(tmp_path / "image", keep="none"))

    assert store.missing([chunk.id for chunk in chunks]) == {chunk.id for chunk in chunks[::2]}
    assert store.stats() == stats
    promises.check(store)


def test_a_segment_that_compaction_emptied_is_unlinked_by_the_next_start(tmp_path: Path) -> None:
    root = tmp_path / "store"
    root.mkdir()
    disk, promises = FaultyDisk(root), Promises()
    chunks = chunks_of(3, 14)
    store = open_on(disk, root)
    promises.do_put(store, chunks)
    promises.do_sync(store, chunks)
    disk.fail_next = "unlink"
    with pytest.raises(PowerCutError):
        store.compact(live_share_min=1.01)

    image = disk.image_after_power_loss(tmp_path / "image", keep="none")
    assert (image.path / "segments" / "00000001.pack").exists()
    disk, store = open_image(image)

    assert "unlink" in disk.journal
    assert not (image.path / "segments" / "00000001.pack").exists()
    assert store.stats().bytes_live == store.stats().bytes_used
    promises.check(store)


class HookedDisk(FaultyDisk):
    """Does something in the middle of the next fdatasync."""

    hook: Callable[[], object] | None = None

    def fdatasync(self, handle: Handle) -> None:
        super().fdatasync(handle)
        if self.hook is not None:
            hook, self.hook = self.hook, None
            hook()


@pytest.mark.parametrize("how", ["removed", "quarantined"])
def test_a_chunk_that_goes_while_it_is_synced_stays_gone(tmp_path: Path, how: str) -> None:
    disk = HookedDisk(tmp_path)
    store = open_on(disk, tmp_path)
    gone, kept = chunks_of(7, 2)
    store.put([gone, kept])

    def damage_and_get() -> None:
        segment = tmp_path / "segments" / "00000001.pack"
        data = bytearray(segment.read_bytes())
        data[56] ^= 1
        segment.write_bytes(data)
        with pytest.raises(CorruptChunkError):
            store.get(gone.id)

    disk.hook = (lambda: store.remove([gone.id])) if how == "removed" else damage_and_get
    store.sync()

    assert store.missing([gone.id, kept.id]) == {gone.id}
    assert store.stats().chunk_count == 1
    assert store.get(kept.id) == kept.data


def test_a_rebuild_that_was_interrupted_goes_on_as_one(tmp_path: Path) -> None:
    made, chunks = FaultyDisk(tmp_path / "store"), chunks_of(8, 14)
    (tmp_path / "store").mkdir()
    store = open_on(made, tmp_path / "store")
    store.put(chunks)
    store.close()
    for fail_at in itertools.count(1):
        root = tmp_path / f"{fail_at}"
        (root / "segments").mkdir(parents=True)
        for segment in (tmp_path / "store" / "segments").iterdir():
            (root / "segments" / segment.name).write_bytes(segment.read_bytes())
        disk = FaultyDisk(root, fail_at=fail_at)
        try:
            open_on(disk, root)
        except PowerCutError:
            image = disk.image_after_power_loss(tmp_path / f"{fail_at}-image", keep="none")
        else:
            break
        _, store = open_image(image)
        assert store.missing([chunk.id for chunk in chunks]) == set()
        assert store.recovered.bytes_cut == store.recovered.bytes_skipped == 0

    assert fail_at > 5
