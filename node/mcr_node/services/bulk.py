"""The bulk plane of a node (`mcr._bulk`): a thread for each connection receives, verifies, stores, forwards.

The same rules as for `ChunksService`: nothing is stored that was not verified, nothing is durable before
`sync`, a full node refuses, and what is given was verified when it was read. Whatever goes wrong ends the
connection, or an answer early; the client asks again by gRPC, and learns there what it was.
"""

import asyncio
import secrets
import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import field

from mcr import _bulk
from mcr._bulk import BulkError, Forward, Head, Kind
from mcr._frames import FRAME_CHUNKS_MAX, MESSAGE_BYTES_MAX
from mcr.errors import CorruptChunkError, McrError
from mcr.model import DIGEST_BYTES, MIB, Buffer, Chunk, ChunkId
from mcr.transfer import Stored
from mcr.v1 import chunks_pb2 as pb
from mcr.values import dataclass
from mcr_node.ports import StorageFailure
from mcr_node.services.chunks import FORWARD_BYTES_MIN, LocalChunks
from mcr_node.telemetry import Telemetry

# Whoever comes beyond goes by gRPC.
LINES_MAX = 128
# A client that sends nothing in the middle of a put has gone; between two it may take its time.
STALL_S = 30.0
# Connections that wait to be accepted.
BACKLOG = 64
# What is stored in one step: one long direct write instead of several, each with ends of its own.
STORE_BYTES = 4 * MIB
CLOSE_S = 10.0
# Chunks that the disk begins to read together, and what is sent in one step: a large chunk, or small ones.
EXPECTED_CHUNKS = 8
GIVE_BYTES = MIB
GIVE_BUFFERS_MAX = 64


@dataclass(slots=True)
class _Batch:
    """Verified chunks of one put that are not stored yet."""

    forward: Forward | None = None
    chunks: list[Chunk] = field(default_factory=list)
    length_bytes: int = 0


