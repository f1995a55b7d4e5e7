"""How a cluster is laid out, as a client sees and changes it: a part of `AsyncClient`."""

import asyncio
from collections.abc import Callable

from mcr.arrangement import DrainProgress
from mcr.connection import Connection
from mcr.v1 import layout_pb2 as pb

# How often whoever waits for a drain asks how far it is.
DRAIN_LOOK_S = 0.5


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
