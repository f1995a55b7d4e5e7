"""The asyncio client: every flow is written here once; `mcr.client` runs the same flows for blocking callers.

async with await mcr.aio.connect("node1:7101,node2:7101") as client:
    version = await client.model("vision/resnet50").commit("ckpt/", message="epoch 3")
"""

from __future__ import annotations

import asyncio
import getpass
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from mcr import _embedded, _wire
from mcr.addresses import Address, looks_like_addresses, parse_addresses
from mcr.auto_commit.calls import AutoCommitCalls
from mcr.blocking import decided, run_blocking
from mcr.connection import Connection
from mcr.durability import check_possible, parse_durability
from mcr.following.calls import FollowCalls
from mcr.leasing import UploadLease, upload_and_enter
from mcr.membership import MembershipCalls
from mcr.merge_calls import MergeCalls
from mcr.model import (
    CheckReport,
    ClusterStatus,
    CommitResult,
    ModelSummary,
    Parameters,
    Ref,
    RefKind,
    RefMove,
    StoreStatus,
    Version,
)
from mcr.policies import ChannelGuards, PolicyCalls, channel_ref
from mcr.quotas import QuotaCalls
from mcr.reading import PAGE_MAX, fields_of
from mcr.references import DEFAULT_BRANCH, check_model
from mcr.reporting import write_header
from mcr.retention import RetentionCalls
from mcr.scanning import scan
from mcr.sessions import SessionCalls
from mcr.signature_calls import SignatureCalls
from mcr.transfer import ChunkTransport
from mcr.trash import TrashCalls, TrashOfAll
from mcr.upkeep import UpkeepCalls
from mcr.v1 import admin_pb2 as admin
from mcr.v1 import versions_pb2 as pb

if TYPE_CHECKING:
    from mcr.committing import CommitProgress, Uploaded

# Reading, hashing and writing of files: as many as keep two cores busy while some wait for the disk.
CLIENT_WORKERS = 4
PREVIOUS, LAST_GOOD = "previous", "last-good"
_TARGETS = {PREVIOUS: pb.ROLLBACK_TARGET_PREVIOUS, LAST_GOOD: pb.ROLLBACK_TARGET_LAST_GOOD}


async def connect(
    where: str | Path, *, timeout_s: float | None = None, stale_ok: bool = False
) -> AsyncClient:
    """Connect to a cluster, or open an embedded store, and return a client of it.

    Args:
        where: addresses of nodes, `host:port,host:port`, of which the nearest that is well is used; or the
            folder of a store made by `mcr.init`. A text that could be both is a folder if there is one.
        timeout_s: of a cluster: bound on each call, tries on other nodes included; None = as long as its
            kind of call may reasonably take. Of a folder: how long to wait for another process that has it
            open; None = not at all.
        stale_ok: reads of a cluster answer at once from what the node has, however old: for a node that is
            cut off from the majority, where other reads are refused. Writes stay as they are.

    Raises:
        UnavailableError, DeadlineError: no node answers.
        StoreNotFoundError, StoreBusyError, StoreFormatError, CorruptStoreError: see `mcr.errors`.
        MissingExtraError: the node part is not installed, which an embedded store needs.
    """
    if addresses := _addresses(where):
        # Imported late: gRPC costs a tenth of a second, which an embedded store need not pay.
        from mcr import _remote

        return AsyncClient(await _remote.connect(addresses, timeout_s=timeout_s, stale_ok=stale_ok))
    return AsyncClient(await _embedded.open_store(Path(where), principal=_principal(), timeout_s=timeout_s))


def _addresses(where: str | Path) -> tuple[Address, ...]:
    """Return the nodes that `where` names; none when it is a folder."""
    if not isinstance(where, str) or not looks_like_addresses(where):
        return ()
    if "://" not in where and Path(where).exists():
        return ()
    return parse_addresses("where", where)


def _principal() -> str:
    # Nobody is authenticated inside one process: the record names the account, and says so.
    return f"local:{getpass.getuser()}"


