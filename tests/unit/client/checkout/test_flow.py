import asyncio
import os
import stat
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcr.checkout import CheckoutProgress, CheckoutResult, checkout
from mcr.checkout.destination import partial_name
from mcr.errors import (
    FailedError,
    MissingChunkError,
    PathNotFoundError,
)
from mcr.manifest import PARTIAL_FOLDER
from mcr.model import MIB, ChunkId, digest
from tests.unit.client.checkout.samples import (
    CHUNK_BYTES,
    FILES,
    LARGE,
    Files,
    Store,
    is_whole,
    noise,
    run,
    state,
    write,
)


@pytest.mark.parametrize(("verify", "sync"), [(False, True), (True, False), (False, False)])
def test_a_checkout_is_what_was_committed(
    store: Store, source: Path, target: Path, *, verify: bool, sync: bool
) -> None:
    result = run(store, store.commit(source), target, verify=verify, sync=sync)

    assert state(target) == state(source)
    total = sum(map(len, FILES.values())) + 10
    assert result == CheckoutResult(7, 0, 0, total, total, 0)


def test_modes_are_two_whatever_the_mask_says(store: Store, source: Path, target: Path) -> None:
    root = store.commit(source)
    before = os.umask(0o077)
    try:
        run(store, root, target)
    finally:
        os.umask(before)
    assert stat.S_IMODE((target / "config.json").stat().st_mode) == 0o644
    assert stat.S_IMODE((target / "run.sh").stat().st_mode) == 0o755
    assert stat.S_IMODE((target / "weights/large.bin").stat().st_mode) == 0o644


def test_a_second_checkout_touches_and_fetches_nothing_but_fixes_modes(
    store: Store, source: Path, target: Path
) -> None:
    root = store.commit(source)
    run(store, root, target)
    before = {path: path.lstat().st_mtime_ns for path in target.rglob("*")}
    (target / "config.json").chmod(0o600)
    (target / "weights/large.bin").chmod(0o777)
    store.fetched.clear()

    result = run(store, root, target)

    assert (result.files_written, result.files_unchanged, result.bytes_written) == (0, 7, 0)
    assert {path: path.lstat().st_mtime_ns for path in target.rglob("*")} == before
    assert state(target) == state(source)
    # Nodes of the manifest only: the root, and the chunk list of the large file was not needed.
    assert set(store.fetched) == {root}


def test_only_what_differs_is_written(store: Store, source: Path, target: Path) -> None:
    run(store, store.commit(source), target)
    kept = (target / "weights/small.bin").stat().st_ino
    (target / "config.json").write_bytes(b"[]")
    large = bytearray(FILES["weights/large.bin"])
    large[5] ^= 1
    (source / "weights/large.bin").write_bytes(large)
    (source / "a" / "link").unlink()
    (source / "a" / "link").symlink_to("deep")

    result = run(store, store.commit(source), target)

    assert result.files_written == 3
    assert (target / "weights/small.bin").stat().st_ino == kept
    assert state(target) == state(source)


def test_files_the_version_does_not_have_are_counted_and_left(
    store: Store, source: Path, target: Path
) -> None:
    mine: Files = {"mine.txt": b"m", "weights/other": b"o", ".mcr/log": b"store"}
    write(target, mine)

    result = run(store, store.commit(source), target)

    assert result.extra_files == 2
    assert result.files_deleted == 0
    for name, data in mine.items():
        assert (target / name).read_bytes() == data


def test_delete_removes_what_the_version_does_not_have_but_never_a_store(
    store: Store, source: Path, tmp_path: Path, target: Path
) -> None:
    write(target, {"mine.txt": b"m", "old/deep/x": b"x", ".mcr/log": b"store", "kept/.mcr/log": b"store"})
    outside = write(tmp_path / "outside", {"precious": b"p"})
    (target / "old" / "link").symlink_to(outside)
    (target / "old" / "empty").mkdir()

    result = run(store, store.commit(source), target, delete=True)

    assert (result.files_deleted, result.extra_files) == (3, 0)
    assert (target / ".mcr/log").exists()
    assert (target / "kept/.mcr/log").exists()
    assert not (target / "old").exists()
    assert not (target / "mine.txt").exists()
    assert (outside / "precious").read_bytes() == b"p"
    assert (target / "empty folder/inner").is_dir()


