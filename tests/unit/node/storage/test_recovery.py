"""Opening a chunk store whose segments or index are not as they were left."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from mcr.errors import MissingChunkError
from mcr.model import Chunk, ChunkId, digest
from mcr_node.storage.chunk_store import PackChunkStore
from mcr_node.storage.database import Database
from mcr_node.storage.disk import Disk
from mcr_node.storage.encodings import Encoding
from mcr_node.storage.frames import header_of
from mcr_node.storage.recovery import RecoveryReport

SEGMENT_BYTES = 1500


def open_real(path: Path) -> PackChunkStore:
    return PackChunkStore.open(
        path, encoding="raw", disk=Disk(), segment_bytes_max=SEGMENT_BYTES, reserve_bytes=0
    )


def filled(path: Path, chunks: Sequence[Chunk]) -> list[Path]:
    """Make a store of chunks, and return its segments."""
    store = open_real(path)
    for chunk in chunks:
        store.put([chunk])
    store.close()
    return sorted((path / "segments").iterdir())


def fixed(count: int) -> list[Chunk]:
    """Return chunks whose frames take 300 bytes each, five to a segment."""
    return [Chunk.of(number.to_bytes(4, "big") * 61) for number in range(count)]


def frame_bytes(chunk: Chunk, *, chunk_id: ChunkId | None = None) -> bytes:
    data = bytes(chunk.data)
    return header_of(chunk_id or chunk.id, Encoding.RAW, data, len(data)).pack() + data


def test_torn_tail_is_cut_and_earlier_chunks_survive(tmp_path: Path) -> None:
    chunks = fixed(3)
    segment = filled(tmp_path, chunks)[0]
    unknown = Chunk.of(b"unknown to the index")
    with segment.open("ab") as file:
        file.write(frame_bytes(unknown) + frame_bytes(chunks[0])[:150])

    store = open_real(tmp_path)

    assert store.recovered == RecoveryReport(segments_read=1, frames_reindexed=1, bytes_cut=150)
    assert segment.stat().st_size == 900 + len(frame_bytes(unknown))
    assert [store.get(chunk.id) for chunk in [*chunks, unknown]] == [c.data for c in [*chunks, unknown]]
    assert store.stats().quarantined == 0
    store.close()
    store = open_real(tmp_path)
    assert store.recovered == RecoveryReport()
    store.close()


def test_whole_frames_after_a_damaged_stretch_are_kept(tmp_path: Path) -> None:
    segment = filled(tmp_path, fixed(2))[0]
    later = Chunk.of(b"later")
    with segment.open("ab") as file:
        file.write(bytes(100) + frame_bytes(later))

    store = open_real(tmp_path)

    assert store.recovered == RecoveryReport(segments_read=1, frames_reindexed=1, bytes_skipped=100)
    assert store.get(later.id) == b"later"
    # New frames go behind it, and the stretch is dead space until compaction.
    store.put(fixed(7))
    store.sync()
    assert store.stats().bytes_used == store.stats().bytes_live + 100
    assert store.compact(live_share_min=1.0) == 100
    assert not any(one.is_damaged for one in store.scrub())
    store.close()


def test_a_forged_frame_behind_damage_is_not_entered(tmp_path: Path) -> None:
    victim = ChunkId(digest(b"what the victim wants"))
    segment = filled(tmp_path, fixed(1))[0]
    with segment.open("ab") as file:
        file.write(b"junk" + frame_bytes(Chunk.of(b"poison"), chunk_id=victim))

    store = open_real(tmp_path)

    assert store.missing([victim]) == {victim}
    store.close()


@pytest.mark.parametrize("loss", ["cut", "gone"])
def test_chunks_of_a_segment_that_lost_bytes_are_quarantined_at_once(tmp_path: Path, loss: str) -> None:
    chunks = fixed(12)
    segments = filled(tmp_path, chunks)
    if loss == "cut":
        with segments[0].open("r+b") as file:
            file.truncate(700)
        lost = {chunk.id for chunk in chunks[2:5]}
    else:
        segments[0].unlink()
        lost = {chunk.id for chunk in chunks[:5]}

    store = open_real(tmp_path)

    assert store.recovered == RecoveryReport(chunks_quarantined=len(lost))
    assert store.missing([chunk.id for chunk in chunks]) == lost
    assert store.stats().quarantined == len(lost)
    store.put(chunks)
    store.close()
    store = open_real(tmp_path)
    assert store.recovered == RecoveryReport()
    assert [store.get(chunk.id) for chunk in chunks] == [chunk.data for chunk in chunks]
    store.close()


def test_the_last_segment_may_have_lost_its_end_too(tmp_path: Path) -> None:
    chunks = fixed(8)
    segments = filled(tmp_path, chunks)
    with segments[1].open("r+b") as file:
        file.truncate(500)

    store = open_real(tmp_path)

    assert store.missing([chunk.id for chunk in chunks]) == {chunk.id for chunk in chunks[6:]}
    store.put(chunks)
    store.sync()
    assert not any(one.is_damaged for one in store.scrub())
    store.close()


def test_a_missing_index_is_rebuilt_from_the_segments(tmp_path: Path) -> None:
    chunks = fixed(12)
    filled(tmp_path, chunks)
    (tmp_path / "index").rename(tmp_path / "elsewhere")

    store = open_real(tmp_path)

    assert store.recovered == RecoveryReport(index_rebuilt=True, segments_read=3, frames_reindexed=12)
    assert [store.get(chunk.id) for chunk in chunks] == [chunk.data for chunk in chunks]
    stats = store.stats()
    assert (stats.chunk_count, stats.bytes_live, stats.bytes_used) == (12, 3600, 3600)
    store.close()
    store = open_real(tmp_path)
    assert store.recovered == RecoveryReport()
    store.close()


def test_a_damaged_index_is_moved_aside_and_rebuilt(tmp_path: Path) -> None:
    chunks = fixed(12)
    filled(tmp_path, chunks)
    for turn in (1, 2):
        (tmp_path / "index" / "CURRENT").write_text("nonsense\n")

        store = open_real(tmp_path)

        assert store.recovered == RecoveryReport(index_rebuilt=True, segments_read=3, frames_reindexed=12)
        assert (tmp_path / f"index.damaged-{turn}").is_dir()
        assert [store.get(chunk.id) for chunk in chunks] == [chunk.data for chunk in chunks]
        store.close()


def test_damage_found_by_a_rebuild_is_quarantined_because_nobody_knows_what_was_acknowledged(
    tmp_path: Path,
) -> None:
    chunks = fixed(12)
    segments = filled(tmp_path, chunks)
    data = bytearray(segments[0].read_bytes())
    # A payload, and the header before the last frame of a sealed segment.
    data[350 + 60] ^= 1
    data[1200] ^= 1
    segments[0].write_bytes(data)
    (tmp_path / "index").rename(tmp_path / "elsewhere")

    store = open_real(tmp_path)

    assert store.recovered == RecoveryReport(
        index_rebuilt=True, segments_read=3, frames_reindexed=10, bytes_skipped=600
    )
    assert segments[0].stat().st_size == 1500
    assert store.stats().quarantined == 2
    assert store.missing([chunk.id for chunk in chunks]) == {chunks[1].id, chunks[4].id}
    store.close()


def test_an_index_that_went_back_in_time_finds_the_copies_that_compaction_made(tmp_path: Path) -> None:
    # Given an index as it was before a compaction: all it says of the segments that are gone is wrong
    chunks = fixed(12)
    filled(tmp_path, chunks)
    saved = {path.name: path.read_bytes() for path in (tmp_path / "index").iterdir()}
    store = open_real(tmp_path)
    store.compact(live_share_min=1.01)
    store.close()
    for path in (tmp_path / "index").iterdir():
        path.unlink()
    for name, data in saved.items():
        (tmp_path / "index" / name).write_bytes(data)

    store = open_real(tmp_path)

    assert store.recovered.chunks_quarantined == 0
    assert [store.get(chunk.id) for chunk in chunks] == [chunk.data for chunk in chunks]
    assert store.stats().bytes_live == 3600
    store.close()


def test_a_chunk_damaged_behind_what_the_index_covers_is_quarantined_when_the_store_opens(
    tmp_path: Path,
) -> None:
    chunks = fixed(4)
    segment = filled(tmp_path, chunks)[0]
    database = Database.open(tmp_path / "index")
    ((key, account),) = database.scan(b"s", b"t")
    # As if an earlier region had been in flight when the last sync came: covered up to 300 of 1200 bytes.
    database.write([(key, account[:24] + (300).to_bytes(8, "big") + account[32:])])
    database.close()
    data = bytearray(segment.read_bytes())
    data[700] ^= 1
    data[1000] ^= 1
    segment.write_bytes(data)

    store = open_real(tmp_path)

    assert store.recovered == RecoveryReport(segments_read=1, bytes_skipped=600, chunks_quarantined=2)
    assert segment.stat().st_size == 1200
    for chunk in chunks[2:]:
        with pytest.raises(MissingChunkError):
            store.get(chunk.id)
    store.close()
