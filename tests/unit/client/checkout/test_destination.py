import errno
import fcntl
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mcr.errors import (
    CorruptChunkError,
    DestinationError,
    OutOfSpaceError,
)
from mcr.manifest import PARTIAL_FOLDER, STORE_FOLDER, FileRow, ManifestBuilder, encode_node
from mcr.manifest.nodes import FilesLeaf
from mcr.model import MIB, Chunk, ChunkId, ChunkRef, EntryKind, FileEntry, digest
from tests.unit.client.checkout.samples import CHUNK_BYTES, Files, Store, noise, run, state, write


def test_two_checkouts_into_one_folder_do_not_meet(store: Store, source: Path, target: Path) -> None:
    root = store.commit(source)
    (target / PARTIAL_FOLDER).mkdir(parents=True)
    with (target / PARTIAL_FOLDER / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(DestinationError, match="another checkout"):
            run(store, root, target)
        assert (target / PARTIAL_FOLDER / "lock").exists()
    run(store, root, target)
    assert state(target) == state(source)


@pytest.mark.parametrize("delete", [False, True])
def test_a_link_where_a_folder_must_be_is_never_followed(
    store: Store, tmp_path: Path, target: Path, *, delete: bool
) -> None:
    outside = write(tmp_path / "outside", {"passwd": b"root"})
    root = store.commit(write(tmp_path / "source", {"a/passwd": b"evil", "b/large": noise(1, 2 * MIB)}))
    target.mkdir(parents=True)
    (target / "a").symlink_to(outside)
    (target / "b").symlink_to(outside)
    if delete:
        assert run(store, root, target, delete=True).files_deleted == 2
        assert state(target) == state(tmp_path / "source")
    else:
        with pytest.raises(DestinationError, match="in the way"):
            run(store, root, target)
    assert state(outside) == {"passwd": ("file", 0o644, b"root")}


def test_a_link_where_a_file_must_be_is_replaced_not_written_through(
    store: Store, tmp_path: Path, target: Path
) -> None:
    outside = write(tmp_path / "outside", {"f": b"same!"})
    root = store.commit(write(tmp_path / "source", {"f": b"same!", "g": b"other"}))
    target.mkdir(parents=True)
    for name in "fg":
        (target / name).symlink_to(outside / "f")
    run(store, root, target)
    assert state(target) == state(tmp_path / "source")
    assert (outside / "f").read_bytes() == b"same!"


def test_a_fifo_where_a_file_must_be_does_not_hang(store: Store, tmp_path: Path, target: Path) -> None:
    root = store.commit(write(tmp_path / "source", {"f": b""}))
    target.mkdir(parents=True)
    os.mkfifo(target / "f")
    run(store, root, target)
    assert (target / "f").is_file()


def test_a_file_where_a_folder_must_be_is_kept_unless_delete(
    store: Store, tmp_path: Path, target: Path
) -> None:
    root = store.commit(write(tmp_path / "source", {"a/b": b"new"}))
    write(target, {"a": b"mine"})
    with pytest.raises(DestinationError, match="in the way") as caught:
        run(store, root, target)
    assert caught.value.path == str(target / "a")
    assert (target / "a").read_bytes() == b"mine"
    assert run(store, root, target, delete=True).files_deleted == 1
    assert (target / "a/b").read_bytes() == b"new"


def test_a_folder_where_a_file_must_be_goes_if_empty_and_else_is_kept_unless_delete(
    store: Store, tmp_path: Path, target: Path
) -> None:
    folder = write(tmp_path / "source", {"f": b"file"})
    (folder / "l").symlink_to("f")
    root = store.commit(folder)
    outside = write(tmp_path / "outside", {"precious": b"p"})
    (target / "f").mkdir(parents=True)
    (target / "l").mkdir()
    run(store, root, target)
    assert state(target) == state(folder)

    (target / "f").unlink()
    write(target, {"f/sub/x": b"mine"})
    (target / "f/outside").symlink_to(outside)
    with pytest.raises(DestinationError, match="not empty"):
        run(store, root, target)
    assert (target / "f/sub/x").read_bytes() == b"mine"
    assert run(store, root, target, delete=True).files_deleted == 2
    assert state(target) == state(folder)
    assert (outside / "precious").exists()


def test_a_folder_with_a_store_in_it_is_never_replaced(store: Store, tmp_path: Path, target: Path) -> None:
    root = store.commit(write(tmp_path / "source", {"f": b"file"}))
    write(target, {"f/sub/.mcr/log": b"store", "f/x": b"x"})
    with pytest.raises(DestinationError, match="store"):
        run(store, root, target, delete=True)
    assert (target / "f/sub/.mcr/log").exists()
    assert (target / "f/x").exists()


def test_a_destination_that_is_no_folder_is_refused(store: Store, source: Path, tmp_path: Path) -> None:
    root = store.commit(source)
    write(tmp_path, {"file": b""})
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(DestinationError):
            run(store, root, place)
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / PARTIAL_FOLDER).symlink_to(tmp_path)
    with pytest.raises(DestinationError):
        run(store, root, tmp_path / "odd")