class AsyncClient(MembershipCalls, QuotaCalls, UpkeepCalls, TrashOfAll):
    """A connection to a store. Make one with `connect`; close it, or use it as a context manager."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._executor = ThreadPoolExecutor(CLIENT_WORKERS, thread_name_prefix="mcr-client")

    @property
    def location(self) -> str:
        """Where the store is: a folder, or addresses."""
        return self._connection.location

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Make everything durable and release the store. May be called twice."""
        await self._connection.close()
        self._executor.shutdown()

    def model(self, name: str) -> AsyncModel:
        """Return a handle on a model; nothing is asked of the store yet.

        Raises:
            InvalidNameError: not of the form namespace/name.
        """
        return AsyncModel(self._connection, self._executor, check_model(name))

    async def models(self, *, after: str = "", limit: int = PAGE_MAX) -> list[ModelSummary]:
        """List models by name, those after `after`, at most `limit` (1 to 1000)."""
        answer = await self._connection.versions.list_models(pb.ListModelsRequest(after=after, limit=limit))
        return [_wire.summary_from_wire(summary) for summary in answer.models]

    async def status(self) -> StoreStatus:
        """Return totals and health of the store."""
        answer = await self._connection.admin.get_store_status(admin.GetStoreStatusRequest())
        return StoreStatus(
            store_id=answer.store_id.hex(),
            store_format=answer.store_format,
            applied_index=answer.applied_index,
            state_digest=answer.state_digest.hex(),
            chunk_count=answer.chunk_count,
            chunk_bytes_plain=answer.chunk_bytes_plain,
            chunk_bytes_live=answer.chunk_bytes_live,
            chunk_bytes_used=answer.chunk_bytes_used,
            chunks_quarantined=answer.chunks_quarantined,
            bytes_free=answer.bytes_free,
            encoding=answer.encoding,
            log_entry_count=answer.log_entry_count,
            bytes_fetched_near=answer.bytes_fetched_near,
            bytes_fetched_far=answer.bytes_fetched_far,
            bytes_given=answer.bytes_given,
        )

    async def cluster_status(self) -> ClusterStatus:
        """Return the members of the cluster and how they do; an embedded store is its only member."""
        answer = await self._connection.admin.get_cluster_status(admin.GetClusterStatusRequest())
        return _wire.cluster_from_wire(answer)

    async def check(
        self, *, deep: bool = True, progress: Callable[[int, int], None] | None = None
    ) -> CheckReport:
        """Verify that every version has all its chunks and, with `deep`, that each one's bytes are right.

        Args:
            deep: read and hash every chunk; otherwise only look that it is held.
            progress: called with (versions done, versions in all) after each version.
        """
        found: list[ModelSummary] = []
        while page := await self.models(after=found[-1].name if found else ""):
            found += page
        total = sum(summary.version_count for summary in found)

        async def versions() -> AsyncIterator[Version]:
            for summary in found:
                async for version in self.model(summary.name).all_versions():
                    yield version

        from mcr.checking import check_versions

        return await check_versions(self._connection.chunks, versions(), total, deep=deep, progress=progress)


