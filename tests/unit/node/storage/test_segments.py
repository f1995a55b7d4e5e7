"""Segments: finding frames again after any damage, and appending from several threads."""

import os
import random
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from mcr.errors import OutOfSpaceError, StoreFormatError
from mcr.model import MIB, Buffer, ChunkId, digest
from mcr_node.storage import segments
from mcr_node.storage.disk import Disk, Handle, StorageFailure, UnreadableError
from mcr_node.storage.encodings import Encoding
from mcr_node.storage.frames import header_of
from mcr_node.storage.segment_scan import Found, Stretch, scan
from mcr_node.storage.segments import Coverage, Region, SegmentFiles, SegmentWriter


def frame(plain: bytes) -> bytes:
    """Return a raw frame."""
    return header_of(ChunkId(digest(plain)), Encoding.RAW, plain, len(plain)).pack() + plain


def compressed(plain: bytes, *, name: bytes) -> bytes:
    """Return a frame whose payload passes its checksum, and whose id is computed from something else."""
    payload = zstandard.compress(plain)
    header = header_of(ChunkId(digest(name)), Encoding.ZSTD, payload, len(plain))
    return header.pack() + payload


class MemoryDisk(Disk):
    """One file of bytes, some of which cannot be read."""

    def __init__(self, data: bytes, *, bad: range = range(0)) -> None:
        self.data = data
        self.bad = bad

    def pread(self, handle: Handle, length_bytes: int, offset: int) -> bytes:
        if offset < self.bad.stop and offset + length_bytes > self.bad.start:
            raise UnreadableError("a bad sector")
        return self.data[offset : offset + length_bytes]


def scanned(data: bytes, *, start: int = 0, bad: range = range(0)) -> list[Found | Stretch]:
    return list(scan(MemoryDisk(data, bad=bad), Handle(Path("segment"), -1), start, len(data)))


def payloads(items: Sequence[Found | Stretch]) -> list[bytes]:
    return [item.payload for item in items if isinstance(item, Found)]


def stretches(items: Sequence[Found | Stretch]) -> list[tuple[int, int]]:
    return [(item.offset, item.end) for item in items if isinstance(item, Stretch)]


plains = st.lists(st.binary(max_size=80), min_size=1, max_size=8)


@given(plains)
def test_whole_frames_are_all_found(parts: list[bytes]) -> None:
    data = b"".join(map(frame, parts))

    assert payloads(scanned(data)) == parts
    assert scanned(data, start=len(data)) == []


@given(plains, st.data())
def test_one_damaged_byte_costs_at_most_one_frame(parts: list[bytes], draw: st.DataObject) -> None:
    frames = [frame(part) for part in parts]
    data = bytearray(b"".join(frames))
    at = draw.draw(st.integers(0, len(data) - 1))
    data[at] ^= draw.draw(st.integers(1, 255))
    hit = next(i for i in range(len(frames)) if at < sum(map(len, frames[: i + 1])))

    items = scanned(bytes(data))

    assert payloads(items) == parts[:hit] + parts[hit + 1 :]
    start = sum(map(len, frames[:hit]))
    assert stretches(items) == [(start, start + len(frames[hit]))]


@given(plains, st.integers(min_value=1))
def test_a_torn_tail_is_one_stretch_up_to_the_end(parts: list[bytes], cut: int) -> None:
    data = b"".join(map(frame, parts))
    last = len(frame(parts[-1]))
    data = data[: len(data) - 1 - cut % (last - 1)]

    items = scanned(data)

    assert payloads(items) == parts[:-1]
    assert stretches(items) == [(sum(len(frame(part)) for part in parts[:-1]), len(data))]


