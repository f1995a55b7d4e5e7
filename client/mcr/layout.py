"""How a cluster is laid out, as a client sees and changes it: a part of `AsyncClient`."""

import asyncio
from collections.abc import Callable

from mcr.arrangement import DrainProgress, Layout, LayoutMember, LayoutMove, LayoutPlan
from mcr.connection import Connection
from mcr.v1 import layout_pb2 as pb

# How often whoever waits for a drain asks how far it is.
DRAIN_LOOK_S = 0.5
_MILLION = 1_000_000


class LayoutCalls:
    """The methods of `AsyncClient` about the layout; it brings the connection."""

    _connection: Connection

    async def drain_member(
        self, name: str, *, wait: bool = True, progress: Callable[[DrainProgress], None] | None = None
    ) -> DrainProgress:
        """Let a node hand over what it holds; it gets nothing new, and leads no more.

        It stays a member, and serves what it has. The nodes do it by themselves: when this call ends early
        they go on, and the same call waits for them again.

        Args:
            name: of the node.
            wait: until no chunk of any version depends on it; else return at once.
            progress: called now and then while waiting.

        Raises:
            MemberNotFoundError: no member has that name.
            FailedError: no other voter stays.
            NoQuorumError: no majority decided in time.
        """
        await self._connection.layout.drain_member(pb.DrainMemberRequest(name=name))
        while True:
            found = await self.drain_progress(name)
            if progress is not None:
                progress(found)
            # It may also be removed, or stay after all, by somebody else.
            if found.is_drained or not found.is_leaving or not wait:
                return found
            await asyncio.sleep(DRAIN_LOOK_S)

    async def cancel_drain(self, name: str) -> None:
        """Let a node that was leaving stay; what was copied stays copied.

        Raises:
            MemberNotFoundError: no member has that name.
            NoQuorumError: no majority decided in time.
        """
        await self._connection.layout.drain_member(pb.DrainMemberRequest(name=name, cancel=True))

    async def drain_progress(self, name: str) -> DrainProgress:
        """Return how far the drain of a node has come.

        Raises:
            MemberNotFoundError: no member has that name.
        """
        answer = await self._connection.layout.get_drain(pb.GetDrainRequest(name=name))
        return DrainProgress(
            answer.leaving, answer.drained, answer.chunks_left, answer.chunks_copied, answer.waits_for
        )

    async def layout(self) -> Layout:
        """Return the members as placement knows them, and what is staged."""
        answer = await self._connection.layout.get_layout(pb.GetLayoutRequest())
        return Layout(
            answer.epoch,
            tuple(_member(member) for member in answer.members),
            tuple(_member(member) for member in answer.staged),
        )

    async def plan_layout(self) -> LayoutPlan:
        """Return what would move if what is staged were applied; nothing is changed.

        Takes as long as reading the manifests of all versions does.
        """
        answer = await self._connection.layout.plan_layout(pb.PlanLayoutRequest())
        return LayoutPlan(
            answer.epoch,
            answer.chunks,
            answer.chunks_moved,
            answer.bytes_moved,
            answer.chunks_looked_at,
            tuple(LayoutMove(move.name, move.bytes_in, move.bytes_out) for move in answer.moves),
        )

    async def stage_layout(
        self,
        name: str,
        *,
        site: str | None = None,
        capacity_bytes: int | None = None,
        leaving: bool | None = None,
        reset: bool = False,
        expected_epoch: int | None = None,
    ) -> int:
        """Note what is to become of a member with the next layout, and return the epoch then.

        Args:
            name: of the member; "" with `reset` = all of them.
            site: where it stands; None = as it is.
            capacity_bytes: how much it may hold, 0 = whatever its disk has; None = as it is.
            leaving: whether it is drained; None = as it is.
            reset: forget first what is staged for it.
            expected_epoch: that the layout must be of; None = any.

        Raises:
            LayoutChangedError: it is of another epoch.
            MemberNotFoundError: no member has that name.
            NoQuorumError: no majority decided in time.
        """
        request = pb.StageLayoutRequest(name=name, reset=reset)
        if site is not None:
            request.site = site
        if capacity_bytes is not None:
            request.capacity_bytes = capacity_bytes
        if leaving is not None:
            request.leaving = leaving
        if expected_epoch is not None:
            request.expected_epoch = expected_epoch
        return (await self._connection.layout.stage_layout(request)).epoch

    async def apply_layout(self, *, expected_epoch: int | None = None) -> int:
        """Put all that is staged into force, in one entry of the log, and return its epoch.

        Args:
            expected_epoch: of the layout that was looked at; None = as it is now, if something is staged.

        Raises:
            LayoutChangedError: somebody changed it since, or nothing is staged.
            NoQuorumError: no majority decided in time.
        """
        if expected_epoch is None:
            expected_epoch = (await self.layout()).epoch
        request = pb.ApplyLayoutRequest(expected_epoch=expected_epoch)
        return (await self._connection.layout.apply_layout(request)).epoch


def _member(member: pb.LayoutMember) -> LayoutMember:
    return LayoutMember(
        member.name,
        member.site,
        member.capacity_bytes,
        member.share_millionths / _MILLION,
        member.leaving,
        member.awaited,
        member.arranged,
    )