class AsyncModel(
    FollowCalls,
    AutoCommitCalls,
    SessionCalls,
    TrashCalls,
    RetentionCalls,
    MergeCalls,
    PolicyCalls,
    SignatureCalls,
):
    """One model of a store. Reading methods are those of `mcr.reading.ModelReader`."""

    async def commit(
        self,
        path: str | Path,
        *,
        message: str = "",
        branch: str = DEFAULT_BRANCH,
        expect: str | None = None,
        params: Parameters | None = None,
        metrics: Mapping[str, float] | None = None,
        parent: str | None = None,
        base: str | None = None,
        request_id: str | None = None,
        allow_non_finite: bool = False,
        durability: str | int | None = None,
        exclude: Sequence[str] = (),
        reread: bool = False,
        progress: Callable[[CommitProgress], None] | None = None,
    ) -> CommitResult:
        """Commit a file or folder as the next version.

        Interrupted, the same call goes on where it stopped: chunks that were stored are not stored
        again. With the same `request_id` it returns the version that an earlier try made.

        Args:
            path: file or folder; what counts as content is said in `mcr.scanning`.
            message: the description.
            branch: made when it does not exist.
            expect: version the branch must be at, or `none` when it must not exist.
            params: typed tree of parameters, kept in the record for ever.
            metrics: reported together with the version.
            parent: reference of the parent; the head of the branch by default.
            base: what this was derived from, `llm/base@v3`, or of the same model `v3`; kept in the record.
            request_id: 1 to 64 bytes of text; made up by default.
            allow_non_finite: accept NaN and infinities among the metrics.
            durability: copies to wait for. `site` or None: on two nodes, where there are two; `cluster`: in
                two sites; or a number of nodes.
            exclude: glob patterns, as of `checkout`; what fits any of them is left out.
            reread: read also large files that, by their times, nobody touched since the last commit.
            progress: called from the event loop.

        Raises:
            HeadMovedError: the branch is not at `expect`; nothing was committed.
            ModelNotFoundError, ReferenceNotFoundError: `parent` or `base` names nothing.
            SourceNotFoundError, SourceUnreadableError, SourceChangedError: names the file.
            OutOfSpaceError: free space and repeat.
            DurabilityError: there are too few nodes or sites, or they do not answer; what was uploaded stays.
        """
        started_s = asyncio.get_running_loop().time()
        request = pb.CommitVersionRequest(header=write_header(request_id), model=self.name, branch=branch)
        request.description, request.allow_non_finite = message, allow_non_finite
        request.parameters = _wire.mapping_to_wire(params or {})
        request.metrics.extend(_wire.metrics_to_wire(metrics or {}))
        await self._ask_durability(request, durability)
        await self._resolve(request, expect=expect, parent=parent, base=base)
        chunks = self._connection.chunks_for(parse_durability(durability))
        upload = partial(self._upload, chunks, path, branch, parent, progress, exclude, reread=reread)
        async with UploadLease(self._connection.trash) as lease:
            uploaded, answer = await self._seal(request, upload, lease)
        version = await self._with_files(_wire.version_from_wire(answer.version, with_metrics=True))
        return CommitResult(
            **fields_of(version),
            log_index=answer.log_index,
            bytes_sent=uploaded.stored.bytes_new,
            bytes_stored=uploaded.stored.bytes_stored,
            chunks_new=uploaded.stored.chunks_new,
            chunks_total=uploaded.manifest.chunk_count,
            seconds=asyncio.get_running_loop().time() - started_s,
        )

    async def _resolve(
        self, request: pb.CommitVersionRequest, *, expect: str | None, parent: str | None, base: str | None
    ) -> None:
        """Find what a commit refers to, before anything is uploaded."""
        if expect is not None:
            request.expected_head = 0 if expect == "none" else await self._number(expect)
        if parent is not None:
            request.parent = await self._number(parent)
        if base is not None:
            request.base.CopyFrom(await self._base(base))

    async def _ask_durability(self, request: pb.CommitVersionRequest, durability: str | int | None) -> None:
        """Ask for copies, and refuse here, before anything is uploaded, what there are no nodes for."""
        asked = parse_durability(durability)
        if asked is None:
            return
        answer = await self._connection.admin.get_cluster_status(admin.GetClusterStatusRequest())
        awaited = {alarm.member for alarm in answer.alarms if alarm.code == "member_awaited"}
        check_possible(asked, [member.site for member in answer.members if member.name not in awaited])
        request.durability.copies_min, request.durability.sites_min = asked.copies, asked.sites

    async def _seal(
        self, request: pb.CommitVersionRequest, upload: Callable[[], Awaitable[Uploaded]], lease: UploadLease
    ) -> tuple[Uploaded, pb.CommitVersionResponse]:
        def enter(uploaded: Uploaded) -> Awaitable[pb.CommitVersionResponse]:
            request.manifest, request.lease = uploaded.manifest.root, lease.name
            return decided(self._connection.versions.commit_version(request))

        return await upload_and_enter(upload, enter)

    async def _upload(
        self,
        chunks: ChunkTransport,
        path: str | Path,
        branch: str,
        parent: str | None,
        progress: Callable[[CommitProgress], None] | None,
        exclude: Sequence[str],
        *,
        reread: bool,
    ) -> Uploaded:
        from mcr.committing import CommitProgress, Uploader
        from mcr.remembering import FileMemory, default_place

        if progress is not None:
            progress(CommitProgress("scan", 0, 0, 0, 0))
        sources = await run_blocking(self._executor, partial(scan, path, exclude))
        base = await self._manifest_like(branch, parent)
        memory = None if reread else FileMemory(default_place(), time.time_ns)
        uploader = Uploader(chunks, self._executor, progress, memory)
        return await uploader.upload(sources, base)

    async def create_branch(self, name: str, *, at: str | None = None) -> Ref:
        """Make a branch at a version (head of main by default).

        Raises:
            AlreadyExistsError: it is there already, somewhere else.
        """
        return await self._create_ref(RefKind.BRANCH, name, at)

    async def create_tag(self, name: str, ref: str | None = None) -> Ref:
        """Name a version (head of main by default) for ever.

        Raises:
            AlreadyExistsError: the tag names another version; tags never move.
        """
        return await self._create_ref(RefKind.TAG, name, ref)

    async def _create_ref(self, kind: RefKind, name: str, at: str | None) -> Ref:
        number = await self._number(at or DEFAULT_BRANCH)
        answer = await self._connection.versions.create_ref(
            pb.CreateRefRequest(
                header=write_header(None),
                model=self.name,
                kind=_wire.kind_to_wire(kind),
                name=name,
                number=number,
            )
        )
        return _wire.ref_from_wire(self.name, answer.ref)

    async def delete_branch(self, name: str, *, reason: str = "") -> None:
        """Delete a branch; versions and history stay."""
        await self._connection.versions.delete_branch(
            pb.DeleteBranchRequest(header=write_header(None), model=self.name, name=name, reason=reason)
        )

    async def rollback(
        self, *, branch: str = DEFAULT_BRANCH, to: str = PREVIOUS, reason: str = ""
    ) -> Version:
        """Make a new version on a branch that restores an earlier one.

        Args:
            branch: the branch.
            to: `previous` or a reference.
            reason: kept in the record.
        """
        request = pb.RollbackBranchRequest(
            header=write_header(None), model=self.name, branch=branch, reason=reason
        )
        await self._set_target(request, to)
        answer = await decided(self._connection.versions.rollback_branch(request))
        return await self._with_files(_wire.version_from_wire(answer.version, with_metrics=True))

    async def _set_target(
        self, request: pb.RollbackBranchRequest | pb.RollbackChannelRequest, to: str
    ) -> None:
        if to in _TARGETS:
            request.target = _TARGETS[to]
        else:
            request.to = await self._number(to)

    def channel(self, name: str) -> AsyncChannel:
        """Return a handle on a channel, whether or not it exists yet."""
        return AsyncChannel(self, self._connection, name)


