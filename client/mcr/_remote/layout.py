"""`mcr.connection.LayoutApi` on a node."""

from typing import TYPE_CHECKING

from mcr._remote.calls import LONG_CALL_S, Calls
from mcr._remote.nodes import Way, stub
from mcr.v1 import layout_pb2 as pb
from mcr.v1.layout_pb2_grpc import LayoutServiceStub

if TYPE_CHECKING:
    from mcr.v1.layout_pb2_grpc import LayoutServiceAsyncStub


def _stub(way: Way) -> "LayoutServiceAsyncStub":
    found: LayoutServiceAsyncStub = stub(LayoutServiceStub, way.channel)
    return found


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

    async def get_layout(self, request: pb.GetLayoutRequest) -> pb.GetLayoutResponse:
        """See LayoutApi."""
        return await self._calls.unary(lambda way: _stub(way).GetLayout, request)

    async def plan_layout(self, request: pb.PlanLayoutRequest) -> pb.PlanLayoutResponse:
        """See LayoutApi."""
        return await self._calls.unary(lambda way: _stub(way).PlanLayout, request, try_s=LONG_CALL_S)

    async def stage_layout(self, request: pb.StageLayoutRequest) -> pb.StageLayoutResponse:
        """See LayoutApi."""
        return await self._calls.unary(lambda way: _stub(way).StageLayout, request)

    async def apply_layout(self, request: pb.ApplyLayoutRequest) -> pb.ApplyLayoutResponse:
        """See LayoutApi."""
        return await self._calls.unary(lambda way: _stub(way).ApplyLayout, request)
