"""The sessions service: what it checks of parts, and how it meets others that put or seal meanwhile."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from mcr.errors import InvalidArgumentError, MissingChunkError, SessionChangedError, SessionEndedError
from mcr.manifest import ManifestBuilder
from mcr.model import Chunk, ChunkId, ChunkRef, EntryKind, FileEntry, digest
from mcr.v1 import sessions_pb2 as pb
from mcr.v1 import versions_pb2
from mcr_node.services import sessions
from mcr_node.services.chunks import LocalChunks
from mcr_node.services.sealing import Content
from mcr_node.services.sessions import SessionsService
from tests.conformance.memory_chunk_store import MemoryChunkStore
from tests.support.log_clusters import member
from tests.support.memory_log import MemoryLog, SharedLog

STORY_S_MAX = 30.0
MODEL = "vision/net"


class World:
    """One node, and its service."""

    def __init__(self, log: MemoryLog, executor: ThreadPoolExecutor) -> None:
        self.store = MemoryChunkStore()
        self.chunks = LocalChunks(self.store, executor)
        self.service = SessionsService(log, self.chunks, "test")
        self.requests = 0

    def header(self) -> versions_pb2.WriteHeader:
        self.requests += 1
        return versions_pb2.WriteHeader(request_id=b"request %d" % self.requests)

    def manifest(self, *paths: str, content: bytes = b"x", uploaded: bool = True) -> ChunkId:
        """Store a manifest with files of some content."""
        nodes: list[Chunk] = []
        builder = ManifestBuilder(nodes.append)
        for path in paths:
            chunk = Chunk.of(content + path.encode())
            size_bytes = len(chunk.data)
            entry = FileEntry(
                path, EntryKind.FILE, size_bytes, blake3=digest(chunk.data), sha256=bytes(32), format="bytes"
            )
            builder.add(entry, [ChunkRef(chunk.id, size_bytes)])
            nodes += [chunk] if uploaded else []
        summary = builder.finish()
        self.store.put(nodes)
        return summary.root

    async def begin(self, session: str = "step") -> None:
        await self.service.begin_session(
            pb.BeginSessionRequest(
                header=self.header(), model=MODEL, session=session, branch="main", lifetime_ms=10**8
            )
        )

    async def put(self, name: str, manifest: ChunkId | None = None) -> pb.PutPartResponse:
        return await self.service.put_part(
            pb.PutPartRequest(
                header=self.header(),
                model=MODEL,
                session="step",
                name=name,
                manifest=self.manifest(name) if manifest is None else manifest,
            )
        )

    async def seal(self) -> pb.SealSessionResponse:
        return await self.service.seal_session(
            pb.SealSessionRequest(header=self.header(), model=MODEL, session="step")
        )


def tell(story: Callable[[World], Awaitable[None]]) -> None:
    async def told() -> None:
        log = SharedLog(member(1)).open(1)
        await log.wait_applied(log.commit)
        with ThreadPoolExecutor(2) as executor:
            async with asyncio.timeout(STORY_S_MAX):
                await story(World(log, executor))

    asyncio.run(told())


def test_a_part_holds_what_its_name_says_and_nothing_else() -> None:
    async def story(world: World) -> None:
        await world.begin()
        for paths in (("b",), ("a", "b"), ("a/x", "ab"), ()):
            with pytest.raises(InvalidArgumentError, match="it is not of"):
                await world.put("a", world.manifest(*paths))
        assert not (await world.put("a", world.manifest("a"))).part.is_folder
        assert (await world.put("b", world.manifest("b/x", "b/y/z"))).part.is_folder

    tell(story)


def test_a_part_is_put_only_when_its_chunks_are_held() -> None:
    async def story(world: World) -> None:
        await world.begin()
        with pytest.raises(MissingChunkError):
            await world.put("a", world.manifest("a", uploaded=False))
        assert (await world.put("a", world.manifest("a"))).part_count == 1

    tell(story)


def test_a_part_that_comes_while_the_manifest_is_built_is_in_the_version() -> None:
    async def story(world: World) -> None:
        await world.begin()
        await world.put("a")
        kept = world.chunks.seal

        async def seal_late(manifest: ChunkId, **given: object) -> Content:
            world.chunks.seal = kept  # type: ignore[method-assign]
            await world.put("b")
            return await kept(manifest)

        world.chunks.seal = seal_late  # type: ignore[method-assign]
        sealed = await world.seal()
        assert not sealed.already
        found = await world.service.get_session(pb.GetSessionRequest(model=MODEL, session="step"))
        assert (found.session.number, found.session.part_count) == (1, 2)

    tell(story)


def test_parts_that_never_stop_coming_make_a_seal_fail_in_the_end() -> None:
    async def story(world: World) -> None:
        await world.begin()
        await world.put("a")
        kept, names = world.chunks.seal, iter("bcdefghij")

        async def seal_late(manifest: ChunkId, **given: object) -> Content:
            world.chunks.seal = kept  # type: ignore[method-assign]
            await world.put(next(names))
            world.chunks.seal = seal_late  # type: ignore[method-assign]
            return await kept(manifest)

        world.chunks.seal = seal_late  # type: ignore[method-assign]
        with pytest.raises(SessionChangedError):
            await world.seal()
        world.chunks.seal = kept  # type: ignore[method-assign]
        assert (await world.seal()).version.record

    tell(story)


def test_who_seals_at_the_same_time_gets_the_same_version() -> None:
    async def story(world: World) -> None:
        await world.begin()
        for name in "abc":
            await world.put(name)
        sealed = await asyncio.gather(*[world.seal() for _ in range(5)])
        assert len({each.version.record for each in sealed}) == 1
        with pytest.raises(SessionEndedError, match="was sealed as v1"):
            await world.put("d")

    tell(story)


def test_lists_go_on_where_a_page_ended() -> None:
    async def story(world: World) -> None:
        for name in ("s1", "s2", "step"):
            await world.begin(name)
        await world.put("a", world.manifest("a/x"))
        await world.put("a-b")
        names, after = [], ""
        while True:
            page = await world.service.list_parts(
                pb.ListPartsRequest(model=MODEL, session="step", after=after, limit=1)
            )
            names += [part.name for part in page.parts]
            if not (after := page.next_after):
                break
        assert names == ["a-b", "a"]
        first = await world.service.list_sessions(pb.ListSessionsRequest(model=MODEL, limit=2))
        assert ([each.name for each in first.sessions], first.next_after) == (["s1", "s2"], "s2")
        rest = await world.service.list_sessions(pb.ListSessionsRequest(model=MODEL, limit=2, after="s2"))
        assert ([each.name for each in rest.sessions], rest.next_after) == (["step"], "")

    tell(story)


def test_memory_does_not_grow_with_the_manifest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "NODES_BUFFERED_MAX", 2)

    async def story(world: World) -> None:
        await world.begin()
        for rank in range(8):
            await world.put(f"r{rank}", world.manifest(*[f"r{rank}/f{number:04}" for number in range(300)]))
        largest = 0
        kept = world.chunks.put

        async def watched(chunks: list[Chunk]) -> object:
            nonlocal largest
            largest = max(largest, len(chunks))
            return await kept(chunks)

        world.chunks.put = watched  # type: ignore[method-assign, assignment]
        await world.seal()
        assert 0 < largest <= 2 + 8

    tell(story)


def test_chunks_that_others_turn_out_to_have_are_fetched_one_after_the_other() -> None:
    async def story(world: World) -> None:
        await world.begin()
        await world.put("a")
        late = [Chunk.of(b"late %d" % number) for number in range(3)]
        kept_seal, kept_get = world.chunks.seal, world.chunks.get

        async def seal_without(manifest: ChunkId, **given: object) -> Content:
            for chunk in late:
                if world.store.missing([chunk.id]):
                    raise MissingChunkError(chunk.id.hex())
            return await kept_seal(manifest)

        async def get_from_others(ids: Sequence[ChunkId]) -> list[bytes]:
            world.store.put([chunk for chunk in late if chunk.id in ids and chunk is not nowhere])
            return await kept_get(ids)

        world.chunks.seal = seal_without  # type: ignore[method-assign]
        world.chunks.get = get_from_others  # type: ignore[method-assign]
        nowhere: Chunk | None = late[2]
        with pytest.raises(MissingChunkError, match=late[2].id.hex()):
            await world.seal()
        nowhere = None
        assert (await world.seal()).version.record

    tell(story)
