"""Asking another node for chunks: mcr_node.peer.v1.ExchangeService from the side of the one who asks."""

from collections.abc import AsyncGenerator, Sequence

import grpc
import grpc.aio

from mcr._remote.calls import Calls
from mcr._remote.status import TransientError, raise_for
from mcr.model import ChunkId
from mcr_node.peer.v1 import exchange_pb2 as pb

SERVICE = pb.DESCRIPTOR.services_by_name["ExchangeService"].full_name
HAVE_S = 5.0
# A bound on what hangs in spite of everything; whoever asks watches the stream more closely.
FETCH_S = 600.0


async def have(calls: Calls, address: str, ids: Sequence[ChunkId]) -> set[ChunkId]:
    """Return those of some chunks that a node could give now; see `services.lanes.Exchange`."""
    try:
        way = await calls.nodes.way()
        rpc: grpc.aio.UnaryUnaryMultiCallable[pb.HaveRequest, pb.HaveResponse] = way.channel.unary_unary(
            f"/{SERVICE}/Have",
            request_serializer=pb.HaveRequest.SerializeToString,
            response_deserializer=pb.HaveResponse.FromString,
        )
        try:
            answer = await rpc(pb.HaveRequest(ids=ids), timeout=HAVE_S, metadata=calls.metadata)
        except grpc.aio.AioRpcError as error:
            raise_for(error, address=address, what="Have", seconds=HAVE_S)
            raise
    except TransientError as failure:
        raise failure.error from failure
    return {ids[at] for at in answer.held if at < len(ids)}


async def fetch(
    calls: Calls, address: str, ids: Sequence[ChunkId], *, for_site: bool
) -> AsyncGenerator[bytes]:
    """Yield what a node gives; see `services.lanes.Exchange`."""
    try:
        way = await calls.nodes.way()
        rpc: grpc.aio.UnaryStreamMultiCallable[pb.FetchRequest, bytes] = way.channel.unary_stream(
            f"/{SERVICE}/Fetch", request_serializer=pb.FetchRequest.SerializeToString
        )
        request = pb.FetchRequest(ids=ids, for_site=for_site)
        call = rpc(request, timeout=FETCH_S, metadata=calls.metadata)
        try:
            async for frame in call:
                yield frame
        except grpc.aio.AioRpcError as error:
            raise_for(error, address=address, what="Fetch", seconds=FETCH_S)
            raise
        finally:
            call.cancel()
    except TransientError as failure:
        raise failure.error from failure