class BulkServer:
    """Listens, and keeps one thread a connection. Made on the event loop."""

    def __init__(
        self,
        chunks: LocalChunks,
        telemetry: Telemetry,
        on_failure: Callable[[StorageFailure], object] | None = None,
    ) -> None:
        """Store to `chunks`; a disk that fails is told to `on_failure`, before anything is answered."""
        self._chunks = chunks
        self._telemetry = telemetry
        self._on_failure = on_failure
        self.key = secrets.token_bytes(_bulk.KEY_BYTES)
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._lines: dict[socket.socket, threading.Thread] = {}
        self._socket: socket.socket | None = None
        self._accepting: threading.Thread | None = None
        self._closing = False

    def listen(self, host: str) -> int:
        """Listen on a port that the system chooses; return it, or 0 where that cannot be."""
        try:
            family, kind, _, _, address = socket.getaddrinfo(
                host.strip("[]") or None, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            listening = socket.socket(family, kind)
            listening.bind(address)
            listening.listen(BACKLOG)
        except OSError:
            return 0
        self._socket = listening
        self._accepting = threading.Thread(target=self._accept, name="mcr-bulk-accept", daemon=True)
        self._accepting.start()
        port: int = listening.getsockname()[1]
        return port

    def _accept(self) -> None:
        assert self._socket is not None, "it listens"
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                # Closed; or too many files are open, and clients go by gRPC until this node is started anew.
                return
            thread = threading.Thread(target=self._serve, args=[connection], name="mcr-bulk", daemon=True)
            with self._lock:
                if self._closing or len(self._lines) >= LINES_MAX:
                    connection.close()
                    continue
                self._lines[connection] = thread
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            _bulk.set_up(connection, stall_s=STALL_S)
            with suppress(BulkError, McrError):
                self._converse(connection)
        except Exception as error:  # noqa: BLE001 (the client goes by gRPC; the node lives on)
            self._telemetry.bug("bulk", error)
        finally:
            with self._lock:
                del self._lines[connection]
            connection.close()

    def _converse(self, connection: socket.socket) -> None:
        """Serve a connection until it ends, one way or another.

        Raises:
            BulkError: it broke, or the client does not keep to the form.
            McrError: the chunks are wrong, or there is no room.
        """
        greeting = _bulk.greeting(self.key)
        if bytes(_bulk.receive(connection, len(greeting)) or b"") != greeting:
            return
        _bulk.send_all(connection, [greeting])
        stored, batch = Stored(), _Batch()
        packed = bytearray(_bulk.HEAD_BYTES)
        while _bulk.receive_into(connection, memoryview(packed)):
            head = Head.unpack(packed)
            match head.kind:
                case Kind.FRAME:
                    stored += self._take(connection, head, batch)
                case Kind.END:
                    stored += self._store(batch)
                    answer = pb.PutChunksResponse(
                        chunks_new=stored.chunks_new,
                        bytes_new=stored.bytes_new,
                        bytes_stored=stored.bytes_stored,
                    ).SerializeToString()
                    _bulk.send_all(connection, [Head(Kind.STORED, len(answer)).pack(), answer])
                    stored = Stored()
                case Kind.WANT:
                    self._give(connection, self._wanted(connection, head))
                case Kind.STORED | Kind.CHUNK:
                    raise BulkError("that is for nodes to say")

    def _take(self, connection: socket.socket, head: Head, batch: _Batch) -> Stored:
        """Receive and verify one frame; store when there is enough."""
        if not 0 < head.length_bytes <= MESSAGE_BYTES_MAX:
            raise BulkError(f"a frame of {head.length_bytes} bytes")
        frame = _bulk.receive(connection, head.length_bytes)
        if frame is None:
            raise BulkError("it ended before a frame")
        self._telemetry.bytes_received.inc(len(frame))
        batch.forward = head.forward
        batch.chunks += self._chunks.verify(frame)
        batch.length_bytes += len(frame)
        return self._store(batch) if batch.length_bytes >= STORE_BYTES else Stored()

    def _store(self, batch: _Batch) -> Stored:
        """Let what was verified be sent on, and store it from the same memory.

        In this order, so that a node which is killed has little on its disk that nobody else is about to get.
        """
        if not batch.chunks:
            return Stored()
        chunks, length_bytes = batch.chunks, batch.length_bytes
        batch.chunks, batch.length_bytes = [], 0
        if batch.forward is not None and length_bytes >= FORWARD_BYTES_MIN:
            # What is refused here is for nobody else either.
            self._chunks.check_room(length_bytes)
            # What goes where is found out here, so that the loop has less to do.
            if parts := self._chunks.spread(chunks, batch.forward, self._loop.time()):
                asyncio.run_coroutine_threadsafe(self._chunks.offer(parts), self._loop).result()
        try:
            return self._chunks.store(chunks, length_bytes)
        except StorageFailure as failure:
            if self._on_failure is not None:
                self._on_failure(failure)
            raise BulkError("the disk failed") from failure

    @staticmethod
    def _wanted(connection: socket.socket, head: Head) -> list[ChunkId]:
        """Receive the ids of a WANT."""
        count, rest = divmod(head.length_bytes, DIGEST_BYTES)
        if rest or not 0 < count <= FRAME_CHUNKS_MAX:
            raise BulkError(f"ids of {head.length_bytes} bytes")
        body = _bulk.receive(connection, head.length_bytes)
        if body is None:
            raise BulkError("it ended before the ids")
        return [ChunkId(bytes(body[at : at + DIGEST_BYTES])) for at in range(0, len(body), DIGEST_BYTES)]

    def _give(self, connection: socket.socket, ids: Sequence[ChunkId]) -> None:
        """Send chunks until one is not here; what is small goes together."""
        buffers: list[Buffer] = []
        length_bytes = 0
        for begin in range(0, len(ids), EXPECTED_CHUNKS):
            self._chunks.expect(ids[begin : begin + EXPECTED_CHUNKS])
            for data in self._chunks.here(ids[begin : begin + EXPECTED_CHUNKS]):
                if not isinstance(data, bytes):
                    if isinstance(data, CorruptChunkError):
                        self._loop.call_soon_threadsafe(self._chunks.met_damage)
                    return self._end(connection, buffers, length_bytes)
                buffers += (Head(Kind.CHUNK, len(data)).pack(), data)
                length_bytes += len(data)
                if length_bytes >= GIVE_BYTES or len(buffers) >= GIVE_BUFFERS_MAX:
                    _bulk.send_all(connection, buffers)
                    self._telemetry.bytes_sent.inc(length_bytes)
                    buffers, length_bytes = [], 0
        return self._end(connection, buffers, length_bytes)

    def _end(self, connection: socket.socket, buffers: list[Buffer], length_bytes: int) -> None:
        _bulk.send_all(connection, [*buffers, Head(Kind.END).pack()])
        self._telemetry.bytes_sent.inc(length_bytes)

    def close(self) -> None:
        """End all connections, and wait for the threads; to be called beside the event loop."""
        with self._lock:
            self._closing = True
            lines = dict(self._lines)
        if self._socket is not None:
            with suppress(OSError):
                # Closing alone does not wake the thread that accepts.
                self._socket.shutdown(socket.SHUT_RDWR)
            self._socket.close()
        for connection in lines:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in (self._accepting, *lines.values()):
            if thread is not None:
                thread.join(CLOSE_S)
