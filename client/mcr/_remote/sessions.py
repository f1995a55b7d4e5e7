"""`mcr.connection.SessionsApi` on a node."""

from typing import TypeVar

from mcr._remote.calls import LONG_CALL_S, Calls
from mcr.v1 import sessions_pb2 as pb

Read = TypeVar("Read", pb.GetSessionRequest, pb.ListSessionsRequest, pb.ListPartsRequest)


class RemoteSessions:
    """Sessions, over the network."""

    def __init__(self, calls: Calls, *, stale_ok: bool) -> None:
        self._calls = calls
        self._stale_ok = stale_ok

    def _read(self, request: Read) -> Read:
        if self._stale_ok:
            request.read.stale_ok = True
        return request

    async def begin_session(self, request: pb.BeginSessionRequest) -> pb.BeginSessionResponse:
        """See SessionsApi."""
        return await self._calls.unary(lambda way: way.sessions.BeginSession, request)

    async def put_part(self, request: pb.PutPartRequest) -> pb.PutPartResponse:
        """See SessionsApi."""
        return await self._calls.unary(lambda way: way.sessions.PutPart, request, try_s=LONG_CALL_S)

    async def seal_session(self, request: pb.SealSessionRequest) -> pb.SealSessionResponse:
        """See SessionsApi."""
        return await self._calls.unary(lambda way: way.sessions.SealSession, request, try_s=LONG_CALL_S)

    async def abort_session(self, request: pb.AbortSessionRequest) -> pb.AbortSessionResponse:
        """See SessionsApi."""
        return await self._calls.unary(lambda way: way.sessions.AbortSession, request)

    async def get_session(self, request: pb.GetSessionRequest) -> pb.GetSessionResponse:
        """See SessionsApi."""
        return await self._calls.unary(lambda way: way.sessions.GetSession, self._read(request))

    async def list_sessions(self, request: pb.ListSessionsRequest) -> pb.ListSessionsResponse:
        """See SessionsApi."""
        return await self._calls.unary(lambda way: way.sessions.ListSessions, self._read(request))

    async def list_parts(self, request: pb.ListPartsRequest) -> pb.ListPartsResponse:
        """See SessionsApi."""
        return await self._calls.unary(lambda way: way.sessions.ListParts, self._read(request))
