"""Fetching the state of another node, asked for by this one: the other way round than a follower gets it."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from typing import Any

import grpc
import grpc.aio

from mcr.blocking import run_blocking
from mcr.errors import FailedError, UnavailableError
from mcr.model import LogIndex
from mcr_node.core.members import Member
from mcr_node.peer.v1 import raft_pb2
from mcr_node.ports import SnapshotManifest, SnapshotSink
from mcr_node.transport import codec
from mcr_node.transport.peers import OPTIONS, SERVICE, SNAPSHOT_STALL_S, Sender

Receive = Callable[[SnapshotManifest], SnapshotSink]


class GrpcDonors:
    """`runtime.reseeding.Donors` over gRPC."""

    def __init__(self, sender: Sender, executor: Executor) -> None:
        """Ask in the name of `sender`; files are written on `executor`."""
        self._sender = sender
        self._executor = executor

    async def fetch(self, donor: Member, index_min: LogIndex, receive: Receive) -> SnapshotSink:
        """See `Donors`."""
        async with grpc.aio.insecure_channel(donor.address, options=OPTIONS) as channel:
            call = channel.unary_stream(
                f"/{SERVICE}/FetchSnapshot",
                request_serializer=raft_pb2.FetchSnapshotRequest.SerializeToString,
                response_deserializer=raft_pb2.FetchSnapshotResponse.FromString,
            )(
                raft_pb2.FetchSnapshotRequest(
                    cluster_id=self._sender.cluster_id,
                    sender=self._sender.node_id,
                    to=donor.node_id,
                    index_min=index_min,
                )
            )
            try:
                return await self._take(call, receive)
            except grpc.aio.AioRpcError as error:
                raise UnavailableError(donor.address, error.details() or error.code().name) from error
            except TimeoutError as error:
                reason = f"nothing came for {SNAPSHOT_STALL_S:g} s"
                raise UnavailableError(donor.address, reason) from error
            finally:
                call.cancel()

    async def _take(
        self, call: "grpc.aio.UnaryStreamCall[Any, raft_pb2.FetchSnapshotResponse]", receive: Receive
    ) -> SnapshotSink:
        sink: SnapshotSink | None = None
        while True:
            async with asyncio.timeout(SNAPSHOT_STALL_S):
                answer = await call.read()
            if not isinstance(answer, raft_pb2.FetchSnapshotResponse):
                break
            if sink is None:
                manifest = codec.manifest_from(answer.manifest)
                sink = await run_blocking(self._executor, partial(receive, manifest))
            else:
                part = answer.range
                await run_blocking(self._executor, partial(sink.write, part.name, part.offset, part.data))
        if sink is None:
            raise FailedError("snapshot", "nothing came")
        return sink
