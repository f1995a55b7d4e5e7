"""Lines: what nodes tell each other about the log, over a plain TCP connection beside gRPC.

A message on a stream of grpc.aio costs some 0.3 ms of processor time at either end, and a lone commit is some
twenty of them; here it is one write and one callback. A line is a short cut and nothing more: each node tells
where it listens when it begins a gRPC stream (`DeliverRequest.line_port`), a line is dialled beside that
stream, and where none is told, none answers, or it breaks, messages go by gRPC as before.

A connection begins with the same greeting from either side; it holds a key, so that no one else is taken for
the node. Then come records from the side that dialled, each four bytes of length and a DeliverRequest; the
first says who speaks to whom. Nothing is answered: raft has its own answers.
"""

import asyncio
import secrets
import socket
import struct
from collections.abc import Callable
from contextlib import suppress

from google.protobuf.message import DecodeError

from mcr._dialling import dial
from mcr.addresses import parse_address
from mcr.values import dataclass
from mcr_node.peer.v1 import raft_pb2
from mcr_node.transport import codec

_GREETING = b"mcr-line-1\n"
KEY_BYTES = 16
_LENGTH = struct.Struct(">I")
# As of a gRPC message: a batch of about 1 MiB, or one long entry.
RECORD_BYTES_MAX = 8 << 20
# Each other node has one, and one more for a moment when it dials anew.
LINES_MAX = 256
CONNECT_S = 1.0
# From the connection to the first record.
GREET_S = 5.0
# Whoever was cut off without a word is noticed after so long, as by gRPC's keepalive.
SILENCE_S = 8
PROBE_S = 2
PROBES = 3


class LineError(Exception):
    """There is no line, or not any more."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a node takes lines; port 0 = nowhere."""

    port: int = 0
    key: bytes = b""


def _set_up(connection: socket.socket) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, PROBE_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, PROBE_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, PROBES)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENCE_S * 1000)


