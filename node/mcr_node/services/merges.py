"""mcr.v1.MergesService: check, translate, delegate. Decisions are made in core/state."""

from collections.abc import Iterable

from mcr import _wire
from mcr.errors import InvalidArgumentError, MembersChangedError, SealOutdatedError
from mcr.model import DIGEST_BYTES, ChunkId
from mcr.references import check_model
from mcr.v1 import merges_pb2 as pb
from mcr_node.core.state import merge_queries
from mcr_node.core.state.keys import NUMBER_MAX
from mcr_node.core.state.merge_commands import CommitMerge, DropMerge, OpenMerge, ResolveConflicts
from mcr_node.core.state.outcomes import Accepted, MergeResult, VersionResult
from mcr_node.ports_log import ReplicatedLog
from mcr_node.services.chunks import LocalChunks
from mcr_node.services.log_calls import Envelope, LogCalls
from mcr_node.services.messages import PAGE_BYTES_MAX, durability_of, limit_of, version_message
from mcr_node.services.sealing import Content

# Rounds of garbage collection are hours apart; more than one within a commit is no accident.
SEAL_TRIES_MAX = 3


class MergesService(LogCalls):
    """The service for one principal, as authenticated at the edge."""

    def __init__(self, log: ReplicatedLog, chunks: LocalChunks, principal: str) -> None:
        super().__init__(log, principal)
        self._chunks = chunks

    # ---- writes ----

    async def commit_merge(self, request: pb.CommitMergeRequest) -> pb.CommitMergeResponse:
        """Make a version of two parents from a stored manifest."""
        if len(request.manifest) != DIGEST_BYTES:
            raise InvalidArgumentError(
                "manifest", f"it has {len(request.manifest)} bytes, not {DIGEST_BYTES}"
            )
        manifest = ChunkId(request.manifest)
        durability = durability_of(request.durability) if request.HasField("durability") else None
        for tries_left in reversed(range(SEAL_TRIES_MAX)):
            layout_epoch = self._log.membership.epoch
            content = await self._chunks.seal(manifest, durability=durability)
            try:
                accepted = await self._propose(
                    _commit(self._envelope(request.header), request, content, layout_epoch)
                )
                break
            except (SealOutdatedError, MembersChangedError):
                # Garbage was marked meanwhile, or a holder is leaving: what was found is looked for again.
                if not tries_left:
                    raise
        result = accepted.result
        assert isinstance(result, VersionResult)
        version = await self._read(lambda view: version_message(view, request.model, result.number))
        return pb.CommitMergeResponse(version=version, log_index=accepted.index)

    async def open_merge(self, request: pb.OpenMergeRequest) -> pb.OpenMergeResponse:
        """Keep a merge that has conflicts."""
        accepted = await self._propose(
            OpenMerge(
                **self._envelope(request.header),
                model=request.model,
                branch=request.branch,
                ours=request.ours,
                theirs=request.theirs,
                base=request.base,
                document=request.document,
                conflicts=tuple((conflict.name, conflict.detail) for conflict in request.conflicts),
            )
        )
        return pb.OpenMergeResponse(merge=_result(accepted).merge, log_index=accepted.index)

    async def resolve_conflicts(self, request: pb.ResolveConflictsRequest) -> pb.ResolveConflictsResponse:
        """Decide conflicts of a merge that waits."""
        accepted = await self._propose(
            ResolveConflicts(
                **self._envelope(request.header),
                model=request.model,
                merge=request.merge,
                choices=tuple((conflict.name, conflict.choice) for conflict in request.choices),
            )
        )
        result = _result(accepted)
        return pb.ResolveConflictsResponse(open_count=result.open_count, log_index=accepted.index)

    async def drop_merge(self, request: pb.DropMergeRequest) -> pb.DropMergeResponse:
        """Forget a merge that waits."""
        accepted = await self._propose(
            DropMerge(**self._envelope(request.header), model=request.model, merge=request.merge)
        )
        return pb.DropMergeResponse(log_index=accepted.index)

    # ---- reads ----

    async def find_merge_base(self, request: pb.FindMergeBaseRequest) -> pb.FindMergeBaseResponse:
        """Find the version that two versions both come from."""
        model = check_model(request.model)
        await self._fresh(request.read)
        base = await self._read(
            lambda view: merge_queries.merge_base(view, model, request.ours, request.theirs)
        )
        return pb.FindMergeBaseResponse(base=base)

    async def list_merges(self, request: pb.ListMergesRequest) -> pb.ListMergesResponse:
        """List the merges of a model that wait."""
        model, limit, after = check_model(request.model), limit_of(request.limit), _after(request.after)
        await self._fresh(request.read)
        found = await self._read(
            lambda view: merge_queries.list_waiting(view, model, after=after, limit=limit)
        )
        return pb.ListMergesResponse(merges=[_merge(each, with_document=False) for each in found])

    async def list_conflicts(self, request: pb.ListConflictsRequest) -> pb.ListConflictsResponse:
        """List the conflicts of a merge that waits."""
        model, limit = check_model(request.model), limit_of(request.limit)
        merge = _after(request.merge)
        await self._fresh(request.read)
        waiting, found = await self._read(
            lambda view: merge_queries.list_conflicts(view, model, merge, after=request.after, limit=limit)
        )
        response = pb.ListConflictsResponse(merge=_merge(waiting, with_document=True))
        response.more = not _fill(response, found) or len(found) == limit
        return response

    async def get_merge_document(self, request: pb.GetMergeDocumentRequest) -> pb.GetMergeDocumentResponse:
        """Return how a version was merged."""
        model = check_model(request.model)
        await self._fresh(request.read)
        document = await self._read(lambda view: merge_queries.document(view, model, request.number))
        return pb.GetMergeDocumentResponse(document=document)


def _commit(
    envelope: Envelope, request: pb.CommitMergeRequest, content: Content, layout_epoch: int
) -> CommitMerge:
    return CommitMerge(
        **envelope,
        model=request.model,
        branch=request.branch,
        ours=request.ours,
        theirs=request.theirs,
        merge=request.merge,
        document=request.document,
        description=request.description,
        parameters=_wire.mapping_from_wire(request.parameters),
        manifest=ChunkId(request.manifest),
        bytes_total=content.bytes_total,
        file_count=content.file_count,
        chunk_count=content.chunk_count,
        gc_round=content.gc_round,
        layout_epoch=layout_epoch,
    )


def _result(accepted: Accepted) -> MergeResult:
    assert isinstance(accepted.result, MergeResult)
    return accepted.result


def _after(number: int) -> int:
    return min(number, NUMBER_MAX - 1)


def _merge(waiting: merge_queries.Waiting, *, with_document: bool) -> pb.Merge:
    row = waiting.row
    return pb.Merge(
        merge=waiting.merge,
        branch=row.branch,
        ours=row.ours,
        theirs=row.theirs,
        base=row.base,
        document=row.document if with_document else b"",
        conflict_count=row.conflict_count,
        open_count=row.open_count,
        creator=row.creator,
        at_ms=row.at_ms,
    )


def _fill(response: pb.ListConflictsResponse, found: Iterable[merge_queries.Conflict]) -> bool:
    """Add as many conflicts as fit into a message; tell whether all did."""
    length_bytes = 0
    for each in found:
        row = each.row
        message = pb.Conflict(
            name=each.name, detail=row.detail, choice=row.choice, decider=row.decider, at_ms=row.at_ms
        )
        length_bytes += message.ByteSize()
        if response.conflicts and length_bytes > PAGE_BYTES_MAX:
            return False
        response.conflicts.append(message)
    return True
