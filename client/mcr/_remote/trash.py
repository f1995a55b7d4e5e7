"""`mcr.connection.TrashApi` on the nodes of a cluster."""

from mcr._remote.calls import Calls
from mcr.v1 import trash_pb2 as pb


class RemoteTrash:
    """Deletions, the trash, pins, leases of uploads."""

    def __init__(self, calls: Calls, *, stale_ok: bool) -> None:
        self._calls = calls
        self._stale_ok = stale_ok

    async def delete_versions(self, request: pb.DeleteVersionsRequest) -> pb.DeleteVersionsResponse:
        """See TrashApi."""
        return await self._calls.unary(lambda way: way.trash.DeleteVersions, request)

    async def delete_name(self, request: pb.DeleteNameRequest) -> pb.DeleteNameResponse:
        """See TrashApi."""
        return await self._calls.unary(lambda way: way.trash.DeleteName, request)

    async def delete_model(self, request: pb.DeleteModelRequest) -> pb.DeleteModelResponse:
        """See TrashApi."""
        return await self._calls.unary(lambda way: way.trash.DeleteModel, request)

    async def restore_versions(self, request: pb.RestoreVersionsRequest) -> pb.RestoreVersionsResponse:
        """See TrashApi."""
        return await self._calls.unary(lambda way: way.trash.RestoreVersions, request)

    async def empty_trash(self, request: pb.EmptyTrashRequest) -> pb.EmptyTrashResponse:
        """See TrashApi."""
        return await self._calls.unary(lambda way: way.trash.EmptyTrash, request)

    async def list_trash(self, request: pb.ListTrashRequest) -> pb.ListTrashResponse:
        """See TrashApi."""
        if self._stale_ok:
            request.read.stale_ok = True
        return await self._calls.unary(lambda way: way.trash.ListTrash, request)

    async def pin_version(self, request: pb.PinVersionRequest) -> pb.PinVersionResponse:
        """See TrashApi."""
        return await self._calls.unary(lambda way: way.trash.PinVersion, request)

    async def unpin_version(self, request: pb.UnpinVersionRequest) -> pb.UnpinVersionResponse:
        """See TrashApi."""
        return await self._calls.unary(lambda way: way.trash.UnpinVersion, request)

    async def list_pins(self, request: pb.ListPinsRequest) -> pb.ListPinsResponse:
        """See TrashApi."""
        if self._stale_ok:
            request.read.stale_ok = True
        return await self._calls.unary(lambda way: way.trash.ListPins, request)

    async def hold_upload(self, request: pb.HoldUploadRequest) -> pb.HoldUploadResponse:
        """See TrashApi."""
        return await self._calls.unary(lambda way: way.trash.HoldUpload, request)

    async def release_upload(self, request: pb.ReleaseUploadRequest) -> pb.ReleaseUploadResponse:
        """See TrashApi."""
        return await self._calls.unary(lambda way: way.trash.ReleaseUpload, request)
