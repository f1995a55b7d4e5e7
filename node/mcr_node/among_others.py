"""The parts of a node that has others: what gives to them and asks them, and what works in the background.

Imported by `assembly` only for such a node.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Protocol

from mcr_node.core.members import Member
from mcr_node.core.placement.ring import ranked
from mcr_node.ports import ChunkStore, Clock
from mcr_node.ports_cache import ChunkCache
from mcr_node.ports_log import ReplicatedLog
from mcr_node.services.caching import CachingStore, room_of
from mcr_node.services.cluster_chunks import ClusterChunks as ClusterChunks
from mcr_node.services.cluster_chunks import Peers
from mcr_node.services.colleagues import Colleagues
from mcr_node.services.collecting import Collector
from mcr_node.services.damage import WatchedStore
from mcr_node.services.draining import Draining
from mcr_node.services.pace import Pace
from mcr_node.services.prefetch import Prefetch
from mcr_node.services.presence import Presence
from mcr_node.services.promises import PromisingStore
from mcr_node.services.rebalance import Rebalance
from mcr_node.services.repair import Repair
from mcr_node.services.retiring import Retiring
from mcr_node.services.scrub import Scrub
from mcr_node.services.surplus import Surplus as Surplus
from mcr_node.services.surplus import Vouching
from mcr_node.services.upkeep import Upkeep
from mcr_node.storage import store_folder
from mcr_node.storage.chunk_cache import FileChunkCache
from mcr_node.storage.scrub_place import ScrubPlaceFile


class Others(Colleagues, Peers, Vouching, Protocol):
    """All that a node asks of the others' edges."""


def cache_of(
    path: Path, store: ChunkStore, capacity_bytes: int | None, cache_bytes: int
) -> ChunkCache | None:
    """Open the cache of what is fetched for readers; None where none is wanted."""
    if not cache_bytes:
        return None
    room = room_of(cache_bytes, capacity_bytes, store, partial(store_folder.bytes_free, path))
    return FileChunkCache.open(path / "cache", room)


def store_of(store: PromisingStore, cache: ChunkCache | None) -> WatchedStore:
    """Return the store that notes what is damaged, with the cache beside it if there is one."""
    return WatchedStore(store) if cache is None else CachingStore(store, cache)


def upkeep_of(
    path: Path,
    log: ReplicatedLog,
    store: WatchedStore,
    chunks: ClusterChunks,
    others: Others,
    *,
    members: Callable[[], list[Member]],
    collector: Collector,
    room_bytes: Callable[[], int],
    clock: Clock,
    pace: Pace,
) -> Upkeep:
    """Put the workers of a node together.

    Args:
        path: the store's folder.
        log: what the members agree on.
        store: the chunks that this node holds.
        chunks: all that it can get.
        others: the edges of the other nodes.
        members: the other nodes that can be asked now.
        collector: of garbage.
        room_bytes: what the cache may hold.
        clock: for the workers' pace.
        pace: how eager they are.
    """
    presence = Presence(others, members, clock, silence_s=pace.silence_s)
    repair = Repair(
        log,
        chunks,
        others,
        presence,
        clock,
        lambda those, key: ranked(key, those),
        bytes_per_s=pace.repair_bytes_per_s,
    )
    scrub = Scrub(
        store,
        chunks,
        ScrubPlaceFile(path),
        clock,
        period_s=pace.scrub_period_s,
        bytes_per_s=pace.scrub_bytes_per_s,
    )
    draining = Draining(
        log,
        chunks,
        others,
        others,
        presence,
        repair,
        clock,
        bytes_per_s=pace.repair_bytes_per_s,
    )
    retiring = Retiring(log, clock, period_s=pace.retention_period_s)
    rebalance = Rebalance(
        log,
        chunks,
        others,
        presence,
        lambda: repair.under_replicated > 0,
        clock,
        is_new=store.stats().chunk_count == 0,
        bytes_per_s=pace.rebalance_bytes_per_s,
    )
    prefetch = Prefetch(log, chunks, room_bytes, clock, bytes_per_s=pace.prefetch_bytes_per_s)
    others_of_all = (retiring, rebalance, prefetch)
    return Upkeep(log, store, chunks, repair, scrub, draining, *others_of_all, collector=collector)
