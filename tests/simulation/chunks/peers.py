"""The network between nodes: late answers, lost ones, cut links, bytes that change on the way.

Takes the place of `transport.colleagues` and of the edges behind it: what crosses a link
crosses it as frames, and is verified where it arrives, by the code that does so in production.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeVar, cast

from google.protobuf.message import Message

from mcr import _frames
from mcr._bulk import Forward
from mcr.errors import CorruptChunkError, FailedError, UnavailableError
from mcr.model import Chunk, ChunkId
from mcr.transfer import verified
from mcr.v1 import admin_pb2 as pb
from mcr_node.ports_garbage import Promise
from tests.simulation.chunks.virtual import Life, NodeDied
from tests.simulation.cluster.world import MS, World

if TYPE_CHECKING:
    from tests.simulation.chunks.node import Host

Result = TypeVar("Result")
Response = TypeVar("Response", bound=Message)
# As in `transport.colleagues`, but for the patience of a call, which is an upload there.
CALL_S = 10.0
PING_S = 2.0
SILENT_S = 0.25
# Calls between nodes, and moments of each, at which one may be made to die.
KINDS = ("missing", "promise", "put", "sync", "get", "vouch")
MOMENTS = ASKED, DONE, HEARD = ("when asked", "when it has done", "after it was heard")


@dataclass(frozen=True, slots=True)
class Trap:
    """Death between two steps of a protocol, a few milliseconds apart: hardly ever met by chance.

    Attributes:
        kind: of the call, one of KINDS.
        moment: one of MOMENTS: when it is asked, when it has done it, soon after its answer was heard.
        spring: kills it, now or soon.
    """

    kind: str
    moment: str
    spring: Callable[["Host"], None]


class Links:
    """Who reaches whom, and how well."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.delay_us_max = 5 * MS
        # Of messages, per mille: those that are lost, and those whose bytes change.
        self.loss_per_mille = 0
        self.flips_per_mille = 0
        # Kills a node at a moment of a call; each acts once.
        self.trap: Trap | None = None
        self._cut: dict[tuple[int, int], bool] = {}

    def cut(self, a: int, b: int) -> None:
        self._cut[a, b] = self._cut[b, a] = True

    def heal(self) -> None:
        self._cut.clear()

    def is_cut(self, a: int, b: int) -> bool:
        return (a, b) in self._cut

    def springs(self, kind: str, moment: str, host: "Host") -> bool:
        """Let a node die at this moment of a call, if that is what somebody waits for; say whether it did."""
        trap = self.trap
        if trap is None or (trap.kind, trap.moment) != (kind, moment) or not host.life.is_alive:
            return False
        self.trap = None
        trap.spring(host)
        return True

    async def travel(self) -> None:
        await asyncio.sleep(self._world.between(50, self.delay_us_max) / 1_000_000)

    def is_lost(self) -> bool:
        return self._world.happens(self.loss_per_mille)

    def carried(self, frame: bytes) -> bytes:
        """Return what arrives of some bytes."""
        if len(frame) > 1 and self._world.happens(self.flips_per_mille):
            self._world.count("bytes changed on the way")
            # In the bytes of its last chunk: what else changes is noticed when the frame is read.
            at = len(frame) - 1 - self._world.draw(2)
            return frame[:at] + bytes((frame[at] ^ 1,)) + frame[at + 1 :]
        return frame


async def call(
    links: Links,
    me: int,
    host: "Host",
    work: Callable[["Host"], Awaitable[Result]],
    call_s: float = CALL_S,
    kind: str = "",
) -> Result:
    """Let a node do something for another one, or for a client (0).

    Raises:
        UnavailableError: it is not reached, or died, or the answer is lost: it may be done or not.
        McrError: it refuses.
    """
    await links.travel()
    life = host.life
    links.springs(kind, ASKED, host)
    if links.is_cut(me, host.node_id) or links.is_lost() or not life.is_alive:
        if life.is_alive or links.is_cut(me, host.node_id):
            await asyncio.sleep(min(call_s, PING_S))
        raise UnavailableError(host.address, "it does not answer")
    task = life.spawn(_as_coroutine(work(host)))
    done, _ = await asyncio.wait([task], timeout=call_s)
    if not done:
        task.cancel()
        raise UnavailableError(host.address, "it takes too long")
    if links.springs(kind, DONE, host):
        raise UnavailableError(host.address, "it died")
    await links.travel()
    if task.cancelled() or links.is_cut(me, host.node_id) or links.is_lost():
        if not task.cancelled():
            task.exception()
        raise UnavailableError(host.address, "no answer came")
    links.springs(kind, HEARD, host)
    try:
        return task.result()
    except NodeDied as error:
        raise UnavailableError(host.address, "it died") from error


async def _as_coroutine(work: Awaitable[Result]) -> Result:
    return await work


