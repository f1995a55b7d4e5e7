"""A chunk that was there during the upload and is gone at the commit is uploaded again, a few times."""

import asyncio
from pathlib import Path

import pytest

import mcr
from mcr.aio import AsyncClient
from mcr.errors import MissingChunkError
from mcr.leasing import UPLOADS_AGAIN_MAX
from mcr.model import ChunkId, CommitResult, digest
from mcr.v1 import versions_pb2 as pb
from mcr_node.assembly import Node, open_node
from mcr_node.embedded import EmbeddedNode
from mcr_node.services.myself import Myself
from mcr_node.services.versions import VersionsService
from mcr_node.services.walking import versions_of

CONTENT = b"weights" * 1000


class ForgetfulVersions(VersionsService):
    """Loses a chunk before the commit, some times."""

    def __init__(self, node: Node, times: int) -> None:
        super().__init__(node.log, node.chunks, node._availability, "test")
        self._left = times
        self._store = node.admin._chunks

    async def commit_version(self, request: pb.CommitVersionRequest) -> pb.CommitVersionResponse:
        if self._left:
            self._left -= 1
            assert self._store.remove([ChunkId(digest(CONTENT))]) == 1
        return await super().commit_version(request)


def commit(folder: Path, times: int) -> CommitResult:
    mcr.init(folder / "store")
    (folder / "in").mkdir()
    (folder / "in" / "weights.bin").write_bytes(CONTENT)

    async def story() -> CommitResult:
        node = await open_node(folder / "store", Myself("n", str(folder)))
        await node.runner.start()
        connection = EmbeddedNode(node, "test")
        connection.versions = ForgetfulVersions(node, times)
        async with AsyncClient(connection) as client:
            return await client.model("vision/net").commit(folder / "in")

    return asyncio.run(story())


@pytest.mark.parametrize("times", [0, 1, UPLOADS_AGAIN_MAX])
def test_what_is_lost_is_uploaded_again_and_nothing_else(tmp_path: Path, times: int) -> None:
    assert commit(tmp_path, times).bytes_sent == (1 + times) * len(CONTENT)


def test_it_ends(tmp_path: Path) -> None:
    with pytest.raises(MissingChunkError):
        commit(tmp_path, UPLOADS_AGAIN_MAX + 1)


@pytest.mark.parametrize("size", [len(CONTENT), 3 * 1024 * 1024])
def test_a_parent_that_cannot_be_read_is_no_reason_to_fail(tmp_path: Path, size: int) -> None:
    content = (CONTENT * (size // len(CONTENT) + 1))[:size]
    mcr.init(tmp_path / "store")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "weights.bin").write_bytes(content)

    async def story() -> None:
        node = await open_node(tmp_path / "store", Myself("n", str(tmp_path)))
        await node.runner.start()
        async with AsyncClient(EmbeddedNode(node, "test")) as client:
            model = client.model("vision/net")
            await model.commit(tmp_path / "in")
            (parent,) = [version.manifest async for version in versions_of(node.log, model.name)]
            assert node.admin._chunks.remove([parent]) == 1
            # It heals the parent, too: the same bytes have the same manifest.
            await model.commit(tmp_path / "in", params={"again": True})
            await model.checkout("v1", tmp_path / "out")

    asyncio.run(story())
    assert (tmp_path / "out" / "weights.bin").read_bytes() == content