@pytest.mark.parametrize("hole_bytes", [1, 55, 56, 1000, MIB - 30, MIB, 3 * MIB])
def test_frames_after_a_hole_are_found_wherever_they_start(hole_bytes: int) -> None:
    data = frame(b"before") + bytes(hole_bytes) + frame(b"after") + frame(b"last")

    items = scanned(data)

    assert payloads(items) == [b"before", b"after", b"last"]
    assert stretches(items) == [(len(frame(b"before")), len(frame(b"before")) + hole_bytes)]


def test_a_frame_inside_a_damaged_payload_is_not_taken_for_a_frame_of_its_own() -> None:
    # A stored chunk may itself be a piece of a segment; its header says where the next frame really is.
    outer = bytearray(frame(frame(b"inner") + b"x"))
    outer[-1] ^= 1

    items = scanned(bytes(outer) + frame(b"next"))

    assert payloads(items) == [b"next"]
    assert stretches(items) == [(0, len(outer))]


def test_after_a_search_only_frames_whose_bytes_hash_to_their_id_count() -> None:
    # Given a damaged header before bytes that somebody made to look like frames
    forged = compressed(b"forged", name=b"another chunk")
    honest = frame(b"honest")
    damaged = bytearray(frame(forged + honest))
    damaged[5] ^= 1

    items = scanned(bytes(damaged) + frame(b"next") + forged)

    assert payloads(items) == [b"honest", b"next"]
    # Where no search was needed, a frame is taken for what its header says; reading it proves it.
    assert payloads(scanned(frame(b"first") + forged)) == [b"first", zstandard.compress(b"forged")]


def test_what_the_medium_cannot_read_costs_only_what_it_hits() -> None:
    parts = [b"one" * 5000, b"two" * 5000, b"three" * 5000]
    one, two, three = map(frame, parts)

    assert payloads(scanned(one + two + three, bad=range(len(one) + 9000, len(one) + 9001))) == parts[::2]
    assert payloads(scanned(one + two + three, bad=range(len(one), len(one) + 512))) == parts[::2]
    assert payloads(scanned(one + two + three, bad=range(len(one + two + three)))) == []


def test_frames_of_a_newer_release_are_never_taken_for_damage() -> None:
    newer = bytearray(frame(b"newer"))
    newer[4] = 2
    newer[52:56] = zlib.crc32(newer[:52]).to_bytes(4, "big")

    with pytest.raises(StoreFormatError):
        scanned(frame(b"first") + bytes(newer))
    assert payloads(scanned(frame(b"first") + b"junk" + bytes(newer) + frame(b"last"))) == [b"first", b"last"]


class CountingDisk(Disk):
    """Counts open descriptors and syncs; syncs and writes can be made to fail."""

    def __init__(self) -> None:
        self.open = 0
        self.synced: list[str] = []
        self.sync_fails = False
        self.fails: list[Exception] = []
        self.free = 1 << 40
        self.asked = 0

    def open_readable(self, path: Path) -> Handle:
        handle = super().open_readable(path)
        self.open += 1
        return handle

    def close(self, handle: Handle) -> None:
        self.open -= 1
        super().close(handle)

    def create(self, path: Path) -> Handle:
        self.open += 1
        return super().create(path)

    def open_writable(self, path: Path) -> Handle:
        self.open += 1
        return super().open_writable(path)

    def pwritev(self, handle: Handle, buffers: Sequence[Buffer], offset: int) -> None:
        if self.fails:
            raise self.fails.pop()
        super().pwritev(handle, buffers, offset)

    def fdatasync(self, handle: Handle) -> None:
        if self.sync_fails:
            raise StorageFailure("the disk is broken")
        self.synced.append(handle.path.name)

    def sync_directory(self, path: Path) -> None:
        self.synced.append("/")

    def free_bytes(self, path: Path) -> int:
        self.asked += 1
        return self.free


@pytest.fixture
def disk() -> Iterator[CountingDisk]:
    counting = CountingDisk()
    yield counting
    assert counting.open == 0


@pytest.fixture
def files(disk: CountingDisk, tmp_path: Path) -> Iterator[SegmentFiles]:
    made = SegmentFiles(disk, tmp_path)
    yield made
    made.close()