class AsyncChannel(ChannelGuards):
    """One channel of a model: what a fleet should be running."""

    _model: AsyncModel

    def __init__(self, model: AsyncModel, connection: Connection, name: str) -> None:
        self._model = model
        self._connection = connection
        self.name = name

    async def get(self) -> Ref:
        """Return where the channel is.

        Raises:
            ReferenceNotFoundError: it does not exist.
        """
        return await channel_ref(self._model, self.name)

    async def set(self, ref: str, *, reason: str = "", expected_generation: int | None = None) -> Ref:
        """Point the channel at a version, making it when it is new.

        Raises:
            HeadMovedError: it is not at `expected_generation`.
            ProtectedError: a rule of the channel is not met.
        """
        request = pb.MoveChannelRequest(
            header=write_header(None),
            model=self._model.name,
            channel=self.name,
            number=await self._model._number(ref),  # noqa: SLF001 - one module, one concept
            reason=reason,
        )
        if expected_generation is not None:
            request.expected_generation = expected_generation
        answer = await decided(self._connection.versions.move_channel(request))
        return _wire.ref_from_wire(self._model.name, answer.ref)

    async def rollback(self, *, to: str = PREVIOUS, reason: str = "") -> Ref:
        """Move the channel back: to `previous`, `last-good` or a reference."""
        request = pb.RollbackChannelRequest(
            header=write_header(None), model=self._model.name, channel=self.name, reason=reason
        )
        await self._model._set_target(request, to)  # noqa: SLF001 - one module, one concept
        answer = await decided(self._connection.versions.rollback_channel(request))
        return _wire.ref_from_wire(self._model.name, answer.ref)

    async def history(self, *, limit: int = 100) -> list[RefMove]:
        """List the moves, newest first."""
        return await self._model.history(RefKind.CHANNEL, self.name, limit=limit)

    async def at(self, time: datetime) -> RefMove | None:
        """Return the move that was in force at a time; None when the channel did not exist then."""
        return await self._model.ref_at(RefKind.CHANNEL, self.name, time)

    async def protect(self, rules: Parameters) -> Ref:
        """Replace the channel's protection rules; an empty mapping clears them."""
        answer = await self._connection.versions.protect_channel(
            pb.ProtectChannelRequest(
                header=write_header(None),
                model=self._model.name,
                channel=self.name,
                protection=_wire.mapping_to_wire(rules),
            )
        )
        return _wire.ref_from_wire(self._model.name, answer.ref)
