"""What goes wrong while a store is in use: files that change, disks that fill up, callers that retry."""

import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import mcr
from mcr import errors
from mcr.committing import CommitProgress
from mcr.model import MIB, RefKind


@pytest.fixture
def store(tmp_path: Path) -> Path:
    mcr.init(tmp_path / "store", encoding="raw")
    return tmp_path / "store"


def write_noise(path: Path, size_bytes: int) -> Path:
    path.write_bytes(os.urandom(size_bytes))
    return path


def test_a_file_that_changes_while_it_is_read_is_told_and_nothing_is_committed(
    store: Path, tmp_path: Path
) -> None:
    source = write_noise(tmp_path / "weights.bin", 24 * MIB)
    changed = threading.Event()

    def change(progress: CommitProgress) -> None:
        if progress.bytes_done and not changed.is_set():
            changed.set()
            with source.open("r+b") as file:
                file.write(b"another")

    with mcr.connect(store) as client:
        model = client.model("a/b")
        with pytest.raises(errors.SourceChangedError, match=r"weights\.bin"):
            model.commit(source, message="torn", progress=change)
        assert client.models() == []
        assert model.commit(source, message="whole").number == 1
        with model.open("v1", "weights.bin") as file:
            assert file.read() == source.read_bytes()


def test_a_file_that_shrinks_while_it_is_read_is_told(store: Path, tmp_path: Path) -> None:
    source = write_noise(tmp_path / "weights.bin", 80 * MIB)
    cut = threading.Event()

    def change(progress: CommitProgress) -> None:
        if progress.bytes_done and not cut.is_set():
            cut.set()
            os.truncate(source, MIB)

    with mcr.connect(store) as client, pytest.raises(errors.SourceChangedError):
        client.model("a/b").commit(source, message="cut", progress=change)


def test_a_retry_with_the_same_request_id_commits_once(store: Path, tmp_path: Path) -> None:
    source = write_noise(tmp_path / "weights.bin", MIB)
    with mcr.connect(store) as client:
        model = client.model("a/b")
        first = model.commit(source, message="once", request_id="job-17")
        again = model.commit(source, message="once", request_id="job-17")
        assert (again.number, again.id) == (first.number, first.id)
        assert [version.number for version in model.log()] == [1]
        with pytest.raises(errors.RequestReusedError):
            model.commit(source, message="another", request_id="job-17")


def test_a_chunk_that_is_damaged_is_never_served_and_is_healed_by_a_new_commit(
    store: Path, tmp_path: Path
) -> None:
    source = write_noise(tmp_path / "weights.bin", 3 * MIB)
    with mcr.connect(store) as client:
        client.model("a/b").commit(source, message="good")
    (segment,) = (store / "chunks" / "segments").iterdir()
    with segment.open("r+b") as file:
        # One byte is of one chunk; several may lie across the border of two.
        file.seek(2 * MIB)
        byte = file.read(1)[0]
        file.seek(2 * MIB)
        file.write(bytes((byte ^ 0xFF,)))
    with mcr.connect(store) as client:
        model = client.model("a/b")
        with pytest.raises(errors.LostChunkError) as raised:
            model.checkout("v1", tmp_path / "out")
        assert (raised.value.files, raised.value.versions) == ("weights.bin", "a/b@v1")
        assert not (tmp_path / "out" / "weights.bin").exists()
        report = client.check()
        assert len(report.chunks_damaged) == 1
        assert report.versions_affected == ("a/b@v1",)
        model.commit(source, message="the same bytes again")
        assert client.check().chunks_damaged == ()
        model.checkout("v1", tmp_path / "out", verify=True)
        assert (tmp_path / "out" / "weights.bin").read_bytes() == source.read_bytes()


def test_one_store_is_opened_by_one_at_a_time(store: Path) -> None:
    with mcr.connect(store), pytest.raises(errors.StoreBusyError) as raised:
        mcr.connect(store)
    assert raised.value.process_id == os.getpid()
    mcr.connect(store).close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    mount = tmp_path / "disk"
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=120m", "tmpfs", str(mount)], check=True)
    yield mount
    subprocess.run(["umount", str(mount)], check=True)


@pytest.mark.root
def test_a_full_disk_refuses_commits_lets_channels_roll_back_and_goes_on_when_freed(
    small_disk: Path, tmp_path: Path
) -> None:
    small = write_noise(tmp_path / "small.bin", MIB)
    large = write_noise(tmp_path / "large.bin", 64 * MIB)
    mcr.init(small_disk / "store", encoding="raw")
    with mcr.connect(small_disk / "store") as client:
        model = client.model("a/b")
        model.commit(small, message="one")
        model.commit(small, message="two", params={"step": 2})
        channel = model.channel("production")
        channel.set("v1")
        channel.set("v2")
        with pytest.raises(errors.OutOfSpaceError):
            model.commit(large, message="too large")
        # Rollback is always possible.
        assert channel.rollback(reason="disk full").number == 1
        assert [version.number for version in model.log()] == [2, 1]
        subprocess.run(["mount", "-o", "remount,size=400m", str(small_disk)], check=True)
        version = model.commit(large, message="fits now")
        assert version.bytes_sent < 64 * MIB, "what was stored before is not sent again"
    with mcr.connect(small_disk / "store") as client:
        assert client.check().chunks_damaged == ()
        assert client.model("a/b").channel("production").get().number == 1


def test_history_answers_what_was_deployed_when(store: Path, tmp_path: Path) -> None:
    source = write_noise(tmp_path / "weights.bin", 1000)
    with mcr.connect(store) as client:
        model = client.model("a/b")
        for step in range(3):
            model.commit(source, message=f"step {step}", params={"step": step})
        channel = model.channel("production")
        for name in ("v1", "v2", "v3"):
            channel.set(name)
        channel.rollback(reason="one")
        assert channel.rollback(reason="two").number == 1
        moves = model.history(RefKind.CHANNEL, "production")
        assert [(move.generation, move.number, move.verb) for move in moves] == [
            (5, 1, "rollback"),
            (4, 2, "rollback"),
            (3, 3, "set"),
            (2, 2, "set"),
            (1, 1, "set"),
        ]
        assert channel.at(mcr.model.datetime_of(moves[-1].at_ms - 1)) is None
        latest = channel.at(mcr.model.datetime_of(moves[0].at_ms + 1))
        assert latest is not None
        assert latest.number == 1


def test_tensors_and_ranges_are_read_lazily(store: Path, tmp_path: Path) -> None:
    numpy = pytest.importorskip("numpy")
    safetensors = pytest.importorskip("safetensors.numpy")
    weight = numpy.arange(600_000, dtype=numpy.float32).reshape(600, 1000)
    safetensors.save_file({"w": weight, "b": weight[0]}, tmp_path / "model.safetensors")
    with mcr.connect(store) as client:
        model = client.model("a/b")
        model.commit(tmp_path / "model.safetensors", message="one")
        tensors = model.tensors("v1")
        assert sorted(tensors) == ["b", "w"]
        assert numpy.array_equal(tensors["w"], weight)
        with pytest.raises(KeyError):
            tensors["absent"]
        data = (tmp_path / "model.safetensors").read_bytes()
        with model.open("main", "model.safetensors") as file:
            file.seek(1_000_000)
            assert file.read(10) == data[1_000_000:1_000_010]
            assert file.seek(-5, os.SEEK_END) == len(data) - 5
            assert file.read() == data[-5:]
        with pytest.raises(errors.PathNotFoundError):
            model.open("v1", "nothing")
