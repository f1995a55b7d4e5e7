"""A merge holds a lease while it is computed, and computes again what is gone by the time it is published."""

import asyncio
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import mcr
from mcr import leasing
from mcr.aio import AsyncClient
from mcr.errors import MissingChunkError
from mcr.leasing import UPLOADS_AGAIN_MAX
from mcr.merging.waiting import MergeOutcome
from mcr.model import ChunkId
from mcr.v1 import merges_pb2 as pb
from mcr.v1 import trash_pb2
from mcr_node.assembly import Node, open_node
from mcr_node.core.state.collecting import collecting_row
from mcr_node.embedded import EmbeddedNode
from mcr_node.services.merges import MergesService
from mcr_node.services.myself import Myself
from mcr_node.services.trash import TrashService


class ForgetfulMerges(MergesService):
    """Loses what was computed before it is published, some times; waits for the lease first."""

    def __init__(self, node: Node, times: int, held: asyncio.Event) -> None:
        super().__init__(node.log, node.chunks, "test")
        self._left = times
        self._store = node.admin._chunks
        self._held = held
        self.leases = 0

    async def commit_merge(self, request: pb.CommitMergeRequest) -> pb.CommitMergeResponse:
        await self._held.wait()
        self.leases = collecting_row(self._log.view()).lease_count
        if self._left:
            self._left -= 1
            assert self._store.remove([ChunkId(request.manifest)]) == 1
        return await super().commit_merge(request)


class _Held(TrashService):
    """Tells when a lease was taken, and its holder knows."""

    def __init__(self, trash: TrashService, held: asyncio.Event) -> None:
        super().__init__(trash._log, trash._principal)
        self._held = held

    async def hold_upload(self, request: trash_pb2.HoldUploadRequest) -> trash_pb2.HoldUploadResponse:
        response = await super().hold_upload(request)
        asyncio.get_running_loop().call_soon(self._held.set)
        return response


def merge(folder: Path, times: int, monkeypatch: pytest.MonkeyPatch) -> tuple[MergeOutcome, int, int]:
    """Merge two branches; return what came of it, the leases while it was published, and those after."""
    mcr.init(folder / "store")

    async def story() -> tuple[MergeOutcome, int, int]:
        node = await open_node(folder / "store", Myself("n", str(folder)))
        await node.runner.start()
        connection = EmbeddedNode(node, "test")
        held = asyncio.Event()
        forgetful = ForgetfulMerges(node, times, held)
        connection.merges, connection.trash = forgetful, _Held(connection.trash, held)
        async with AsyncClient(connection) as client:
            model = client.model("vision/net")
            for seed, branch in enumerate(("main", "exp", "main")):
                weights = np.random.default_rng(seed).standard_normal(1000).astype(np.float32)
                (folder / "in").mkdir(exist_ok=True)
                save_file({"w": weights}, folder / "in" / "model.safetensors")
                await model.commit(folder / "in", branch=branch, parent="v1" if branch == "exp" else None)
            # Only now: the commits above are over too soon to know of a lease.
            monkeypatch.setattr(leasing, "AFTER_S", 0.0)
            outcome = await model.merge("exp", strategies=["*=mean"])
            await model.replay(outcome.version.name)
            after = collecting_row(node.log.view()).lease_count
            return outcome, forgetful.leases, after

    return asyncio.run(story())


@pytest.mark.parametrize("times", [0, 1, UPLOADS_AGAIN_MAX])
def test_what_is_lost_is_computed_again_and_the_lease_is_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    outcome, while_published, after = merge(tmp_path, times, monkeypatch)

    assert outcome.made
    assert (while_published, after) == (1, 0)


def test_it_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MissingChunkError):
        merge(tmp_path, UPLOADS_AGAIN_MAX + 1, monkeypatch)
