"""The bulk plane from the side of who asks: a few connections to a node, kept and used by threads."""

import asyncio
import socket
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from google.protobuf.message import DecodeError

from mcr import _bulk, _frames
from mcr._bulk import BulkError, Forward, Head, Kind
from mcr._dialling import dial
from mcr._remote.nodes import Way
from mcr.addresses import parse_address
from mcr.blocking import ended
from mcr.errors import CorruptChunkError
from mcr.model import CHUNK_BYTES_MAX, Chunk, ChunkId
from mcr.transfer import Stored, verified
from mcr.v1 import chunks_pb2 as pb

# Measured: two connections keep two cores busy, more bring nothing.
LINES_MAX = 2
# On each, one put or get is sent while the one before is answered: over a long line nothing stands still.
PUTS_PER_LINE = 2
PUTS_MAX = LINES_MAX * PUTS_PER_LINE
GETS_MAX = PUTS_MAX
CONNECT_S = 1.0
GREET_S = 2.0
# Nothing moved for so long: the node is stopped or cut off. As long as gRPC's keepalive takes to notice.
STALL_S = 10.0
# Where the bulk plane failed, it is tried again only after so long; twice as long each time it fails again
# before it has served, as where a firewall is in the way.
DISTRUST_S_MIN, DISTRUST_S_MAX = 10.0, 300.0
# An idle connection is kept for less than a node keeps one.
IDLE_S = 20.0
# A put of less goes by gRPC, whose connection is there anyway.
BULK_BYTES_MIN = 256 * 1024
_ANSWER_BYTES_MAX = 4096
# How long a node may send too little.
PATIENCE_S = 15.0

Answer = TypeVar("Answer")


