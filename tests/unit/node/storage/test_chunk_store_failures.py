"""The pack chunk store on a disk that fails or is full; it stops, or refuses, and loses nothing."""

import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import pytest

from mcr.errors import (
    CorruptChunkError,
    OutOfSpaceError,
    StoreFormatError,
)
from mcr.model import MIB, Chunk, ChunkId
from mcr_node.storage.chunk_store import PackChunkStore
from mcr_node.storage.disk import Disk, StorageFailure
from tests.faults import FaultyDisk

SEGMENT_BYTES = 4096


def open_store(
    path: Path, *, disk: Disk | None = None, encoding: Literal["raw", "auto"] = "raw", reserve_bytes: int = 0
) -> PackChunkStore:
    return PackChunkStore.open(
        path,
        encoding=encoding,
        disk=disk or Disk(),
        segment_bytes_max=SEGMENT_BYTES,
        reserve_bytes=reserve_bytes,
    )


def numbered(count: int, *, size: int = 500, start: int = 0) -> list[Chunk]:
    return [Chunk.of(number.to_bytes(4, "big") * (size // 4)) for number in range(start, start + count)]


def ids_of(chunks: Sequence[Chunk]) -> list[ChunkId]:
    return [chunk.id for chunk in chunks]


def segment_paths(path: Path) -> list[Path]:
    return sorted((path / "segments").iterdir())


def assert_all_held(store: PackChunkStore, chunks: Sequence[Chunk]) -> None:
    assert [store.get(chunk.id) for chunk in chunks] == [bytes(chunk.data) for chunk in chunks]


def put_and_sync(store: PackChunkStore, chunks: Sequence[Chunk]) -> None:
    store.put(chunks)
    store.sync()


def open_on(disk: FaultyDisk, path: Path) -> PackChunkStore:
    return PackChunkStore.open(
        path,
        encoding="raw",
        disk=disk,
        segment_bytes_max=SEGMENT_BYTES,
        reserve_bytes=0,
        open_database=disk.open_database,
    )


@pytest.mark.parametrize("operation", ["pwritev", "fdatasync", "sync_directory", "index write", "index sync"])
def test_after_a_storage_failure_reads_go_on_and_everything_else_refuses(
    tmp_path: Path, operation: str
) -> None:
    disk = FaultyDisk(tmp_path, failure=lambda name: StorageFailure(f"{name} failed"))
    store = open_on(disk, tmp_path)
    kept, lost = numbered(2, size=SEGMENT_BYTES)
    put_and_sync(store, [kept])

    # Given one failure, after which the disk would work again
    disk.fail_next = operation
    with pytest.raises(StorageFailure, match=f"{operation} failed"):
        put_and_sync(store, [lost])

    done = disk.operations
    for act in (
        lambda: store.put([lost]),
        store.sync,
        lambda: store.remove([kept.id]),
        lambda: store.compact(live_share_min=1.0),
    ):
        with pytest.raises(StorageFailure, match=f"{operation} failed"):
            act()
    assert store.get(kept.id) == kept.data
    store.close()
    assert disk.operations == done


def test_a_store_that_failed_serves_no_damaged_chunk_either(tmp_path: Path) -> None:
    disk = FaultyDisk(tmp_path, failure=StorageFailure)
    store = open_on(disk, tmp_path)
    chunk, other = numbered(2)
    put_and_sync(store, [chunk])
    disk.fail_next = "pwritev"
    with pytest.raises(StorageFailure):
        store.put([other])
    segment_paths(tmp_path)[0].write_bytes(bytes(1000))

    for _ in range(2):
        with pytest.raises(CorruptChunkError):
            store.get(chunk.id)
    store.close()


def test_a_full_disk_refuses_puts_and_nothing_that_was_acknowledged_is_lost(tmp_path: Path) -> None:
    disk = FaultyDisk(tmp_path, failure=lambda name: OutOfSpaceError(name, "full"))
    store = open_on(disk, tmp_path)
    chunks = numbered(30)
    put_and_sync(store, chunks[:10])
    for operation in ("pwritev", "create", "index write", "index sync"):
        disk.fail_next = operation
        with pytest.raises(OutOfSpaceError):
            put_and_sync(store, chunks)
        assert_all_held(store, chunks[:10])

    put_and_sync(store, chunks)

    assert_all_held(store, chunks)
    store.close()


def test_the_reserve_is_left_for_others(tmp_path: Path) -> None:
    store = open_store(tmp_path, reserve_bytes=1 << 60)

    with pytest.raises(OutOfSpaceError, match="reserve"):
        store.put(numbered(1))

    store.close()


@pytest.fixture
def small_file_system(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("mounting a file system needs root")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", tmp_path], check=False)
    if mounted.returncode != 0:
        pytest.skip("mounting is not allowed here")
    yield tmp_path
    subprocess.run(["umount", tmp_path], check=True)


def put_until_full(store: PackChunkStore, chunks: Sequence[Chunk]) -> int:
    """Return how many chunks were acknowledged."""
    for number, chunk in enumerate(chunks):
        try:
            put_and_sync(store, [chunk])
        except OutOfSpaceError:
            return number
    raise AssertionError("the disk never got full")


@pytest.mark.root
@pytest.mark.parametrize("reserve_bytes", [0, 2 * MIB])
def test_a_disk_that_runs_full_loses_nothing_and_works_again_when_space_is_freed(
    small_file_system: Path, reserve_bytes: int
) -> None:
    ballast = small_file_system / "ballast"
    ballast.write_bytes(bytes(8 * MIB))
    path = small_file_system / "store"
    store = open_store(path, reserve_bytes=reserve_bytes)
    chunks = numbered(100, size=256 * 1024)
    # When puts and syncs go on until the disk is full
    acknowledged = put_until_full(store, chunks)
    assert acknowledged > 4
    assert_all_held(store, chunks[:acknowledged])
    store.close()

    # Then all that was acknowledged is there, on the full disk and after space was freed
    ballast.unlink()
    store = open_store(path, reserve_bytes=reserve_bytes)
    assert store.missing(ids_of(chunks[:acknowledged])) == set()
    put_and_sync(store, chunks[: acknowledged + 8])
    assert_all_held(store, chunks[: acknowledged + 8])
    assert not any(one.is_damaged for one in store.scrub())
    store.close()


def test_a_store_of_a_newer_release_is_not_touched(tmp_path: Path) -> None:
    disk = FaultyDisk(tmp_path, rows={b"mformat": (2).to_bytes(4, "big")})

    with pytest.raises(StoreFormatError):
        open_on(disk, tmp_path)

    assert disk.operations == 0
