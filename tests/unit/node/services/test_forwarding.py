"""Forwarding: bounded behind the upload, and never a reason for one to fail or to wait long."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from mcr import _frames
from mcr._bulk import Forward
from mcr.model import MIB, Chunk
from mcr_node.core.members import Member
from mcr_node.services import forwarding
from mcr_node.services.cluster_chunks import ClusterChunks
from mcr_node.services.forwarding import Forwarding
from tests.conformance.memory_chunk_store import MemoryChunkStore
from tests.support.holders import MemoryHolders

CHUNKS = [Chunk.of(bytes([number]) * MIB) for number in range(16)]


class SlowHolders(MemoryHolders):
    """Takes chunks only while the gate is open."""

    def __init__(self, *addresses: str) -> None:
        super().__init__(*addresses)
        self.gate = asyncio.Event()

    async def put(self, address: str, chunks: Sequence[Chunk]) -> None:
        await self.gate.wait()
        await super().put(address, chunks)


def tell(story: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(story(), 30))


def test_all_that_is_offered_arrives() -> None:
    async def story() -> None:
        holders = MemoryHolders("b:1")
        forward = Forwarding(holders)
        for chunk in CHUNKS:
            await forward.offer("b:1", [chunk])
        await forward.flush()
        assert holders.sent["b:1"] == [chunk.id for chunk in CHUNKS]

    tell(story)


def test_an_upload_waits_when_too_much_is_behind() -> None:
    async def story() -> None:
        holders = SlowHolders("b:1")
        forward = Forwarding(holders)

        async def upload() -> None:
            for chunk in CHUNKS:
                await forward.offer("b:1", [chunk])

        uploading = asyncio.create_task(upload())
        done, _ = await asyncio.wait([uploading], timeout=0.05)
        assert not done
        holders.gate.set()
        await uploading
        await forward.flush()
        assert len(holders.sent["b:1"]) == len(CHUNKS)

    tell(story)


def test_no_more_than_so_much_is_behind_however_much_is_offered_at_once() -> None:
    async def story() -> None:
        holders = SlowHolders("b:1")
        forward = Forwarding(holders)
        offering = asyncio.create_task(forward.offer("b:1", CHUNKS))
        await asyncio.wait([offering], timeout=0.05)
        lane = forward._lanes["b:1"]
        assert lane.waiting_bytes <= forwarding.QUEUE_BYTES_MAX
        assert len(holders.sent["b:1"]) == 0
        sent_bytes = sum(len(chunk.data) for chunk in CHUNKS[: lane.offered])
        on_the_way_bytes = forwarding.PARTS_IN_FLIGHT * forwarding.PART_BYTES_MAX
        assert sent_bytes <= forwarding.QUEUE_BYTES_MAX + on_the_way_bytes
        holders.gate.set()
        await offering
        await forward.flush()
        assert sorted(holders.sent["b:1"]) == sorted(chunk.id for chunk in CHUNKS)

    tell(story)


def test_a_node_that_takes_nothing_holds_an_upload_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forwarding, "WAIT_S", 0.05)

    async def story() -> None:
        forward = Forwarding(SlowHolders("b:1"))
        start_s = asyncio.get_running_loop().time()
        for chunk in CHUNKS * 4:
            await forward.offer("b:1", [chunk])
        assert asyncio.get_running_loop().time() - start_s < 1
        assert not forward.is_trusted("b:1", asyncio.get_running_loop().time())
        await forward.close()

    tell(story)


def test_a_node_that_fails_gets_nothing_for_a_while() -> None:
    async def story() -> None:
        holders = MemoryHolders("b:1")
        holders.silent = ["b:1"]
        forward = Forwarding(holders)
        await forward.offer("b:1", CHUNKS[:1])
        await forward.flush()
        assert not forward.is_trusted("b:1", asyncio.get_running_loop().time())
        await forward.offer("b:1", CHUNKS[1:2])
        await forward.flush()
        assert holders.sent["b:1"] == []

    tell(story)


def test_what_clients_send_is_forwarded_to_one_other_and_what_nodes_send_is_not() -> None:
    async def story() -> None:
        holders = MemoryHolders("b:1", "c:1")
        others = [Member(2, "b", "b:1"), Member(3, "c", "c:1")]
        with ThreadPoolExecutor(1) as executor:
            chunks = ClusterChunks(
                MemoryChunkStore(), executor, holders, lambda: Member(1, "a", "a:1"), lambda: others
            )
            await chunks.put_received(_frames.encode(CHUNKS[:8]))
            await chunks.forwarding.flush()
            assert holders.sent == {"b:1": [], "c:1": []}
            await chunks.put_received(_frames.encode(CHUNKS), forward=Forward())
            await chunks.forwarding.flush()
            assert sorted(holders.sent["b:1"] + holders.sent["c:1"]) == sorted(chunk.id for chunk in CHUNKS)
            assert all(holders.sent.values())
            await chunks.close()

    tell(story)
