"""The real disk: what each failure of the system is called."""

import os
from pathlib import Path

import pytest

from mcr.direct_writes import BUFFERS_PER_WRITE_MAX
from mcr.errors import FailedError, OutOfSpaceError
from mcr.model import KIB, MIB
from mcr_node.storage import disk as disks
from mcr_node.storage.disk import Disk, Handle, StorageFailure, UnreadableError, read_ahead_bytes

disk = Disk()


def test_buffers_are_written_one_after_the_other_whatever_their_number(tmp_path: Path) -> None:
    handle = disk.create(tmp_path / "file")
    buffers = [b"%d," % number for number in range(BUFFERS_PER_WRITE_MAX + 10)]

    disk.pwritev(handle, [b"", *buffers, memoryview(b"end")], 3)
    disk.fdatasync(handle)

    written = b"".join(buffers) + b"end"
    assert disk.pread(handle, 1 << 20, 0) == bytes(3) + written
    assert disk.size_bytes(handle) == 3 + len(written)
    disk.close(handle)


def test_a_write_that_the_system_cuts_short_is_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = disk.create(tmp_path / "file")
    whole = os.pwritev

    def seven_bytes(descriptor: int, buffers: list[memoryview], offset: int, _flags: int) -> int:
        return whole(descriptor, [memoryview(b"".join(buffers))[:7]], offset)

    monkeypatch.setattr(os, "pwritev", seven_bytes)
    disk.pwritev(handle, [b"first buffer", b"", b"second", b"third"], 0)

    assert disk.pread(handle, 100, 0) == b"first buffersecondthird"
    disk.close(handle)


def test_a_read_that_the_system_cuts_short_is_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = disk.create(tmp_path / "file")
    disk.pwritev(handle, [b"0123456789"], 0)
    whole = os.pread
    monkeypatch.setattr(
        os, "pread", lambda descriptor, length, offset: whole(descriptor, min(length, 3), offset)
    )

    assert disk.pread(handle, 8, 1) == b"12345678"
    assert disk.pread(handle, 8, 5) == b"56789"
    disk.close(handle)


@pytest.mark.parametrize(
    ("window_bytes", "length_bytes", "advice"),
    [
        (8 * MIB, 8 * MIB, os.POSIX_FADV_SEQUENTIAL),
        (8 * MIB, 64 * KIB, os.POSIX_FADV_WILLNEED),
        (128 * KIB, 8 * MIB, os.POSIX_FADV_WILLNEED),
    ],
    ids=("long, seen far ahead", "short", "long, seen a little ahead"),
)
def test_a_long_stretch_is_left_to_a_kernel_that_reads_as_far_ahead_and_any_other_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, window_bytes: int, length_bytes: int, advice: int
) -> None:
    given: list[tuple[int, int, int]] = []
    monkeypatch.setattr(disks, "read_ahead_bytes", lambda _device: window_bytes)
    monkeypatch.setattr(os, "posix_fadvise", lambda _descriptor, *rest: given.append(rest))
    handle = disk.create(tmp_path / "file")

    disk.read_ahead(handle, length_bytes, 4096)

    assert given == [(4096, length_bytes, advice)]
    disk.close(handle)


def test_a_device_has_its_own_window_a_partition_that_of_its_disk_and_an_unknown_one_none(
    tmp_path: Path,
) -> None:
    for folder, kib in (("class/bdi/0:42", 15360), ("devices/sda/bdi", 128)):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "read_ahead_kb").write_text(f"{kib}\n")
    (tmp_path / "devices/sda/sda1").mkdir()
    (tmp_path / "dev/block").mkdir(parents=True)
    (tmp_path / "dev/block/8:1").symlink_to(tmp_path / "devices/sda/sda1")

    assert read_ahead_bytes(os.makedev(0, 42), tmp_path) == 15 * MIB
    assert read_ahead_bytes(os.makedev(8, 1), tmp_path) == 128 * KIB
    assert read_ahead_bytes(os.makedev(8, 2), tmp_path) == 0


def test_a_full_disk_is_out_of_space() -> None:
    handle = disk.open_writable(Path("/dev/full"))

    with pytest.raises(OutOfSpaceError):
        disk.pwritev(handle, [b"data"], 0)
    disk.close(handle)


def test_every_other_failure_to_write_ends_the_use_of_the_disk(tmp_path: Path) -> None:
    handle = disk.create(tmp_path / "file")
    disk.close(handle)
    closed = Handle(handle.path, 1_000_000)

    for action in (
        lambda: disk.pwritev(closed, [b"data"], 0),
        lambda: disk.truncate(closed, 0),
        lambda: disk.fdatasync(closed),
        lambda: disk.create(handle.path),
        lambda: disk.open_writable(tmp_path / "none"),
        lambda: disk.sync_directory(tmp_path / "none"),
        lambda: disk.rename(tmp_path / "none", tmp_path / "other"),
        lambda: disk.unlink(tmp_path),
        lambda: disk.make_directory(handle.path / "below"),
    ):
        with pytest.raises(StorageFailure):
            action()


def test_a_file_that_is_gone_is_unreadable_and_other_failures_say_nothing_about_its_bytes(
    tmp_path: Path,
) -> None:
    with pytest.raises(UnreadableError):
        disk.open_readable(tmp_path / "none")
    with pytest.raises(FailedError):
        disk.open_readable(tmp_path / ("long" * 1000))
    with pytest.raises(FailedError):
        disk.pread(Handle(tmp_path, 1_000_000), 1, 0)


def test_a_medium_that_fails_is_unreadable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    handle = disk.create(tmp_path / "file")

    def fail(descriptor: int, length: int, offset: int) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "pread", fail)
    with pytest.raises(UnreadableError):
        disk.pread(handle, 1, 0)
    disk.close(handle)


def test_names_can_be_listed_renamed_and_removed(tmp_path: Path) -> None:
    disk.make_directory(tmp_path / "a" / "b")
    for name in ("two", "one"):
        disk.close(disk.create(tmp_path / "a" / name))

    disk.rename(tmp_path / "a" / "two", tmp_path / "a" / "three")
    disk.unlink(tmp_path / "a" / "one")
    disk.unlink(tmp_path / "a" / "one")
    disk.sync_directory(tmp_path / "a")

    assert disk.list_names(tmp_path / "a") == ["b", "three"]
    assert disk.exists(tmp_path / "a" / "three")
    assert not disk.exists(tmp_path / "a" / "two")
    assert disk.free_bytes(tmp_path) > 0
