"""A large file that nobody touched is not read again; in any doubt it is."""

import asyncio
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import mcr
from mcr.aio import AsyncClient
from mcr.committing import Uploader
from mcr.manifest import drain_async, walk_ids
from mcr.model import MIB, ChunkId, digest
from mcr.remembering import SETTLED_NS, FileMemory, default_place, telling_devices
from mcr.scanning import Source, scan
from mcr_node import embedded

LATER_NS = 2 * SETTLED_NS
DIGEST = digest(b"what it was")


def a_minute_later() -> int:
    return time.time_ns() + LATER_NS


def source_of(folder: Path, content: bytes = b"weights") -> Source:
    folder.mkdir(exist_ok=True)
    (folder / "model.bin").write_bytes(content)
    return scan(folder)[0]


def anywhere(folder: Path) -> Callable[[], frozenset[int]]:
    """Let the file system of a folder be one that tells; which one it is depends on who runs the tests."""
    return lambda: frozenset({folder.stat().st_dev})


@pytest.fixture
def memory(tmp_path: Path) -> FileMemory:
    return FileMemory(tmp_path / "cache" / "files.sqlite", a_minute_later, anywhere(tmp_path))


def test_remembers_what_had_settled_when_it_was_read(tmp_path: Path, memory: FileMemory) -> None:
    source = source_of(tmp_path / "in")
    assert memory.find([source]) == {}
    changed_ns = max(source.identity.mtime_ns, source.identity.ctime_ns)
    memory.note([(source, DIGEST, changed_ns + SETTLED_NS - 1)])
    assert memory.find([source]) == {}
    memory.note([(source, DIGEST, changed_ns + SETTLED_NS)])
    assert memory.find([source]) == {"model.bin": DIGEST}


@pytest.mark.parametrize("touch", ["write", "write, time set back", "replace", "chmod", "truncate"])
def test_forgets_with_whatever_is_done_to_a_file(tmp_path: Path, memory: FileMemory, touch: str) -> None:
    source = source_of(tmp_path / "in")
    memory.note([(source, DIGEST, a_minute_later())])
    path = Path(source.absolute)
    # The clock of files ticks every few milliseconds; that it does is what the minute above stands for.
    tick = tmp_path / "tick"
    tick.touch()
    while tick.stat().st_ctime_ns <= source.identity.ctime_ns:
        tick.write_bytes(b"")
    match touch:
        case "write":
            path.write_bytes(b"WEIGHTS")
        case "write, time set back":
            with path.open("r+b") as file:
                file.write(b"W")
            os.utime(path, ns=(source.identity.mtime_ns, source.identity.mtime_ns))
        case "replace":
            other = tmp_path / "other"
            other.write_bytes(b"weights")
            other.replace(path)
        case "chmod":
            path.chmod(0o700)
        case "truncate":
            os.truncate(path, 3)
        case _:
            raise AssertionError(touch)
    assert memory.find(scan(tmp_path / "in")) == {}


def test_a_damaged_memory_is_none_and_heals(tmp_path: Path, memory: FileMemory) -> None:
    source = source_of(tmp_path / "in")
    place = tmp_path / "cache" / "files.sqlite"
    memory.note([(source, DIGEST, a_minute_later())])
    place.write_bytes(b"no database" * 1000)
    assert memory.find([source]) == {}
    memory.note([(source, DIGEST, a_minute_later())])
    memory.note([(source, DIGEST, a_minute_later())])
    assert memory.find([source]) == {"model.bin": DIGEST}


def test_is_no_hindrance_where_nothing_can_be_kept(tmp_path: Path) -> None:
    source = source_of(tmp_path / "in")
    (tmp_path / "file").touch()
    memory = FileMemory(tmp_path / "file" / "files.sqlite", a_minute_later, anywhere(tmp_path))
    memory.note([(source, DIGEST, a_minute_later())])
    assert memory.find([source]) == {}


MOUNTS = """\
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
23 22 0:21 / /dev/shm rw,nosuid - tmpfs tmpfs rw
24 22 8:17 /a /mnt/with\\040space rw shared:5 master:2 - xfs /dev/sdb1 rw
25 22 0:44 / /data rw - overlay overlay rw
"""


