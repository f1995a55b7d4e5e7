"""Writes past the page cache: the same bytes as buffered ones, whatever their place, pieces and kernel."""

import errno
import os
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcr import direct_writes
from mcr.direct_writes import (
    ALIGNMENT_BYTES,
    CACHED_WRITE_BYTES,
    DIRECT_BYTES_MIN,
    RWF_DONTCACHE,
    STAGING_BYTES,
    aligned_memory,
    has_uncached,
    open_direct,
    write_at,
    write_cached,
    write_placed,
)
from mcr.model import Buffer

LONG_BYTES = 2 * DIRECT_BYTES_MIN
# What a kernel says that knows no uncached writes; a build of Python without the call raises the other.
UNKNOWN = (OSError(errno.EOPNOTSUPP, "never heard of it"), NotImplementedError("pwritev2"))


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[tuple[int, int | None]]:
    descriptor = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    found = descriptor, open_direct(descriptor)
    yield found
    close(found)


def close(opened: tuple[int, int | None]) -> None:
    for descriptor in opened:
        if descriptor is not None:
            os.close(descriptor)


@contextmanager
def noting_pwritev(uncached: Exception | int | None = None) -> Iterator[list[tuple[int, int]]]:
    """Note length and flags of each write.

    Args:
        uncached: what uncached writes answer; None = what the kernel answers.
    """
    noted: list[tuple[int, int]] = []
    whole = os.pwritev

    def note(descriptor: int, buffers: Sequence[Buffer], offset: int, flags: int = 0) -> int:
        if flags:
            if isinstance(uncached, Exception):
                raise uncached
            buffers = buffers if uncached is None else [memoryview(buffers[0])[:uncached]]
        count = whole(descriptor, buffers, offset, flags)
        noted.append((count, flags))
        return count

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "pwritev", note)
        if uncached is not None:
            patch.setattr(direct_writes, "HAS_UNCACHED", True)
        yield noted


def knows_uncached(descriptor: int) -> bool:
    try:
        return direct_writes.HAS_UNCACHED and os.pwritev(descriptor, [b"x"], 0, RWF_DONTCACHE) == 1
    except (OSError, NotImplementedError):
        return False


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(0, LONG_BYTES) | st.sampled_from([0, 1, 4095, 4096, 4097]), max_size=8),
    offset=st.integers(0, 3 * ALIGNMENT_BYTES),
    uncached=st.sampled_from([None, *UNKNOWN, 4096, 5000]),
    seed=st.integers(0, 1 << 32),
)
def test_neighbouring_writes_of_any_length_read_back_as_one(
    tmp_path_factory: pytest.TempPathFactory,
    lengths: list[int],
    offset: int,
    uncached: Exception | int | None,
    seed: int,
) -> None:
    # Given a file that is appended to again and again, as segments are
    chance = random.Random(seed)
    descriptor = os.open(tmp_path_factory.mktemp("direct") / "file", os.O_RDWR | os.O_CREAT)
    opened = descriptor, open_direct(descriptor)
    expected = bytearray(offset)
    for length in lengths:
        data = chance.randbytes(length)
        cuts = sorted(chance.randint(0, length) for _ in range(3))
        pieces = [data[a:b] for a, b in zip([0, *cuts], [*cuts, length], strict=True)]
        # When
        with noting_pwritev(uncached):
            write_at(*opened, pieces, len(expected))
        expected += data
    # Then
    if not any(lengths):
        expected = bytearray()
    assert os.pread(descriptor, len(expected) + 1, 0) == expected
    close(opened)


