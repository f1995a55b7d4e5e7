"""Lines of clients: small calls over a plain TCP connection, as on a stream of gRPC.

What goes over it is said in `mcr._remote.call_lines`.
"""

import asyncio

from mcr._frames import MESSAGE_BYTES_MAX
from mcr._records import CALL_WORD, Incoming, Listener, RecordError, packed
from mcr.blocking import settle
from mcr.errors import McrError
from mcr.v1 import calls_pb2 as pb
from mcr_node.services.calls import CallGroup, Carried
from mcr_node.services.edge import ACCOUNT_BYTES_MAX, parsed, principal_named

# Whoever comes beyond goes by gRPC.
LINES_MAX = 1024
# From the connection to the client's account.
GREET_S = 5.0


class CallLineServer(Listener):
    """Takes lines of clients."""

    def __init__(self, carried: Carried) -> None:
        """Serve what is `carried`."""
        self._calls: set[_CallLine] = set()
        super().__init__(
            CALL_WORD, lambda greeting, others: _CallLine(carried, greeting, others, self._calls)
        )

    def end(self) -> None:
        """Begin no more calls, and end each line once those under way are answered."""
        self.take_no_more()
        for line in list(self._calls):
            line.end()

    async def close(self) -> None:
        """See Listener; returns when no call is under way any more."""
        given_up = [task for line in self._calls for task in line.give_up()]
        await super().close()
        await settle(given_up)


class _CallLine(Incoming):
    """One line of one client."""

    def __init__(
        self, carried: Carried, greeting: bytes, others: set[Incoming], calls: "set[_CallLine]"
    ) -> None:
        super().__init__(
            greeting, others, lines_max=LINES_MAX, record_bytes_max=MESSAGE_BYTES_MAX, greet_s=GREET_S
        )
        self._carried = carried
        self._calls = calls
        self._group: CallGroup | None = None
        self._loop = asyncio.get_running_loop()
        self._is_flushing = self._is_blocked = self._is_ending = False

    def took(self, record: bytes) -> None:
        """See Incoming."""
        if self._is_ending:
            # Nothing of it is begun: the client asks another node.
            return
        if self._group is None:
            if len(record) > ACCOUNT_BYTES_MAX:
                raise RecordError("that is no account")
            self._group = CallGroup(self._carried, principal_named(record), self._move)
            return
        try:
            self._group.take(parsed(pb.CarryCallsRequest, record))
        except McrError as error:
            raise RecordError(error.message) from error
        self._look()

    def end(self) -> None:
        """Take nothing more in, and close once all is answered.

        What still comes is read and dropped: with bytes unread, closing would reset the connection, and what
        was answered could be lost on its way.
        """
        self._is_ending = True
        self._look()
        self._move()

    def give_up(self) -> list[asyncio.Task[None]]:
        """Cancel what is under way; return it."""
        return [] if self._group is None else self._group.cancel()

    def _move(self) -> None:
        if self._group is not None and self._group.is_quiet and not self._is_flushing:
            # Nothing else can end in this turn of the loop.
            self._flush()
        elif not self._is_flushing:
            # What ends in this turn is answered together.
            self._is_flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._is_flushing = False
        group, transport = self._group, self.transport
        if transport is None or transport.is_closing():
            return
        while group is not None and group.has_answers and not self._is_blocked:
            transport.write(packed(group.batch()))
        if self._is_ending and (group is None or group.is_done):
            # After what was written.
            transport.close()
        self._look()

    def _look(self) -> None:
        """Read only while there is room for what comes."""
        transport = self.transport
        if transport is None or transport.is_closing():
            return
        is_full = self._group is not None and self._group.is_full
        has_room = self._is_ending or not (self._is_blocked or is_full)
        if has_room != transport.is_reading():
            (transport.resume_reading if has_room else transport.pause_reading)()

    # ---- asyncio.Protocol ----

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See Protocol."""
        super().connection_made(transport)
        self._calls.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """See Protocol: nobody waits for what is under way."""
        super().connection_lost(exc)
        self._calls.discard(self)
        self.transport = None
        self.give_up()

    def pause_writing(self) -> None:
        """See BaseProtocol."""
        self._is_blocked = True
        self._look()

    def resume_writing(self) -> None:
        """See BaseProtocol."""
        self._is_blocked = False
        self._move()
