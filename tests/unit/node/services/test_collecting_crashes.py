"""Power lost at any disk operation of a collection: no version loses anything, and it goes on later."""

import asyncio
import itertools
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mcr.model import Chunk
from mcr_node.core.placement.ring import goal, holders
from mcr_node.core.state.collecting import round_of
from mcr_node.ports import ChunkStore
from mcr_node.services.cluster_chunks import ClusterChunks
from mcr_node.services.collecting import Collector, Settings
from mcr_node.services.damage import WatchedStore
from mcr_node.services.promises import Promises, PromisingStore
from mcr_node.services.surplus import Surplus
from mcr_node.storage.garbage_folder import GarbageFiles
from tests.faults import FaultyDisk, Keep, PowerCutError
from tests.unit.node.services.test_repair import B, C, D, Scene
from tests.unit.node.storage.test_chunk_store_faults import open_image, open_on

INTERVAL_S = 1.0
DEAD = [Chunk.of(b"dead %d" % number * 100) for number in range(5)]


def collector_of(scene: Scene, store: ChunkStore, garbage: GarbageFiles) -> Collector:
    """Return what collects garbage on node 1 of four."""
    promises = Promises(store, garbage.journal, lambda: round_of(scene.log.view()))
    watched = WatchedStore(PromisingStore(store, promises))
    chunks = ClusterChunks(watched, scene.executor, scene.others, scene.me, scene.rest, promises=promises)
    surplus = Surplus(scene.log, chunks, scene.others)
    return Collector(scene.log, watched, chunks, promises, garbage, Settings(INTERVAL_S), surplus)


async def collect(scene: Scene, collector: Collector) -> None:
    scene.wait(2 * INTERVAL_S)
    await collector.collect_now()


async def tell(path: Path, executor: ThreadPoolExecutor, fail_at: int | None, keep: Keep) -> tuple[int, bool]:
    """Collect until the power goes, start again, look, collect once more; return the operations it took.

    Also whether the power went.
    """
    root = path / f"{keep}-{fail_at}"
    root.mkdir()
    scene = Scene(executor)
    await scene.begin()
    needed = await scene.commit(1, B, C, D, files=8)
    disk = FaultyDisk(root)
    store = open_on(disk, root)
    # By turns, so that every segment has something of each.
    for pair in zip(needed, [*DEAD, *DEAD], strict=False):
        store.put(pair)
    store.put(needed)
    store.sync()
    garbage = GarbageFiles(path / f"{keep}-{fail_at}-garbage")
    collector = collector_of(scene, store, garbage)
    before = disk.operations
    disk.fail_at = None if fail_at is None else before + fail_at
    is_cut = False
    try:
        await collect(scene, collector)
    except PowerCutError:
        is_cut = True
    operations = disk.operations - before
    image = disk.image_after_power_loss(path / f"{keep}-{fail_at}-after", keep=keep, seed=fail_at or 0)
    _, again = open_image(image)
    for _ in range(2):
        lacking = again.missing([chunk.id for chunk in needed])
        for chunk in needed:
            named = [one.address for one in holders(chunk.id, scene.members, goal(scene.members, 2))]
            if "a:1" in named:
                assert again.get(chunk.id) == chunk.data
            elif chunk.id in lacking:
                assert all(chunk.id in scene.others.stores[address].durable for address in named)
        await collect(scene, collector_of(scene, again, garbage))
    assert again.missing([chunk.id for chunk in DEAD]) == {chunk.id for chunk in DEAD}
    stats = again.stats()
    assert stats.quarantined == 0
    assert stats.bytes_used - stats.bytes_live <= 0.1 * stats.bytes_used + 2 * 400
    garbage.journal.close()
    return operations, is_cut


@pytest.mark.parametrize("keep", ["none", "torn"])
def test_power_loss_at_any_operation_of_a_collection_costs_no_version_anything(
    tmp_path: Path, keep: Keep
) -> None:
    with ThreadPoolExecutor(1) as executor:
        for fail_at in itertools.count(1):
            operations, is_cut = asyncio.run(tell(tmp_path, executor, fail_at, keep))
            if not is_cut:
                break
        assert operations > 8