def test_only_file_systems_that_tell_are_trusted() -> None:
    assert telling_devices(MOUNTS, 3000) == {os.makedev(254, 0), os.makedev(8, 17)}
    assert telling_devices(MOUNTS, 3001) == set()
    assert telling_devices("", 3000) == set()


def test_what_lies_elsewhere_is_not_remembered(tmp_path: Path) -> None:
    source = source_of(tmp_path / "in")
    memory = FileMemory(tmp_path / "cache" / "files.sqlite", a_minute_later, lambda: frozenset({1}))
    memory.note([(source, DIGEST, a_minute_later())])
    assert memory.find([source]) == {}


def test_a_file_in_memory_is_never_trusted() -> None:
    # What is written to tmpfs through a map leaves no time.
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        path = Path(folder) / "in"
        source = source_of(path, bytes(8192))
        memory = FileMemory(Path(folder) / "files.sqlite", a_minute_later)
        memory.note([(source, DIGEST, a_minute_later())])
        assert memory.find([source]) == {}


def test_lies_where_caches_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    assert default_place() == Path("/home/ada/.cache/mcr/files-1.sqlite")


class Story:
    """Commits of one folder into one store, by the parts that a client has."""

    def __init__(self, folder: Path, memory: FileMemory) -> None:
        self.folder, self.memory = folder, memory
        mcr.init(folder / "store", encoding="raw")
        self.content = os.urandom(3 * MIB)
        source_of(folder / "in", self.content)

    async def upload(self, client: AsyncClient, parent: ChunkId | None) -> tuple[ChunkId, list[str]]:
        """Return the manifest, and the files that were read."""
        uploader = Uploader(client._connection.chunks, client._executor, None, self.memory)
        done = await uploader.upload(scan(self.folder / "in"), parent)
        return done.manifest.root, [source.path for source, _, _ in uploader._read]

    async def connect(self) -> AsyncClient:
        path = self.folder / "store"
        return AsyncClient(await embedded.open_store(path, principal="test", timeout_s=None))


def test_an_untouched_file_is_not_read_and_the_version_is_as_if(tmp_path: Path, memory: FileMemory) -> None:
    story = Story(tmp_path, memory)

    async def run() -> None:
        async with await story.connect() as client:
            first, read = await story.upload(client, None)
            assert read == ["model.bin"]
            assert await story.upload(client, first) == (first, [])
            # Without a parent there is nothing that it could be the same as.
            assert await story.upload(client, None) == (first, ["model.bin"])

    asyncio.run(run())


def test_a_touched_file_is_read(tmp_path: Path, memory: FileMemory) -> None:
    story = Story(tmp_path, memory)

    async def run() -> None:
        async with await story.connect() as client:
            first, _ = await story.upload(client, None)
            source_of(tmp_path / "in", bytes(3 * MIB))
            second, read = await story.upload(client, first)
            assert second != first
            assert read == ["model.bin"]

    asyncio.run(run())


def test_what_the_parent_has_otherwise_is_read(tmp_path: Path, memory: FileMemory) -> None:
    story = Story(tmp_path, memory)

    async def run() -> None:
        async with await story.connect() as client:
            first, _ = await story.upload(client, None)
            source = scan(tmp_path / "in")[0]
            memory.note([(source, DIGEST, a_minute_later())])
            assert await story.upload(client, first) == (first, ["model.bin"])

    asyncio.run(run())


def test_what_the_store_lost_is_read_and_stored_again(tmp_path: Path, memory: FileMemory) -> None:
    story = Story(tmp_path, memory)

    async def run() -> None:
        async with await story.connect() as client:
            first, _ = await story.upload(client, None)
            get = client._connection.chunks.get
            chunk = [each async for each in drain_async(walk_ids(first), get)][-1]
            assert client._connection._node.admin._chunks.remove([chunk]) == 1  # type: ignore[attr-defined]
            assert await story.upload(client, first) == (first, ["model.bin"])
            assert await client._connection.chunks.missing([chunk]) == set()

    asyncio.run(run())
