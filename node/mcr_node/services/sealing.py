"""Before a version becomes visible: is everything that its manifest names held?"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

from mcr.errors import MissingChunkError
from mcr.manifest import drain, walk_files, walk_ids
from mcr.model import ChunkId, EntryKind
from mcr.values import dataclass
from mcr_node.ports import ChunkStore
from mcr_node.ports_garbage import Promise
from mcr_node.services.promises import Promises

_IDS_AT_ONCE = 1024


@dataclass(frozen=True, slots=True)
class Content:
    """What a manifest holds, counted by the node itself and not taken from the client.

    Attributes:
        gc_round: round of garbage collection in which enough nodes keep all of it; a commit names it.
    """

    bytes_total: int
    file_count: int
    chunk_count: int
    gc_round: int = 0


def check_held(store: ChunkStore, promises: Promises | None, manifest: ChunkId) -> Content:
    """Walk a manifest and return its totals; blocks for as long as reading its nodes takes.

    What is held is kept by `promises`; None = nothing is ever collected.

    Raises:
        MissingChunkError: a chunk or node is not held; upload it and repeat.
        CorruptChunkError: a node is damaged or is no manifest.
    """

    def get(ids: Sequence[ChunkId]) -> list[bytes]:
        return [store.get(chunk_id) for chunk_id in ids]

    walk = drain(walk_ids(manifest), get)
    rounds: list[int] = []
    while ids := list(islice(walk, _IDS_AT_ONCE)):
        promise = Promise(store.missing(ids), 0) if promises is None else promises.promise(ids)
        if promise.missing:
            raise MissingChunkError(min(promise.missing).hex())
        rounds.append(promise.gc_round)
    return replace(content_of(store, manifest), gc_round=min(rounds))


def content_of(store: ChunkStore, manifest: ChunkId) -> Content:
    """Return the totals of a manifest whose nodes are held; blocks for as long as reading them takes.

    Raises:
        MissingChunkError: a node is not held.
        CorruptChunkError: a node is damaged or is no manifest.
    """

    def get(ids: Sequence[ChunkId]) -> list[bytes]:
        return [store.get(chunk_id) for chunk_id in ids]

    bytes_total = file_count = chunk_count = 0
    for row in drain(walk_files(manifest), get):
        bytes_total += row.entry.size_bytes
        file_count += row.entry.kind is EntryKind.FILE
        chunk_count += row.entry.chunk_count
    return Content(bytes_total, file_count, chunk_count)