class _Line:
    """One connection. Its methods block, and may be called from two threads at a time."""

    def __init__(self, way: Way) -> None:
        self._node, self._port = way.address, way.bulk_port
        self._host = parse_address("address", way.address).host.strip("[]")
        self._greeting = _bulk.greeting(way.bulk_key)
        self._socket: socket.socket | None = None
        self._is_greeted = False
        self._sending = threading.Lock()
        self._answering = threading.Lock()
        # Used on the event loop only.
        self.users = 0
        self.used_at_s = 0.0
        self.is_broken = False

    def put(self, chunks: Sequence[Chunk], forward: Forward | None) -> Stored:
        """Send chunks and return the answer.

        Raises:
            BulkError: this line is of no more use.
        """
        return self._converse(lambda: self._send(chunks, forward), self._answer)

    def get(
        self,
        ids: Sequence[ChunkId],
        found: list[bytes],
        now_s: Callable[[], float],
        *,
        bytes_per_s_min: int,
    ) -> None:
        """Ask for chunks and append those that come to `found`, each verified; fewer where one is not there.

        Args:
            ids: of the chunks, of one node; at most as many as a frame has.
            found: what came stays in it, also where the rest fails.
            now_s: a monotonic clock.
            bytes_per_s_min: with less than this for `PATIENCE_S` the node is too slow.

        Raises:
            BulkError: this line is of no more use.
            CorruptChunkError: so is this line, and something else came than was asked for.
        """
        self._converse(
            lambda: self._want(ids), lambda: self._receive(ids, found, now_s, bytes_per_s_min=bytes_per_s_min)
        )

    def _converse(self, ask: Callable[[], None], answer: Callable[[], Answer]) -> Answer:
        try:
            with self._sending:
                ask()
                # In the order of sending: the next one is sent while this one waits here.
                self._answering.acquire()
            try:
                return answer()
            finally:
                self._answering.release()
        except (BulkError, CorruptChunkError):
            self.abort()
            raise

    @property
    def is_connected(self) -> bool:
        """Whether the node has answered on it, and nothing has gone wrong since."""
        return self._is_greeted and not self.is_broken

    def connect(self) -> None:
        """Connect, unless it is.

        Raises:
            BulkError: nobody answers there, or somebody else.
        """
        with self._sending:
            self._connected()

    def _connected(self) -> socket.socket:
        if self._socket is None:
            try:
                connection = dial(self._host, self._port, node=self._node, timeout_s=CONNECT_S)
            except OSError as error:
                raise BulkError(error.strerror or str(error)) from error
            self._socket = connection
            self._greet(connection)
            self._is_greeted = True
        return self._socket

    def _greet(self, connection: socket.socket) -> None:
        try:
            _bulk.set_up(connection, stall_s=GREET_S)
            _bulk.send_all(connection, [self._greeting])
            answer = _bulk.receive(connection, len(self._greeting))
        except BulkError as error:
            # It may be somebody else who is silent, so nothing is said of the node.
            raise BulkError(str(error)) from error
        if bytes(answer or b"") != self._greeting:
            raise BulkError("it does not speak as the node does")
        _bulk.set_up(connection, stall_s=STALL_S)

    def _send(self, chunks: Sequence[Chunk], forward: Forward | None) -> None:
        connection = self._connected()
        for group in _frames.group(chunks):
            if self.is_broken:
                raise BulkError("it was given up")
            parts, length_bytes = _frames.parts(group)
            _bulk.send_all(connection, [Head(Kind.FRAME, length_bytes, forward).pack(), *parts])
        _bulk.send_all(connection, [Head(Kind.END).pack()])

    def _answer(self) -> Stored:
        connection = self._connected()
        packed = _bulk.receive(connection, _bulk.HEAD_BYTES)
        if packed is None:
            raise BulkError("the node ended the connection")
        head = Head.unpack(packed)
        if head.kind is not Kind.STORED or head.length_bytes > _ANSWER_BYTES_MAX:
            raise BulkError("the answer is none")
        body = _bulk.receive(connection, head.length_bytes) if head.length_bytes else bytearray()
        if body is None:
            raise BulkError("the node ended the connection")
        try:
            answer = pb.PutChunksResponse.FromString(bytes(body))
        except DecodeError as error:
            raise BulkError("the answer is none") from error
        return Stored(answer.chunks_new, answer.bytes_new, answer.bytes_stored)

    def _want(self, ids: Sequence[ChunkId]) -> None:
        connection = self._connected()
        if self.is_broken:
            raise BulkError("it was given up")
        body = b"".join(ids)
        _bulk.send_all(connection, [Head(Kind.WANT, len(body)).pack() + body])

    def _receive(
        self,
        ids: Sequence[ChunkId],
        found: list[bytes],
        now_s: Callable[[], float],
        *,
        bytes_per_s_min: int,
    ) -> None:
        connection = self._connected()
        packed = bytearray(_bulk.HEAD_BYTES)
        begin_s, came_bytes = now_s(), 0
        expected = iter(ids)
        while True:
            if not _bulk.receive_into(connection, memoryview(packed)):
                raise BulkError("the node ended the connection")
            head = Head.unpack(packed)
            if head.kind is Kind.END:
                return
            wanted = next(expected, None)
            if head.kind is not Kind.CHUNK or wanted is None or head.length_bytes > CHUNK_BYTES_MAX:
                raise BulkError("the answer is none")
            data = _bulk.receive(connection, head.length_bytes) if head.length_bytes else b""
            if data is None:
                raise BulkError("the node ended the connection")
            # It is a copy only where it came in parts.
            found.append(bytes(verified(wanted, data).data))
            came_bytes += len(data)
            elapsed_s = now_s() - begin_s
            if elapsed_s >= PATIENCE_S and came_bytes < elapsed_s * bytes_per_s_min:
                raise BulkError(f"{came_bytes} bytes in {elapsed_s:.0f} s are too few", is_silent=True)

    def abort(self) -> None:
        """End what is under way, from any thread; the line is of no more use."""
        self.is_broken = True
        if self._socket is not None:
            try:
                self._socket.shutdown(socket.SHUT_RDWR)
            except OSError:
                # It was not connected any more.
                return

    def close(self) -> None:
        """Release the connection; nobody uses it."""
        if self._socket is not None:
            self._socket.close()


