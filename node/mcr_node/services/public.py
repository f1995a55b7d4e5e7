"""The public gRPC API of a node on one server: mcr.v1, health and reflection."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, suppress
from typing import TypeVar

import grpc
import grpc.aio
from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from mcr._frames import MESSAGE_BYTES_MAX
from mcr.blocking import settle
from mcr.errors import UnavailableError
from mcr.v1 import (
    admin_pb2,
    layout_pb2,
    merges_pb2,
    policies_pb2,
    quotas_pb2,
    receipts_pb2,
    retention_pb2,
    sessions_pb2,
    trash_pb2,
    versions_pb2,
)
from mcr_node.services import calls, chunk_streams, exchange
from mcr_node.services.admin import AdminService
from mcr_node.services.call_lines import CallLineServer
from mcr_node.services.calls import CallsEdge
from mcr_node.services.chunk_streams import ChunkEdge, Explain
from mcr_node.services.chunks import LocalChunks
from mcr_node.services.edge import (
    Context,
    Edge,
    Handler,
    Limit,
    parsed,
    principal_of,
    unary_handlers,
    unary_methods,
)
from mcr_node.services.exchange import ExchangeEdge, Giving
from mcr_node.services.layout import LayoutService
from mcr_node.services.merges import MergesService
from mcr_node.services.policies import PoliciesService
from mcr_node.services.quotas import QuotasService
from mcr_node.services.receipts import ReceiptsService
from mcr_node.services.retention import RetentionService
from mcr_node.services.sessions import SessionsService
from mcr_node.services.trash import TrashService
from mcr_node.services.versions import VersionsService

Item = TypeVar("Item")

VERSIONS = versions_pb2.DESCRIPTOR.services_by_name["VersionsService"]
MERGES = merges_pb2.DESCRIPTOR.services_by_name["MergesService"]
RECEIPTS = receipts_pb2.DESCRIPTOR.services_by_name["ReceiptsService"]
POLICIES = policies_pb2.DESCRIPTOR.services_by_name["PoliciesService"]
SESSIONS = sessions_pb2.DESCRIPTOR.services_by_name["SessionsService"]
RETENTION = retention_pb2.DESCRIPTOR.services_by_name["RetentionService"]
TRASH = trash_pb2.DESCRIPTOR.services_by_name["TrashService"]
ADMIN = admin_pb2.DESCRIPTOR.services_by_name["AdminService"]
QUOTAS = quotas_pb2.DESCRIPTOR.services_by_name["QuotasService"]
LAYOUT = layout_pb2.DESCRIPTOR.services_by_name["LayoutService"]
# Calls under way; beyond it gRPC itself refuses. Far above what two cores can work on at once.
CALLS_MAX = 4096
WATCHERS_MAX = 1024
# Clients and peers ping a silent connection to learn whether its node lives, each 5 s or less often; whoever
# pings oftener is sent away. Two pings may arrive closer than they left, when a node is busy.
PING_INTERVAL_MS_MIN = 2_000

OPTIONS = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", PING_INTERVAL_MS_MIN),
    ("grpc.keepalive_permit_without_calls", 1),
    # Two nodes that were told the same port by mistake must not share it.
    ("grpc.so_reuseport", 0),
)


class PublicServer:
    """The gRPC server of a node."""

    def __init__(
        self,
        edge: Edge,
        *,
        versions: Callable[[str], VersionsService],
        merges: Callable[[str], MergesService],
        receipts: Callable[[str], ReceiptsService],
        policies: Callable[[str], PoliciesService],
        sessions: Callable[[str], SessionsService],
        trash: Callable[[str], TrashService],
        retention: Callable[[str], RetentionService],
        chunks: LocalChunks,
        admin: AdminService,
        layout: LayoutService,
        quotas: Callable[[str], QuotasService],
        register: Callable[[grpc.aio.Server], None],
        end_peers: Callable[[], None],
        explain: Explain,
        giving: Giving | None = None,
    ) -> None:
        """Make the server; `register` adds what the other nodes call, `end_peers` ends their calls.

        `giving` are the chunks that they may have for their readers; `explain` says who needs a lost one.
        """
        self._edge = edge
        self._end_peers = end_peers
        self._versions = versions
        self._admin = admin
        self._watchers = Limit("watchers", WATCHERS_MAX)
        self._closing = asyncio.Event()
        self._server = grpc.aio.server(options=OPTIONS, maximum_concurrent_rpcs=CALLS_MAX)
        self._health = health.aio.HealthServicer()
        watch: Handler = grpc.unary_stream_rpc_method_handler(
            self._watch_events, response_serializer=versions_pb2.WatchEventsResponse.SerializeToString
        )
        served: dict[ServiceDescriptor, Callable[[str], object]] = {
            VERSIONS: versions,
            MERGES: merges,
            POLICIES: policies,
            RECEIPTS: receipts,
            SESSIONS: sessions,
            RETENTION: retention,
            TRASH: trash,
            ADMIN: lambda _: admin,
            QUOTAS: quotas,
            LAYOUT: lambda _: layout,
        }
        methods = {service: unary_methods(service, by) for service, by in served.items()}
        services = {service.full_name: unary_handlers(edge, found) for service, found in methods.items()}
        services[VERSIONS.full_name]["WatchEvents"] = watch
        chunk_edge = ChunkEdge(chunks, edge, explain)
        methods[chunk_streams.SERVICE] = chunk_edge.methods()
        services[chunk_streams.SERVICE.full_name] = chunk_edge.handlers()
        carried = {method.full_name: method for found in methods.values() for method in found.values()}
        self._calls = CallsEdge(edge, carried, lambda: admin.myself.address)
        self._call_lines = CallLineServer(self._calls.carried)
        services[calls.SERVICE.full_name] = self._calls.handlers()
        if giving is not None:
            services[exchange.SERVICE.full_name] = ExchangeEdge(giving, edge).handlers()
        self._server.add_generic_rpc_handlers(
            tuple(grpc.method_handlers_generic_handler(name, methods) for name, methods in services.items())
        )
        register(self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = (*services, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)

    def listen(self, address: str) -> int:
        """Bind to `host:port` and return the port, chosen by the system where 0 was asked for.

        Raises:
            RuntimeError: the address is in use or not of this machine.
        """
        return self._server.add_insecure_port(address)

    async def start(self, host: str) -> None:
        """Begin to serve, lines of clients at `host`."""
        await self._call_lines.listen(host)
        self._admin.call_place = self._call_lines.place
        await self._server.start()
        await self._health.set("", health_pb2.HealthCheckResponse.SERVING)

    async def drain(self, grace_s: float) -> None:
        """Take no new calls, let those under way end, and cut off what takes longer than `grace_s`."""
        self._admin.draining = True
        self._closing.set()
        self._calls.end()
        self._call_lines.end()
        await self._health.enter_graceful_shutdown()
        stopping = asyncio.create_task(self._server.stop(grace_s))
        with suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                await self._edge.under_way.wait_none()
        # Only now: a commit under way needs the other nodes, whose streams never end by themselves.
        self._end_peers()
        await stopping
        await self._call_lines.close()

    async def _watch_events(
        self, data: bytes, context: Context
    ) -> AsyncIterator[versions_pb2.WatchEventsResponse]:
        async with self._edge.call(context, "mcr.v1.VersionsService.WatchEvents", bounded=False):
            request = parsed(versions_pb2.WatchEventsRequest, data)
            with self._watchers:
                async with aclosing(self._versions(principal_of(context)).watch_events(request)) as responses:
                    async for response in self._until_closing(responses):
                        yield response

    async def _until_closing(self, responses: AsyncGenerator[Item]) -> AsyncIterator[Item]:
        closing = asyncio.create_task(self._closing.wait())
        step: asyncio.Task[Item | None] | None = None
        try:
            while True:
                step = asyncio.create_task(_next(responses))
                await asyncio.wait([closing, step], return_when=asyncio.FIRST_COMPLETED)
                if not step.done():
                    raise UnavailableError(self._admin.myself.address, "this node is stopping")
                response = await step
                if response is None:
                    return
                yield response
        finally:
            await settle([task for task in (closing, step) if task is not None])


async def _next(responses: AsyncGenerator[Item]) -> Item | None:
    return await anext(responses, None)
