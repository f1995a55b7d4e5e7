"""What one node asks of another for its readers: gathered into ranges, watched, and measured.

Requests that come while others are under way wait and go out together, so a busy reader costs a message for
many chunks, and a lone one waits for nobody. Nothing waits without an end: a stream on which nothing moves is
given up, one that moves too little as well, and whoever asked turns to another node.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Protocol

from mcr.blocking import settle
from mcr.errors import DeadlineError, McrError, UnavailableError
from mcr.model import KIB, MIB, ChunkId
from mcr.values import dataclass
from mcr_node.core.members import Member
from mcr_node.core.placement.sources import US_PER_S, Source

# Measured for uploads and downloads alike: two streams fill a connection.
STREAMS_MAX = 2
# What one stream is asked for: seconds on a line of 100 Mbit/s, so that there is something left to give to
# another node when this one fails.
RANGE_BYTES = 16 * MIB
RANGE_CHUNKS_MIN, RANGE_CHUNKS_MAX = 4, 1024
# Nothing came for so long: a message of 1 MiB takes that at 100 KiB/s.
STALL_S = 10.0
# A node that fetches for its site gives a sign of life once a second. It may be late where a machine has much
# more to do than it can, and whoever gives it up too soon fetches what crosses already.
SIGN_S = 1.0
SILENT_S = 8.0
# After a while at less than this another node is tried.
PATIENCE_S = 15.0
BYTES_PER_S_MIN = 64 * KIB
# One range, whatever happens.
RANGE_S_MAX = 300.0
# A node that failed is asked again by itself only after so long.
DISTRUST_S = 5.0
# Weight of the newest measurement: the last few decide.
NEWEST_SHARE = 0.3
# What a chunk is taken to have before the first came.
CHUNK_BYTES_DEFAULT = 1 * MIB
# A sign of life (mcr_node.peer.v1.FetchResponse, field 2); it carries no chunk.
SIGN = b"\x10\x01"


class Exchange(Protocol):
    """The chunks of other nodes as `mcr_node.peer.v1.ExchangeService` gives them, by address."""

    async def have(self, address: str, ids: Sequence[ChunkId]) -> set[ChunkId]:
        """Return those that a node could give now.

        Raises:
            McrError: it cannot be reached, or refuses.
        """

    def fetch(self, address: str, ids: Sequence[ChunkId], *, for_site: bool) -> AsyncGenerator[bytes]:
        """Yield frames (`mcr._frames`) and signs of life; what is not to be had there does not come.

        Raises:
            McrError: it cannot be reached, or refuses.
        """


# Takes a frame and what was asked for; keeps and returns the chunks in it, each verified.
Accept = Callable[[bytes, Mapping[ChunkId, object]], Awaitable[dict[ChunkId, bytes]]]


class Standing:
    """What is known of one node, whatever it was asked for. Times are those of the event loop."""

    def __init__(self) -> None:
        self.latency_s = self.bytes_per_s = 0.0
        self._distrusted_until_s = 0.0

    @property
    def is_failing(self) -> bool:
        """Whether it failed a moment ago."""
        return _now_s() < self._distrusted_until_s

    def failed(self) -> None:
        """Note that it failed."""
        self._distrusted_until_s = _now_s() + DISTRUST_S

    def answered_in(self, seconds: float) -> None:
        """Note how long a request without bytes took."""
        self.latency_s += (NEWEST_SHARE if self.latency_s else 1.0) * (seconds - self.latency_s)

    def sent_at(self, bytes_per_s: float) -> None:
        """Note how fast bytes came."""
        self.bytes_per_s += (NEWEST_SHARE if self.bytes_per_s else 1.0) * (bytes_per_s - self.bytes_per_s)


@dataclass(slots=True, eq=False)
class _Wanted:
    chunk_id: ChunkId
    future: "asyncio.Future[bytes | None]"


class Lane:
    """The requests of one kind to one node. Used on one event loop."""

    def __init__(
        self, member: Member, standing: Standing, exchange: Exchange, accept: Accept, *, for_site: bool
    ) -> None:
        """Prepare; `for_site`: the node shall fetch what it lacks."""
        self.member = member
        self.standing = standing
        self._exchange = exchange
        self._accept = accept
        self._for_site = for_site
        self._queue: deque[_Wanted] = deque()
        self._streams: set[asyncio.Task[None]] = set()
        self._asked = 0
        self._moved_at_s = 0.0
        self._chunk_bytes = float(CHUNK_BYTES_DEFAULT)

    @property
    def source(self) -> Source:
        """What is known of it now."""
        waiting = len(self._queue) + self._asked
        return Source(
            self.member,
            round(self.standing.latency_s * US_PER_S),
            round(self.standing.bytes_per_s),
            waiting * self.chunk_bytes,
            self.standing.is_failing,
        )

    @property
    def chunk_bytes(self) -> int:
        """The length of a chunk, as those before tell."""
        return round(self._chunk_bytes)

    @property
    def silent_us(self) -> int:
        """For how long nothing has come from it, since it was asked or something did."""
        return round((_now_s() - self._moved_at_s) * US_PER_S)

    async def get(self, chunk_id: ChunkId) -> bytes | None:
        """Return a chunk, or None when it is not to be had there.

        Raises:
            McrError: the node failed.
        """
        wanted = _Wanted(chunk_id, asyncio.get_running_loop().create_future())
        if not self._streams:
            self._moved_at_s = _now_s()
        self._queue.append(wanted)
        if len(self._streams) < STREAMS_MAX:
            task = asyncio.create_task(self._work(), name="mcr-lane")
            self._streams.add(task)
            task.add_done_callback(self._streams.discard)
        return await wanted.future

    def _take(self) -> list[_Wanted]:
        while self._queue and self._queue[0].future.done():
            self._queue.popleft()
        # Shared between the streams: two that end together beat one that ends late.
        idle = STREAMS_MAX - len(self._streams) + 1
        most = min(max(RANGE_BYTES // max(1, self.chunk_bytes), RANGE_CHUNKS_MIN), RANGE_CHUNKS_MAX)
        count = min(most, -(-len(self._queue) // idle))
        part = [self._queue.popleft() for _ in range(count)]
        return [one for one in part if not one.future.done()]

    async def _work(self) -> None:
        part: list[_Wanted] = []
        task = asyncio.current_task()
        assert task is not None
        try:
            while self._queue:
                part = self._take()
                if not part:
                    continue
                self._asked += len(part)
                try:
                    await self._range(part)
                except McrError as error:
                    self.standing.failed()
                    _settle(part, error)
                    # What waits would meet the same.
                    _settle(self._queue, error)
                    self._queue.clear()
                finally:
                    self._asked -= len(part)
                _settle(part, None)
        finally:
            # By the task itself: one that found nothing left must not look as if it still asked.
            self._streams.discard(task)
            # Cancelled, or a bug: nobody is left waiting.
            _settle(part, UnavailableError(self.member.address, "it was not asked to the end"))

    async def _range(self, part: Sequence[_Wanted]) -> None:
        """Ask for some chunks and hand out what comes.

        Raises:
            McrError: the node failed, or was too slow; what did come was handed out.
        """
        waiting = {one.chunk_id: one for one in part}
        address = self.member.address
        stall_s = SILENT_S if self._for_site else STALL_S
        start_s = _now_s()
        came_bytes = came = 0
        try:
            async with asyncio.timeout(stall_s) as watch:
                frames = self._exchange.fetch(address, list(waiting), for_site=self._for_site)
                async with aclosing(frames):
                    async for frame in frames:
                        now_s = self._moved_at_s = _now_s()
                        watch.reschedule(min(now_s + stall_s, start_s + RANGE_S_MAX))
                        if frame == SIGN:
                            continue
                        for chunk_id, data in (await self._accept(frame, waiting)).items():
                            came_bytes, came = came_bytes + len(data), came + 1
                            one = waiting.pop(chunk_id)
                            if not one.future.done():
                                one.future.set_result(data)
                        self._check_rate(came_bytes, now_s - start_s)
                        if all(one.future.done() for one in waiting.values()):
                            # All here, or had from another node meanwhile.
                            break
        except TimeoutError as error:
            raise DeadlineError(f"{_now_s() - start_s:.0f}", f"fetching chunks from {address}") from error
        finally:
            self._measured(came_bytes, came, _now_s() - start_s)

    def _check_rate(self, came_bytes: int, elapsed_s: float) -> None:
        # One that fetches for its site is as slow as what it fetches from; it has its own watch over that.
        if self._for_site or elapsed_s < PATIENCE_S or came_bytes >= elapsed_s * BYTES_PER_S_MIN:
            return
        reason = f"{came_bytes} bytes in {elapsed_s:.0f} s are too few"
        raise UnavailableError(self.member.address, reason)

    def _measured(self, came_bytes: int, came: int, elapsed_s: float) -> None:
        if not came:
            return
        self._chunk_bytes += NEWEST_SHARE * (came_bytes / came - self._chunk_bytes)
        if came_bytes < CHUNK_BYTES_DEFAULT:
            # Of a few bytes the latency is measured, not the line.
            return
        rate = came_bytes * max(1, len(self._streams)) / max(elapsed_s, 1e-6)
        self.standing.sent_at(rate)

    async def close(self) -> None:
        """End what is under way."""
        await settle(self._streams)


def _settle(wanted: Sequence[_Wanted] | deque[_Wanted], error: McrError | None) -> None:
    for one in wanted:
        if one.future.done():
            continue
        if error is None:
            one.future.set_result(None)
        else:
            one.future.set_exception(error)


def _now_s() -> float:
    return asyncio.get_running_loop().time()