class BulkLines:
    """The lines of one client to the nodes it meets. Used on one event loop."""

    def __init__(self) -> None:
        self._lines: dict[str, list[_Line]] = {}
        self._dialling: dict[str, _Line] = {}
        # Until when a node is not tried again this way, and for how long it was not.
        self._distrusted: dict[str, tuple[float, float]] = {}
        # Not shared: what is put may wait for what is read, in another client of the same process too.
        self._executor = ThreadPoolExecutor(PUTS_MAX, thread_name_prefix="mcr-bulk")
        self._getting = ThreadPoolExecutor(GETS_MAX, thread_name_prefix="mcr-bulk-get")
        self._is_closed = False

    def serves(self, way: Way, length_bytes: int) -> bool:
        """Say whether so many bytes should go to a node this way.

        Not before a line to it stands. One is dialled beside, so that nobody waits for a port that is closed.
        """
        if not way.bulk_port or length_bytes < BULK_BYTES_MIN or self.is_distrusted(way.address):
            return False
        self._sort_out(way.address)
        if any(line.is_connected for line in self._lines[way.address]):
            return True
        if way.address not in self._dialling:
            line = self._dialling[way.address] = _Line(way)
            dialled = asyncio.wrap_future(self._executor.submit(line.connect))
            dialled.add_done_callback(partial(self._dialled, way.address, line))
        return False

    def _dialled(self, address: str, line: _Line, outcome: "asyncio.Future[None]") -> None:
        del self._dialling[address]
        if outcome.cancelled() or outcome.exception() is not None:
            self._distrust(address)
            line.close()
        elif self._is_closed:
            line.close()
        else:
            line.used_at_s = _now_s()
            self._lines[address].append(line)

    def is_distrusted(self, address: str) -> bool:
        """Whether a node is not tried this way for now."""
        until_s, _ = self._distrusted.get(address, (0.0, 0.0))
        return until_s > _now_s()

    def _distrust(self, address: str) -> None:
        _, wait_s = self._distrusted.get(address, (0.0, DISTRUST_S_MIN / 2))
        wait_s = min(2 * wait_s, DISTRUST_S_MAX)
        self._distrusted[address] = _now_s() + wait_s, wait_s

    async def put(self, way: Way, chunks: Sequence[Chunk], forward: Forward | None) -> Stored:
        """Hand chunks to a node that `serves`.

        Raises:
            BulkError: they are to go another way; the node may have stored some.
        """
        return await self._with_line(way, self._executor, lambda line: line.put(chunks, forward))

    async def get(
        self, way: Way, ids: Sequence[ChunkId], found: list[bytes], *, bytes_per_s_min: int = 0
    ) -> None:
        """Get chunks from a node that `serves`; see `_Line.get`.

        Raises:
            BulkError: the rest is to be asked for another way.
            CorruptChunkError: something else came than was asked for.
        """
        now_s = asyncio.get_running_loop().time
        work = partial(_Line.get, ids=ids, found=found, now_s=now_s, bytes_per_s_min=bytes_per_s_min)
        await self._with_line(way, self._getting, work)

    async def _with_line(
        self, way: Way, executor: ThreadPoolExecutor, work: Callable[[_Line], Answer]
    ) -> Answer:
        line = self._take(way)
        step = executor.submit(work, line)
        try:
            await ended(step)
            if step.cancelled():
                # The client was closed before it began.
                raise asyncio.CancelledError
            answer = step.result()
            self._distrusted.pop(way.address, None)
            return answer
        except (BulkError, CorruptChunkError):
            self._distrust(way.address)
            raise
        except asyncio.CancelledError:
            # The thread uses buffers that are free again when this returns.
            line.abort()
            if not step.cancel():
                await ended(step)
            raise
        finally:
            line.users -= 1
            line.used_at_s = _now_s()
            self._sort_out(way.address)

    def _take(self, way: Way) -> _Line:
        """Return the line for the next put, which counts as its user from now on."""
        self._sort_out(way.address)
        lines = self._lines[way.address]
        sound = [line for line in lines if not line.is_broken]
        line = min(sound, key=lambda one: one.users, default=None)
        if line is None or (line.users and len(sound) < LINES_MAX):
            line = _Line(way)
            lines.append(line)
        line.users += 1
        return line

    def _sort_out(self, address: str) -> None:
        """Close what nobody uses and nobody should."""
        stale_s = _now_s() - IDLE_S
        kept: list[_Line] = []
        for line in self._lines.get(address, ()):
            if not line.users and (line.is_broken or line.used_at_s < stale_s):
                line.close()
            else:
                kept.append(line)
        self._lines[address] = kept

    def close(self) -> None:
        """End all connections and threads."""
        self._is_closed = True
        for line in self._dialling.values():
            line.abort()
        for lines in self._lines.values():
            for line in lines:
                line.abort()
        self._executor.shutdown()
        self._getting.shutdown()
        for line in self._dialling.values():
            line.close()
        for lines in self._lines.values():
            for line in lines:
                line.close()
        self._lines.clear()


def _now_s() -> float:
    return asyncio.get_running_loop().time()
