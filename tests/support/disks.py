"""What stopped nodes hold on their disks: read from the files, not asked of the nodes."""

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path

from mcr.manifest import drain, walk_ids
from mcr.model import ChunkId
from mcr_node.storage.chunk_store import PackChunkStore
from mcr_node.storage.disk import Disk


def holders_on_disk(folders: Sequence[Path], manifests: Iterable[ChunkId]) -> dict[ChunkId, list[int]]:
    """Return, of all that some manifests name, which folders hold it: by their place, each copy verified."""
    with ExitStack() as stack:
        stores: list[PackChunkStore] = []
        for folder in folders:
            stores.append(PackChunkStore.open(folder / "chunks", encoding="auto", disk=Disk()))
            stack.callback(stores[-1].close)

        def get(ids: Sequence[ChunkId]) -> list[bytes]:
            return [next(store for store in stores if not store.missing([one])).get(one) for one in ids]

        found: dict[ChunkId, list[int]] = {}
        for manifest in manifests:
            for one in drain(walk_ids(manifest), get):
                found.setdefault(one, [])
        for place, store in enumerate(stores):
            for one in found.keys() - store.missing(list(found)):
                store.get(one)
                found[one].append(place)
        return found
