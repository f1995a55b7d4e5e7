"""The bulk plane: what goes over it is stored like what goes by gRPC, and nothing wrong ever is."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import pairwise

import pytest

from mcr import _bulk, _frames
from mcr._bulk import BulkError, Forward, Head, Kind
from mcr._remote import bulk as remote_bulk
from mcr._remote.bulk import BulkLines
from mcr._remote.nodes import Way
from mcr.addresses import Address
from mcr.durability import Durability
from mcr.errors import CorruptChunkError
from mcr.model import MIB, Chunk
from mcr.transfer import Stored
from mcr_node.services.bulk import BulkServer
from mcr_node.services.chunks import LocalChunks
from mcr_node.telemetry import Telemetry
from tests.conformance.memory_chunk_store import MemoryChunkStore

CHUNKS = [Chunk.of(bytes([number]) * MIB) for number in range(12)]
HOST = "127.0.0.1"


class ForwardingChunks(LocalChunks):
    """Notes what is to be forwarded, and how."""

    def __init__(self, store: MemoryChunkStore, executor: ThreadPoolExecutor, room_bytes: int | None) -> None:
        super().__init__(store, executor, capacity_bytes=room_bytes)
        self.forwarded: list[tuple[bytes, Forward]] = []
        self.damages = 0
        self.offered = 0
        self.stored_before_forwarded = 0

    def spread(self, chunks: Sequence[Chunk], forward: Forward, now_s: float) -> Mapping[str, list[Chunk]]:
        self.forwarded += [(chunk.id, forward) for chunk in chunks]
        return {"b:1": list(chunks)}

    async def offer(self, parts: Mapping[str, Sequence[Chunk]]) -> None:
        ids = [chunk.id for part in parts.values() for chunk in part]
        self.offered += len(ids)
        self.stored_before_forwarded += len(ids) - len(await self.missing(ids))

    def met_damage(self) -> None:
        self.damages += 1


class Bulk:
    """A server on a store in memory, and lines to it."""

    def __init__(self, executor: ThreadPoolExecutor, room_bytes: int | None) -> None:
        self.store = MemoryChunkStore()
        self.chunks = ForwardingChunks(self.store, executor, room_bytes)
        self.server = BulkServer(self.chunks, Telemetry())
        self.port = self.server.listen(HOST)
        self.lines = BulkLines()
        self.way = Way.to(Address(HOST, 1))
        self.way.bulk_port, self.way.bulk_key = self.port, self.server.key

    def held(self, chunks: Sequence[Chunk]) -> int:
        return len(chunks) - len(self.store.missing([chunk.id for chunk in chunks]))

    @contextmanager
    def speaking(self) -> Iterator[socket.socket]:
        """Connect as somebody who may not know how."""
        with socket.create_connection((HOST, self.port), 5) as connection:
            greeting = _bulk.greeting(self.server.key)
            connection.sendall(greeting)
            assert bytes(_bulk.receive(connection, len(greeting)) or b"") == greeting
            yield connection


def tell(story: Callable[[Bulk], Awaitable[None]], *, room_bytes: int | None = None) -> None:
    async def run() -> None:
        with ThreadPoolExecutor(2) as executor:
            bulk = Bulk(executor, room_bytes)
            try:
                await asyncio.wait_for(story(bulk), 30)
            finally:
                bulk.lines.close()
                await asyncio.to_thread(bulk.server.close)
                await bulk.way.channel.close()

    asyncio.run(run())


def test_what_is_put_is_held_and_counted_once() -> None:
    async def story(bulk: Bulk) -> None:
        stored = await bulk.lines.put(bulk.way, CHUNKS, None)
        assert stored == Stored(12, 12 * MIB, stored.bytes_stored)
        assert bulk.held(CHUNKS) == 12
        assert (await bulk.lines.put(bulk.way, CHUNKS, None)).chunks_new == 0
        assert bulk.chunks.forwarded == []

    tell(story)


def test_puts_side_by_side_get_their_own_answers() -> None:
    async def story(bulk: Bulk) -> None:
        parts = [CHUNKS[:1], CHUNKS[1:3], CHUNKS[3:6], CHUNKS[6:]]
        answers = await asyncio.gather(*(bulk.lines.put(bulk.way, part, None) for part in parts))
        assert [answer.chunks_new for answer in answers] == [1, 2, 3, 6]

    tell(story)


def test_chunks_of_a_client_are_forwarded_as_widely_as_their_commit_asks_for() -> None:
    async def story(bulk: Bulk) -> None:
        wide = Forward(Durability(2, 2))
        await bulk.lines.put(bulk.way, CHUNKS[:6], wide)
        await bulk.lines.put(bulk.way, CHUNKS[6:], Forward())
        wanted = [(c.id, wide) for c in CHUNKS[:6]] + [(c.id, Forward()) for c in CHUNKS[6:]]
        assert bulk.chunks.forwarded == wanted

    tell(story)


def test_what_a_killed_node_has_on_its_disk_is_on_its_way_to_another_one() -> None:
    async def story(bulk: Bulk) -> None:
        await bulk.lines.put(bulk.way, CHUNKS, Forward())
        assert bulk.chunks.offered == len(CHUNKS)
        assert bulk.chunks.stored_before_forwarded == 0

    tell(story)


def test_bytes_that_are_not_those_of_their_id_end_the_line_and_are_not_stored() -> None:
    async def story(bulk: Bulk) -> None:
        wrong = [CHUNKS[0], Chunk(CHUNKS[1].id, b"\0" * MIB)]
        with pytest.raises(BulkError):
            await bulk.lines.put(bulk.way, wrong, None)
        assert bulk.held([CHUNKS[1]]) == 0
        assert not bulk.lines.serves(bulk.way, MIB), "the call that follows says why"

    tell(story)


def test_a_full_node_takes_nothing_by_this_way_either() -> None:
    async def story(bulk: Bulk) -> None:
        with pytest.raises(BulkError):
            await bulk.lines.put(bulk.way, CHUNKS, Forward())
        assert bulk.held(CHUNKS) == 0
        assert bulk.chunks.forwarded == [], "nor does it burden others with it"

    tell(story, room_bytes=MIB)


@pytest.mark.parametrize(
    "record",
    [
        b"\xff" * _bulk.HEAD_BYTES,
        Head(Kind.STORED).pack(),
        Head(Kind.FRAME, _frames.MESSAGE_BYTES_MAX + 1).pack(),
        Head(Kind.FRAME, 0).pack(),
        Head(Kind.FRAME, 3).pack() + b"abc",
        Head(Kind.FRAME, MIB).pack()[:3],
    ],
)
def test_who_does_not_keep_to_the_form_is_cut_off_and_nothing_is_stored(record: bytes) -> None:
    async def story(bulk: Bulk) -> None:
        with bulk.speaking() as connection:
            connection.sendall(record)
            connection.shutdown(socket.SHUT_WR)
            assert await asyncio.to_thread(connection.recv, 1) == b""
        assert bulk.store.stats().chunk_count == 0
        # Others are served as before.
        assert (await bulk.lines.put(bulk.way, CHUNKS[:1], None)).chunks_new == 1

    tell(story)


def test_nothing_is_sent_to_a_node_that_is_another_one() -> None:
    async def story(bulk: Bulk) -> None:
        bulk.way.bulk_key = bytes(_bulk.KEY_BYTES)
        with pytest.raises(BulkError) as found:
            await bulk.lines.put(bulk.way, CHUNKS, None)
        assert not found.value.is_silent
        assert bulk.held(CHUNKS) == 0

    tell(story)


def test_without_an_end_nothing_is_answered() -> None:
    async def story(bulk: Bulk) -> None:
        with bulk.speaking() as connection:
            frame = _frames.encode(CHUNKS[:1])
            connection.sendall(Head(Kind.FRAME, len(frame)).pack() + frame)
            connection.shutdown(socket.SHUT_WR)
            assert await asyncio.to_thread(connection.recv, 1) == b""

    tell(story)


async def stands(bulk: Bulk) -> None:
    """Wait until a line to the node stands."""
    async with asyncio.timeout(20):
        while not bulk.lines.serves(bulk.way, MIB):  # noqa: ASYNC110 - as a client looks at each put
            await asyncio.sleep(0.001)


def test_a_node_that_is_gone_is_told_from_one_that_is_silent_and_not_asked_again_at_once() -> None:
    async def story(bulk: Bulk) -> None:
        await stands(bulk)
        await asyncio.to_thread(bulk.server.close)
        with pytest.raises(BulkError) as found:
            await bulk.lines.put(bulk.way, CHUNKS, None)
        assert not found.value.is_silent
        assert not bulk.lines.serves(bulk.way, MIB)

    tell(story)


def test_no_put_waits_for_a_line_and_what_is_small_needs_none() -> None:
    async def story(bulk: Bulk) -> None:
        assert not bulk.lines.serves(bulk.way, MIB), "it does not stand yet"
        await stands(bulk)
        assert not bulk.lines.serves(bulk.way, 1000)
        assert (await bulk.lines.put(bulk.way, CHUNKS, None)).chunks_new == len(CHUNKS)

    tell(story)


def test_a_port_that_says_nothing_is_tried_ever_more_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_bulk, "GREET_S", 0.05)
    monkeypatch.setattr(remote_bulk, "DISTRUST_S_MIN", 0.02)

    async def story(bulk: Bulk) -> None:
        with socket.create_server((HOST, 0)) as deaf:
            bulk.way.bulk_port = deaf.getsockname()[1]
            tries: list[float] = []
            while len(tries) < 4:
                assert not bulk.lines.serves(bulk.way, MIB)
                connection, _ = await asyncio.to_thread(deaf.accept)
                tries.append(asyncio.get_running_loop().time())
                with connection:
                    while not bulk.lines.is_distrusted(bulk.way.address):  # noqa: ASYNC110 - it says nothing
                        await asyncio.sleep(0.001)
                while bulk.lines.is_distrusted(bulk.way.address):  # noqa: ASYNC110 - it is a time to wait
                    await asyncio.sleep(0.001)
            waits = [later - earlier for earlier, later in pairwise(tries)]
            assert waits[0] >= 0.02
            assert waits[1] >= 0.04
            assert waits[2] >= 0.08

    tell(story)


def test_a_caller_that_gives_up_leaves_nobody_with_its_buffers() -> None:
    async def story(bulk: Bulk) -> None:
        with socket.create_server((HOST, 0)) as deaf:
            bulk.way.bulk_port = deaf.getsockname()[1]
            putting = asyncio.create_task(bulk.lines.put(bulk.way, CHUNKS, None))
            connection, _ = await asyncio.to_thread(deaf.accept)
            with connection:
                putting.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await putting

    tell(story)


MIXED = [Chunk.of(bytes([number % 251]) * (number * 977 % 5000)) for number in range(200)] + CHUNKS


def test_what_is_held_comes_back_in_the_order_asked_for() -> None:
    async def story(bulk: Bulk) -> None:
        bulk.store.put(MIXED)
        found: list[bytes] = []
        await bulk.lines.get(bulk.way, [chunk.id for chunk in MIXED], found)
        assert found == [chunk.data for chunk in MIXED]

    tell(story)


def test_gets_and_puts_side_by_side_get_their_own_answers() -> None:
    async def story(bulk: Bulk) -> None:
        bulk.store.put(MIXED[:200])
        parts = [MIXED[:50], MIXED[50:51], MIXED[51:190], MIXED[190:200]]
        found: list[list[bytes]] = [[] for _ in parts]
        gets = [
            bulk.lines.get(bulk.way, [chunk.id for chunk in part], into)
            for part, into in zip(parts, found, strict=True)
        ]
        puts = [bulk.lines.put(bulk.way, CHUNKS[at : at + 4], None) for at in range(0, 12, 4)]
        stored = await asyncio.gather(*puts)
        await asyncio.gather(*gets)
        assert [one.chunks_new for one in stored] == [4, 4, 4]
        assert found == [[chunk.data for chunk in part] for part in parts]

    tell(story)


def test_what_is_not_here_ends_the_answer_and_not_the_line() -> None:
    async def story(bulk: Bulk) -> None:
        bulk.store.put([*CHUNKS[:3], *CHUNKS[4:]])
        found: list[bytes] = []
        await bulk.lines.get(bulk.way, [chunk.id for chunk in CHUNKS], found)
        assert found == [chunk.data for chunk in CHUNKS[:3]]
        await bulk.lines.get(bulk.way, [CHUNKS[5].id], found)
        assert found[3:] == [CHUNKS[5].data]
        assert bulk.chunks.damages == 0

    tell(story)


def test_what_is_damaged_here_is_not_given_and_told() -> None:
    async def story(bulk: Bulk) -> None:
        bulk.store.put(CHUNKS)
        bulk.store.damage(CHUNKS[2].id)
        found: list[bytes] = []
        await bulk.lines.get(bulk.way, [chunk.id for chunk in CHUNKS], found)
        assert found == [chunk.data for chunk in CHUNKS[:2]]
        assert bulk.chunks.damages == 1

    tell(story)


def answer_of(records: bytes) -> Callable[[socket.socket], None]:
    """Return a node that answers the first WANT with some records, and ends the connection."""

    def serve(listening: socket.socket) -> None:
        connection, _ = listening.accept()
        with connection:
            connection.settimeout(10)
            greeting = _bulk.greeting(bytes(_bulk.KEY_BYTES))
            connection.sendall(bytes(_bulk.receive(connection, len(greeting)) or b""))
            packed = bytearray(_bulk.HEAD_BYTES)
            assert _bulk.receive_into(connection, memoryview(packed))
            head = Head.unpack(packed)
            assert head.kind is Kind.WANT
            _bulk.receive(connection, head.length_bytes)
            connection.sendall(records)

    return serve


def given(chunk: Chunk) -> bytes:
    return Head(Kind.CHUNK, len(chunk.data)).pack() + bytes(chunk.data)


@pytest.mark.parametrize(
    ("records", "error"),
    [
        (given(MIXED[7]) + given(MIXED[9]), CorruptChunkError),
        (given(MIXED[7]) + Head(Kind.STORED).pack(), BulkError),
        (given(MIXED[7]) + Head(Kind.CHUNK, 2**32 - 1).pack(), BulkError),
        (given(MIXED[7]) + given(MIXED[8])[:-1], BulkError),
        (given(MIXED[7]), BulkError),
        (given(MIXED[7]) + given(MIXED[8]) + given(MIXED[9]), BulkError),
        (given(MIXED[7]) + b"\xff" * _bulk.HEAD_BYTES, BulkError),
    ],
)
def test_a_node_that_gives_something_else_is_believed_only_what_is_proved(
    records: bytes, error: type[Exception]
) -> None:
    async def story(bulk: Bulk) -> None:
        bulk.way.bulk_key = bytes(_bulk.KEY_BYTES)
        with socket.create_server((HOST, 0)) as listening:
            bulk.way.bulk_port = listening.getsockname()[1]
            serving = asyncio.create_task(asyncio.to_thread(answer_of(records), listening))
            found: list[bytes] = []
            with pytest.raises(error):
                await bulk.lines.get(bulk.way, [MIXED[7].id, MIXED[8].id], found)
            await serving
            assert found in ([MIXED[7].data], [MIXED[7].data, MIXED[8].data])
            assert bulk.lines.is_distrusted(bulk.way.address)

    tell(story)


@pytest.mark.parametrize(
    "record",
    [
        Head(Kind.WANT, 0).pack(),
        Head(Kind.WANT, 31).pack() + bytes(31),
        Head(Kind.WANT, 32 * (_frames.FRAME_CHUNKS_MAX + 1)).pack(),
        Head(Kind.WANT, 64).pack() + bytes(32),
        Head(Kind.CHUNK, 1).pack() + b"x",
    ],
)
def test_who_asks_for_what_makes_no_sense_is_cut_off(record: bytes) -> None:
    async def story(bulk: Bulk) -> None:
        with bulk.speaking() as connection:
            connection.sendall(record)
            # With something unread it is reset.
            with suppress(OSError):
                connection.shutdown(socket.SHUT_WR)
                assert await asyncio.to_thread(connection.recv, 1) == b""
        assert (await bulk.lines.put(bulk.way, CHUNKS[:1], None)).chunks_new == 1

    tell(story)


@pytest.mark.parametrize("forward", [None, Forward(), Forward(Durability(2, 2)), Forward(Durability(256))])
def test_a_head_is_read_as_it_was_written(forward: Forward | None) -> None:
    head = Head(Kind.FRAME, 2**32 - 1, forward)
    assert Head.unpack(head.pack()) == head


@pytest.mark.parametrize("forward", [Forward(), Forward(Durability(2, 2)), Forward(Durability(256))])
def test_how_to_forward_is_read_from_metadata_as_it_was_written(forward: Forward) -> None:
    assert Forward.parse(forward.text) == forward


@pytest.mark.parametrize("text", ["", "1", "x", "2/", "0/0", "1/2", "999/1", "²/1", "1" * 99 + "/1"])
def test_what_is_no_durability_forwards_as_usual(text: str) -> None:
    assert Forward.parse(text) == Forward()
