"""Lines: what nodes tell each other about the log, over a plain TCP connection beside gRPC.

A message on a stream of grpc.aio costs some 0.3 ms of processor time at either end, and a lone commit is some
twenty of them; here it is one write and one callback. A line is a short cut and nothing more: each node tells
where it listens when it begins a gRPC stream (`DeliverRequest.line_port`), a line is dialled beside that
stream, and where none is told, none answers, or it breaks, messages go by gRPC as before.

A connection is greeted as `mcr._records` says; each record from the side that dialled is a DeliverRequest,
and the first says who speaks to whom. Nothing is answered: raft has its own answers.
"""

import asyncio
from collections.abc import Callable

from google.protobuf.message import DecodeError

from mcr._records import Incoming, Listener, Place, RecordError, dialled, packed
from mcr_node.peer.v1 import raft_pb2
from mcr_node.transport import codec

_WORD = b"mcr-line-1\n"
# As of a gRPC message: a batch of about 1 MiB, or one long entry.
RECORD_BYTES_MAX = 8 << 20
# Each other node has one, and one more for a moment when it dials anew.
LINES_MAX = 256
# From the connection to the first record.
GREET_S = 5.0


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
            RecordError: nobody answers there, or somebody else.
        """
        return await dialled(address, place, _WORD, Line(on_room))

    @property
    def has_room(self) -> bool:
        """Whether more may be sent now."""
        return self._transport is not None and not self._is_full and not self.ended.done()

    def send(self, request: raft_pb2.DeliverRequest) -> None:
        """Send a record, if the connection is there; what is lost with it, raft sends again."""
        if self._transport is not None:
            self._transport.write(packed(request.SerializeToString()))

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


# Takes one request of the sender that the requests before told (0 = none yet), and returns who it is; raises
# WireError where it makes no sense.
Take = Callable[[raft_pb2.DeliverRequest, int], int]


class LineServer(Listener):
    """Takes lines of other nodes."""

    def __init__(self, take: Take) -> None:
        """Hand what comes to `take`."""
        super().__init__(_WORD, lambda greeting, others: _Incoming(take, greeting, others))


class _Incoming(Incoming):
    """A line from another node."""

    def __init__(self, take: Take, greeting: bytes, others: set[Incoming]) -> None:
        super().__init__(
            greeting, others, lines_max=LINES_MAX, record_bytes_max=RECORD_BYTES_MAX, greet_s=GREET_S
        )
        self._take = take
        self._sender = 0

    def took(self, record: bytes) -> None:
        """See Incoming."""
        try:
            self._sender = self._take(raft_pb2.DeliverRequest.FromString(record), self._sender)
        except (codec.WireError, DecodeError) as error:
            raise RecordError(str(error)) from error
