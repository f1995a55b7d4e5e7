"""A member that was silent is used again as soon as it answers anything."""

import asyncio
import socket

import grpc
import grpc.aio
import pytest

from mcr.errors import UnavailableError
from mcr.v1 import admin_pb2 as pb
from mcr_node.services.edge import Context, Handler
from mcr_node.transport import colleagues
from mcr_node.transport.colleagues import GrpcColleagues

PATIENCE_S = 30.0


async def ping(data: bytes, context: Context) -> bytes:
    return pb.PingResponse(name="b", ready=True).SerializeToString()


async def store_status(data: bytes, context: Context) -> bytes:
    return pb.GetStoreStatusResponse(chunk_count=7).SerializeToString()


def node() -> grpc.aio.Server:
    """A server of a node that is well."""
    server = grpc.aio.server()
    methods: dict[str, Handler] = {
        "Ping": grpc.unary_unary_rpc_method_handler(ping),
        "GetStoreStatus": grpc.unary_unary_rpc_method_handler(store_status),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("mcr.v1.AdminService", methods),))
    return server


def free_address() -> str:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{found.getsockname()[1]}"


def test_who_answers_for_its_status_is_not_passed_over_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    # It is asked again beside, but not within this test.
    monkeypatch.setattr(colleagues, "ASK_AGAIN_S", 1000.0)

    async def story() -> None:
        address = free_address()
        others = GrpcColleagues()
        server = node()
        try:
            # given: it was silent when it was needed
            with pytest.raises(UnavailableError):
                await others.missing(address, [])
            server.add_insecure_port(address)
            await server.start()
            with pytest.raises(UnavailableError, match="a moment ago"):
                await others.admin(address, "Ping", pb.PingRequest(), pb.PingResponse)

            # when
            async with asyncio.timeout(PATIENCE_S):
                while True:
                    try:
                        assert (await others.store_status(address)).chunk_count == 7
                        break
                    except UnavailableError:
                        # gRPC connects anew in its own time.
                        await asyncio.sleep(0.05)

            # then
            answer = await others.admin(address, "Ping", pb.PingRequest(), pb.PingResponse)
            assert answer.name == "b"
        finally:
            await others.close()
            await server.stop(None)

    asyncio.run(story())
