"""The public edges of the other nodes, spoken to as any client does, by the client's own code."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message

from mcr._remote.calls import Calls
from mcr._remote.chunks import IDS_MAX, RemoteChunks
from mcr._remote.nodes import Way
from mcr._remote.status import TransientError, raise_for
from mcr.addresses import parse_address
from mcr.blocking import settle
from mcr.errors import UnavailableError
from mcr.model import Chunk, ChunkId
from mcr.v1 import admin_pb2 as pb
from mcr.v1 import chunks_pb2 as chunk_messages
from mcr_node.ports_garbage import Promise
from mcr_node.transport import exchange

Response = TypeVar("Response", bound=Message)
# A node that does not answer by then is as good as gone; whoever asked turns to another one.
CALL_S = 10.0
# What failed may be a connection that the other node's restart cut, so once more; but not for as long as a
# client would.
PATIENCE_S = 0.5
# Whoever answered within this is taken to be there still. Else it is asked first: a connection whose other
# end is gone looks like any other, and what is sent over it waits for ten seconds.
TRUST_S = 1.0
# A node that does not answer so soon is passed over: another one does as well, and a commit waits.
PING_S = 2.0
# One that did not answer is asked again beside, until it does; meanwhile nobody waits for it.
ASK_AGAIN_S = 0.25
# But not for ever, for it may be gone for good; whoever needs it later asks anew.
ASKS_MAX = 60


class _Colleague:
    def __init__(self, address: str) -> None:
        self._address = address
        self.calls = Calls([parse_address("address", address)], timeout_s=CALL_S, patience_s=PATIENCE_S)
        self._chunks = RemoteChunks(self.calls, anywhere=False)
        self._answered_at_s = -TRUST_S
        self._asking: asyncio.Task[None] | None = None

    async def reach(self) -> RemoteChunks:
        """Return the way to its chunks, if it answers now.

        Raises:
            UnavailableError: it does not, or did not a moment ago.
        """
        if asyncio.get_running_loop().time() - self._answered_at_s <= TRUST_S:
            return self._chunks
        if self._asking is not None and not self._asking.done():
            raise UnavailableError(self._address, "it did not answer a moment ago")
        try:
            await self._ask()
        except TransientError as failure:
            self._asking = asyncio.create_task(self._ask_again(), name="mcr-colleague")
            raise failure.error from failure
        return self._chunks

    def answered(self) -> None:
        """Note that it answered just now, whatever it was asked: it is back, if it was silent."""
        self._answered_at_s = asyncio.get_running_loop().time()

    async def wait(self) -> None:
        """Wait until it answers, also when it did not a moment ago.

        Raises:
            UnavailableError: it still does not.
        """
        if self._asking is not None:
            await asyncio.wait([self._asking], timeout=PING_S)
        await self.reach()

    async def _ask(self) -> None:
        nodes = self.calls.nodes
        way = await nodes.way()
        try:
            answer = await way.admin.Ping(pb.PingRequest(), timeout=PING_S)
        except grpc.aio.AioRpcError as error:
            nodes.failed(way)
            raise TransientError(
                UnavailableError(self._address, error.details() or error.code().name)
            ) from error
        way.told(answer)
        self.answered()

    async def _ask_again(self) -> None:
        for _ in range(ASKS_MAX):
            await asyncio.sleep(ASK_AGAIN_S)
            try:
                await self._ask()
            except TransientError:
                continue
            return

    async def close(self) -> None:
        if self._asking is not None:
            await settle([self._asking])
        await self.calls.close()
        self._chunks.close()


class GrpcColleagues:
    """`services.colleagues.Colleagues`, `services.copies.Holders` and `services.lanes.Exchange` over gRPC."""

    def __init__(self) -> None:
        self._known: dict[str, _Colleague] = {}

    def _at(self, address: str) -> _Colleague:
        found = self._known.get(address)
        if found is None:
            found = self._known[address] = _Colleague(address)
        return found

    async def admin(
        self,
        address: str,
        rpc: str,
        request: Message,
        kind: type[Response],
        *,
        timeout_s: float | None = None,
    ) -> Response:
        """See `Colleagues`."""
        seconds = CALL_S if timeout_s is None else timeout_s
        colleague = self._at(address)
        await colleague.reach()
        calls = colleague.calls
        path = rpc if "/" in rpc else f"AdminService/{rpc}"

        async def once(way: Way) -> Response:
            call = way.channel.unary_unary(
                f"/mcr.v1.{path}",
                request_serializer=type(request).SerializeToString,
                response_deserializer=kind.FromString,
            )
            try:
                return await call(request, timeout=seconds, metadata=calls.metadata)
            except grpc.aio.AioRpcError as error:
                raise_for(error, address=address, what=rpc, seconds=seconds)
                raise

        try:
            return await once(await calls.nodes.way())
        except TransientError as failure:
            # One try: whoever asked decides what comes next.
            raise failure.error from failure

    async def store_status(self, address: str) -> pb.GetStoreStatusResponse:
        """See `Colleagues`."""
        colleague = self._at(address)
        calls = colleague.calls
        way = calls.nodes.sole
        try:
            request = pb.GetStoreStatusRequest()
            status = await way.admin.GetStoreStatus(request, timeout=CALL_S, metadata=calls.metadata)
        except grpc.aio.AioRpcError as error:
            raise UnavailableError(address, error.details() or error.code().name) from error
        colleague.answered()
        return status

    async def wait_reachable(self, address: str) -> None:
        """See `Holders`."""
        await self._at(address).wait()

    async def get(self, address: str, ids: Sequence[ChunkId]) -> list[bytes]:
        """See `Holders`."""
        return await (await self._at(address).reach()).get(ids)

    async def missing(self, address: str, ids: Sequence[ChunkId]) -> set[ChunkId]:
        """See `Holders`."""
        return (await self._find(address, ids, only_looking=True)).missing

    async def promise(self, address: str, ids: Sequence[ChunkId]) -> Promise:
        """See `Holders`."""
        return await self._find(address, ids, only_looking=False)

    async def vouch(self, address: str, ids: Sequence[ChunkId]) -> Promise:
        """See `services.surplus.Vouching`."""
        chunks = await self._at(address).reach()
        answer = await chunks.find_missing(chunk_messages.FindMissingRequest(ids=ids, vouch=True))
        if not answer.vouched:
            raise UnavailableError(address, "it is of a release that does not vouch for chunks")
        return Promise({ChunkId(each) for each in answer.ids}, answer.gc_round)

    async def _find(self, address: str, ids: Sequence[ChunkId], *, only_looking: bool) -> Promise:
        """Ask which chunks are missing; in pages, as many as a message may name."""
        chunks = await self._at(address).reach()
        missing: set[ChunkId] = set()
        rounds: list[int] = []
        lives: set[int] = set()
        for start in range(0, len(ids), IDS_MAX):
            request = chunk_messages.FindMissingRequest(
                ids=ids[start : start + IDS_MAX], only_looking=only_looking
            )
            answer = await chunks.find_missing(request)
            missing.update(ChunkId(each) for each in answer.ids)
            rounds.append(answer.gc_round)
            lives.add(answer.life)
        if len(lives) > 1:
            raise UnavailableError(address, "it started again meanwhile")
        return Promise(missing, min(rounds, default=0), *lives)

    async def put(self, address: str, chunks: Sequence[Chunk]) -> None:
        """See `Holders`."""
        # Whoever puts has asked what is missing, or has just been sent what nobody held.
        await (await self._at(address).reach()).send(chunks)

    async def sync(self, address: str) -> int:
        """See `Holders`."""
        return await (await self._at(address).reach()).sync_in_life()

    async def have(self, address: str, ids: Sequence[ChunkId]) -> set[ChunkId]:
        """See `services.lanes.Exchange`."""
        colleague = self._at(address)
        await colleague.reach()
        return await exchange.have(colleague.calls, address, ids)

    async def fetch(self, address: str, ids: Sequence[ChunkId], *, for_site: bool) -> AsyncGenerator[bytes]:
        """See `services.lanes.Exchange`."""
        colleague = self._at(address)
        await colleague.reach()
        async with aclosing(exchange.fetch(colleague.calls, address, ids, for_site=for_site)) as frames:
            async for frame in frames:
                colleague.answered()
                yield frame

    async def close(self) -> None:
        """Close all connections."""
        known, self._known = self._known, {}
        for colleague in known.values():
            await colleague.close()
