"""Records over a plain TCP connection beside gRPC: what lines between nodes, and of clients to nodes, share.

A connection begins with the same greeting from either side; it holds a key that the node told by gRPC, so
that nobody else who listens there by now is taken for the node. Then come records, each four bytes of length,
and bytes. What a record means, and what follows when the connection breaks, is for those who use it to say.
"""

import asyncio
import secrets
import socket
import struct
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from mcr._dialling import dial
from mcr.addresses import parse_address
from mcr.values import dataclass

KEY_BYTES = 16
# How a line of a client begins, from either side; the key follows.
CALL_WORD = b"mcr-call-1\n"
_LENGTH = struct.Struct(">I")
_CONNECT_S = 1.0
# Whoever was cut off without a word is noticed after so long, as by gRPC's keepalive.
_SILENCE_S = 8
_PROBE_S = 2
_PROBES = 3
# Turns of the event loop between asyncio taking a connection and its protocol having it, and one more.
_TAKING_TURNS = 3

Made = TypeVar("Made", bound=asyncio.Protocol)


class RecordError(Exception):
    """The connection is of no use, or not any more."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a node takes connections; port 0 = nowhere."""

    port: int = 0
    key: bytes = b""


def packed(data: bytes) -> bytes:
    """Return a record."""
    return _LENGTH.pack(len(data)) + data


class Records:
    """The records of a connection, as its bytes come."""

    def __init__(self, record_bytes_max: int) -> None:
        self._record_bytes_max = record_bytes_max
        self._held = bytearray()

    def take(self, data: bytes) -> list[bytes]:
        """Return what is complete now.

        Raises:
            RecordError: a record is longer than they may be.
        """
        found: list[bytes] = []
        source: bytes | bytearray = data
        if self._held:
            self._held += data
            source = self._held
        begin = 0
        while len(source) - begin >= _LENGTH.size:
            (length_bytes,) = _LENGTH.unpack_from(source, begin)
            if length_bytes > self._record_bytes_max:
                raise RecordError(f"a record of {length_bytes} bytes")
            end = begin + _LENGTH.size + length_bytes
            if len(source) < end:
                break
            found.append(bytes(source[begin + _LENGTH.size : end]))
            begin = end
        if self._held:
            del self._held[:begin]
        else:
            self._held += data[begin:]
        return found


async def dialled(address: str, place: Place, word: bytes, made: Made) -> Made:
    """Connect to a node, greet it, and let `made` have the connection; return it.

    Args:
        address: of the node, by gRPC.
        place: where it listens, as it told.
        word: how the greeting begins, of this kind of connection.
        made: what is to speak over it.

    Raises:
        RecordError: nobody answers there, or somebody else.
    """
    host = parse_address("address", address).host.strip("[]")
    dialling = _Dialling()
    try:
        loop = asyncio.get_running_loop()
        connection = await loop.run_in_executor(None, dialling.run, host, place, word, address)
        await loop.create_connection(lambda: made, sock=connection)
    except BaseException:
        dialling.give_up()
        raise
    return made


