"""mcr_node.peer.v1.ExchangeService over gRPC: chunks for the readers of other nodes."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import Protocol

import grpc
import grpc.aio

from mcr.errors import InvalidArgumentError
from mcr.model import DIGEST_BYTES, ChunkId
from mcr_node.peer.v1 import exchange_pb2 as pb
from mcr_node.services.edge import Context, Edge, Handler, Limit, parsed, unary_handlers, unary_methods

SERVICE = pb.DESCRIPTOR.services_by_name["ExchangeService"]
IDS_MAX = 4096
# Each holds a few chunks in memory; who is refused asks another node, or again.
FETCHES_MAX = 64


class Giving(Protocol):
    """The chunks of this node, for others."""

    async def held(self, ids: Sequence[ChunkId]) -> set[ChunkId]:
        """Return those that could be given now."""

    def give(self, ids: Sequence[ChunkId], *, for_site: bool) -> AsyncGenerator[bytes]:
        """Yield frames with those that are to be had, and signs of life in between."""


class ExchangeEdge:
    """Checks requests, and sends what this node gives."""

    def __init__(self, chunks: Giving, edge: Edge) -> None:
        self._chunks = chunks
        self._edge = edge
        self._fetches = Limit("fetches by other nodes", FETCHES_MAX)

    def handlers(self) -> dict[str, Handler]:
        """Return the handlers of the service; bulk messages pass through unparsed."""
        return unary_handlers(self._edge, unary_methods(SERVICE, lambda _: self)) | {
            "Fetch": grpc.unary_stream_rpc_method_handler(self._fetch)
        }

    async def have(self, request: pb.HaveRequest) -> pb.HaveResponse:
        """Say what could be given now."""
        ids = _ids(request.ids)
        held = await self._chunks.held(ids)
        return pb.HaveResponse(held=[at for at, one in enumerate(ids) if one in held])

    async def _fetch(self, data: bytes, context: Context) -> AsyncIterator[bytes]:
        async with self._edge.call(context, f"{SERVICE.full_name}.Fetch"):
            request = parsed(pb.FetchRequest, data)
            with self._fetches:
                frames = self._chunks.give(_ids(request.ids), for_site=request.for_site)
                async with aclosing(frames):
                    async for frame in frames:
                        yield frame


def _ids(raw: Sequence[bytes]) -> list[ChunkId]:
    if not 0 < len(raw) <= IDS_MAX:
        raise InvalidArgumentError("ids", f"there are {len(raw)}; 1 to {IDS_MAX} at once")
    for each in raw:
        if len(each) != DIGEST_BYTES:
            raise InvalidArgumentError("ids", f"one has {len(each)} bytes, not {DIGEST_BYTES}")
    return [ChunkId(each) for each in raw]
