"""mcr.v1.SessionsService: check, translate, delegate, and build one manifest of many. Core decides."""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeVar

from mcr import _wire
from mcr.durability import Durability
from mcr.errors import (
    CorruptChunkError,
    InvalidArgumentError,
    MembersChangedError,
    MissingChunkError,
    SealOutdatedError,
    SessionChangedError,
    SessionEndedError,
    SessionIncompleteError,
)
from mcr.manifest import FileRow, ManifestBuilder, walk_files
from mcr.model import DIGEST_BYTES, Chunk, ChunkId, LogIndex
from mcr.references import check_model, check_name
from mcr.v1 import sessions_pb2 as pb
from mcr.v1 import versions_pb2
from mcr_node.core.state import session_queries, sessions
from mcr_node.core.state.commands import Command
from mcr_node.core.state.outcomes import Accepted, Outcome, Rejected, SessionResult, VersionResult
from mcr_node.core.state.queries import PAGE_MAX
from mcr_node.core.state.session_commands import AbortSession, BeginSession, PutPart, SealSession
from mcr_node.core.state.session_queries import PartFound, SessionFound
from mcr_node.core.state.view import View
from mcr_node.ports_log import ReplicatedLog
from mcr_node.services.chunks import LocalChunks
from mcr_node.services.log_calls import LogCalls
from mcr_node.services.messages import durability_of, fitting, limit_of, version_message
from mcr_node.services.sealed import seal_and_enter
from mcr_node.services.sealing import Content

# Parts may come while a manifest is built of those before; somebody who seals while others still put is told
# in the end.
BUILDS_MAX = 3
PARTS_AT_ONCE = 64
NODES_BUFFERED_MAX = 64
# Of parts that are missing or were not expected; enough to see which writer failed.
NAMES_SHOWN_MAX = 20

_STATES = {
    "open": pb.SESSION_STATE_OPEN,
    "sealed": pb.SESSION_STATE_SEALED,
    "aborted": pb.SESSION_STATE_ABORTED,
    "expired": pb.SESSION_STATE_EXPIRED,
}
Result = TypeVar("Result")
# A part came, garbage was marked, or a holder is leaving: what was found is looked for again.
_SEAL_AGAIN = (SessionChangedError.code, SealOutdatedError.code, MembersChangedError.code)

# Chunks that a seal finds missing, one a try, and that a node turns out to have that did not answer in time.
FETCHES_MAX = 64