class _Dialling:
    """What a thread dials. It may still do so when nobody waits for it, and the loop is gone."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._connection: socket.socket | None = None
        self._is_given_up = False

    def run(self, host: str, place: Place, word: bytes, address: str) -> socket.socket:
        """Connect and greet; blocks.

        Raises:
            RecordError: nobody answers there, or somebody else, or nobody waits any more.
        """
        connection = _greeted(host, place, word, address)
        with self._lock:
            if not self._is_given_up:
                self._connection = connection
                return connection
        connection.close()
        raise RecordError("nobody waits for it any more")

    def give_up(self) -> None:
        """Close what was dialled, and what is being dialled, once it is there."""
        with self._lock:
            self._is_given_up = True
            if self._connection is not None:
                self._connection.close()


def _greeted(host: str, place: Place, word: bytes, address: str) -> socket.socket:
    """Connect and greet; blocks."""
    greeting = word + place.key
    try:
        connection = dial(host, place.port, node=address, timeout_s=_CONNECT_S)
    except OSError as error:
        raise RecordError(error.strerror or str(error)) from error
    try:
        _set_up(connection)
        connection.sendall(greeting)
        answer = b""
        while len(answer) < len(greeting) and (part := connection.recv(len(greeting) - len(answer))):
            answer += part
        if answer != greeting:
            raise RecordError("it does not speak as the node does")
        connection.setblocking(False)
    except OSError as error:
        connection.close()
        raise RecordError(error.strerror or str(error)) from error
    except BaseException:
        connection.close()
        raise
    return connection


def _set_up(connection: socket.socket) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _PROBE_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _PROBE_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _PROBES)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _SILENCE_S * 1000)


class Incoming(asyncio.Protocol, ABC):
    """A connection that somebody dialled, from its greeting on; a subclass says what records mean."""

    def __init__(
        self,
        greeting: bytes,
        others: "set[Incoming]",
        *,
        lines_max: int,
        record_bytes_max: int,
        greet_s: float,
    ) -> None:
        """Await the greeting.

        Args:
            greeting: word and key.
            others: connections of the same listener, this one among them while it lasts.
            lines_max: beyond so many it is ended at once.
            record_bytes_max: of one record.
            greet_s: from the connection to the first record.
        """
        self._greeting = greeting
        self._others = others
        self._lines_max = lines_max
        self._greet_s = greet_s
        self._records = Records(record_bytes_max)
        self._unread = b""
        self._is_greeted = False
        self._deadline: asyncio.TimerHandle | None = None
        self.transport: asyncio.Transport | None = None

    @abstractmethod
    def took(self, record: bytes) -> None:
        """Take a record.

        Raises:
            RecordError: it is none; the connection ends.
        """

    def close(self) -> None:
        """End the connection."""
        if self.transport is not None:
            self.transport.abort()

    # ---- asyncio.Protocol ----

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See Protocol."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._others.add(self)
        if len(self._others) > self._lines_max:
            self.close()
            return
        with suppress(OSError):
            _set_up(transport.get_extra_info("socket"))
        self._deadline = asyncio.get_running_loop().call_later(self._greet_s, self.close)

    def connection_lost(self, exc: Exception | None) -> None:
        """See Protocol."""
        self._others.discard(self)
        self._end_deadline()

    def data_received(self, data: bytes) -> None:
        """See Protocol."""
        if not self._is_greeted:
            self._unread += data
            if not self._greet():
                return
            data, self._unread = self._unread[len(self._greeting) :], b""
        try:
            for record in self._records.take(data):
                self.took(record)
                self._end_deadline()
        except RecordError:
            # Of no use, whoever it is: as when a gRPC stream is aborted.
            self.close()

    def _greet(self) -> bool:
        """Answer the greeting once all of it is there."""
        if len(self._unread) < len(self._greeting):
            return False
        if not secrets.compare_digest(self._unread[: len(self._greeting)], self._greeting):
            self.close()
            return False
        assert self.transport is not None
        self.transport.write(self._greeting)
        self._is_greeted = True
        return True

    def _end_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class Listener:
    """Takes connections on a port that the system chooses."""

    def __init__(self, word: bytes, made: "Callable[[bytes, set[Incoming]], Incoming]") -> None:
        """`made` makes what serves one connection, from its greeting and those of all."""
        self._word = word
        self._made = made
        self._server: asyncio.Server | None = None
        self._closing: asyncio.Task[None] | None = None
        self.lines: set[Incoming] = set()
        self.place = Place(0, secrets.token_bytes(KEY_BYTES))

    async def listen(self, host: str) -> None:
        """Listen; where that cannot be, `place` says nowhere, and everybody speaks by gRPC."""
        loop = asyncio.get_running_loop()
        greeting = self._word + self.place.key
        with suppress(OSError):
            self._server = await loop.create_server(
                lambda: self._made(greeting, self.lines), host.strip("[]") or None, 0
            )
            self.place = Place(self._server.sockets[0].getsockname()[1], self.place.key)

    def take_no_more(self) -> None:
        """Let nobody connect any more."""
        if self._server is not None and self._closing is None:
            self._closing = asyncio.create_task(closed(self._server))

    async def close(self) -> None:
        """End all connections."""
        self.take_no_more()
        if self._closing is not None:
            await self._closing
        for line in list(self.lines):
            line.close()
        if self._server is not None:
            await self._server.wait_closed()
            # The turn of the loop in which they close; 3.11 does not wait for it.
            await asyncio.sleep(0)


async def closed(server: asyncio.Server) -> None:
    """Take nothing more in, and close once what was taken is with its protocol.

    Closed before, asyncio would lose hold of a connection that it is just taking (seen in 3.11).
    """
    loop = asyncio.get_running_loop()
    for listening in server.sockets:
        loop.remove_reader(listening.fileno())
    for _ in range(_TAKING_TURNS):
        await asyncio.sleep(0)
    server.close()
