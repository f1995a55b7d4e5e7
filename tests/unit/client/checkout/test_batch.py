"""A batch of chunks: in memory as in the file, written in as few runs as there are gaps."""

import random
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from mcr.checkout.batch import HOLE_BYTES_MIN, Batch, batch_memory
from mcr.direct_writes import ALIGNMENT_BYTES
from mcr.manifest import Span
from mcr.model import ChunkId

# Kind and length of what follows in the file: a chunk, a chunk of zeros, or nothing of this batch.
parts = st.lists(
    st.tuples(
        st.sampled_from(["chunk", "zeros", "gap"]),
        st.integers(1, 3 * ALIGNMENT_BYTES) | st.just(HOLE_BYTES_MIN),
    ),
    min_size=1,
    max_size=12,
)


@given(parts=parts, offset=st.integers(0, 1 << 40), leave_holes=st.booleans(), seed=st.integers(0, 1 << 32))
def test_every_chunk_is_written_once_at_its_place_and_only_long_zeros_are_left_out(
    parts: list[tuple[str, int]], offset: int, leave_holes: bool, seed: int
) -> None:
    chance = random.Random(seed)
    expected, spans, end = bytearray(), list[Span](), offset
    data: list[bytes] = []
    for kind, length in parts:
        if kind != "gap":
            spans.append(Span(end, ChunkId(bytes(32)), length))
            data.append(bytes(length) if kind == "zeros" else b"\x01" + chance.randbytes(length - 1))
        expected += data[-1] if kind != "gap" else bytes(length)
        end += length
    if not spans:
        return
    batch = Batch(spans, batch_memory(end - offset))
    for place, content in zip(batch.places(), data, strict=True):
        place[:] = content

    written = bytearray(len(expected))
    runs = list(batch.runs(leave_holes=leave_holes))
    for start, run in runs:
        assert not any(written[start - offset : start - offset + len(run)]), "nothing is written twice"
        written[start - offset : start - offset + len(run)] = run

    assert written == expected
    is_hole = [leave_holes and len(one) >= HOLE_BYTES_MIN and not any(one) for one in data]
    assert sum(len(run) for _, run in runs) == sum(
        len(one) for one, hole in zip(data, is_hole, strict=True) if not hole
    )
    assert all(a[0] + len(a[1]) < b[0] for a, b in pairwise(runs)), "adjoining ones are one"
