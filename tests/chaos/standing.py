"""Copies of what is visible, counted on the disks of nodes that stand still: nobody is asked.

A node that says it holds a chunk may be wrong, and repair soon hides that a version was visible too early. So
all nodes stop at once, killed or by SIGSTOP, right after a commit was answered, and their files are read. Of
databases a copy is opened, which would otherwise be written to; of chunks, the files themselves.
"""

import random
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from mcr.errors import CorruptStoreError, MissingChunkError
from mcr.model import Buffer, ChunkId
from mcr_node.storage.disk import Disk, Handle
from tests.chaos.clients import MODEL, Recorder
from tests.chaos.history import TOLD_MAX
from tests.support.disks import holders_on_disk, visible_manifests

COPIES = 2
# Looked at each time: the newest, and of all others some by chance; a long run makes tens of thousands.
NEWEST_MAX = 60
OTHERS_MAX = 60


class _StandingDisk(Disk):
    """Lets a store open without a change to its segments, which are those of the node that stands still."""

    def pwritev(self, handle: Handle, buffers: Sequence[Buffer], offset: int) -> None:
        """Write nothing: recovery writes again what is there."""

    def truncate(self, handle: Handle, length_bytes: int) -> None:
        """Cut nothing: a torn tail counts for nothing anyway."""

    def unlink(self, path: Path) -> None:
        """Remove nothing."""

    def fdatasync(self, handle: Handle) -> None:
        """Sync nothing: what counts is what is there now."""

    def sync_directory(self, path: Path) -> None:
        """Sync nothing."""


def standing(data: Path, to: Path) -> Path:
    """Make a folder in which to open what a node that stands still has; return it."""
    to.mkdir()
    for file in data.iterdir():
        if file.is_file():
            shutil.copy(file, to)
    shutil.copytree(data / "state", to / "state")
    shutil.copytree(data / "log", to / "log")
    (to / "chunks").mkdir()
    with suppress(FileNotFoundError):
        # It may never have held a chunk.
        shutil.copytree(data / "chunks" / "index", to / "chunks" / "index")
        (to / "chunks" / "segments").symlink_to(data / "chunks" / "segments")
    return to


class Instants:
    """Looks at a cluster now and then.

    Attributes:
        counted: versions looked at, over all instants.
    """

    def __init__(self, recorder: Recorder, chance: random.Random) -> None:
        """Note what clients were told, and by what chance old versions are chosen."""
        self.counted = 0
        self._recorder = recorder
        self._short: set[ChunkId] = set()
        self._chance = chance

    def acknowledged(self) -> list[str]:
        """Return the versions that clients were told of, the newest last."""
        return [f"{MODEL}@v{number}" for number, _ in self._recorder.commits]

    def look(self, folders: Sequence[Path], told: Sequence[str]) -> list[str]:
        """Return, as violations, what is wrong on the disks of nodes that all stand still.

        Args:
            folders: the data of every member.
            told: versions that must be visible, by now, on some node.
        """
        with tempfile.TemporaryDirectory(prefix="mcr-instant-") as room:
            copies = [standing(data, Path(room) / str(place)) for place, data in enumerate(folders)]
            try:
                visible = visible_manifests(copies)
            except CorruptStoreError as error:
                return [f"damaged: {error.message}"]
            wrong = [
                f"lost: {name} was acknowledged, and no disk has it" for name in told if name not in visible
            ]
            chosen = {name: visible[name] for name in self._choose(list(visible))}
            try:
                found = holders_on_disk(copies, chosen.values(), disk=_StandingDisk())
            except MissingChunkError as error:
                names = [name for name, manifest in chosen.items() if manifest.hex() == error.chunk_id]
                whose = names[0] if names else "a visible version"
                return [*wrong, f"too few copies: none of {error.chunk_id}, of {whose}"]
        self.counted += len(chosen)
        short = {
            one: places for one, places in found.items() if len(places) < COPIES and one not in self._short
        }
        # Said once of each chunk, and of the first few: the others would say the same.
        self._short |= short.keys()
        wrong += [self._told(one, short[one]) for one in list(short)[:TOLD_MAX]]
        return wrong + (
            [f"too few copies: {len(short) - TOLD_MAX} chunks more"] if len(short) > TOLD_MAX else []
        )

    @staticmethod
    def _told(one: ChunkId, places: Sequence[int]) -> str:
        where = " and ".join(f"n{place + 1} alone" for place in places) or "no node"
        return f"too few copies: chunk {one.hex()} of a visible version is on {where}"

    def _choose(self, visible: list[str]) -> list[str]:
        told = set(self.acknowledged()[-NEWEST_MAX:])
        newest = [name for name in visible if name in told]
        others = [name for name in visible if name not in told]
        return [*newest, *self._chance.sample(others, min(OTHERS_MAX, len(others)))]
