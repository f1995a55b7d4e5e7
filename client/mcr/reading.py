"""What can be asked of one model: its versions, their files and tensors, its refs and their history."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcr import _wire, _wire_finding
from mcr.bases import BaseVersion
from mcr.connection import Connection
from mcr.errors import InvalidArgumentError, NotFoundError, PathNotFoundError
from mcr.files import AsyncFile
from mcr.finding import Condition, Conditions, parsed_conditions
from mcr.manifest import FileRow, drain_async, find_file, walk_chunks, walk_files, walk_tensors
from mcr.model import (
    ChunkId,
    EntryKind,
    Event,
    FileEntry,
    MetricReport,
    ParameterValue,
    Ref,
    RefKind,
    RefMove,
    StorageSummary,
    Tensor,
    Version,
)
from mcr.references import DEFAULT_BRANCH, Reference, Selector, parse_reference
from mcr.v1 import versions_pb2 as pb
from mcr.values import dataclass

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mcr.checkout import CheckoutProgress, CheckoutResult
    from mcr.comparing import Diff, DiffProgress

PAGE_MAX = 1000


@dataclass(frozen=True, slots=True)
class Lineage:
    """What a version was derived from, and what from it.

    Attributes:
        version: the version itself; its `parents` are the versions of its own model that it came from.
        base: what its record names as its base, deleted or not; None = nothing.
        derived: versions whose records name this one, deleted or not, by model and number.
        has_more: there are more of these.
    """

    version: Version
    base: Version | None
    derived: tuple[Version, ...]
    has_more: bool


def fields_of(version: Version) -> dict[str, Any]:
    """Return the fields of a version, to build another from."""
    return {name: getattr(version, name) for name in Version.__dataclass_fields__}


class ModelReader:
    """The reading half of `AsyncModel`."""

    def __init__(self, connection: Connection, executor: ThreadPoolExecutor, name: str) -> None:
        self._connection = connection
        self._executor = executor
        self.name = name

    async def log(self, *, ref: str | None = None, limit: int = 20, before: int = 0) -> list[Version]:
        """List versions, newest first: all of the model, or the ancestry of `ref`.

        Args:
            ref: reference whose ancestry is wanted.
            limit: at most so many.
            before: only numbers below this one; 0 = from the newest.
        """
        reference = self.name if ref is None else str(self._reference(ref))
        found: list[Version] = []
        while len(found) < limit:
            answer = await self._connection.versions.list_versions(
                pb.ListVersionsRequest(
                    reference=reference,
                    ancestry=ref is not None,
                    before=found[-1].number if found else before,
                    limit=min(limit - len(found), PAGE_MAX),
                )
            )
            found += [_wire.version_from_wire(version, with_metrics=False) for version in answer.versions]
            if not answer.versions:
                break
        return found

    async def find(
        self,
        *,
        metrics: Iterable[str | Condition] = (),
        params: Mapping[str, ParameterValue] | Iterable[str | Condition] = (),
        since: datetime | None = None,
        until: datetime | None = None,
        creator: str = "",
        tags: Iterable[str] = (),
        ref: str | None = None,
        limit: int | None = 100,
    ) -> list[Version]:
        """Find versions that meet all conditions, newest first, with metrics and refs.

        Args:
            metrics: on the latest reported values: `"loss<0.5"`, with `= != < <= > >=`.
            params: `{"lr": 1e-4}` for equal values, or `["lr>=1e-4"]`; dots go down the tree.
            since: made then or later.
            until: made then or earlier.
            creator: pattern of who made it, with `*` and `?`.
            tags: patterns; for each, a tag that points at the version must fit.
            ref: look at this version and those it came from only.
            limit: at most so many; None = all.

        Raises:
            InvalidArgumentError: a condition that means nothing, or a time without a zone.
        """
        on_metrics, on_parameters = parsed_conditions(metrics=metrics, params=params)
        conditions = Conditions(
            metrics=on_metrics,
            parameters=on_parameters,
            since_ms=_instant_ms("since", since),
            until_ms=_instant_ms("until", until),
            creator=creator,
            tags=tuple(tags),
        )
        request = pb.FindVersionsRequest(
            reference=self.name if ref is None else str(self._reference(ref)),
            ancestry=ref is not None,
            conditions=_wire_finding.conditions_to_wire(conditions.check()),
        )
        found: list[Version] = []
        while limit is None or len(found) < limit:
            request.limit = PAGE_MAX if limit is None else min(limit - len(found), PAGE_MAX)
            answer = await self._connection.versions.find_versions(request)
            found += [_wire.version_from_wire(version, with_metrics=True) for version in answer.versions]
            if not answer.next:
                break
            request.next[:] = answer.next
        return found

    async def all_versions(self) -> AsyncIterator[Version]:
        """Yield every version, newest first, page by page."""
        before = 0
        while page := await self.log(limit=PAGE_MAX, before=before):
            for version in page:
                yield version
            before = page[-1].number
            if before == 1:
                return

    async def show(self, ref: str = DEFAULT_BRANCH) -> Version:
        """Return a version with its files, latest metrics and the refs that point at it."""
        return await self._with_files(await self._version(ref))

    async def files(self, ref: str = DEFAULT_BRANCH, path: str = "") -> list[FileEntry]:
        """List the entries of a version, all or those at and below `path`.

        Raises:
            PathNotFoundError: nothing is there.
        """
        version = await self._version(ref)
        rows = drain_async(walk_files(version.manifest, under=path.rstrip("/")), self._connection.chunks.get)
        found = [row.entry async for row in rows]
        if path and not found:
            raise PathNotFoundError(version.reference, path)
        return found

    async def tensors_of(self, ref: str = DEFAULT_BRANCH, path: str = "") -> list[tuple[str, Tensor]]:
        """List (file path, tensor) of a version, all or of the files at and below `path`."""
        version = await self._version(ref)
        get = self._connection.chunks.get
        found: list[tuple[str, Tensor]] = []
        async for row in drain_async(walk_files(version.manifest, under=path.rstrip("/")), get):
            found += [(row.entry.path, tensor) async for tensor in drain_async(walk_tensors(row), get)]
        return found

    async def lineage(self, ref: str = DEFAULT_BRANCH, *, limit: int = 100) -> Lineage:
        """Return what a version was derived from, and at most `limit` versions that were derived from it."""
        request = pb.GetLineageRequest(reference=str(self._reference(ref)))
        derived: list[Version] = []
        while True:
            request.limit = max(1, min(limit - len(derived), PAGE_MAX))
            answer = await self._connection.versions.get_lineage(request)
            derived += [_wire.version_from_wire(each, with_metrics=False) for each in answer.derived]
            if not answer.more or len(derived) >= limit:
                break
            request.after_model, request.after_number = derived[-1].model, derived[-1].number
        return Lineage(
            version=_wire.version_from_wire(answer.version, with_metrics=True),
            base=_wire.version_from_wire(answer.base, with_metrics=True) if answer.HasField("base") else None,
            derived=tuple(derived[:limit]),
            has_more=answer.more or len(derived) > limit,
        )

    async def tensor(self, ref: str, name: str) -> NDArray[Any]:
        """Fetch one tensor as a NumPy array; only its own chunks are read.

        Raises:
            PathNotFoundError: no file of the version has it.
            MissingExtraError: NumPy is not installed.
        """
        from mcr.tensors import dtypes

        dtypes.require_numpy("reading tensors")
        version = await self._version(ref)
        get = self._connection.chunks.get
        async for row in drain_async(walk_files(version.manifest), get):
            async for tensor in drain_async(walk_tensors(row), get):
                if tensor.name == name:
                    file = AsyncFile(row, get)
                    data = await file.read_at(tensor.offset_bytes, tensor.length_bytes)
                    return dtypes.array(data, tensor.dtype, tensor.shape)
        raise PathNotFoundError(version.reference, name)

    async def storage(self, ref: str = DEFAULT_BRANCH) -> StorageSummary:
        """Return how many chunks and bytes a version's files take, and how many are distinct."""
        version = await self._version(ref)
        get = self._connection.chunks.get
        distinct: dict[ChunkId, int] = {}
        async for row in drain_async(walk_files(version.manifest), get):
            async for span in drain_async(walk_chunks(row), get):
                distinct[span.id] = span.length_bytes
        return StorageSummary(version.chunk_count, len(distinct), version.bytes_total, sum(distinct.values()))

    async def open(self, ref: str, path: str) -> AsyncFile:
        """Open a file of a version for reading ranges.

        Raises:
            PathNotFoundError: no such file.
        """
        return AsyncFile(await self._row(ref, path), self._connection.chunks.get)

    async def _row(self, ref: str, path: str) -> FileRow:
        version = await self._version(ref)
        async for row in drain_async(find_file(version.manifest, path), self._connection.chunks.get):
            if row.entry.kind is EntryKind.FILE:
                return row
        raise PathNotFoundError(version.reference, path)

    async def checkout(
        self,
        ref: str,
        destination: str | Path,
        *,
        include: Sequence[str] = (),
        verify: bool = False,
        delete: bool = False,
        sync: bool = False,
        progress: Callable[[CheckoutProgress], None] | None = None,
    ) -> CheckoutResult:
        """Write a version into a folder, bit-exact; files that are right already are left alone.

        Args:
            ref: what to check out.
            destination: folder; made when missing.
            include: glob patterns; everything by default.
            verify: read every written file back from the disk and compare its digest; takes a sync.
            delete: remove files that the version does not have.
            sync: return only when the disk holds every file asked for. Without, files that are written are
                synced where the folder held anything; into an empty one a checkout is done sooner, as copying
                with other tools is, and after a loss of power checking out again finds what is not whole.
            progress: called from the event loop.

        Raises:
            DestinationError, OutOfSpaceError: what was written whole stays; repeat to go on.
            CorruptChunkError, MissingChunkError: nothing wrong was written.
        """
        from mcr.checkout import checkout

        version = await self._version(ref)
        return await checkout(
            self._connection.chunks,
            version.manifest,
            Path(destination),
            include=include,
            verify=verify,
            delete=delete,
            sync=sync,
            progress=progress,
            reference=version.reference,
        )

    async def diff(
        self,
        a: str,
        b: str,
        *,
        tensors: bool = False,
        progress: Callable[[DiffProgress], None] | None = None,
    ) -> Diff:
        """Compare two versions; see `mcr.comparing.diff`."""
        from mcr.comparing import diff

        one, other = await self._version(a), await self._version(b)
        get = self._connection.chunks.get
        return await diff(get, self._executor, one, other, tensors=tensors, progress=progress)

    async def refs(self, kind: RefKind) -> list[Ref]:
        """List the refs of one kind, by name."""
        found: list[Ref] = []
        while True:
            answer = await self._connection.versions.list_refs(
                pb.ListRefsRequest(
                    model=self.name,
                    kind=_wire.kind_to_wire(kind),
                    after=found[-1].name if found else "",
                    limit=PAGE_MAX,
                )
            )
            found += [_wire.ref_from_wire(self.name, ref) for ref in answer.refs]
            if not answer.more:
                return found

    async def history(self, kind: RefKind, name: str, *, limit: int = 100) -> list[RefMove]:
        """List the moves of a ref, newest first."""
        found: list[RefMove] = []
        while len(found) < limit:
            answer = await self._connection.versions.list_ref_moves(
                pb.ListRefMovesRequest(
                    model=self.name,
                    kind=_wire.kind_to_wire(kind),
                    name=name,
                    before_generation=found[-1].generation if found else 0,
                    limit=min(limit - len(found), PAGE_MAX),
                )
            )
            found += [_wire.move_from_wire(move) for move in answer.moves]
            if not answer.moves or found[-1].generation == 1:
                break
        return found

    async def ref_at(self, kind: RefKind, name: str, at: datetime) -> RefMove | None:
        """Return the move of a ref that was in force at a time; None when it did not exist then.

        Raises:
            InvalidArgumentError: `at` has no time zone.
        """
        answer = await self._connection.versions.list_ref_moves(
            pb.ListRefMovesRequest(
                model=self.name,
                kind=_wire.kind_to_wire(kind),
                name=name,
                limit=1,
                at_ms=_instant_ms("at", at),
            )
        )
        return _wire.move_from_wire(answer.moves[0]) if answer.moves else None

    async def metrics(self, ref: str = DEFAULT_BRANCH, *, limit: int = 100) -> list[MetricReport]:
        """List the metric reports of a version, newest first."""
        answer = await self._connection.versions.list_metric_reports(
            pb.ListMetricReportsRequest(model=self.name, number=await self._number(ref), limit=limit)
        )
        return [_wire.report_from_wire(report) for report in answer.reports]

    async def watch(self, *, since: int | None = None) -> AsyncGenerator[Event]:
        """Follow what happens to the model's refs, in the order of the log; does not end by itself.

        A node that is lost is replaced by another one, without a gap or a repetition.

        Args:
            since: a log index: only later events. To go on after a pause, that of the last event seen. None =
                only what happens from now on.

        Raises:
            HistoryGoneError: events since then are no longer kept.
        """
        request = pb.WatchEventsRequest(model=self.name, after_index=since)
        async for answer in self._connection.versions.watch_events(request):
            for event in answer.events:
                yield _wire.event_from_wire(event)

    def _reference(self, ref: str) -> Reference:
        return parse_reference(ref, model=self.name)

    async def _version(self, ref: str) -> Version:
        answer = await self._connection.versions.get_version(
            pb.GetVersionRequest(reference=str(self._reference(ref)))
        )
        return _wire.version_from_wire(answer.version, with_metrics=True)

    async def _base(self, base: str) -> pb.BaseVersion:
        """Find what a version is derived from: a reference into this model, or with a name into any."""
        reference = parse_reference(base) if "@" in base or "/" in base else self._reference(base)
        request = pb.GetVersionRequest(reference=str(reference))
        answer = await self._connection.versions.get_version(request)
        found = _wire.version_from_wire(answer.version, with_metrics=False)
        return _wire.base_to_wire(BaseVersion(found.model, found.number, found.id))

    async def _number(self, ref: str) -> int:
        reference = self._reference(ref)
        if reference.selector is Selector.NUMBER:
            return reference.number
        return (await self._version(ref)).number

    async def _with_files(self, version: Version) -> Version:
        rows = drain_async(walk_files(version.manifest), self._connection.chunks.get)
        return Version(**(fields_of(version) | {"files": tuple([row.entry async for row in rows])}))

    async def _manifest_like(self, branch: str, parent: str | None) -> ChunkId | None:
        """Return the manifest that a new version probably resembles, if there is any."""
        for ref in (parent, f"branch:{branch}"):
            if ref is not None:
                try:
                    return (await self._version(ref)).manifest
                except NotFoundError:
                    continue
        try:
            newest = await self.log(limit=1)
        except NotFoundError:
            return None
        return newest[0].manifest if newest else None


def _instant_ms(argument: str, at: datetime | None) -> int | None:
    if at is None:
        return None
    if at.tzinfo is None:
        raise InvalidArgumentError(argument, "the time needs a zone")
    return int(at.timestamp() * 1000)
