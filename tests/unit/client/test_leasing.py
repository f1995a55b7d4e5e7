"""The lease of an upload, as the client holds it."""

import asyncio
from pathlib import Path

import pytest

import mcr
from mcr import leasing
from mcr.aio import AsyncClient
from mcr.leasing import UploadLease
from mcr.v1 import trash_pb2 as pb
from mcr_node.assembly import open_node
from mcr_node.core.state.collecting import collecting_row
from mcr_node.embedded import EmbeddedNode
from mcr_node.services.myself import Myself
from mcr_node.services.trash import TrashService


class _Held(TrashService):
    """The service of a node; tells when a lease was taken, and its holder knows."""

    def __init__(self, trash: TrashService) -> None:
        super().__init__(trash._log, trash._principal)
        self._held = asyncio.Event()

    async def hold_upload(self, request: pb.HoldUploadRequest) -> pb.HoldUploadResponse:
        response = await super().hold_upload(request)
        # After whoever waits for this answer.
        asyncio.get_running_loop().call_soon(self._held.set)
        return response

    async def wait(self) -> None:
        await self._held.wait()


def test_a_long_upload_holds_a_lease_and_the_commit_gives_it_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leasing, "AFTER_S", 0.0)
    mcr.init(tmp_path / "store")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.bin").write_bytes(b"a" * 1000)

    async def story() -> tuple[list[int], bytes]:
        node = await open_node(tmp_path / "store", Myself("n", str(tmp_path)))
        await node.runner.start()
        connection = EmbeddedNode(node, "test")
        leases: list[int] = []
        async with AsyncClient(connection) as client:
            held = _Held(connection.trash)
            async with UploadLease(held) as lease:
                await held.wait()
                leases.append(collecting_row(node.log.view()).lease_count)
            held = _Held(connection.trash)
            connection.trash = held
            model = client.model("vision/net")
            upload = model._upload

            async def slow(*given: object, reread: bool) -> object:
                await held.wait()
                return await upload(*given, reread=reread)  # type: ignore[arg-type]

            model._upload = slow  # type: ignore[method-assign, assignment]
            await model.commit(tmp_path / "in")
            leases.append(collecting_row(node.log.view()).lease_count)
        return leases, lease.name

    leases, name = asyncio.run(story())

    assert leases == [1, 1], "that of the commit was given back, the other one lapses"
    assert len(name) == 16
