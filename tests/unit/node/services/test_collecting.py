"""Garbage collection of one node, on the real stores."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

import mcr
from mcr.aio import AsyncClient, AsyncModel
from mcr.durability import Durability
from mcr.errors import FailedError, McrError, MissingChunkError
from mcr.model import Chunk, ChunkId
from mcr.v1 import trash_pb2 as pb
from mcr.v1 import versions_pb2 as versions
from mcr_node.assembly import Node, Parts, open_node
from mcr_node.embedded import EmbeddedNode
from mcr_node.services.myself import Myself
from mcr_node.services.pace import Pace
from mcr_node.services.sealing import Content
from tests.support.served import bytes_from

MODEL = "vision/net"
SIZE = 3_000_000


class Scene:
    """An embedded store in which marks may follow each other at once."""

    def __init__(self, node: Node, client: AsyncClient, folder: Path) -> None:
        self.node = node
        self.model: AsyncModel = client.model(MODEL)
        self._folder = folder
        folder.mkdir(exist_ok=True)

    async def commit(self, seed: int) -> None:
        (self._folder / "weights.bin").write_bytes(bytes_from(seed, SIZE))
        await self.model.commit(self._folder)

    async def collect(self, rounds: int = 1) -> None:
        for _ in range(rounds):
            await self.node.collector.collect_now()

    async def gone(self, version: int) -> None:
        """Delete a version for good, and let two marks pass, and one that sweeps."""
        await self.model.delete([f"v{version}"])
        await self.model.empty_trash([version])
        await self.collect(3)

    @property
    def bytes_used(self) -> int:
        return self.node._stores.chunks.stats().bytes_used

    async def held(self, chunk: Chunk) -> bool:
        return not await self.node.chunks.missing([chunk.id])


def tell(path: Path, story: Callable[[Scene], Coroutine[Any, Any, None]], *, begins: bool = True) -> None:
    async def told() -> None:
        if begins:
            mcr.init(path / "store", encoding="raw")
        parts = Parts(pace=Pace(garbage_interval_s=0.001))
        node = await open_node(path / "store", Myself("n", str(path)), parts=parts)
        await node.runner.start()
        async with AsyncClient(EmbeddedNode(node, "test")) as client:
            await story(Scene(node, client, path / "in"))

    asyncio.run(told())


def test_the_bytes_of_a_deleted_version_come_back_and_the_others_stay(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        for seed in (1, 2, 3):
            await scene.commit(seed)
        before = scene.bytes_used

        await scene.gone(1)

        assert scene.bytes_used < before - 0.9 * SIZE
        for version, seed in ((2, 2), (3, 3)):
            await scene.model.checkout(f"v{version}", tmp_path / "out")
            assert (tmp_path / "out" / "weights.bin").read_bytes() == bytes_from(seed, SIZE)

    tell(tmp_path, story)


def test_what_is_in_the_trash_stays_whatever_is_collected(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        await scene.commit(1)
        await scene.commit(2)
        await scene.model.delete(["v1"])

        await scene.collect(4)

        await scene.model.restore([1])
        await scene.model.checkout("v1", tmp_path / "out")
        assert (tmp_path / "out" / "weights.bin").read_bytes() == bytes_from(1, SIZE)

    tell(tmp_path, story)


def test_chunks_that_two_versions_share_go_with_the_last_of_them(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        await scene.commit(1)
        await scene.commit(2)
        await scene.commit(1)
        await scene.commit(3)
        before = scene.bytes_used

        await scene.gone(1)
        assert scene.bytes_used > before - 0.1 * SIZE
        await scene.gone(3)

        assert scene.bytes_used < before - 0.9 * SIZE

    tell(tmp_path, story)


def test_an_upload_without_a_commit_is_kept_for_two_rounds(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        await scene.commit(1)
        chunk = Chunk.of(bytes_from(9, 1000))
        await scene.node.chunks.put([chunk])
        await scene.node.chunks.sync()

        seen = []
        for _ in range(3):
            await scene.collect()
            seen.append(await scene.held(chunk))

        assert seen == [True, False, False]

    tell(tmp_path, story)


def test_an_upload_with_a_lease_is_kept_until_it_gives_it_back(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        await scene.commit(1)
        trash = scene.node.trash("test")

        def header(number: int) -> versions.WriteHeader:
            return versions.WriteHeader(request_id=b"%d" % number)

        await trash.hold_upload(pb.HoldUploadRequest(header=header(1), lease=b"mine", hold_ms=3_600_000))
        chunk = Chunk.of(bytes_from(9, 1000))
        await scene.node.chunks.put([chunk])
        await scene.node.chunks.sync()

        await scene.collect(5)
        assert await scene.held(chunk)
        await trash.release_upload(pb.ReleaseUploadRequest(header=header(2), lease=b"mine"))
        await scene.collect(2)

        assert not await scene.held(chunk)

    tell(tmp_path, story)


def test_an_upload_that_was_paused_across_a_restart_goes_on(tmp_path: Path) -> None:
    chunk = Chunk.of(bytes_from(9, 1000))

    async def begin(scene: Scene) -> None:
        await scene.commit(1)
        await scene.node.chunks.put([chunk])
        await scene.node.chunks.sync()

    async def go_on(scene: Scene) -> None:
        await scene.collect()
        assert await scene.held(chunk), "the journal knows it"
        await scene.collect()
        assert not await scene.held(chunk)

    tell(tmp_path, begin)
    tell(tmp_path, go_on, begins=False)


def test_a_commit_that_was_sealed_before_a_sweep_is_sealed_anew(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        await scene.commit(1)
        await scene.commit(2)
        await scene.model.delete(["v1"])
        await scene.model.empty_trash([1])
        await scene.collect(2)
        sealing = scene.node.chunks.seal
        swept = 0

        async def seal_then_sweep(manifest: ChunkId, *, durability: Durability | None = None) -> Content:
            nonlocal swept
            content = await sealing(manifest, durability=durability)
            if not swept:
                swept = 1
                await scene.collect()
            return content

        scene.node.chunks.seal = seal_then_sweep  # type: ignore[method-assign]
        await scene.commit(1)
        await scene.collect(3)

        await scene.model.checkout("v3", tmp_path / "out")
        assert (tmp_path / "out" / "weights.bin").read_bytes() == bytes_from(1, SIZE)

    tell(tmp_path, story)


def test_nothing_is_swept_when_a_manifest_cannot_be_read(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        for seed in (1, 2, 3):
            await scene.commit(seed)
        chunk = Chunk.of(bytes_from(9, 1000))
        await scene.node.chunks.put([chunk])
        await scene.node.chunks.sync()
        manifest = (await scene.model.show("v2")).manifest
        scene.node._stores.chunks.remove([manifest])

        for _ in range(4):
            with pytest.raises(MissingChunkError):
                await scene.collect()

        assert await scene.held(chunk)

    tell(tmp_path, story)


def test_a_process_does_not_sweep_in_a_round_that_began_before_it(tmp_path: Path) -> None:
    chunk = Chunk.of(bytes_from(9, 1000))

    async def begin(scene: Scene) -> None:
        await scene.commit(1)
        await scene.node.chunks.put([chunk])
        await scene.node.chunks.sync()
        await scene.collect()

    async def later(scene: Scene) -> None:
        scene.node.collector._interval_ms = 3_600_000
        with pytest.raises(FailedError, match="sweeps after the next one"):
            await scene.collect()
        assert await scene.held(chunk)

    tell(tmp_path, begin)
    tell(tmp_path, later, begins=False)


def test_a_plan_says_what_would_go_and_why_and_takes_nothing(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        for seed in (1, 2, 3):
            await scene.commit(seed)
        await scene.collect(3)
        await scene.model.delete(["v1"])
        await scene.model.empty_trash([1])
        never = Chunk.of(bytes_from(9, 1000))
        await scene.node.chunks.put([never])
        await scene.node.chunks.sync()
        fresh = await scene.node.collector.plan()
        for _ in range(2):
            await scene.node.collector._mark(await scene.node.collector._row(), 0)
        lately = Chunk.of(bytes_from(10, 500))
        await scene.node.chunks.put([lately])
        await scene.node.chunks.sync()

        plan = await scene.node.collector.plan()

        assert (fresh.chunks, fresh.chunks_waiting, fresh.versions) == (0, 1, [])
        assert plan.versions == [f"{MODEL}@v1"]
        assert plan.chunks == plan.chunks_deleted + 1
        assert plan.bytes_deleted > 0.9 * SIZE
        assert plan.chunks_waiting == 1
        assert await scene.held(never)

    tell(tmp_path, story)


def test_a_version_given_up_is_readable_for_a_while(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        await scene.commit(1)
        await scene.commit(2)
        manifest = (await scene.model.show("v1")).manifest
        await scene.model.delete(["v1"])
        await scene.model.empty_trash([1])

        seen = []
        for _ in range(3):
            try:
                await scene.node.chunks.get([manifest])
                seen.append(True)
            except McrError:
                seen.append(False)
            await scene.collect()

        assert seen == [True, True, False]

    tell(tmp_path, story)