class SessionsService(LogCalls):
    """The service for one principal, as authenticated at the edge."""

    def __init__(self, log: ReplicatedLog, chunks: LocalChunks, principal: str) -> None:
        super().__init__(log, principal)
        self._chunks = chunks

    # ---- writes ----

    async def begin_session(self, request: pb.BeginSessionRequest) -> pb.BeginSessionResponse:
        """Open a session, or join it."""
        accepted, result = await self._done(
            BeginSession(
                **self._envelope(request.header),
                model=request.model,
                session=request.session,
                branch=request.branch,
                expected_head=request.expected_head if request.HasField("expected_head") else None,
                parent=request.parent if request.HasField("parent") else None,
                description=request.description,
                parameters=_wire.mapping_from_wire(request.parameters),
                lifetime_ms=request.lifetime_ms,
                base=_wire.base_from_wire(request.base) if request.HasField("base") else None,
            )
        )
        found = await self._read(partial(_session, request.model, request.session))
        return pb.BeginSessionResponse(
            session=_session_message(request.model, found), log_index=accepted.index, joined=result.already
        )

    async def put_part(self, request: pb.PutPartRequest) -> pb.PutPartResponse:
        """Add a part, once enough nodes hold all that its manifest names."""
        manifest = _manifest(request.manifest)
        await self._fresh(versions_pb2.ReadOptions())
        found = await self._read(partial(_session, request.model, request.session))
        if found.state != "open":
            raise _ended(request.model, found)
        # Before it is sealed: an earlier one is refused where a later one would be.
        layout_epoch = self._log.membership.epoch
        content = await self._chunks.seal(manifest)
        is_folder = await self._check_paths(request.name, manifest)

        def enter(sealed: Content) -> Awaitable[Accepted]:
            return self._propose(
                PutPart(
                    **self._envelope(request.header),
                    model=request.model,
                    session=request.session,
                    name=request.name,
                    is_folder=is_folder,
                    manifest=manifest,
                    bytes_total=sealed.bytes_total,
                    file_count=sealed.file_count,
                    chunk_count=sealed.chunk_count,
                    gc_round=sealed.gc_round,
                    layout_epoch=layout_epoch,
                )
            )

        for tries_left in range(BUILDS_MAX, -1, -1):
            try:
                accepted = await seal_and_enter(self._chunks, manifest, enter)
            except MembersChangedError:
                if not tries_left:
                    raise
                layout_epoch = self._log.membership.epoch
                continue
            break
        result = accepted.result
        assert isinstance(result, SessionResult)
        return pb.PutPartResponse(
            part=pb.Part(
                name=request.name,
                is_folder=is_folder,
                manifest=manifest,
                bytes_total=content.bytes_total,
                file_count=content.file_count,
                principal=self._principal,
                at_ms=self._log.clock.now_ms(),
            ),
            log_index=accepted.index,
            already=result.already or accepted.already_applied,
            part_count=result.generation,
        )

    async def seal_session(self, request: pb.SealSessionRequest) -> pb.SealSessionResponse:
        """Make the version; of a session that was sealed, return it."""
        durability = durability_of(request.durability) if request.HasField("durability") else None
        for _ in range(BUILDS_MAX):
            index = await self._fresh(versions_pb2.ReadOptions())
            found = await self._read(partial(_session, request.model, request.session))
            if found.state == "sealed":
                return await self._sealed(request.model, found.progress.number, index, already=True)
            if found.state != "open":
                raise _ended(request.model, found)
            outcome = await self._seal(request, found, durability)
            match outcome:
                case Rejected(
                    code=SessionChangedError.code | SealOutdatedError.code | MembersChangedError.code
                ):
                    continue
                case Rejected():
                    raise outcome.error()
                case Accepted(result=VersionResult(number)):
                    return await self._sealed(
                        request.model, number, outcome.index, already=outcome.already_applied
                    )
                case other:
                    raise AssertionError(f"a seal has outcome {other}")
        raise SessionChangedError(request.model, request.session)

    async def _seal(
        self,
        request: pb.SealSessionRequest,
        found: SessionFound,
        durability: Durability | None,
    ) -> Outcome:
        parts = await self._parts(found.row.serial)
        _check_expected(request, parts)
        manifest = await self._build(parts)
        layout_epoch = self._log.membership.epoch
        content = await self._held(manifest, durability)
        return await self._log.propose(
            SealSession(
                **self._envelope(request.header),
                model=request.model,
                session=request.session,
                generation=len(parts),
                manifest=manifest,
                bytes_total=content.bytes_total,
                file_count=content.file_count,
                chunk_count=content.chunk_count,
                gc_round=content.gc_round,
                layout_epoch=layout_epoch,
            )
        )

    async def _held(self, manifest: ChunkId, durability: Durability | None) -> Content:
        """Make sure that enough nodes hold what a manifest names.

        A commit is told what is missing, and sends it again. Whoever seals has nothing to send: every part
        was on enough nodes when it was put, so what is missing is with one that does not answer.

        Raises:
            UnavailableError: it is, and it may come back.
            MissingChunkError: all nodes answer, and none has it.
        """
        for _ in range(FETCHES_MAX):
            try:
                return await self._chunks.seal(manifest, durability=durability)
            except MissingChunkError as error:
                await self._chunks.get([ChunkId(bytes.fromhex(error.chunk_id))])
        return await self._chunks.seal(manifest, durability=durability)

    async def _sealed(
        self, model: str, number: int, index: LogIndex, *, already: bool
    ) -> pb.SealSessionResponse:
        version = await self._read(lambda view: version_message(view, model, number))
        return pb.SealSessionResponse(version=version, log_index=index, already=already)

    async def abort_session(self, request: pb.AbortSessionRequest) -> pb.AbortSessionResponse:
        """End a session without a version."""
        accepted, _ = await self._done(
            AbortSession(
                **self._envelope(request.header),
                model=request.model,
                session=request.session,
                reason=request.reason,
            )
        )
        return pb.AbortSessionResponse(log_index=accepted.index)

    async def _done(self, command: Command) -> tuple[Accepted, SessionResult]:
        accepted = await self._propose(command)
        assert isinstance(accepted.result, SessionResult)
        return accepted, accepted.result

    # ---- one manifest of many ----

    async def _parts(self, serial: int) -> list[PartFound]:
        """Return all parts, in the order of their paths; `sessions` bounds how many."""
        parts: list[PartFound] = []
        while True:
            after = parts[-1].path if parts else b""
            page = await self._read(
                partial(session_queries.list_parts, serial=serial, after=after, limit=PAGE_MAX)
            )
            parts += page
            if len(page) < PAGE_MAX:
                return parts

    async def _build(self, parts: Sequence[PartFound]) -> ChunkId:
        """Build the manifest over all parts, store it here, and return its root.

        Rows go from the manifests of the parts into the new one as they come: what they name, chunk lists and
        tensor lists included, is shared and not read.
        """
        nodes: list[Chunk] = []
        builder = ManifestBuilder(nodes.append)
        for start in range(0, len(parts), PARTS_AT_ONCE):
            some = parts[start : start + PARTS_AT_ONCE]
            # One round trip for many, where they were put through other nodes.
            await self._chunks.get([ChunkId(part.row.manifest) for part in some])
            for part in some:
                inside = partial(_check_inside, part.path.decode())

                def add(row: FileRow, inside: Callable[[FileRow], None] = inside) -> None:
                    inside(row)
                    builder.add_row(row)

                await self._each_row(ChunkId(part.row.manifest), add)
                if len(nodes) > NODES_BUFFERED_MAX:
                    await self._chunks.put(nodes)
                    nodes.clear()
        summary = await self._chunks.run(builder.finish)
        await self._chunks.put(nodes)
        return summary.root

    async def _each_row(self, manifest: ChunkId, work: Callable[[FileRow], None]) -> None:
        """Do something with each entry of a manifest, beside the event loop."""
        walk = walk_files(manifest)
        while ids := walk.needs():
            found = await self._chunks.get(ids)

            def step(ids: Sequence[ChunkId] = ids, found: Sequence[bytes] = found) -> None:
                walk.feed(dict(zip(ids, found, strict=True)))
                for row in walk.take():
                    work(row)

            await self._chunks.run(step)

    async def _check_paths(self, name: str, manifest: ChunkId) -> bool:
        """Check that a part holds nothing but what its name says; say whether it is a folder.

        Raises:
            InvalidArgumentError: it holds something else, or nothing.
        """
        paths = {"alone": 0, "below": 0, "outside": 0}

        def look(row: FileRow) -> None:
            path = row.entry.path
            where = "alone" if path == name else "below" if path.startswith(name + "/") else "outside"
            paths[where] += 1

        await self._each_row(manifest, look)
        if paths["outside"] or not (paths["alone"] or paths["below"]):
            raise InvalidArgumentError("manifest", f"it is not of {name!r} or what is below it")
        return paths["alone"] == 0

    # ---- reads ----

    async def get_session(self, request: pb.GetSessionRequest) -> pb.GetSessionResponse:
        """Return one session."""
        index = await self._fresh(request.read)
        found = await self._read(partial(_session, request.model, request.session))
        return pb.GetSessionResponse(session=_session_message(request.model, found), log_index=index)

    async def list_sessions(self, request: pb.ListSessionsRequest) -> pb.ListSessionsResponse:
        """List sessions by name."""
        model, limit = check_model(request.model), limit_of(request.limit)
        index = await self._fresh(request.read)
        found = await self._read(
            lambda view: session_queries.list_sessions(
                view, model, after=request.after, limit=limit, ended=request.ended
            )
        )
        page = fitting(_session_message(model, each) for each in found)
        more = len(page) < len(found) or len(found) == limit
        return pb.ListSessionsResponse(
            sessions=page, log_index=index, next_after=page[-1].name if page and more else ""
        )

    async def list_parts(self, request: pb.ListPartsRequest) -> pb.ListPartsResponse:
        """List the parts of a session by path."""
        limit = limit_of(request.limit)
        index = await self._fresh(request.read)

        def read(view: View) -> list[PartFound]:
            found = _session(request.model, request.session, view)
            return session_queries.list_parts(
                view, found.row.serial, after=request.after.encode(), limit=limit
            )

        found = await self._read(read)
        page = fitting(_part_message(part) for part in found)
        more = len(page) < len(found) or len(found) == limit
        after = found[len(page) - 1].path.decode() if page and more else ""
        return pb.ListPartsResponse(parts=page, log_index=index, next_after=after)


