"""`mcr.connection.LayoutApi` on a node."""

from typing import TYPE_CHECKING

from mcr._remote.calls import Calls
from mcr._remote.nodes import Way
from mcr.v1 import layout_pb2 as pb
from mcr.v1.layout_pb2_grpc import LayoutServiceStub

if TYPE_CHECKING:
    from mcr.v1.layout_pb2_grpc import LayoutServiceAsyncStub


def _stub(way: Way) -> "LayoutServiceAsyncStub":
    return LayoutServiceStub(way.channel)  # type: ignore[return-value]  # one class serves both kinds


class RemoteLayout:
    """The layout of a cluster, by whichever node is near and well."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def drain_member(self, request: pb.DrainMemberRequest) -> pb.DrainMemberResponse:
        """See LayoutApi."""
        return await self._calls.unary(lambda way: _stub(way).DrainMember, request)

    async def get_drain(self, request: pb.GetDrainRequest) -> pb.GetDrainResponse:
        """See LayoutApi."""
        return await self._calls.unary(lambda way: _stub(way).GetDrain, request)
