"""A node put together: a disk that failed ends everything at once, whoever met it."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from mcr.errors import FailedError
from mcr.model import Chunk
from mcr_node import embedded
from mcr_node.assembly import Parts, open_node
from mcr_node.ports import StorageFailure
from mcr_node.services.myself import Myself
from mcr_node.storage.disk import Disk, Handle


class BrokenDisk(Disk):
    """Fails where chunks lie; the log's own mark is written before anything else is opened."""

    def fdatasync(self, handle: Handle) -> None:
        if handle.path.parent.name == "segments":
            raise StorageFailure("the medium is gone")
        super().fdatasync(handle)


def test_whoever_meets_a_failed_disk_reports_it_before_the_caller_hears(tmp_path: Path) -> None:
    embedded.init_store(tmp_path / "d", encoding="raw")
    met: list[StorageFailure] = []

    async def story() -> None:
        parts = Parts(disk=BrokenDisk(), on_failure=met.append)
        node = await open_node(tmp_path / "d", Myself("n1", "here:1"), parts=parts)
        await node.chunks.put([Chunk.of(b"weights")])
        with pytest.raises(FailedError, match="the disk failed"):
            await node.chunks.sync()
        await node.close()

    asyncio.run(story())
    assert "the medium is gone" in str(met[0])


def test_a_served_node_ends_at_once_with_status_1_when_its_disk_fails(tmp_path: Path) -> None:
    script = f"""
from functools import partial
from mcr import connect
from mcr_node import main
from mcr_node.assembly import Parts
from mcr_node.config import settle
from mcr_node.ports import StorageFailure
from mcr_node.storage.disk import Disk
import threading

class BrokenDisk(Disk):
    def fdatasync(self, handle):
        if handle.path.parent.name == "segments":
            raise StorageFailure("the medium is gone")
        super().fdatasync(handle)

def use(address):
    open({str(tmp_path / "model")!r}, "wb").write(b"weights")
    connect(address).model("a/b").commit({str(tmp_path / "model")!r})

main.Parts = partial(Parts, disk=BrokenDisk())
told = lambda info: threading.Thread(target=use, args=(info.listen,), daemon=True).start()
flags = {{"name": "n1", "data": {str(tmp_path / "d")!r}, "listen": "127.0.0.1:0"}}
main.run(settle(flags, bootstrap=True, config=None), told)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], check=False, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert done.stderr == "error: the disk failed; this node ends: the medium is gone\n"