class SimPeers:
    """`services.cluster_chunks.Peers` and `services.colleagues.Colleagues` of one node."""

    def __init__(self, node_id: int, life: Life, links: Links, hosts: dict[str, "Host"]) -> None:
        self._node_id = node_id
        self._life = life
        self._links = links
        self._hosts = hosts
        self._silent_until_s: dict[str, float] = {}

    async def _call(
        self,
        address: str,
        work: Callable[["Host"], Awaitable[Result]],
        call_s: float = CALL_S,
        kind: str = "",
    ) -> Result:
        self._life.check()
        loop = asyncio.get_running_loop()
        if loop.time() < self._silent_until_s.get(address, 0.0):
            raise UnavailableError(address, "it did not answer a moment ago")
        host = self._hosts.get(address)
        if host is None:
            raise UnavailableError(address, "nobody is there")
        try:
            return await call(self._links, self._node_id, host, work, call_s, kind)
        except UnavailableError:
            self._silent_until_s[address] = loop.time() + SILENT_S
            raise

    async def _answers(self, address: str) -> int:
        """Return of whose process it does."""
        await self._links.travel()
        host = self._hosts.get(address)
        is_there = host is not None and host.life.is_alive
        if host is None or not is_there or self._links.is_cut(self._node_id, host.node_id):
            if is_there:
                await asyncio.sleep(PING_S)
            raise UnavailableError(address, "it does not answer")
        return host.chunks.life

    # ---- Holders ----

    async def wait_reachable(self, address: str) -> None:
        self._silent_until_s.pop(address, None)
        await self._call(address, _ping, PING_S)

    async def get(self, address: str, ids: Sequence[ChunkId]) -> list[bytes]:
        found: list[bytes] = []
        while len(found) < len(ids):
            left = ids[len(found) :]
            frame = await self._call(address, partial(frame_of, ids=left), kind="get")
            for received, wanted in zip(_frames.decode(self._links.carried(frame)), left, strict=False):
                if received.id != wanted:
                    raise CorruptChunkError(received.id.hex(), "it sent what was not asked for")
                found.append(bytes(verified(received.id, received.data).data))
        return found

    async def missing(self, address: str, ids: Sequence[ChunkId]) -> set[ChunkId]:
        return await self._call(address, lambda host: host.chunks.missing(ids), kind="missing")

    async def promise(self, address: str, ids: Sequence[ChunkId]) -> Promise:
        return await self._call(address, lambda host: host.chunks.promise(ids), kind="promise")

    async def vouch(self, address: str, ids: Sequence[ChunkId]) -> Promise:
        return await self._call(address, lambda host: host.chunks.vouch(ids), kind="vouch")

    async def put(self, address: str, chunks: Sequence[Chunk]) -> None:
        for group in _frames.group(chunks):
            frame = self._links.carried(_frames.encode(group))
            await self._call(address, partial(put_frame, frame), kind="put")

    async def sync(self, address: str) -> int:
        return await self._call(address, _sync, kind="sync")

    # ---- Exchange ----

    async def have(self, address: str, ids: Sequence[ChunkId]) -> set[ChunkId]:
        return await self._call(address, lambda host: host.chunks.held(ids))

    async def fetch(self, address: str, ids: Sequence[ChunkId], *, for_site: bool) -> AsyncGenerator[bytes]:
        frames: asyncio.Queue[bytes | None] = asyncio.Queue()

        async def give(host: "Host") -> None:
            try:
                async for frame in host.chunks.give(ids, for_site=for_site):
                    frames.put_nowait(frame)
            finally:
                frames.put_nowait(None)

        giving = asyncio.create_task(self._call(address, give))
        try:
            while True:
                taking = asyncio.create_task(frames.get())
                await asyncio.wait([taking, giving], return_when=asyncio.FIRST_COMPLETED)
                frame = taking.result() if taking.done() else None
                if frame is None:
                    taking.cancel()
                    break
                yield self._links.carried(frame)
            await giving
        finally:
            giving.cancel()
            await asyncio.wait([giving])
            if not giving.cancelled():
                giving.exception()

    # ---- Colleagues ----

    async def admin(
        self,
        address: str,
        rpc: str,
        request: Message,
        kind: type[Response],
        *,
        timeout_s: float | None = None,
    ) -> Response:
        if rpc == "Ping":
            # By far the most calls, and the shortest.
            return cast("Response", pb.PingResponse(ready=True, life=await self._answers(address)))
        found = await self._call(address, lambda host: _serve(host, rpc), timeout_s or CALL_S)
        return cast("Response", found)

    async def store_status(self, address: str) -> pb.GetStoreStatusResponse:
        raise FailedError("status", "not part of this world")


async def put_frame(frame: bytes, host: "Host", *, forward: Forward | None = None) -> None:
    """Hand over one frame."""
    await host.chunks.put_received(frame, forward=forward)


async def _sync(host: "Host") -> int:
    await host.chunks.sync()
    return host.chunks.life


async def _ping(host: "Host") -> None:
    host.life.check()


async def frame_of(host: "Host", ids: Sequence[ChunkId]) -> bytes:
    frame, count, error = await host.chunks.get_frame(ids)
    if not count:
        assert error is not None
        raise error
    return frame


async def _serve(host: "Host", rpc: str) -> Message:
    match rpc:
        case "ListWorkers":
            return await host.describe()
        case _:
            raise FailedError(rpc, "not part of this world")