def test_a_destination_may_itself_be_a_link(store: Store, source: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    run(store, store.commit(source), tmp_path / "link")
    assert state(tmp_path / "real") == state(source)


def test_a_name_too_long_for_the_file_system_is_named(store: Store, target: Path) -> None:
    builder = ManifestBuilder(store.emit)
    builder.add(FileEntry("x" * 300 + "/y", EntryKind.SYMLINK, target="y"))
    with pytest.raises(DestinationError, match="too long"):
        run(store, builder.finish().root, target)


# Damage and malice.


def test_a_manifest_that_lies_about_lengths_is_corrupt(store: Store, target: Path) -> None:
    chunk = Chunk.of(b"12345")
    store.emit(chunk)
    entry = FileEntry("f", EntryKind.FILE, size_bytes=4, blake3=bytes(32), sha256=bytes(32), chunk_count=1)
    node = Chunk.of(encode_node(FilesLeaf((FileRow(entry, (ChunkRef(chunk.id, 4),)),))))
    store.emit(node)
    with pytest.raises(CorruptChunkError, match="manifest says 4"):
        run(store, node.id, target)


def test_a_damaged_manifest_writes_nothing(store: Store, source: Path, target: Path) -> None:
    root = store.commit(source)
    store.chunks[root] = store.chunks[root][:-1]
    with pytest.raises(CorruptChunkError):
        run(store, root, target)
    assert not target.exists()


@pytest.mark.parametrize("length_bytes", [1000, 2 * MIB])
def test_verify_finds_a_file_that_reads_back_wrong_and_it_does_not_appear(
    store: Store, tmp_path: Path, target: Path, length_bytes: int
) -> None:
    root = store.commit(write(tmp_path / "source", {"f": noise(1, length_bytes)}))
    first = ChunkId(digest(noise(1, length_bytes)[:CHUNK_BYTES]))
    store.chunks[first] = bytes(len(store.chunks[first]))
    with pytest.raises(CorruptChunkError, match=str(target / "f")):
        run(store, root, target, verify=True)
    assert not (target / "f").exists()


@pytest.mark.parametrize("length_bytes", [1000, 2 * MIB])
def test_after_a_failed_sync_the_partial_file_is_not_believed(
    store: Store, tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch, length_bytes: int
) -> None:
    root = store.commit(write(tmp_path / "source", {"f": noise(1, length_bytes)}))

    def fail(_descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    # No disk can be made to fail on demand without a device of its own.
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fail)
        with pytest.raises(DestinationError, match="input/output"):
            run(store, root, target, sync=True)
    assert list(target.iterdir()) == []
    run(store, root, target)
    assert (target / "f").read_bytes() == noise(1, length_bytes)


class Calls:
    """Syncs and renames in the order in which they were made; the real ones are made as well."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.made: list[str] = []
        for name in ("fsync", "fdatasync", "rename"):
            patch.setattr(os, name, self._noting(name, getattr(os, name)))

    def _noting(self, name: str, call: Callable[..., None]) -> Callable[..., None]:
        def noted(*args: object, **kwargs: object) -> None:
            self.made.append(name)
            call(*args, **kwargs)

        return noted


@pytest.mark.parametrize("length_bytes", [1000, 2 * MIB])
@pytest.mark.parametrize(
    ("there", "sync", "verify"),
    [
        ({}, True, False),
        ({}, False, True),
        ({"f": b"what they serve now"}, False, False),
        ({"below/g": b"deleted once the new one is there"}, False, False),
    ],
)
def test_a_file_is_synced_before_it_takes_its_name_where_asked_and_where_something_could_be_lost(
    store: Store,
    tmp_path: Path,
    target: Path,
    monkeypatch: pytest.MonkeyPatch,
    length_bytes: int,
    *,
    there: Files,
    sync: bool,
    verify: bool,
) -> None:
    root = store.commit(write(tmp_path / "source", {"f": noise(1, length_bytes)}))
    write(target, there)
    calls = Calls(monkeypatch)
    run(store, root, target, sync=sync, verify=verify, delete=True)
    before, after = calls.made[: calls.made.index("rename")], calls.made[calls.made.index("rename") :]
    assert before[-1:] == ["fdatasync"]
    assert after.count("rename") == 1
    assert "fsync" in after


@pytest.mark.parametrize("length_bytes", [1000, 2 * MIB])
def test_into_an_empty_folder_nothing_waits_for_the_disk_and_a_torn_file_is_found_by_the_next(
    store: Store, tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch, length_bytes: int
) -> None:
    root = store.commit(write(tmp_path / "source", {"f": noise(1, length_bytes)}))
    # A store in the folder is none of the files that are replaced.
    (target / STORE_FOLDER).mkdir(parents=True)
    with monkeypatch.context() as patch:
        calls = Calls(patch)
        run(store, root, target)
    assert calls.made == ["rename"]
    # As a file system may leave it that lost power: the length is there, the bytes are not.
    (target / "f").write_bytes(bytes(length_bytes))
    result = run(store, root, target)
    assert (result.files_written, result.files_unchanged) == (1, 0)
    assert (target / "f").read_bytes() == noise(1, length_bytes)


@pytest.mark.parametrize("length_bytes", [1000, 2 * MIB])
def test_a_sync_that_is_asked_for_holds_for_what_an_earlier_checkout_left_to_the_system(
    store: Store, tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch, length_bytes: int
) -> None:
    root = store.commit(write(tmp_path / "source", {"a/b/f": noise(1, length_bytes)}))
    run(store, root, target)
    made = Calls(monkeypatch).made
    run(store, root, target)
    assert made == []
    result = run(store, root, target, sync=True)
    assert result.files_unchanged == 1
    # The file, the three folders with a name of the version in them, and the one that the destination is in.
    assert made == ["fsync"] * 5


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("may not mount a file system here")
    yield place
    subprocess.run(["umount", place], check=True)


@pytest.mark.root
@pytest.mark.parametrize("length_bytes", [700_000, 2 * MIB])
def test_a_full_disk_is_named_and_after_freeing_space_it_goes_on(
    store: Store, tmp_path: Path, small_disk: Path, length_bytes: int
) -> None:
    root = store.commit(write(tmp_path / "source", {"f": noise(1, length_bytes)}))
    write(small_disk, {"ballast": bytes(600_000)})
    with pytest.raises(OutOfSpaceError) as caught:
        run(store, root, small_disk / "out")
    assert caught.value.path == str(small_disk / "out/f")
    subprocess.run(["mount", "-o", "remount,size=8m", small_disk], check=True)
    run(store, root, small_disk / "out")
    assert (small_disk / "out/f").read_bytes() == noise(1, length_bytes)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_named(store: Store, source: Path, target: Path) -> None:
    target.mkdir(parents=True)
    target.chmod(0o500)
    with pytest.raises(DestinationError, match="permission"):
        run(store, store.commit(source), target)
    target.chmod(0o700)
