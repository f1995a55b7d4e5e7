"""What is asked of another node is asked, whenever it comes."""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence

from mcr.model import Chunk, ChunkId
from mcr_node.core.members import Member
from mcr_node.services import lanes
from mcr_node.services.lanes import Lane, Standing

LIMIT_S = 20.0
IDS = [Chunk.of(bytes([number])).id for number in range(lanes.STREAMS_MAX + 1)]


class Together:
    """A node that answers all streams at once, and has nothing."""

    def __init__(self) -> None:
        self.begun, self.answering = asyncio.Event(), asyncio.Event()

    async def have(self, address: str, ids: Sequence[ChunkId]) -> set[ChunkId]:
        return set()

    async def fetch(self, address: str, ids: Sequence[ChunkId], *, for_site: bool) -> AsyncGenerator[bytes]:
        self.begun.set()
        await self.answering.wait()
        return
        yield b""


async def accept(frame: bytes, wanted: Mapping[ChunkId, object]) -> dict[ChunkId, bytes]:
    return {}


def test_what_is_asked_for_in_the_moment_in_which_all_streams_end_is_asked_for_on_a_new_one() -> None:
    async def story() -> None:
        node = Together()
        lane = Lane(Member(1, "n1", "n1:1", "east"), Standing(), node, accept, for_site=False)

        async def ask(at: int) -> None:
            assert await lane.get(IDS[at]) is None
            if not at:
                assert await lane.get(IDS[-1]) is None

        async with asyncio.timeout(LIMIT_S):
            asking: list[asyncio.Task[None]] = []
            for at in range(lanes.STREAMS_MAX):
                # One after the other, else one stream would take all of it.
                node.begun.clear()
                asking.append(asyncio.create_task(ask(at)))
                await node.begun.wait()
            node.answering.set()
            await asyncio.gather(*asking)
        await lane.close()

    asyncio.run(story())