def test_patterns_choose_and_delete_spares_what_was_not_chosen(
    store: Store, source: Path, target: Path
) -> None:
    root = store.commit(source)

    result = run(store, root, target, include=["weights", "*.json"])
    assert sorted(state(target)) == ["config.json", "weights", "weights/large.bin", "weights/small.bin"]
    assert result.bytes_total == LARGE + 100_000 + 2

    (target / "extra").write_bytes(b"")
    (target / "a").mkdir()
    (target / "a/link").symlink_to("gone")
    result = run(store, root, target, include=["**/x"], delete=True)
    assert result.files_deleted == 1
    assert (target / "a/deep/folder/x").read_bytes() == b"x"
    assert (target / "a/link").is_symlink()


def test_a_pattern_that_fits_nothing_is_an_error_before_anything_is_written(
    store: Store, source: Path, target: Path
) -> None:
    with pytest.raises(PathNotFoundError, match=r"\*\.onnx"):
        run(store, store.commit(source), target, include=["*.json", "*.onnx"])
    assert not target.exists()


def test_an_empty_version_makes_an_empty_folder(store: Store, tmp_path: Path, target: Path) -> None:
    (tmp_path / "none").mkdir()
    result = run(store, store.commit(tmp_path / "none"), target)
    assert result == CheckoutResult(0, 0, 0, 0, 0, 0)
    assert list(target.iterdir()) == []


def test_zeros_become_holes(store: Store, tmp_path: Path, target: Path) -> None:
    data = noise(1, 1000) + bytes(8 * MIB) + noise(2, 1000)
    write(tmp_path / "source", {"sparse.bin": data})
    run(store, store.commit(tmp_path / "source"), target)
    status = (target / "sparse.bin").stat()
    assert (target / "sparse.bin").read_bytes() == data
    assert status.st_blocks * 512 < MIB


def test_progress_ends_at_the_totals_and_never_goes_back(store: Store, source: Path, target: Path) -> None:
    seen: list[CheckoutProgress] = []
    run(store, store.commit(source), target, progress=seen.append)
    total = sum(map(len, FILES.values())) + 10
    assert seen[-1] == CheckoutProgress(total, total, 7, 7)
    assert [p.bytes_done for p in seen] == sorted(p.bytes_done for p in seen)
    assert [p.files_done for p in seen] == sorted(p.files_done for p in seen)


# Interruptions.


def test_failed_anywhere_it_leaves_whole_files_and_goes_on_where_it_stopped(
    store: Store, source: Path, target: Path
) -> None:
    root = store.commit(source)
    run(store, root, target)
    fetches = len(store.fetched)
    for fail_after in range(0, fetches, 7):
        place = target.with_name(f"target-{fail_after}")
        store.fetched.clear()
        store.fail_after = fail_after
        with pytest.raises(FailedError):
            run(store, root, place)
        assert not place.exists() or is_whole(source, place)

        store.fetched.clear()
        store.fail_after = None
        run(store, root, place)
        assert state(place) == state(source)


def test_a_resumed_file_fetches_only_what_is_missing(store: Store, tmp_path: Path, target: Path) -> None:
    data = noise(7, 5 * MIB)
    root = store.commit(write(tmp_path / "source", {"large.bin": data}))
    # As an interrupted checkout leaves it: chunks written in any order, one of them torn.
    partial = bytearray(len(data))
    partial[MIB : 4 * MIB] = data[MIB : 4 * MIB]
    partial[2 * MIB] ^= 1
    write(target / PARTIAL_FOLDER, {partial_name(store.rows(root)["large.bin"].entry): bytes(partial)})

    result = run(store, root, target, verify=True)

    assert (target / "large.bin").read_bytes() == data
    assert not (target / PARTIAL_FOLDER).exists()
    assert result.bytes_written == 2 * MIB + CHUNK_BYTES
    assert digest(data[2 * MIB :][:CHUNK_BYTES]) in store.fetched
    assert digest(data[3 * MIB :][:CHUNK_BYTES]) not in store.fetched


