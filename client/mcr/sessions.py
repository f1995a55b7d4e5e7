"""Upload sessions: one version from many writers, each in its own process, through any nodes.

All of them name the same session. One seals it, once the others are done:

async with model.session("step-1000", branch="main", message="step 1000", seal=rank == 0) as s:
    await s.put(f"rank{rank}.safetensors", path)
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from mcr import _wire
from mcr._session_wire import Part, SessionStatus, part_from_wire, session_from_wire
from mcr.blocking import decided, run_blocking
from mcr.durability import parse_durability
from mcr.errors import (
    InvalidArgumentError,
    McrError,
    MissingChunkError,
    SessionEndedError,
    SessionIncompleteError,
)
from mcr.manifest import check_path
from mcr.model import CommitResult, Parameters
from mcr.reading import PAGE_MAX, fields_of
from mcr.references import DEFAULT_BRANCH, check_name
from mcr.reporting import ReportCalls, write_header
from mcr.scanning import Source, scan
from mcr.v1 import sessions_pb2 as pb
from mcr.values import dataclass

if TYPE_CHECKING:
    from mcr.committing import CommitProgress, Uploaded

# Checkpoints are written within minutes; a day also covers a job that waits for its cluster.
LIFETIME_S = 24 * 60 * 60.0
# As for a commit: nodes may fail one after the other, but not for ever.
UPLOADS_AGAIN_MAX = 3
# How often it is looked whether the others are done.
LOOK_S_MIN, LOOK_S_MAX = 0.1, 2.0


@dataclass(frozen=True, slots=True)
class _Wanted:
    """The version that a session shall become."""

    branch: str
    message: str
    expect: str | None
    params: Parameters
    parent: str | None
    base: str | None
    lifetime_s: float


class SessionCalls(ReportCalls):
    """The methods of `AsyncModel` about upload sessions."""

    def session(
        self,
        name: str | None = None,
        *,
        branch: str = DEFAULT_BRANCH,
        message: str = "",
        expect: str | None = None,
        params: Parameters | None = None,
        parent: str | None = None,
        base: str | None = None,
        lifetime_s: float = LIFETIME_S,
        expected: Sequence[str] = (),
        seal: bool = True,
        wait_s: float = 0.0,
        durability: str | int | None = None,
    ) -> AsyncSession:
        """Return a handle on an upload session; nothing is asked of the store yet.

        As a context manager it begins the session, or joins one that was begun alike, and at the end seals it
        or leaves that to another process. Left by an exception, whoever would have sealed it aborts it.

        Args:
            name: how writers know it, unlike that of any other open session of the model; made up by default.
            branch: of the version, as for `AsyncModel.commit`.
            message: its description.
            expect: version the branch must be at, when the session begins and when it is sealed.
            params: its parameters.
            parent: reference of its parent.
            base: reference of what it was derived from, as for `AsyncModel.commit`.
            lifetime_s: a minute to 30 days; it expires when no part comes for so long.
            expected: names of all parts; it is not sealed with others. Empty = whatever is there.
            seal: seal it at the end of the block.
            wait_s: how long to wait there for parts of `expected` that are missing.
            durability: copies to wait for when it is sealed, see `AsyncModel.commit`.
        """
        wanted = _Wanted(branch, message, expect, params or {}, parent, base, lifetime_s)
        ending = _Ending(tuple(expected), wait_s, durability) if seal else None
        made_up = name is None
        return AsyncSession(
            self, f"s-{secrets.token_hex(6)}" if made_up or not name else name, wanted, ending
        )

    async def sessions(self, *, ended: bool = False) -> list[SessionStatus]:
        """List the upload sessions of the model, by name; ended ones too, as long as they are known."""
        found: list[SessionStatus] = []
        after = ""
        while True:
            answer = await self._connection.sessions.list_sessions(
                pb.ListSessionsRequest(model=self.name, after=after, limit=PAGE_MAX, ended=ended)
            )
            found += [session_from_wire(each) for each in answer.sessions]
            after = answer.next_after
            if not after:
                return found


@dataclass(frozen=True, slots=True)
class _Ending:
    """How a session is sealed at the end of a block."""

    expected: tuple[str, ...]
    wait_s: float
    durability: str | int | None


class AsyncSession:
    """An upload session. Make one with `AsyncModel.session`."""

    def __init__(self, model: SessionCalls, name: str, wanted: _Wanted, ending: _Ending | None) -> None:
        self.name = check_name("session", name)
        self._model = model
        self._connection = model._connection  # noqa: SLF001 (a handle of the model, as a channel is)
        self._executor = model._executor  # noqa: SLF001 (as above)
        self._wanted = wanted
        self._ending = ending
        self._version: CommitResult | None = None

    @property
    def version(self) -> CommitResult | None:
        """The version that it was sealed as through this handle; None before."""
        return self._version

    async def __aenter__(self) -> AsyncSession:
        await self.begin()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._ending is None or self._version is not None:
            return
        if error is None:
            ending = self._ending
            await self.seal(expected=ending.expected, wait_s=ending.wait_s, durability=ending.durability)
            return
        try:
            await self.abort(reason=f"{type(error).__name__} in the process that was to seal it")
        except McrError:
            # The error that ended the block counts; the session expires by itself.
            return

    async def begin(self, *, request_id: str | None = None) -> SessionStatus:
        """Open the session, or join one of that name that was begun with the same settings.

        Raises:
            SessionEndedError: it was sealed, or is open with other settings.
            HeadMovedError: the branch is not at `expect`.
            OutOfSpaceError: too many sessions are open.
        """
        wanted = self._wanted
        request = pb.BeginSessionRequest(
            header=write_header(request_id),
            model=self._model.name,
            session=self.name,
            branch=wanted.branch,
            description=wanted.message,
            parameters=_wire.mapping_to_wire(wanted.params),
            lifetime_ms=round(wanted.lifetime_s * 1000),
        )
        number = self._model._number  # noqa: SLF001 (as above)
        if wanted.expect is not None:
            request.expected_head = 0 if wanted.expect == "none" else await number(wanted.expect)
        if wanted.parent is not None:
            request.parent = await number(wanted.parent)
        if wanted.base is not None:
            request.base.CopyFrom(await self._model._base(wanted.base))  # noqa: SLF001 (as above)
        answer = await decided(self._connection.sessions.begin_session(request))
        return session_from_wire(answer.session)

    async def put(
        self,
        name: str,
        path: str | Path,
        *,
        request_id: str | None = None,
        progress: Callable[[CommitProgress], None] | None = None,
    ) -> Part:
        """Upload a file or folder and add it to the session; durable on as many nodes as usual after this.

        Repeated, it sends what is missing only, and the same bytes change nothing.

        Args:
            name: its path in the version, up to 1024 bytes.
            path: the file, or a folder with something in it.
            request_id: 1 to 64 bytes of text; made up by default.
            progress: called from the event loop.

        Raises:
            PartConflictError: the session has a part there with other content, or one inside or around it.
            SessionNotFoundError, SessionEndedError: it takes nothing, or nothing more.
            SourceNotFoundError, SourceUnreadableError, SourceChangedError: names the file.
        """
        check_path(name)
        request = pb.PutPartRequest(
            header=write_header(request_id), model=self._model.name, session=self.name, name=name
        )
        status = await self.status()
        if status.state != "open":
            # Said before anything is sent.
            raise SessionEndedError(self._model.name, self.name, f"is {status.state}")
        upload = partial(self._upload, name, path, status.branch, progress)
        uploaded = await upload()
        for tries_left in range(UPLOADS_AGAIN_MAX, -1, -1):
            request.manifest = uploaded.manifest.root
            try:
                answer = await decided(self._connection.sessions.put_part(request))
            except MissingChunkError:
                # The node that took the chunks is gone with them: once more, only what is missing.
                if not tries_left:
                    raise
                again = await upload()
                uploaded = replace(again, stored=uploaded.stored + again.stored)
                continue
            break
        stored = uploaded.stored
        return part_from_wire(
            answer.part, bytes_sent=stored.bytes_new, chunks_new=stored.chunks_new, already=answer.already
        )

    async def _upload(
        self,
        name: str,
        path: str | Path,
        branch: str,
        progress: Callable[[CommitProgress], None] | None,
    ) -> Uploaded:
        from mcr.committing import CommitProgress, Uploader

        if progress is not None:
            progress(CommitProgress("scan", 0, 0, 0, 0))
        sources = await run_blocking(self._executor, partial(_sources, name, path))
        base = await self._model._manifest_like(branch, self._wanted.parent)  # noqa: SLF001 (as above)
        uploader = Uploader(self._connection.chunks, self._executor, progress)
        return await uploader.upload(sources, base, under=name)

    async def seal(
        self,
        *,
        expected: Sequence[str] = (),
        wait_s: float = 0.0,
        durability: str | int | None = None,
        request_id: str | None = None,
    ) -> CommitResult:
        """Make one version of all parts. Sealed before, by whomever, it returns that version.

        Args:
            expected: names of all parts; empty = whatever is there.
            wait_s: how long to wait for those that are missing.
            durability: copies to wait for, see `AsyncModel.commit`.
            request_id: 1 to 64 bytes of text; made up by default.

        Raises:
            SessionIncompleteError: names the parts that are missing or were not expected; it stays open.
            SessionChangedError: parts were put meanwhile, again and again.
            SessionNotFoundError, SessionEndedError: there is nothing to seal any more.
            HeadMovedError: the branch is not at `expect`; it stays open.
            DurabilityError: there are too few nodes or sites; it stays open.
        """
        loop = asyncio.get_running_loop()
        started_s = loop.time()
        request = pb.SealSessionRequest(
            header=write_header(request_id), model=self._model.name, session=self.name, expected=expected
        )
        asked = parse_durability(durability)
        if asked is not None:
            request.durability.copies_min, request.durability.sites_min = asked.copies, asked.sites
        look_s = LOOK_S_MIN
        while True:
            try:
                answer = await decided(self._connection.sessions.seal_session(request))
            except SessionIncompleteError:
                left_s = started_s + wait_s - loop.time()
                if left_s <= 0:
                    raise
                await asyncio.sleep(min(look_s, left_s))
                look_s = min(2 * look_s, LOOK_S_MAX)
                continue
            break
        version = await self._model._with_files(  # noqa: SLF001 (as above)
            _wire.version_from_wire(answer.version, with_metrics=True)
        )
        self._version = CommitResult(
            **fields_of(version),
            log_index=answer.log_index,
            chunks_total=version.chunk_count,
            seconds=loop.time() - started_s,
        )
        return self._version

    async def abort(self, *, reason: str = "") -> None:
        """End the session without a version; what was uploaded becomes garbage.

        Raises:
            SessionNotFoundError, SessionEndedError: it is not open.
        """
        await decided(
            self._connection.sessions.abort_session(
                pb.AbortSessionRequest(
                    header=write_header(None), model=self._model.name, session=self.name, reason=reason
                )
            )
        )

    async def status(self) -> SessionStatus:
        """Return how far the session is.

        Raises:
            SessionNotFoundError: there is none, or it ended long ago.
        """
        answer = await self._connection.sessions.get_session(
            pb.GetSessionRequest(model=self._model.name, session=self.name)
        )
        return session_from_wire(answer.session)

    async def parts(self) -> list[Part]:
        """List what was put, by path; of a session that ended, what is left of it.

        Raises:
            SessionNotFoundError: there is none, or it ended long ago.
        """
        found: list[Part] = []
        after = ""
        while True:
            answer = await self._connection.sessions.list_parts(
                pb.ListPartsRequest(model=self._model.name, session=self.name, after=after, limit=PAGE_MAX)
            )
            found += [part_from_wire(each) for each in answer.parts]
            after = answer.next_after
            if not after:
                return found


def _sources(name: str, path: str | Path) -> list[Source]:
    """Return what is at `path`, with the paths it shall have in the version; blocks."""
    found = scan(path)
    if Path(path).is_dir():
        found = [replace(source, path=f"{name}/{source.path}") for source in found]
    else:
        found = [replace(source, path=name) for source in found]
    if not found:
        raise InvalidArgumentError("path", f"there is nothing in the folder {path}")
    for source in found:
        check_path(source.path)
    return found
