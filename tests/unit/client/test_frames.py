"""Messages of chunks: the same bytes that protobuf writes, taken apart without trust."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcr import _frames
from mcr.errors import InvalidArgumentError
from mcr.model import CHUNK_BYTES_MAX, Chunk
from mcr.v1 import chunks_pb2 as pb

chunks = st.lists(
    st.builds(
        lambda data, element: Chunk.of(data, element_bytes=element),
        st.binary(max_size=300),
        st.sampled_from(_frames.ELEMENT_BYTES),
    ),
    max_size=6,
)


def message(sent: list[Chunk]) -> pb.PutChunksRequest:
    return pb.PutChunksRequest(
        chunks=[pb.ChunkData(id=c.id, element_bytes=c.element_bytes, data=bytes(c.data)) for c in sent]
    )


@given(chunks)
def test_a_frame_is_the_protobuf_message_of_its_chunks(sent: list[Chunk]) -> None:
    frame = _frames.encode(sent)
    assert pb.PutChunksRequest.FromString(frame) == message(sent)
    assert pb.GetChunksResponse.FromString(frame).chunks == message(sent).chunks


@given(chunks)
def test_what_protobuf_wrote_is_read_as_what_was_written_by_hand(sent: list[Chunk]) -> None:
    wanted = [(c.id, c.element_bytes, bytes(c.data)) for c in sent]
    for frame in (_frames.encode(sent), message(sent).SerializeToString()):
        assert [(c.id, c.element_bytes, bytes(c.data)) for c in _frames.decode(frame)] == wanted


def test_fields_in_another_order_are_read_all_the_same() -> None:
    (chunk,) = [Chunk.of(b"weights")]
    body = b"\x1a\x07weights" + b"\x0a\x20" + chunk.id
    (found,) = _frames.decode(b"\x0a" + bytes((len(body),)) + body)
    assert (found.id, bytes(found.data)) == (chunk.id, b"weights")


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused_or_read_never_more(data: bytes) -> None:
    try:
        found = _frames.decode(data)
    except InvalidArgumentError:
        return
    assert sum(len(chunk.data) for chunk in found) <= len(data)


@given(chunks, st.data())
def test_a_frame_cut_short_never_passes_for_whole(sent: list[Chunk], draw: st.DataObject) -> None:
    frame = _frames.encode(sent)
    cut = frame[: draw.draw(st.integers(0, max(0, len(frame) - 1)))]
    try:
        found = _frames.decode(cut)
    except InvalidArgumentError:
        return
    assert len(found) < len(sent) or not sent


@pytest.mark.parametrize(
    "chunk",
    [
        pb.ChunkData(id=b"short", data=b"x"),
        pb.ChunkData(id=b"i" * 32, element_bytes=3, data=b"x"),
        pb.ChunkData(id=b"i" * 32, data=bytes(CHUNK_BYTES_MAX + 1)),
    ],
    ids=["id", "element", "data"],
)
def test_a_chunk_beyond_the_limits_is_refused(chunk: pb.ChunkData) -> None:
    with pytest.raises(InvalidArgumentError):
        _frames.decode(pb.PutChunksRequest(chunks=[chunk]).SerializeToString())


@given(chunks)
def test_grouping_keeps_every_chunk_in_order(sent: list[Chunk]) -> None:
    assert [chunk for group in _frames.group(sent) for chunk in group] == sent


def test_a_frame_is_about_a_mebibyte_unless_one_chunk_is_longer() -> None:
    sizes = (700_000, 400_000, 600_000, CHUNK_BYTES_MAX, 1)
    grouped = list(_frames.group([Chunk.of(bytes(size)) for size in sizes]))
    assert [[len(chunk.data) for chunk in group] for group in grouped] == [
        [700_000],
        [400_000, 600_000],
        [CHUNK_BYTES_MAX],
        [1],
    ]
    assert all(len(_frames.encode(group)) <= _frames.MESSAGE_BYTES_MAX for group in grouped)