def test_a_resumed_file_gets_its_zeros_written(store: Store, tmp_path: Path, target: Path) -> None:
    data = noise(1, MIB) + bytes(2 * MIB)
    root = store.commit(write(tmp_path / "source", {"f": data}))
    entry = store.rows(root)["f"].entry
    write(target / PARTIAL_FOLDER, {partial_name(entry): b"\xff" * len(data)})
    run(store, root, target)
    assert (target / "f").read_bytes() == data


def test_a_partial_file_of_another_size_is_begun_again(store: Store, tmp_path: Path, target: Path) -> None:
    data = noise(1, 2 * MIB)
    root = store.commit(write(tmp_path / "source", {"f": data}))
    write(target / PARTIAL_FOLDER, {partial_name(store.rows(root)["f"].entry): b"short", "stale": b"s"})
    run(store, root, target)
    assert (target / "f").read_bytes() == data
    assert not (target / PARTIAL_FOLDER).exists()


@pytest.mark.parametrize("hang_after", [0, 1, 3, 20])
def test_cancelled_it_leaves_whole_files_and_no_lock(
    store: Store, source: Path, target: Path, hang_after: int
) -> None:
    root = store.commit(source)

    async def cancelled() -> None:
        store.hanging = asyncio.Event()
        task = asyncio.create_task(checkout(store, root, target))
        await store.hanging.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    store.hang_after = hang_after
    asyncio.run(cancelled())
    assert not target.exists() or is_whole(source, target)
    store.hang_after = None
    run(store, root, target)
    assert state(target) == state(source)


def test_a_missing_chunk_is_named_and_its_file_does_not_appear(
    store: Store, source: Path, target: Path
) -> None:
    root = store.commit(source)
    lost = ChunkId(digest(FILES["weights/large.bin"][:CHUNK_BYTES]))
    del store.chunks[lost]
    with pytest.raises(MissingChunkError, match=lost.hex()):
        run(store, root, target)
    assert not (target / "weights/large.bin").exists()


def test_many_small_files_and_copies_come_out_right(store: Store, tmp_path: Path, target: Path) -> None:
    files = {f"d{n % 9}/{n:04}": noise(n % 50, 10 + n % 300) for n in range(500)}
    files |= {f"copy{n}": noise(99, 2 * MIB) for n in range(3)}
    folder = write(tmp_path / "source", files)
    result = run(store, store.commit(folder), target)
    assert state(target) == state(folder)
    assert result.files_written == 503


names = st.sampled_from(["a", "b", "c", "a/a", "a/b", "b/a/c", "c/b"])
contents = st.sampled_from([b"", b"1", b"22", bytes(200_000), noise(3, MIB + 1)])


@given(st.dictionaries(names, contents, max_size=4), st.dictionaries(names, contents, max_size=4))
@settings(max_examples=20, deadline=None)
def test_with_delete_any_version_replaces_any_other(before: Files, after: Files) -> None:
    def without_clashes(files: Files) -> Files:
        return {n: d for n, d in files.items() if not any(other.startswith(n + "/") for other in files)}

    store = Store()
    with TemporaryDirectory() as base:
        target = Path(base) / "target"
        for number, files in enumerate((before, after)):
            folder = Path(base) / str(number)
            folder.mkdir()
            write(folder, without_clashes(files))
            run(store, store.commit(folder), target, delete=True)
            assert state(target) == state(folder)


def test_a_chunk_that_stands_there_often_is_fetched_once_for_all_nearby(
    store: Store, tmp_path: Path, target: Path
) -> None:
    repeated = bytes(range(256)) * (CHUNK_BYTES // 256)
    content = (repeated * 3 + b"x" * CHUNK_BYTES) * 8
    source = write(tmp_path / "source", {"large.bin": content})
    root = store.commit(source)

    run(store, root, target)

    assert (target / "large.bin").read_bytes() == content
    assert store.fetched.count(ChunkId(digest(repeated))) == 1
