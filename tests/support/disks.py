"""What stopped nodes hold on their disks: read from the files, not asked of the nodes."""

import shutil
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path

from mcr.errors import MissingChunkError
from mcr.manifest import drain, walk_ids
from mcr.model import ChunkId
from mcr_node.core.state import trash_queries
from mcr_node.storage import store_folder
from mcr_node.storage.chunk_store import PackChunkStore
from mcr_node.storage.disk import Disk
from mcr_node.storage.state_store import StateStore


def holders_on_disk(
    folders: Sequence[Path], manifests: Iterable[ChunkId], *, disk: Disk | None = None
) -> dict[ChunkId, list[int]]:
    """Return, of all that some manifests name, which folders hold it: by their place, each copy verified.

    Args:
        folders: of nodes that do not run.
        manifests: of the versions that are meant.
        disk: with which to open the stores; an ordinary one by default.

    Raises:
        MissingChunkError: no folder has part of a manifest.
    """
    with ExitStack() as stack:
        stores: list[PackChunkStore] = []
        for folder in folders:
            stores.append(PackChunkStore.open(folder / "chunks", encoding="auto", disk=disk or Disk()))
            stack.callback(stores[-1].close)

        def get(ids: Sequence[ChunkId]) -> list[bytes]:
            return [_holder(stores, one).get(one) for one in ids]

        found: dict[ChunkId, list[int]] = {}
        for manifest in manifests:
            for one in drain(walk_ids(manifest), get):
                found.setdefault(one, [])
        for place, store in enumerate(stores):
            for one in found.keys() - store.missing(list(found)):
                store.get(one)
                found[one].append(place)
        return found


def _holder(stores: Sequence[PackChunkStore], one: ChunkId) -> PackChunkStore:
    for store in stores:
        if not store.missing([one]):
            return store
    raise MissingChunkError(one.hex())


def copied(data: Path, to: Path) -> Path:
    """Copy what a node that stands still has on its disk, but for its log; return where."""
    shutil.copytree(data, to, ignore=shutil.ignore_patterns("log", "snapshots", "cache"))
    return to


def visible_manifests(folders: Sequence[Path]) -> dict[str, ChunkId]:
    """Return the manifests of all versions, by name, as the node knows them that knows most."""
    best = -1
    found: dict[str, ChunkId] = {}
    for folder in folders:
        state = StateStore.open(folder / "state", store_folder.read(folder).store_id, disk=Disk())
        try:
            if state.applied() > best:
                best = state.applied()
                view = state.view()
                found = {}
                for model, number, manifest in trash_queries.root_manifests(view):
                    found[f"{model}@v{number}"] = ChunkId(manifest)
        finally:
            state.close()
    return found