def _session(model: str, name: str, view: View) -> SessionFound:
    return session_queries.get_session(view, check_model(model), check_name("session", name))


def _ended(model: str, found: SessionFound) -> SessionEndedError:
    # It may have expired by a command that came after the time it is looked at with.
    return SessionEndedError(
        model, found.name, sessions.said(found.progress, found.progress.expires_at_ms + 1)
    )


def _manifest(data: bytes) -> ChunkId:
    if len(data) != DIGEST_BYTES:
        raise InvalidArgumentError("manifest", f"it has {len(data)} bytes, not {DIGEST_BYTES}")
    return ChunkId(data)


def _check_expected(request: pb.SealSessionRequest, parts: Sequence[PartFound]) -> None:
    """Check that the parts are those that were expected.

    Raises:
        SessionIncompleteError: some are missing, or there are others, or there is none at all.
    """
    there = dict.fromkeys(part.name for part in parts)
    expected = dict.fromkeys(request.expected)
    missing = [name for name in expected if name not in there]
    unexpected = [name for name in there if name not in expected] if expected else []
    if not parts and not expected:
        raise SessionIncompleteError(request.model, request.session, "every part: none was put", "none")
    if missing or unexpected:
        raise SessionIncompleteError(request.model, request.session, _shown(missing), _shown(unexpected))