class Line(asyncio.Protocol):
    """A line to another node. On the event loop; `open` one."""

    def __init__(self, on_room: Callable[[], None]) -> None:
        """`on_room` is called when there is room again after there was none."""
        self._on_room = on_room
        self._transport: asyncio.Transport | None = None
        self._is_full = False
        # Set when the connection has ended, whoever ended it.
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @staticmethod
    async def open(address: str, place: Place, on_room: Callable[[], None]) -> "Line":
        """Dial a node.

        Args:
            address: of the node, by gRPC.
            place: where it takes lines, as it told.
            on_room: see above.

        Raises:
            LineError: nobody answers there, or somebody else.
        """
        host = parse_address("address", address).host.strip("[]")
        dialling = asyncio.get_running_loop().run_in_executor(None, _greeted, host, place, address)
        try:
            connection = await asyncio.shield(dialling)
        except asyncio.CancelledError:
            # The thread goes on, for some seconds.
            dialling.add_done_callback(_discard)
            raise
        try:
            line = Line(on_room)
            await asyncio.get_running_loop().create_connection(lambda: line, sock=connection)
        except BaseException:
            connection.close()
            raise
        return line

    @property
    def has_room(self) -> bool:
        """Whether more may be sent now."""
        return self._transport is not None and not self._is_full and not self.ended.done()

    def send(self, request: raft_pb2.DeliverRequest) -> None:
        """Send a record, if the connection is there; what is lost with it, raft sends again."""
        if self._transport is not None:
            data = request.SerializeToString()
            self._transport.write(_LENGTH.pack(len(data)) + data)

    def close(self) -> None:
        """End the connection; what was not sent yet is dropped."""
        if self._transport is not None:
            self._transport.abort()

    # ---- asyncio.Protocol ----

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See Protocol."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        """See Protocol."""
        self._transport = None
        if not self.ended.done():
            self.ended.set_result(None)

    def data_received(self, data: bytes) -> None:
        """See Protocol: nothing is answered, so it is not who it should be."""
        self.close()

    def pause_writing(self) -> None:
        """See BaseProtocol."""
        self._is_full = True

    def resume_writing(self) -> None:
        """See BaseProtocol."""
        self._is_full = False
        self._on_room()


def _discard(dialled: "asyncio.Future[socket.socket]") -> None:
    if not dialled.cancelled() and dialled.exception() is None:
        dialled.result().close()


def _greeted(host: str, place: Place, address: str) -> socket.socket:
    """Connect and greet; blocks."""
    greeting = _GREETING + place.key
    try:
        connection = dial(host, place.port, node=address, timeout_s=CONNECT_S)
    except OSError as error:
        raise LineError(error.strerror or str(error)) from error
    try:
        _set_up(connection)
        connection.sendall(greeting)
        answer = b""
        while len(answer) < len(greeting) and (part := connection.recv(len(greeting) - len(answer))):
            answer += part
        if answer != greeting:
            raise LineError("it does not speak as the node does")
        connection.setblocking(False)
    except OSError as error:
        connection.close()
        raise LineError(error.strerror or str(error)) from error
    except BaseException:
        connection.close()
        raise
    return connection


# Takes one request of the sender that the requests before told (0 = none yet), and returns who it is; raises
# WireError where it makes no sense.
Take = Callable[[raft_pb2.DeliverRequest, int], int]


class LineServer:
    """Takes lines of other nodes."""

    def __init__(self, take: Take) -> None:
        """Hand what comes to `take`."""
        self._take = take
        self.place = Place(0, secrets.token_bytes(KEY_BYTES))
        self._server: asyncio.Server | None = None
        self._lines: set[_Incoming] = set()

    async def listen(self, host: str) -> None:
        """Listen on a port that the system chooses; where that cannot be, nodes speak by gRPC."""
        loop = asyncio.get_running_loop()
        with suppress(OSError):
            self._server = await loop.create_server(
                lambda: _Incoming(self._take, self.place.key, self._lines), host.strip("[]") or None, 0
            )
            self.place = Place(self._server.sockets[0].getsockname()[1], self.place.key)

    async def close(self) -> None:
        """End all lines."""
        if self._server is not None:
            self._server.close()
        for line in list(self._lines):
            line.close()
        if self._server is not None:
            await self._server.wait_closed()


class _Incoming(asyncio.Protocol):
    """A line from another node."""

    def __init__(self, take: Take, key: bytes, lines: "set[_Incoming]") -> None:
        self._take = take
        self._greeting = _GREETING + key
        self._lines = lines
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._is_greeted = False
        self._sender = 0
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See Protocol."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._lines.add(self)
        if len(self._lines) > LINES_MAX:
            self.close()
            return
        with suppress(OSError):
            _set_up(transport.get_extra_info("socket"))
        self._deadline = asyncio.get_running_loop().call_later(GREET_S, self.close)

    def connection_lost(self, exc: Exception | None) -> None:
        """See Protocol."""
        self._lines.discard(self)
        if self._deadline is not None:
            self._deadline.cancel()

    def data_received(self, data: bytes) -> None:
        """See Protocol."""
        self._received += data
        if not self._is_greeted and not self._greet():
            return
        try:
            self._take_all()
        except (codec.WireError, DecodeError):
            # Of no use, whoever it is: as when a gRPC stream is aborted.
            self.close()

    def _greet(self) -> bool:
        """Answer the greeting once all of it is there."""
        if len(self._received) < len(self._greeting):
            return False
        if not secrets.compare_digest(self._received[: len(self._greeting)], self._greeting):
            self.close()
            return False
        assert self._transport is not None
        self._transport.write(self._greeting)
        del self._received[: len(self._greeting)]
        self._is_greeted = True
        return True

    def _take_all(self) -> None:
        """Take all records that are complete.

        Raises:
            codec.WireError, DecodeError: one of them is none.
        """
        received, begin = self._received, 0
        while len(received) - begin >= _LENGTH.size:
            (length_bytes,) = _LENGTH.unpack_from(received, begin)
            if length_bytes > RECORD_BYTES_MAX:
                raise codec.WireError(f"a record of {length_bytes} bytes")
            end = begin + _LENGTH.size + length_bytes
            if len(received) < end:
                break
            request = raft_pb2.DeliverRequest.FromString(bytes(received[begin + _LENGTH.size : end]))
            self._sender = self._take(request, self._sender)
            begin = end
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None
        del received[:begin]

    def close(self) -> None:
        """End the connection."""
        if self._transport is not None:
            self._transport.abort()
