"""A line to a node for small calls: what a stream of gRPC carries, over a plain TCP connection.

A message on a stream of grpc.aio costs the client and the node some 0.3 ms each; here it is one write and one
callback. It is a short cut and nothing more: a node tells its port in `Ping`, a line is dialled beside once a
client has made some calls, and where no port is told, none answers, or the line breaks, calls go by gRPC.

After the greeting (`mcr._records`) the client's first record is the account that it calls for; each later one
is a CarryCallsRequest, each of the node's a CarryCallsResponse. While answers are waited for and nothing
comes, the client asks whether the node is there, as gRPC's keepalive does: a process that was stopped still
has a kernel that acknowledges what is sent to it.
"""

import asyncio
from functools import partial

import grpc
from google.protobuf.message import DecodeError

from mcr._frames import MESSAGE_BYTES_MAX
from mcr._records import CALL_WORD, Place, RecordError, Records, dialled, packed
from mcr._remote.carriers import IDLE_S, Carrier, failure
from mcr.blocking import settle
from mcr.v1 import calls_pb2 as pb

# A client that makes only a few calls is done before a line would pay.
CALLS_BEFORE = 4
# An answer was waited for, and nothing came for so long: ask, and then give up. `mcr._remote.nodes` has the
# same for gRPC.
SILENCE_S = 6.0
GIVE_UP_S = 10.0
LOOK_S = 1.0
# Where a line failed, none is dialled for so long; twice as long each time it fails before it has served.
DISTRUST_S_MIN, DISTRUST_S_MAX = 10.0, 300.0


class LineCarrier(Carrier, asyncio.Protocol):
    """One line. `open` one."""

    def __init__(self, account: bytes) -> None:
        super().__init__()
        self._account = account
        self._loop = asyncio.get_running_loop()
        self._records = Records(MESSAGE_BYTES_MAX)
        self._transport: asyncio.Transport | None = None
        self._is_full = False
        self._flushing = False
        # When something came last, when something went, and when nothing was waited for.
        self._heard_at_s = self._used_at_s = self._quiet_at_s = self._loop.time()
        self._looking: asyncio.TimerHandle | None = None
        self._ended = asyncio.Event()
        self.has_served = False

    @staticmethod
    async def open(address: str, place: Place, account: bytes) -> "LineCarrier":
        """Dial a node.

        Raises:
            RecordError: nobody answers there, or somebody else.
        """
        return await dialled(address, place, CALL_WORD, LineCarrier(account))

    async def close(self) -> None:
        """See Carrier."""
        self._end("the client was closed", grpc.StatusCode.CANCELLED)
        await self._ended.wait()

    def _end(self, reason: str, code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE) -> None:
        self._fail(partial(failure, code, reason))
        if self._transport is not None:
            self._transport.abort()

    def _filled(self) -> None:
        if self._flushing or self.is_over:
            return
        if len(self._waiting) == 1:
            # A lone caller has nobody to wait for.
            self._flush()
        else:
            # The callers that run in this turn of the loop come along.
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        self._used_at_s = self._loop.time()
        while self._transport is not None and self._has_unsent and not self._is_full:
            self._transport.write(packed(self._batch().SerializeToString()))

    def _look(self) -> None:
        """Ask whether the node is there, give up, or end what nobody needs."""
        self._looking = self._loop.call_later(LOOK_S, self._look)
        now_s = self._loop.time()
        assert self._transport is not None
        if not self._waiting:
            self._quiet_at_s = now_s
            if now_s - self._used_at_s >= IDLE_S:
                self._end("the client has nothing more to ask")
            return
        silent_s = now_s - max(self._heard_at_s, self._quiet_at_s)
        if silent_s >= GIVE_UP_S:
            self._end("the node does not answer")
        elif silent_s >= SILENCE_S:
            self._transport.write(packed(b""))

    # ---- asyncio.Protocol ----

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See Protocol."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(packed(self._account))
        self._looking = self._loop.call_later(LOOK_S, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        """See Protocol."""
        self._transport = None
        if self._looking is not None:
            self._looking.cancel()
        self._fail(lambda: failure(grpc.StatusCode.UNAVAILABLE, "the node ended the connection"))
        self._ended.set()

    def data_received(self, data: bytes) -> None:
        """See Protocol."""
        self._heard_at_s = self._loop.time()
        self.has_served = True
        try:
            for record in self._records.take(data):
                self._take(pb.CarryCallsResponse.FromString(record))
        except (RecordError, DecodeError):
            self._end("the node does not keep to the form")

    def pause_writing(self) -> None:
        """See BaseProtocol."""
        self._is_full = True

    def resume_writing(self) -> None:
        """See BaseProtocol."""
        self._is_full = False
        self._flush()


class CallLine:
    """The line of one client to one node: there or not. Used on one event loop."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._place = Place()
        self._calls = 0
        self._line: LineCarrier | None = None
        self._dialling: asyncio.Task[None] | None = None
        self._distrusted_until_s = 0.0
        self._distrust_s = DISTRUST_S_MIN

    def offer(self, place: Place) -> None:
        """Know where the node takes lines now; a new key is a new process, which nothing is held against."""
        if place != self._place:
            self._place = place
            self._distrusted_until_s, self._distrust_s = 0.0, DISTRUST_S_MIN

    def find(self, account: bytes) -> LineCarrier | None:
        """Return the line, if it stands; else one may be dialled beside."""
        line = self._line
        if line is not None:
            if not line.is_over:
                return line
            self._line = None
            if not line.has_served:
                self._distrust()
        self._calls += 1
        if (
            self._calls > CALLS_BEFORE
            and self._place.port
            and self._dialling is None
            and not self._is_distrusted()
        ):
            self._dialling = asyncio.create_task(self._dial(account))
        return None

    async def _dial(self, account: bytes) -> None:
        try:
            self._line = await LineCarrier.open(self._address, self._place, account)
        except (RecordError, OSError):
            self._distrust()
        finally:
            self._dialling = None

    def _is_distrusted(self) -> bool:
        return asyncio.get_running_loop().time() < self._distrusted_until_s

    def _distrust(self) -> None:
        self._distrusted_until_s = asyncio.get_running_loop().time() + self._distrust_s
        self._distrust_s = min(2 * self._distrust_s, DISTRUST_S_MAX)

    async def close(self) -> None:
        """End it; calls under way fail."""
        if self._dialling is not None:
            await settle([self._dialling])
        if self._line is not None and not self._line.is_over:
            await self._line.close()