@settings(max_examples=60, deadline=None)
@given(
    length=st.integers(1, LONG_BYTES) | st.sampled_from([1, 4095, 4096, 4097, DIRECT_BYTES_MIN]),
    offset=st.integers(0, 3 * ALIGNMENT_BYTES),
    shift=st.sampled_from([0, 0, 0, 1, 512]),
    uncached=st.sampled_from([None, *UNKNOWN, 4096, 5000]),
    seed=st.integers(0, 1 << 32),
)
def test_what_lies_in_memory_as_in_the_file_is_written_whole_and_what_does_not_as_well(
    tmp_path_factory: pytest.TempPathFactory,
    length: int,
    offset: int,
    shift: int,
    uncached: Exception | int | None,
    seed: int,
) -> None:
    # Given bytes at the same place within a page as in the file, or `shift` beside it
    data = random.Random(seed).randbytes(length)
    memory = aligned_memory(length + 2 * ALIGNMENT_BYTES)
    start = offset % ALIGNMENT_BYTES + shift
    memory[start : start + length] = data
    descriptor = os.open(tmp_path_factory.mktemp("direct") / "file", os.O_RDWR | os.O_CREAT)
    opened = descriptor, open_direct(descriptor)
    # When
    with noting_pwritev(uncached):
        write_placed(*opened, memory[start : start + length], offset)
    # Then
    assert os.pread(descriptor, offset + length + 1, 0) == bytes(offset) + data
    close(opened)


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(
        st.integers(0, 3 * CACHED_WRITE_BYTES)
        | st.sampled_from([0, 1, CACHED_WRITE_BYTES - 1, CACHED_WRITE_BYTES, CACHED_WRITE_BYTES + 1]),
        max_size=6,
    ),
    offset=st.integers(0, 3 * ALIGNMENT_BYTES),
    seed=st.integers(0, 1 << 32),
)
def test_what_is_left_to_the_page_cache_is_written_whole_in_short_writes(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], offset: int, seed: int
) -> None:
    chance = random.Random(seed)
    buffers = [chance.randbytes(length) for length in lengths]
    descriptor = os.open(tmp_path_factory.mktemp("cached") / "file", os.O_RDWR | os.O_CREAT)
    # When
    with noting_pwritev() as noted:
        write_cached(descriptor, buffers, offset)
    # Then
    written = b"".join(buffers)
    assert os.pread(descriptor, offset + len(written) + 1, 0) == (bytes(offset) + written if written else b"")
    assert len(noted) == -(-len(written) // CACHED_WRITE_BYTES)
    assert all(length <= CACHED_WRITE_BYTES and not flags for length, flags in noted)
    os.close(descriptor)


def test_whole_pages_stay_out_of_the_page_cache_and_ends_go_through_it(
    opened: tuple[int, int | None],
) -> None:
    if not knows_uncached(opened[0]):
        pytest.skip("this kernel or file system has no uncached writes")
    middle = (LONG_BYTES - ALIGNMENT_BYTES, RWF_DONTCACHE)
    with noting_pwritev() as written:
        write_at(*opened, [bytes(LONG_BYTES)], ALIGNMENT_BYTES - 10)
    assert written == [(10, 0), middle, (ALIGNMENT_BYTES - 10, 0)]

    memory = aligned_memory(LONG_BYTES + ALIGNMENT_BYTES)
    with noting_pwritev() as written:
        write_placed(*opened, memory[10 : 10 + LONG_BYTES], ALIGNMENT_BYTES + 10)
    assert written == [(ALIGNMENT_BYTES - 10, 0), middle, (10, 0)]


@pytest.mark.parametrize(
    ("kernel", "release", "trusted"),
    [
        ("Linux", "6.16.0", True),
        ("Linux", "6.18.44-fc", True),
        ("Linux", "7.0", True),
        ("Linux", "7", True),
        ("Linux", "6.14.11", False),
        ("Linux", "6.15.0-rc7", False),
        ("Linux", "5.19.0-76051900-generic", False),
        ("Linux", "unheard of", False),
        ("Darwin", "24.1.0", False),
    ],
)
def test_only_kernels_that_drop_pages_safely_are_trusted(kernel: str, release: str, trusted: bool) -> None:
    assert has_uncached(kernel, release) is trusted


def test_a_kernel_that_is_not_trusted_is_not_asked(
    opened: tuple[int, int | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(direct_writes, "HAS_UNCACHED", False)
    with noting_pwritev() as written:
        write_at(opened[0], None, [bytes(LONG_BYTES)], 0)

    assert written == [(LONG_BYTES, 0)]


@pytest.mark.parametrize("unknown", UNKNOWN)
def test_an_older_kernel_writes_whole_pages_directly(
    opened: tuple[int, int | None], monkeypatch: pytest.MonkeyPatch, unknown: Exception
) -> None:
    if opened[1] is None:
        pytest.skip("this file system has no direct writes")
    direct: list[int] = []
    whole = os.pwrite

    def noted(descriptor: int, data: memoryview, offset: int) -> int:
        direct.append(whole(descriptor, data, offset))
        return direct[-1]

    monkeypatch.setattr(os, "pwrite", noted)
    memory = aligned_memory(LONG_BYTES + ALIGNMENT_BYTES)
    with noting_pwritev(unknown) as buffered:
        write_placed(*opened, memory[10 : 10 + LONG_BYTES], ALIGNMENT_BYTES + 10)
        write_at(*opened, [bytes(LONG_BYTES)], ALIGNMENT_BYTES - 10)

    assert direct == [LONG_BYTES - ALIGNMENT_BYTES] * 2
    assert buffered == [(ALIGNMENT_BYTES - 10, 0), (10, 0), (10, 0), (ALIGNMENT_BYTES - 10, 0)]


@pytest.mark.parametrize("uncached", [None, *UNKNOWN])
def test_a_run_longer_than_the_staging_buffer_is_written_whole(
    opened: tuple[int, int | None], uncached: Exception | None
) -> None:
    data = random.Random(1).randbytes(2 * STAGING_BYTES + 12_345)

    with noting_pwritev(uncached):
        write_at(*opened, [data], 77)

    assert os.pread(opened[0], len(data), 77) == data


@pytest.mark.parametrize("answer", [OSError(errno.EINVAL, "refused"), ALIGNMENT_BYTES])
def test_what_a_device_refuses_or_cuts_short_goes_the_other_way(
    opened: tuple[int, int | None], monkeypatch: pytest.MonkeyPatch, answer: OSError | int
) -> None:
    def refuse(_descriptor: int, _piece: memoryview, _offset: int) -> int:
        if isinstance(answer, OSError):
            raise answer
        return answer

    data = random.Random(2).randbytes(LONG_BYTES)
    monkeypatch.setattr(os, "pwrite", refuse)
    with noting_pwritev(UNKNOWN[0]):
        write_at(opened[0], opened[1] or opened[0], [data], 0)
    assert os.pread(opened[0], len(data), 0) == data


@pytest.mark.parametrize("knows", [True, False])
def test_a_full_device_is_an_error_and_not_another_try(
    opened: tuple[int, int | None], monkeypatch: pytest.MonkeyPatch, knows: bool
) -> None:
    def full(_descriptor: int, _piece: memoryview, _offset: int) -> int:
        raise OSError(errno.ENOSPC, "full, the direct way")

    monkeypatch.setattr(os, "pwrite", full)
    answer = OSError(errno.ENOSPC, "full, uncached") if knows else UNKNOWN[0]
    with noting_pwritev(answer), pytest.raises(OSError, match="uncached" if knows else "direct way"):
        write_at(opened[0], opened[1] or opened[0], [bytes(LONG_BYTES)], 0)


def test_without_direct_writes_all_is_buffered(
    opened: tuple[int, int | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_arguments: object) -> int:
        raise OSError(errno.EINVAL, "no O_DIRECT here")

    monkeypatch.setattr(os, "open", missing)
    assert open_direct(opened[0]) is None
    monkeypatch.undo()

    with noting_pwritev(UNKNOWN[0]) as buffered:
        write_at(opened[0], None, [bytes(LONG_BYTES), b"end"], 5)
    assert os.fstat(opened[0]).st_size == LONG_BYTES + 8
    assert {flags for _, flags in buffered} == {0}
