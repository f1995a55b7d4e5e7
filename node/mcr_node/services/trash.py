"""mcr.v1.TrashService: deletions, the trash, pins, leases of uploads. Decisions are made in core/state."""

from mcr import _wire
from mcr.errors import InvalidArgumentError
from mcr.model import RefKind
from mcr.references import check_model
from mcr.v1 import trash_pb2 as pb
from mcr.v1 import versions_pb2
from mcr_node.core.state import trash_queries
from mcr_node.core.state.outcomes import Accepted, CountResult, DeletedResult, RoundResult
from mcr_node.core.state.trash_commands import (
    DeleteModel,
    DeleteName,
    DeleteVersions,
    EmptyTrash,
    HoldUpload,
    PinVersion,
    ReleaseUpload,
    RestoreVersions,
    TrashCommand,
    UnpinVersion,
)
from mcr_node.core.state.trash_queries import PAGE_MAX, TrashItem
from mcr_node.ports_log import ReplicatedLog
from mcr_node.services.log_calls import LogCalls
from mcr_node.services.pace import TRASH_PERIOD_S

MS_PER_S = 1000


class TrashService(LogCalls):
    """The service for one principal, as authenticated at the edge."""

    def __init__(self, log: ReplicatedLog, principal: str, *, trash_period_s: float = TRASH_PERIOD_S) -> None:
        """Keep what nobody says otherwise of in the trash for so long."""
        super().__init__(log, principal)
        self._keep_ms = round(trash_period_s * MS_PER_S)

    async def delete_versions(self, request: pb.DeleteVersionsRequest) -> pb.DeleteVersionsResponse:
        """Put versions into the trash."""
        accepted = await self._propose(
            DeleteVersions(
                **self._envelope(request.header),
                model=request.model,
                numbers=tuple(request.numbers),
                reason=request.reason,
                keep_ms=request.keep_ms if request.HasField("keep_ms") else self._keep_ms,
                skip_in_use=request.skip_in_use,
            )
        )
        result = accepted.result
        assert isinstance(result, DeletedResult)
        return pb.DeleteVersionsResponse(
            numbers=result.numbers, until_ms=result.until_ms, log_index=accepted.index
        )

    async def delete_name(self, request: pb.DeleteNameRequest) -> pb.DeleteNameResponse:
        """Delete a ref."""
        accepted = await self._propose(
            DeleteName(
                **self._envelope(request.header),
                model=request.model,
                kind=_kind(request.kind),
                name=request.name,
                reason=request.reason,
            )
        )
        return pb.DeleteNameResponse(log_index=accepted.index)

    async def delete_model(self, request: pb.DeleteModelRequest) -> pb.DeleteModelResponse:
        """Put a model into the trash."""
        accepted = await self._propose(
            DeleteModel(
                **self._envelope(request.header),
                model=request.model,
                reason=request.reason,
                keep_ms=request.keep_ms if request.HasField("keep_ms") else self._keep_ms,
            )
        )
        assert isinstance(accepted.result, DeletedResult)
        return pb.DeleteModelResponse(until_ms=accepted.result.until_ms, log_index=accepted.index)

    async def restore_versions(self, request: pb.RestoreVersionsRequest) -> pb.RestoreVersionsResponse:
        """Take out of the trash."""
        index, result = await self._count(
            RestoreVersions(
                **self._envelope(request.header), model=request.model, numbers=tuple(request.numbers)
            )
        )
        return pb.RestoreVersionsResponse(count=result.count, log_index=index)

    async def empty_trash(self, request: pb.EmptyTrashRequest) -> pb.EmptyTrashResponse:
        """Give up what is in the trash."""
        index, result = await self._count(
            EmptyTrash(**self._envelope(request.header), model=request.model, numbers=tuple(request.numbers))
        )
        return pb.EmptyTrashResponse(count=result.count, more=result.more, log_index=index)

    async def list_trash(self, request: pb.ListTrashRequest) -> pb.ListTrashResponse:
        """List what is in the trash."""
        model, limit = check_model(request.model) if request.model else "", _limit(request.limit)
        index = await self._fresh(request.read)
        items = await self._read(
            lambda view: trash_queries.list_trash(view, model, after=request.after, limit=limit)
        )
        return pb.ListTrashResponse(items=map(_item, items), log_index=index)

    async def pin_version(self, request: pb.PinVersionRequest) -> pb.PinVersionResponse:
        """Pin a version."""
        index, result = await self._count(
            PinVersion(
                **self._envelope(request.header),
                model=request.model,
                number=request.number,
                reason=request.reason,
            )
        )
        return pb.PinVersionResponse(already=not result.count, log_index=index)

    async def unpin_version(self, request: pb.UnpinVersionRequest) -> pb.UnpinVersionResponse:
        """Take a pin away."""
        index, result = await self._count(
            UnpinVersion(**self._envelope(request.header), model=request.model, number=request.number)
        )
        return pb.UnpinVersionResponse(already=not result.count, log_index=index)

    async def list_pins(self, request: pb.ListPinsRequest) -> pb.ListPinsResponse:
        """List pins."""
        model, limit = check_model(request.model), _limit(request.limit)
        index = await self._fresh(request.read)
        pins = await self._read(
            lambda view: trash_queries.list_pins(view, model, after=request.after, limit=limit)
        )
        return pb.ListPinsResponse(
            pins=[
                pb.Pin(number=number, actor=row.actor, reason=row.reason, at_ms=row.at_ms)
                for number, row in pins
            ],
            log_index=index,
        )

    async def hold_upload(self, request: pb.HoldUploadRequest) -> pb.HoldUploadResponse:
        """Take or renew a lease."""
        accepted = await self._propose(
            HoldUpload(**self._envelope(request.header), lease=request.lease, hold_ms=request.hold_ms)
        )
        assert isinstance(accepted.result, RoundResult)
        return pb.HoldUploadResponse(round=accepted.result.round)

    async def release_upload(self, request: pb.ReleaseUploadRequest) -> pb.ReleaseUploadResponse:
        """Give a lease back."""
        await self._count(ReleaseUpload(**self._envelope(request.header), lease=request.lease))
        return pb.ReleaseUploadResponse()

    async def _count(self, command: TrashCommand) -> tuple[int, CountResult]:
        accepted: Accepted = await self._propose(command)
        assert isinstance(accepted.result, CountResult)
        return accepted.index, accepted.result


def _kind(kind: "versions_pb2.RefKind.ValueType") -> RefKind:
    known = _wire.kind_from_wire(kind)
    if known is None:
        raise InvalidArgumentError("kind", "it is not branch, tag or channel")
    return known


def _limit(limit: int) -> int:
    if not 0 < limit <= PAGE_MAX:
        raise InvalidArgumentError("limit", f"{limit} is not between 1 and {PAGE_MAX}")
    return limit


def _item(item: TrashItem) -> pb.TrashItem:
    return pb.TrashItem(
        model=item.of.model,
        number=item.of.number,
        whole_model=item.of.whole_model,
        actor=item.row.actor,
        reason=item.row.reason,
        deleted_at_ms=item.row.at_ms,
        until_ms=item.row.until_ms,
        bytes_total=item.bytes_total,
        key=item.key,
    )
