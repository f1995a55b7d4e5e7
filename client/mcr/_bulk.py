"""The bulk plane: chunks over a plain TCP connection, in large reads and writes by threads that own it.

gRPC copies each message several times and holds the interpreter while it does; here bytes go from the buffer
they were read into to the kernel, and from the kernel into the buffer they are hashed, stored and sent on
from. Measured: half of the processor time of a whole commit. It is a short cut and nothing more: a node tells
its port in `Ping`; where none is told, none answers, or anything at all goes wrong, the same chunks go by
gRPC (`ChunksService.PutChunks`, `GetChunks`), which says what the matter is and tries other nodes. So there
are no error details here.

A connection begins with the same greeting from either side; it holds a key, so that no one else is taken for
the node. Then the client sends records, each a head and a body:

    FRAME   some chunks (`mcr._frames`), to be verified and stored; the head says how widely to forward them
    END     no body: answer for all since the last END
    WANT    ids of chunks, one after the other

The node answers each END with STORED (body: mcr.v1.PutChunksResponse), each WANT with the bytes of the chunks
as they lie here, a CHUNK each, in the order of their ids, and an END. That comes early where one is not here:
whoever asked goes on by gRPC. Or it ends the connection. Several puts and wants may be under way; answers
come in order. What is stored is durable only after `SyncChunks`, as ever.
"""

import socket
import struct
from collections.abc import Iterable
from enum import IntEnum

from mcr.durability import COPIES_MAX, Durability
from mcr.model import Buffer
from mcr.values import dataclass

# Followed by the key that the node tells in `Ping`.
_GREETING = b"mcr-bulk-1\n"
KEY_BYTES = 16
# Kind, whether to forward, copies, sites (0 = as usual), length of the body.
_HEAD = struct.Struct("<BBHHI")
HEAD_BYTES = _HEAD.size
# What the kernel takes in one sendmsg is 1024 buffers (IOV_MAX); joining many small ones is cheaper anyway.
_BUFFERS_MAX = 64
# As usual; what clients of all releases sent.
_USUAL = "1"
_TEXT_CHARACTERS_MAX = 16
_TIMEVAL = struct.Struct("ll")


def greeting(key: bytes) -> bytes:
    """Return how a connection begins, from either side."""
    return _GREETING + key


class BulkError(Exception):
    """The connection is of no more use; `is_silent` when the other side neither takes nor answers."""

    def __init__(self, reason: str, *, is_silent: bool = False) -> None:
        super().__init__(reason)
        self.is_silent = is_silent


class Kind(IntEnum):
    """What a record is."""

    FRAME = 1
    END = 2
    STORED = 3
    WANT = 4
    CHUNK = 5


@dataclass(frozen=True, slots=True)
class Forward:
    """Chunks come from where they are made, so other nodes get them too: as many as for a durability.

    Attributes:
        durability: of the commit that they are for; None = as usual.
    """

    durability: Durability | None = None

    @property
    def text(self) -> str:
        """What stands for it in the metadata of PutChunks (`mcr._frames.FORWARD_KEY`)."""
        asked = self.durability
        return _USUAL if asked is None else f"{asked.copies}/{asked.sites}"

    @staticmethod
    def parse(text: str) -> "Forward":
        """Read `text`; as usual, if it is none: it only saves sealing some work."""
        copies, _, sites = text.partition("/")
        if not (copies.isdecimal() and sites.isdecimal() and len(text) <= _TEXT_CHARACTERS_MAX):
            return Forward()
        return Forward.of(int(copies), int(sites)) or Forward()

    @staticmethod
    def of(copies: int, sites: int) -> "Forward | None":
        """Return what numbers from outside stand for; None where no placement could meet them."""
        possible = 0 < sites <= copies <= COPIES_MAX
        return Forward(Durability(copies, sites)) if possible else None


@dataclass(frozen=True, slots=True)
class Head:
    """The head of a record."""

    kind: Kind
    length_bytes: int = 0
    forward: Forward | None = None

    def pack(self) -> bytes:
        """Return its bytes."""
        asked = None if self.forward is None else self.forward.durability
        copies, sites = (0, 0) if asked is None else (asked.copies, asked.sites)
        return _HEAD.pack(self.kind, self.forward is not None, copies, sites, self.length_bytes)

    @staticmethod
    def unpack(data: Buffer) -> "Head":
        """Read one.

        Raises:
            BulkError: it is none.
        """
        kind, forwards, copies, sites, length_bytes = _HEAD.unpack(data)
        try:
            known = Kind(kind)
        except ValueError as error:
            raise BulkError(f"record of kind {kind}") from error
        if not forwards:
            return Head(known, length_bytes)
        if not copies:
            return Head(known, length_bytes, Forward())
        forward = Forward.of(copies, sites)
        if forward is None:
            raise BulkError(f"{copies} copies in {sites} sites")
        return Head(known, length_bytes, forward)


def set_up(connection: socket.socket, *, stall_s: float) -> None:
    """Let every single step on a blocking socket end after `stall_s`, and small records not wait."""
    connection.setblocking(True)
    timeout = _TIMEVAL.pack(int(stall_s), round(stall_s % 1 * 1e6))
    # Of the kernel, not of Python, whose own make each step two system calls, and no step whole.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeout)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeout)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # Whoever was cut off without a word is noticed by this also while only an answer is waited for.
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(stall_s * 1000))


def send_all(connection: socket.socket, buffers: Iterable[Buffer]) -> None:
    """Send buffers one after the other, without joining them.

    Raises:
        BulkError: it failed, or nothing moved for too long.
    """
    left = [memoryview(buffer).cast("B") for buffer in buffers if len(buffer)]
    if len(left) > _BUFFERS_MAX:
        left = [memoryview(b"".join(left))]
    first = 0
    try:
        while first < len(left):
            count = connection.sendmsg(left[first:])
            while first < len(left) and count >= left[first].nbytes:
                count -= left[first].nbytes
                first += 1
            if count:
                left[first] = left[first][count:]
    except BlockingIOError as error:
        raise BulkError("the other side takes nothing", is_silent=True) from error
    except OSError as error:
        raise BulkError(error.strerror or str(error)) from error


def receive_into(connection: socket.socket, view: memoryview) -> bool:
    """Fill a buffer; False when the connection ended before its first byte.

    Raises:
        BulkError: it failed or ended in the middle, or nothing came for too long.
    """
    filled = 0
    try:
        while filled < view.nbytes:
            count = connection.recv_into(view[filled:], 0, socket.MSG_WAITALL)
            if not count:
                if not filled:
                    return False
                raise BulkError("it ended in the middle of a record")
            filled += count
    except BlockingIOError as error:
        raise BulkError("the other side sends nothing", is_silent=True) from error
    except OSError as error:
        raise BulkError(error.strerror or str(error)) from error
    return True


def receive(connection: socket.socket, length_bytes: int) -> bytes | bytearray | None:
    """Receive so many bytes into a buffer of their own; None when the connection ended before.

    Raises:
        BulkError: see `receive_into`.
    """
    try:
        # Nearly always all of them; and a new bytearray would be filled with zeros first.
        first = connection.recv(length_bytes, socket.MSG_WAITALL)
    except BlockingIOError as error:
        raise BulkError("the other side sends nothing", is_silent=True) from error
    except OSError as error:
        raise BulkError(error.strerror or str(error)) from error
    if len(first) in (0, length_bytes):
        return first or None
    data = bytearray(length_bytes)
    data[: len(first)] = first
    if not receive_into(connection, memoryview(data)[len(first) :]):
        raise BulkError("it ended in the middle of a record")
    return data
