"""Chunks on their way to a second node while the rest of an upload still arrives.

So that little is lost with a node that is killed in the middle of one, and little is left to do when the
commit is sealed. Nothing is promised here: what cannot be forwarded is dropped, and sealing copies it.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from contextlib import suppress

from mcr.blocking import settle
from mcr.errors import McrError
from mcr.model import MIB, Chunk
from mcr_node.services.copies import Holders

# What waits for one node. More would be lost with this one; less would leave it idle while a message travels.
QUEUE_BYTES_MAX = 2 * MIB
# What goes out in one step.
PART_BYTES_MAX = 2 * MIB
# How many of these are on their way: over a line of 50 MB/s and 40 ms there and back, 2 MB fill it, and while
# the answer to one part comes back the others keep it full.
PARTS_IN_FLIGHT = 3
# An upload waits for a slow node, since sealing would have to; but for one that takes nothing, only so long.
WAIT_S = 1.0
# Sealing would send again what is on its way, so it lets that arrive; what does not is sent by sealing.
FLUSH_S = 2.0
# A node with which it failed gets nothing for so long: the next one in order takes its part.
DISTRUST_S = 5.0


class _Lane:
    """What waits for one node, and who sends it."""

    def __init__(self) -> None:
        self.waiting: deque[Chunk] = deque()
        self.waiting_bytes = 0
        self.tasks: set[asyncio.Task[None]] = set()
        self.senders = 0
        self.moved = asyncio.Event()
        # Chunks, ever: `done` were sent or dropped.
        self.offered = self.done = 0
        self.distrusted_until_s = 0.0

    def has_room(self, length_bytes: int) -> bool:
        return not self.waiting or self.waiting_bytes + length_bytes <= QUEUE_BYTES_MAX

    def add(self, chunk: Chunk) -> None:
        self.waiting.append(chunk)
        self.offered += 1
        self.waiting_bytes += len(chunk.data)

    def take(self) -> list[Chunk]:
        """Return what goes out next; the first always, whatever its size."""
        part: list[Chunk] = []
        part_bytes = 0
        while self.waiting and (not part or part_bytes + len(self.waiting[0].data) <= PART_BYTES_MAX):
            part.append(self.waiting.popleft())
            part_bytes += len(part[-1].data)
        self.waiting_bytes -= part_bytes
        self.moved.set()
        return part

    def drop(self, until_s: float) -> None:
        self.done += len(self.waiting)
        self.waiting.clear()
        self.waiting_bytes = 0
        self.distrusted_until_s = until_s
        self.moved.set()


class Forwarding:
    """Sends chunks on, a bounded number of bytes behind whoever offers them. Used on one event loop."""

    def __init__(self, holders: Holders) -> None:
        self._holders = holders
        self._lanes: dict[str, _Lane] = {}

    def is_trusted(self, address: str, now_s: float) -> bool:
        """Say whether a node took what it was sent lately, as far as it was tried. From any thread."""
        lane = self._lanes.get(address)
        return lane is None or now_s >= lane.distrusted_until_s

    async def offer(self, address: str, chunks: Sequence[Chunk]) -> None:
        """Let chunks be sent to a node; waits while too much waits for it already.

        Args:
            address: of the node.
            chunks: their buffers must not change until they are sent.
        """
        lane = self._lanes.setdefault(address, _Lane())
        # One by one: a part of an upload is several times what may wait, and would be lost with this node.
        for chunk in chunks:
            await self._wait_for_room(address, lane, len(chunk.data))
            if not self.is_trusted(address, _now_s()):
                return
            lane.add(chunk)
            self._send_more(address, lane)

    async def _wait_for_room(self, address: str, lane: _Lane, length_bytes: int) -> None:
        give_up_s = _now_s() + WAIT_S
        while not lane.has_room(length_bytes) and self.is_trusted(address, _now_s()):
            lane.moved.clear()
            try:
                async with asyncio.timeout_at(give_up_s):
                    await lane.moved.wait()
            except TimeoutError:
                lane.drop(_now_s() + DISTRUST_S)

    def _send_more(self, address: str, lane: _Lane) -> None:
        if lane.senders < PARTS_IN_FLIGHT:
            # By the task itself, too: one that found nothing left must not look as if it still sent.
            lane.senders += 1
            task = asyncio.create_task(self._send(address, lane), name="mcr-forwarding")
            lane.tasks.add(task)
            task.add_done_callback(lane.tasks.discard)

    async def _send(self, address: str, lane: _Lane) -> None:
        try:
            while part := lane.take():
                try:
                    await self._holders.put(address, part)
                except McrError:
                    lane.drop(_now_s() + DISTRUST_S)
                lane.done += len(part)
                lane.moved.set()
        finally:
            lane.senders -= 1

    async def flush(self) -> None:
        """Wait, a bounded time, until what was offered before has arrived or was dropped."""
        upto = [(lane, lane.offered) for lane in self._lanes.values()]
        with suppress(TimeoutError):
            async with asyncio.timeout(FLUSH_S):
                for lane, offered in upto:
                    while lane.done < offered:
                        lane.moved.clear()
                        await lane.moved.wait()

    async def close(self) -> None:
        """Drop what waits, and end."""
        await settle([task for lane in self._lanes.values() for task in lane.tasks])


def _now_s() -> float:
    return asyncio.get_running_loop().time()
