"""Who commits, uploads from many sides, and reads, all the while."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

from mcr import _frames
from mcr._bulk import Forward
from mcr.errors import (
    ConflictError,
    CorruptChunkError,
    DeadlineError,
    DurabilityError,
    McrError,
    MembersChangedError,
    MissingChunkError,
    NodeBusyError,
    NoQuorumError,
    OutOfSpaceError,
    SealOutdatedError,
    SessionChangedError,
    UnavailableError,
)
from mcr.manifest import ManifestBuilder
from mcr.model import Chunk, ChunkId, ChunkRef, EntryKind, FileEntry, digest
from mcr.record import decode_record
from mcr.v1 import sessions_pb2, versions_pb2
from tests.simulation.chunks.node import Host
from tests.simulation.chunks.oracle import Oracle
from tests.simulation.chunks.peers import Links, call, frame_of, put_frame
from tests.simulation.cluster.laws import law
from tests.simulation.cluster.world import MS, World

Result = TypeVar("Result")
MODELS = ("a/one", "b/two")
PATHS = ("a", "b/c", "b/d", "b-e", "f")
# Of another node, or later: repeat; lost on the way: send again.
# As long as a client goes on asking where nodes do not answer, and how often.
CALM_READ_S, CALM_READ_AGAIN_S = 15.0, 0.5
PASSING = (
    UnavailableError,
    NoQuorumError,
    DeadlineError,
    NodeBusyError,
    DurabilityError,
    OutOfSpaceError,
    MissingChunkError,
    CorruptChunkError,
    SealOutdatedError,
    MembersChangedError,
    SessionChangedError,
)
TRIES_MAX = 12
COMMIT_S_MAX = 30.0
# How often a part that is to be there through a storm is tried, each time as often as TRIES_MAX says.
LONG_TRIES_MAX = 24


class Content:
    """Some files, and the manifest over them."""

    def __init__(self, files: dict[str, tuple[bytes, ...]]) -> None:
        self.files = files
        self.chunks: dict[ChunkId, Chunk] = {}
        nodes: list[Chunk] = []
        builder = ManifestBuilder(nodes.append)
        for path in sorted(files):
            pieces = [Chunk.of(data) for data in files[path]]
            whole = b"".join(files[path])
            entry = FileEntry(
                path, EntryKind.FILE, len(whole), blake3=digest(whole), sha256=bytes(32), format="bytes"
            )
            builder.add(entry, [ChunkRef(piece.id, len(piece.data)) for piece in pieces])
            self.chunks |= {piece.id: piece for piece in pieces}
        self.root = builder.finish().root
        self.chunks |= {node.id: node for node in nodes}


class Client:
    """One process of a user."""

    def __init__(
        self, number: int, world: World, links: Links, hosts: dict[str, Host], oracle: Oracle
    ) -> None:
        self._number = number
        self._world = world
        self._links = links
        self._hosts = hosts
        self._oracle = oracle
        self._requests = 0
        self._base: dict[str, tuple[bytes, ...]] = {}
        self._known: list[ChunkId] = []
        self.is_stopped = False
        self.given_up = 0
        self._long = ""

    async def work(self) -> None:
        """Go on until it is told to stop."""
        world = self._world
        while not self.is_stopped:
            await asyncio.sleep(world.between(1, 1000 * MS) / 1_000_000)
            match world.draw(10):
                case 0 | 1 | 2 | 3 | 4:
                    await self.commit()
                case 5 | 6:
                    await self._session()
                case _:
                    await self.read(self._any())

    # ---- content ----

    def _bytes(self) -> bytes:
        # Short, so that many fit; and now and then what others have as well.
        seed = self._world.draw(50) if self._world.happens(200) else self._world.draw(1 << 40)
        return (b"%d-" % seed) * (1 + self._world.draw(4))

    def _file(self) -> tuple[bytes, ...]:
        return tuple(self._bytes() for _ in range(self._world.between(1, 4)))

    def _content(self) -> Content:
        files = dict(self._base)
        for _ in range(self._world.between(1, 2)):
            files[self._world.pick(PATHS)] = self._file()
        self._base = files
        return Content(files)

    def _any(self) -> Host:
        # Some are off; those whose disks are gone, no user names any more.
        return self._world.pick([host for host in self._hosts.values() if not host.is_gone])

    def _request_id(self) -> bytes:
        self._requests += 1
        return b"client %d request %d" % (self._number, self._requests)

    # ---- calls ----

    async def _upload(self, host: Host, content: Content) -> None:
        ids = list(content.chunks)
        lacking = await self._ask(host, lambda host: host.chunks.missing_anywhere(ids))
        wanted = [chunk for chunk in content.chunks.values() if chunk.id in lacking]
        self._world.count("uploads")
        for start in range(0, len(wanted), 3):
            frame = self._links.carried(_frames.encode(wanted[start : start + 3]))
            await self._ask(host, partial(put_frame, frame, forward=Forward()))
        await self._ask(host, lambda host: host.chunks.sync())

    async def _ask(
        self, host: Host, work: Callable[[Host], Awaitable[Result]], call_s: float = 10.0
    ) -> Result:
        return await call(self._links, 0, host, work, call_s)

    async def _again(self, work: Callable[[Host], Awaitable[Result]]) -> Result | None:
        """Do something with a node, and with another one where it fails in ways that pass."""
        world = self._world
        host = self._any()
        for _ in range(TRIES_MAX):
            try:
                return await work(host)
            except PASSING as error:
                world.count(f"met {error.code}")
                host = self._any()
                await asyncio.sleep(world.between(1, 800 * MS) / 1_000_000)
        self.given_up += 1
        return None

    async def commit(self, *, is_wide: bool | None = None) -> bool:
        """Commit something new; say whether it was acknowledged."""
        content, request_id = self._content(), self._request_id()
        model = self._world.pick(MODELS)
        request = versions_pb2.CommitVersionRequest(
            header=versions_pb2.WriteHeader(request_id=request_id),
            model=model,
            branch="main",
            manifest=content.root,
        )
        if self._world.happens(200) if is_wide is None else is_wide:
            request.durability.copies_min = request.durability.sites_min = 2
            self._oracle.wide[request_id] = None

        async def once(host: Host) -> versions_pb2.CommitVersionResponse:
            await self._upload(host, content)
            return await self._ask(host, lambda host: host.versions.commit_version(request), COMMIT_S_MAX)

        made = await self._again(once)
        if made is None:
            return False
        self._told(request_id, made.version.record)
        return True

    def _told(self, request_id: bytes, record_bytes: bytes) -> None:
        record = decode_record(record_bytes)
        self._world.count("acknowledged")
        self._oracle.answered(request_id, record.model, record.number, record.manifest)

    async def _session(self) -> None:
        world, model = self._world, self._world.pick(MODELS)
        name = f"s{self._number}-{self._requests}"
        self._requests += 1
        begin = sessions_pb2.BeginSessionRequest(
            header=versions_pb2.WriteHeader(request_id=self._request_id()),
            model=model,
            session=name,
            branch="main",
            lifetime_ms=60_000,
        )
        begun = await self._again(
            lambda host: self._ask(host, lambda host: host.sessions.begin_session(begin))
        )
        if begun is None:
            return
        names = [path for path in PATHS if world.happens(600)] or [PATHS[0]]
        puts = [asyncio.create_task(self._put(model, name, part)) for part in names]
        if world.happens(150):
            # Whoever seals too early gets a version of what was there.
            await asyncio.wait(puts, return_when=asyncio.FIRST_COMPLETED)
            early = sessions_pb2.SealSessionRequest(
                header=versions_pb2.WriteHeader(request_id=self._request_id()), model=model, session=name
            )
            await self._quietly(lambda host: host.sessions.seal_session(early))
            await asyncio.wait(puts)
            return
        done = [await put for put in puts]
        if not all(done) or world.happens(250):
            # Somebody gave up: left to expire, or ended.
            if world.happens(500):
                abort = sessions_pb2.AbortSessionRequest(
                    header=versions_pb2.WriteHeader(request_id=self._request_id()), model=model, session=name
                )
                await self._quietly(lambda host: host.sessions.abort_session(abort))
            return
        request_id = self._request_id()
        seal = sessions_pb2.SealSessionRequest(
            header=versions_pb2.WriteHeader(request_id=request_id), model=model, session=name, expected=names
        )
        gave_up = self.given_up
        twin = sessions_pb2.SealSessionRequest()
        twin.CopyFrom(seal)
        twin.header.request_id = self._request_id()
        sealed, other = await asyncio.gather(
            self._quietly(lambda host: host.sessions.seal_session(seal)),
            self._quietly(lambda host: host.sessions.seal_session(twin)),
        )
        state = self._oracle.state_of(model, name)
        is_told = (sealed is not None and other is not None) or self.given_up > gave_up
        law(is_told or state != "sealed", f"no loss: whoever sealed {name} is not told")
        if sealed is not None:
            world.count("sessions sealed")
            self._told(request_id, sealed.version.record)

    async def begin_long(self) -> None:
        """Begin a session that stays open through the storm, and put its parts."""
        self._requests += 1
        self._long = f"long{self._requests}"
        begin = sessions_pb2.BeginSessionRequest(
            header=versions_pb2.WriteHeader(request_id=self._request_id()),
            model=MODELS[0],
            session=self._long,
            branch="main",
            lifetime_ms=3_600_000,
        )
        for _ in range(LONG_TRIES_MAX):
            if await self._quietly(lambda host: host.sessions.begin_session(begin)) is not None:
                break
        for part in PATHS:
            # The storm has begun already.
            content = Content({part: self._file()})
            for _ in range(LONG_TRIES_MAX):
                if await self._put(MODELS[0], self._long, part, content):
                    break
            else:
                law(False, "liveness: a part cannot be put")

    async def seal_long(self) -> None:
        """Seal it: what was put before the storm must be there after it."""
        request_id = self._request_id()
        seal = sessions_pb2.SealSessionRequest(
            header=versions_pb2.WriteHeader(request_id=request_id),
            model=MODELS[0],
            session=self._long,
            expected=PATHS,
        )
        sealed = await self._quietly(lambda host: host.sessions.seal_session(seal))
        law(sealed is not None, "no loss: a session that was put before the storm cannot be sealed")
        assert sealed is not None
        self._told(request_id, sealed.version.record)

    async def _put(self, model: str, name: str, part: str, content: Content | None = None) -> bool:
        content = content or Content({part: self._file()})
        request = sessions_pb2.PutPartRequest(
            header=versions_pb2.WriteHeader(request_id=self._request_id()),
            model=model,
            session=name,
            name=part,
            manifest=content.root,
        )

        async def once(host: Host) -> sessions_pb2.PutPartResponse:
            await self._upload(host, content)
            return await self._ask(host, lambda host: host.sessions.put_part(request), COMMIT_S_MAX)

        try:
            return await self._again(once) is not None
        except ConflictError:
            # It expired meanwhile.
            return False

    async def _quietly(self, work: Callable[[Host], Awaitable[Result]]) -> Result | None:
        try:
            return await self._again(lambda host: self._ask(host, work, COMMIT_S_MAX))
        except ConflictError:
            return None

    async def read(self, host: Host, *, must: bool = False) -> None:
        """Read some chunks of what is visible from one node.

        Args:
            host: the node.
            must: all is calm, so it has to give them; to a client that asks again, as ours do, for a node
                may still remember that others did not answer a moment ago.
        """
        needed = list(self._oracle.needed())
        if not needed:
            return
        ids = [self._world.pick(needed) for _ in range(self._world.between(1, 6))]
        left = ids
        give_up_s = asyncio.get_running_loop().time() + CALM_READ_S
        while left:
            try:
                frame = await self._ask(host, partial(frame_of, ids=left))
            except McrError as error:
                self._world.count(f"read met {error.code}")
                if not must:
                    return
                is_late = asyncio.get_running_loop().time() >= give_up_s
                if is_late or not isinstance(error, UnavailableError):
                    raise AssertionError(f"liveness: {host.name} does not give a chunk: {error}") from error
                await asyncio.sleep(CALM_READ_AGAIN_S)
                continue
            received = [bytes(each.data) for each in _frames.decode(frame)]
            for chunk_id, data in zip(left, received, strict=False):
                self._oracle.given(chunk_id, data)
            left = left[len(received) :]