def _shown(names: Sequence[str]) -> str:
    more = len(names) - NAMES_SHOWN_MAX
    return (", ".join(names[:NAMES_SHOWN_MAX]) or "none") + (f" and {more} more" if more > 0 else "")


def _check_inside(path: str, row: FileRow) -> None:
    # Checked when it was put; a node that took it unchecked must not smuggle another writer's file in.
    inside = row.entry.path.startswith(path) if path.endswith("/") else row.entry.path == path
    if not inside:
        raise CorruptChunkError(row.entry.path, f"a part at {path!r} holds it")


def _session_message(model: str, found: SessionFound) -> pb.Session:
    row, progress = found.row, found.progress
    return pb.Session(
        model=model,
        name=found.name,
        state=_STATES[found.state],
        branch=row.branch,
        description=row.description,
        creator=row.principal,
        begun_at_ms=row.begun_at_ms,
        expires_at_ms=progress.expires_at_ms,
        ended_at_ms=progress.ended_ms,
        part_count=progress.generation,
        file_count=progress.file_count,
        bytes_total=progress.bytes_total,
        number=progress.number,
        reason=progress.reason,
    )


def _part_message(part: PartFound) -> pb.Part:
    return pb.Part(
        name=part.name,
        is_folder=part.is_folder,
        manifest=part.row.manifest,
        bytes_total=part.row.bytes_total,
        file_count=part.row.file_count,
        principal=part.row.principal,
        at_ms=part.row.at_ms,
    )