@pytest.fixture
def writer(disk: CountingDisk, files: SegmentFiles) -> Iterator[SegmentWriter]:
    made = SegmentWriter(disk, files, active=None, next_number=1, segment_bytes_max=1000, reserve_bytes=5000)
    yield made
    made.close()


def test_appends_fill_a_segment_then_start_the_next(writer: SegmentWriter, files: SegmentFiles) -> None:
    regions = [writer.append([b"a" * 300, b"b" * 100], 400) for _ in range(5)]
    large = writer.append([b"c" * 3000], 3000)

    assert [(r.segment, r.offset) for r in regions] == [(1, 0), (1, 400), (2, 0), (2, 400), (3, 0)]
    assert (large.segment, large.offset) == (4, 0)
    assert files.numbers() == [1, 2, 3, 4]
    assert [files.size_bytes(number) for number in files.numbers()] == [800, 800, 400, 3000]
    assert writer.lengths() == {1: 800, 2: 800, 3: 400, 4: 3000}


def test_sync_covers_each_segment_and_the_folder_once(writer: SegmentWriter, disk: CountingDisk) -> None:
    for _ in range(3):
        writer.append([b"a" * 600], 600)
    writer.sync()
    assert disk.synced == ["00000001.pack", "00000002.pack", "00000003.pack", "/"]

    writer.append([b"a" * 100], 100)
    writer.sync()
    writer.sync()

    assert disk.synced[4:] == ["00000003.pack"]


def test_coverage_stops_at_the_first_region_that_is_not_settled(writer: SegmentWriter) -> None:
    first, second, third = (writer.append([b"a" * 400], 400) for _ in range(3))

    assert writer.coverage([second, third]) == [Coverage(1, 0, False), Coverage(2, 400, False)]
    assert writer.coverage([first]) == [Coverage(1, 400, False), Coverage(2, 0, False)]
    assert writer.coverage([first, second]) == [Coverage(1, 800, True), Coverage(2, 0, False)]
    writer.sync()
    writer.settle([second])
    assert writer.coverage([first]) == [Coverage(1, 800, True), Coverage(2, 0, False)]
    writer.settle([first])
    assert writer.coverage([]) == [Coverage(2, 0, False)]


def test_a_write_without_space_leaves_no_hole_at_the_end(writer: SegmentWriter, disk: CountingDisk) -> None:
    kept = writer.append([b"a" * 100], 100)
    disk.fails = [OutOfSpaceError("segment", "full")]

    with pytest.raises(OutOfSpaceError):
        writer.append([b"b" * 100], 100)
    again = writer.append([b"c" * 50], 50)

    assert (again.segment, again.offset) == (1, 100)
    assert writer.coverage([kept]) == [Coverage(1, 100, False)]
    assert not writer.failed


@pytest.mark.parametrize("at", ["write", "sync"])
def test_after_a_storage_failure_nothing_is_ever_written_or_synced_again(
    writer: SegmentWriter, disk: CountingDisk, at: str
) -> None:
    writer.append([b"a" * 100], 100)
    if at == "write":
        disk.fails = [StorageFailure("the disk is broken")]
        with pytest.raises(StorageFailure):
            writer.append([b"b" * 100], 100)
    else:
        disk.sync_fails = True
        with pytest.raises(StorageFailure):
            writer.sync()
    disk.sync_fails = False

    with pytest.raises(StorageFailure, match="the disk is broken"):
        writer.append([b"c"], 1)
    with pytest.raises(StorageFailure, match="the disk is broken"):
        writer.sync()

    assert disk.synced == []


def test_the_reserve_is_kept_but_for_those_who_may_use_it(writer: SegmentWriter, disk: CountingDisk) -> None:
    disk.free = 5300
    writer.append([b"a" * 200], 200)
    disk.free = 5100

    with pytest.raises(OutOfSpaceError, match="reserve"):
        writer.append([b"b" * 200], 200)
    writer.append([b"b" * 200], 200, use_reserve=True)
    disk.free = 5200
    writer.append([b"c" * 200], 200)


