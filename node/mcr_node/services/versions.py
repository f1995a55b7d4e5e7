"""mcr.v1.VersionsService: check, translate, delegate. Decisions are made in core/state."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable
from contextlib import suppress

from mcr import _wire
from mcr.errors import InvalidArgumentError, MembersChangedError
from mcr.model import DIGEST_BYTES, ChunkId, LogIndex, RefKind
from mcr.references import Reference, Selector, check_model, parse_reference
from mcr.v1 import versions_pb2 as pb
from mcr_node.core.state import queries, signatures
from mcr_node.core.state.commands import (
    CommitVersion,
    CreateBranch,
    CreateTag,
    DeleteBranch,
    LastGoodTarget,
    MoveChannel,
    NumberTarget,
    PreviousTarget,
    ProtectChannel,
    RollbackBranch,
    RollbackChannel,
    Target,
)
from mcr_node.core.state.keys import RefName
from mcr_node.core.state.outcomes import Accepted, RefResult, VersionResult
from mcr_node.core.state.view import View
from mcr_node.ports_log import ReplicatedLog
from mcr_node.services import finding
from mcr_node.services.availability import Availability
from mcr_node.services.chunks import LocalChunks
from mcr_node.services.messages import (
    PAGE_BYTES_MAX,
    PAGE_MAX,
    durability_of,
    fitting,
    limit_of,
    version_message,
)
from mcr_node.services.reporting import ReportCalls
from mcr_node.services.sealed import seal_and_enter
from mcr_node.services.sealing import Content
from mcr_node.services.signing import SignatureCalls, signature_message

EVENTS_MAX = 256
# So many are read without leaving the event loop.
EVENTS_AT_ONCE_MAX = 8
# Members that begin to leave while a commit is made, one after the other.
SEALS_MAX = 3
# How long a watcher hears nothing at most: half of what a client takes for a dead connection.
WATCH_SILENCE_S = 5.0


class VersionsService(SignatureCalls, ReportCalls):
    """The service for one principal, as authenticated at the edge."""

    def __init__(
        self, log: ReplicatedLog, chunks: LocalChunks, availability: Availability, principal: str
    ) -> None:
        super().__init__(log, principal)
        self._chunks = chunks
        self._availability = availability

    # ---- writes ----

    async def commit_version(self, request: pb.CommitVersionRequest) -> pb.CommitVersionResponse:
        """Make one version from a stored manifest."""
        if len(request.manifest) != DIGEST_BYTES:
            raise InvalidArgumentError(
                "manifest", f"it has {len(request.manifest)} bytes, not {DIGEST_BYTES}"
            )
        for _ in range(SEALS_MAX):
            with suppress(MembersChangedError):
                return await self._commit(request)
        return await self._commit(request)

    async def _commit(self, request: pb.CommitVersionRequest) -> pb.CommitVersionResponse:
        """Seal and propose.

        Raises:
            MembersChangedError: somebody is leaving whose copies were counted on, so it is sealed again.
        """
        manifest = ChunkId(request.manifest)
        # Before it is sealed: an earlier one is refused where a later one would be.
        layout_epoch = self._log.membership.epoch
        durability = durability_of(request.durability) if request.HasField("durability") else None

        def enter(content: Content) -> Awaitable[Accepted]:
            return self._propose(self._commit_of(request, manifest, content, layout_epoch))

        # Sealed before visible: what the manifest names is looked for here, not believed.
        accepted = await seal_and_enter(self._chunks, manifest, enter, durability=durability)
        version = (
            self._made(request.model, accepted) if accepted.already_applied else self._new(request, accepted)
        )
        return pb.CommitVersionResponse(
            version=version, log_index=accepted.index, already_applied=accepted.already_applied
        )

    def _commit_of(
        self, request: pb.CommitVersionRequest, manifest: ChunkId, content: Content, layout_epoch: int
    ) -> CommitVersion:
        return CommitVersion(
            **self._envelope(request.header),
            model=request.model,
            branch=request.branch,
            expected_head=request.expected_head if request.HasField("expected_head") else None,
            parent=request.parent if request.HasField("parent") else None,
            description=request.description,
            parameters=_wire.mapping_from_wire(request.parameters),
            manifest=manifest,
            bytes_total=content.bytes_total,
            file_count=content.file_count,
            chunk_count=content.chunk_count,
            metrics={metric.name: metric.value for metric in request.metrics},
            allow_non_finite=request.allow_non_finite,
            gc_round=content.gc_round,
            lease=request.lease,
            layout_epoch=layout_epoch,
            base=_wire.base_from_wire(request.base) if request.HasField("base") else None,
        )

    async def rollback_branch(self, request: pb.RollbackBranchRequest) -> pb.RollbackBranchResponse:
        """Make a version that restores an earlier one."""
        accepted = await self._propose(
            RollbackBranch(
                **self._envelope(request.header),
                model=request.model,
                branch=request.branch,
                target=_target(request),
                reason=request.reason,
            )
        )
        version = self._made(request.model, accepted)
        return pb.RollbackBranchResponse(version=version, log_index=accepted.index)

    async def create_ref(self, request: pb.CreateRefRequest) -> pb.CreateRefResponse:
        """Make a branch or tag."""
        kind = _wire.kind_from_wire(request.kind)
        if kind not in (RefKind.BRANCH, RefKind.TAG):
            raise InvalidArgumentError("kind", "only branches and tags are made this way")
        make = CreateBranch if kind is RefKind.BRANCH else CreateTag
        accepted = await self._propose(
            make(
                **self._envelope(request.header),
                model=request.model,
                name=request.name,
                number=request.number,
            )
        )
        return pb.CreateRefResponse(ref=_ref(accepted), log_index=accepted.index)

    async def delete_branch(self, request: pb.DeleteBranchRequest) -> pb.DeleteBranchResponse:
        """Delete a branch."""
        accepted = await self._propose(
            DeleteBranch(
                **self._envelope(request.header),
                model=request.model,
                name=request.name,
                reason=request.reason,
            )
        )
        return pb.DeleteBranchResponse(log_index=accepted.index)

    async def move_channel(self, request: pb.MoveChannelRequest) -> pb.MoveChannelResponse:
        """Point a channel at a version."""
        expected = request.expected_generation if request.HasField("expected_generation") else None
        available = await self._availability.of(check_model(request.model), request.channel, request.number)
        accepted = await self._propose(
            MoveChannel(
                **self._envelope(request.header),
                model=request.model,
                channel=request.channel,
                number=request.number,
                expected_generation=expected,
                reason=request.reason,
                available=available,
            )
        )
        assert isinstance(accepted.result, RefResult)
        return pb.MoveChannelResponse(
            ref=_ref(accepted), log_index=accepted.index, waits=accepted.result.waits
        )

    async def rollback_channel(self, request: pb.RollbackChannelRequest) -> pb.RollbackChannelResponse:
        """Move a channel back."""
        accepted = await self._propose(
            RollbackChannel(
                **self._envelope(request.header),
                model=request.model,
                channel=request.channel,
                target=_target(request),
                reason=request.reason,
            )
        )
        return pb.RollbackChannelResponse(ref=_ref(accepted), log_index=accepted.index)

    async def protect_channel(self, request: pb.ProtectChannelRequest) -> pb.ProtectChannelResponse:
        """Replace a channel's rules."""
        accepted = await self._propose(
            ProtectChannel(
                **self._envelope(request.header),
                model=request.model,
                channel=request.channel,
                protection=_wire.mapping_from_wire(request.protection),
            )
        )
        return pb.ProtectChannelResponse(ref=_ref(accepted), log_index=accepted.index)

    def _new(self, request: pb.CommitVersionRequest, accepted: Accepted) -> pb.Version:
        """Return the version that was made just now, as it stood then: what was asked for says most of it.

        The scans for refs and metrics would cost as much as the rest of the answer.
        """
        result = accepted.result
        assert isinstance(result, VersionResult)
        branch = RefName(request.model, RefKind.BRANCH, request.branch)
        return pb.Version(
            record=self._look(lambda view: queries.get_record(view, request.model, result.number)),
            refs=(str(branch),),
            metrics=_wire.metrics_to_wire({metric.name: metric.value for metric in request.metrics}),
        )

    def _made(self, model: str, accepted: Accepted) -> pb.Version:
        result = accepted.result
        assert isinstance(result, VersionResult)
        return self._look(lambda view: version_message(view, model, result.number))

    # ---- reads ----

    async def get_version(self, request: pb.GetVersionRequest) -> pb.GetVersionResponse:
        """Resolve a reference."""
        reference = parse_reference(request.reference)

        def read(view: View) -> pb.GetVersionResponse:
            model, number = reference.model, queries.resolve(view, reference)
            found = signatures.signatures_of(view, model, number) if request.with_signatures else ()
            return pb.GetVersionResponse(
                version=version_message(view, model, number),
                signatures=[signature_message(key, row) for key, row in found],
            )

        index = await self._fresh(request.read)
        response = self._look(read)
        response.log_index = index
        age_max_ms = self._age(request.read)
        if age_max_ms is not None:
            response.age_max_ms = age_max_ms
        return response

    async def list_versions(self, request: pb.ListVersionsRequest) -> pb.ListVersionsResponse:
        """List versions, newest first."""
        limit = limit_of(request.limit)
        before = request.before or None
        if request.ancestry:
            reference = parse_reference(request.reference)
        else:
            reference = Reference(check_model(request.reference), Selector.ANY)

        def read(view: View) -> list[pb.Version]:
            if request.ancestry:
                start = queries.resolve(view, reference)
                versions = queries.list_ancestry(view, reference.model, start, before=before, limit=limit)
            else:
                versions = queries.list_versions(view, reference.model, before=before, limit=limit)
            return fitting(_wire.version_to_wire(version) for version in versions)

        index = await self._fresh(request.read)
        return pb.ListVersionsResponse(
            versions=await self._read(read), log_index=index, age_max_ms=self._age(request.read)
        )

    async def find_versions(self, request: pb.FindVersionsRequest) -> pb.FindVersionsResponse:
        """Find versions that meet conditions."""
        read = finding.reader(request)
        index = await self._fresh(request.read)
        response = await self._read(read)
        response.log_index = index
        age_max_ms = self._age(request.read)
        if age_max_ms is not None:
            response.age_max_ms = age_max_ms
        return response

    async def get_lineage(self, request: pb.GetLineageRequest) -> pb.GetLineageResponse:
        """Return what a version was derived from, and what from it."""
        reference, limit = parse_reference(request.reference), limit_of(request.limit)
        model = reference.model
        after = (check_model(request.after_model), request.after_number) if request.after_model else ("", 0)

        def read(view: View) -> pb.GetLineageResponse:
            number = queries.resolve(view, reference)
            version = queries.get_version(view, model, number)
            derived = queries.list_derived(view, model, number, after=after, limit=limit)
            page = fitting(_wire.version_to_wire(each) for each in derived)
            response = pb.GetLineageResponse(
                version=_wire.version_to_wire(version),
                derived=page,
                more=len(page) < len(derived) or len(derived) == limit,
            )
            if version.base is not None:
                base = queries.get_version(view, version.base.model, version.base.number)
                response.base.CopyFrom(_wire.version_to_wire(base))
            return response

        index = await self._fresh(request.read)
        response = await self._read(read)
        response.log_index = index
        age_max_ms = self._age(request.read)
        if age_max_ms is not None:
            response.age_max_ms = age_max_ms
        return response

    async def list_models(self, request: pb.ListModelsRequest) -> pb.ListModelsResponse:
        """List models by name."""
        limit = limit_of(request.limit)
        index = await self._fresh(request.read)
        summaries = await self._read(lambda view: queries.list_models(view, after=request.after, limit=limit))
        return pb.ListModelsResponse(
            models=[_wire.summary_to_wire(summary) for summary in summaries],
            log_index=index,
            age_max_ms=self._age(request.read),
        )

    async def list_refs(self, request: pb.ListRefsRequest) -> pb.ListRefsResponse:
        """List refs of one kind."""
        kind, model = _kind(request.kind), check_model(request.model)
        index = await self._fresh(request.read)
        limit = limit_of(request.limit or PAGE_MAX)
        refs = await self._read(
            lambda view: queries.list_refs(view, model, kind, after=request.after, limit=limit)
        )
        page = fitting(_wire.ref_to_wire(ref) for ref in refs)
        more = len(page) < len(refs) or len(refs) == limit
        return pb.ListRefsResponse(refs=page, log_index=index, more=more, age_max_ms=self._age(request.read))

    async def list_ref_moves(self, request: pb.ListRefMovesRequest) -> pb.ListRefMovesResponse:
        """List the history of one ref."""
        kind, model, name = _kind(request.kind), check_model(request.model), request.name
        limit = limit_of(request.limit)
        index = await self._fresh(request.read)
        if request.HasField("at_ms"):
            move = await self._read(lambda view: queries.ref_at(view, model, kind, name, request.at_ms))
            moves = [] if move is None else [move]
        else:
            before = request.before_generation or None
            moves = await self._read(
                lambda view: queries.ref_history(
                    view, model, kind, name, before_generation=before, limit=limit
                )
            )
        return pb.ListRefMovesResponse(
            moves=fitting(_wire.move_to_wire(move) for move in moves),
            log_index=index,
            age_max_ms=self._age(request.read),
        )

    async def list_metric_reports(self, request: pb.ListMetricReportsRequest) -> pb.ListMetricReportsResponse:
        """List metric reports of a version."""
        model, limit = check_model(request.model), limit_of(request.limit)
        index = await self._fresh(request.read)
        reports = await self._read(
            lambda view: queries.metric_reports(view, model, request.number, limit=limit)
        )
        return pb.ListMetricReportsResponse(
            reports=fitting(_wire.report_to_wire(report) for report in reports),
            log_index=index,
            age_max_ms=self._age(request.read),
        )

    async def watch_events(self, request: pb.WatchEventsRequest) -> AsyncGenerator[pb.WatchEventsResponse]:
        """Yield what happens to refs, from a log index on; an empty answer says that the stream lives."""
        model = check_model(request.model) if request.model else ""
        seen = LogIndex(request.after_index) if request.HasField("after_index") else self._log.applied
        # Whoever asks for the future is told at once from where on it is.
        yield pb.WatchEventsResponse(log_index=min(seen, self._log.applied))
        while True:
            try:
                async with asyncio.timeout(WATCH_SILENCE_S):
                    await self._log.wait_applied(LogIndex(seen + 1))
            except TimeoutError:
                yield pb.WatchEventsResponse(log_index=seen)
                continue
            response = await self._events(model, seen)
            seen = LogIndex(response.log_index)
            yield response

    async def _events(self, model: str, after: LogIndex) -> pb.WatchEventsResponse:
        through = self._log.applied

        def read(view: View) -> pb.WatchEventsResponse:
            found = queries.happenings(view, model, after=after, through=through, limit=EVENTS_MAX)
            response = pb.WatchEventsResponse(log_index=through)
            for each in found:
                if response.events and response.ByteSize() + len(each.record) > PAGE_BYTES_MAX:
                    response.log_index = response.events[-1].log_index
                    return response
                response.events.append(
                    pb.Event(
                        log_index=each.move.log_index,
                        model=each.of.model,
                        kind=_wire.kind_to_wire(each.of.kind),
                        name=each.of.name,
                        move=_wire.move_to_wire(each.move),
                        record=each.record,
                    )
                )
            if len(found) == EVENTS_MAX:
                response.log_index = response.events[-1].log_index
            return response

        # One or two, mostly: whoever watches is told of each entry.
        return self._look(read) if through - after <= EVENTS_AT_ONCE_MAX else await self._read(read)


def _target(request: pb.RollbackBranchRequest | pb.RollbackChannelRequest) -> Target:
    match request.target:
        case pb.ROLLBACK_TARGET_PREVIOUS:
            return PreviousTarget()
        case pb.ROLLBACK_TARGET_LAST_GOOD:
            return LastGoodTarget()
        case _:
            return NumberTarget(request.to)


def _kind(kind: "pb.RefKind.ValueType") -> RefKind:
    known = _wire.kind_from_wire(kind)
    if known is None:
        raise InvalidArgumentError("kind", "it is not branch, tag or channel")
    return known


def _ref(accepted: Accepted) -> pb.Ref:
    assert isinstance(accepted.result, RefResult)
    return _wire.ref_to_wire(accepted.result.ref)