def test_free_space_is_asked_for_once_in_a_while_only(writer: SegmentWriter, disk: CountingDisk) -> None:
    for _ in range(100):
        writer.append([bytes(MIB // 4)], MIB // 4)

    assert disk.asked == 4


def test_the_background_syncs_while_others_write(
    writer: SegmentWriter, disk: CountingDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "BACKGROUND_SYNC_BYTES", 10_000)
    writer.append([b"a" * 9_000], 9_000)
    assert disk.synced == []

    writer.append([b"a" * 9_000], 9_000)
    while not disk.synced:
        writer.append([b"a" * 100], 100)

    writer.sync()
    assert disk.synced[-1] == "/"


def test_a_failure_in_the_background_reaches_the_next_caller(
    writer: SegmentWriter, disk: CountingDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "BACKGROUND_SYNC_BYTES", 10_000)
    disk.sync_fails = True
    writer.append([b"a" * 10_000], 10_000)
    while not writer.failed:
        os.sched_yield()
    with pytest.raises(StorageFailure, match="the disk is broken"):
        writer.append([b"a"], 1)
    disk.sync_fails = False

    with pytest.raises(StorageFailure):
        writer.sync()


def test_threads_never_write_over_each_other(writer: SegmentWriter, files: SegmentFiles) -> None:
    def append(number: int) -> tuple[Region, bytes]:
        data = number.to_bytes(2, "big") * random.Random(number).randint(1, 200)
        return writer.append([data], len(data)), data

    with ThreadPoolExecutor(4) as pool:
        written = list(pool.map(append, range(300)))

    for region, data in written:
        assert files.path(region.segment).read_bytes()[region.offset :][: region.length_bytes] == data
    writer.sync()
    writer.settle([region for region, _ in written])
    assert len(writer.lengths()) == 1


def test_a_writer_goes_on_where_the_last_segment_ends(disk: CountingDisk, files: SegmentFiles) -> None:
    files.path(7).write_bytes(b"x" * 600)
    writer = SegmentWriter(
        disk, files, active=(7, 600), next_number=8, segment_bytes_max=1000, reserve_bytes=0
    )

    regions = [writer.append([b"y" * 300], 300) for _ in range(2)]
    writer.close()

    assert [(r.segment, r.offset) for r in regions] == [(7, 600), (8, 0)]


def test_few_descriptors_stay_open_however_many_segments_are_read(
    disk: CountingDisk, files: SegmentFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "OPEN_FILES_MAX", 3)
    for number in range(1, 11):
        files.path(number).write_bytes(bytes(number))

    assert [files.size_bytes(number) for number in range(1, 11)] == list(range(1, 11))
    assert disk.open == 3
    with ExitStack() as all_at_once:
        handles = [all_at_once.enter_context(files.reading(number)) for number in range(1, 11)]
        assert [disk.size_bytes(handle) for handle in handles] == list(range(1, 11))
    assert disk.open == 3


def test_a_descriptor_in_use_is_not_closed_under_its_reader(disk: CountingDisk, files: SegmentFiles) -> None:
    files.path(1).write_bytes(b"still readable")

    with files.reading(1) as handle:
        disk.unlink(files.path(1))
        files.forget(1)
        assert disk.pread(handle, 100, 0) == b"still readable"
        assert disk.open == 1

    assert disk.open == 0
    with pytest.raises(UnreadableError), files.reading(1):
        pass
    files.forget(1)


def test_other_files_in_the_folder_are_left_alone(files: SegmentFiles) -> None:
    for name in ("00000003.pack", "00000001.pack", "notes.txt", "x.pack", "٣.pack"):
        (files.directory / name).touch()

    assert files.numbers() == [1, 3]
