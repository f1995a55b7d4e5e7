"""Single flipped bits in all files of a real node that was stopped or killed: noticed, or without effect.

More flips, or others: BIT_FLIPS=200 BIT_FLIP_SEED=7 pytest -s tests/end_to_end/test_stopped_node_flips.py
"""

import os
import random
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from mcr.errors import McrError
from mcr.model import ChunkId, LogIndex
from mcr.testing import LocalCluster
from mcr_node.storage import node_folder, store_folder
from mcr_node.storage.chunk_store import PackChunkStore
from mcr_node.storage.disk import Disk
from mcr_node.storage.log_store import RocksLogStore
from mcr_node.storage.state_store import StateStore
from tests.support.served import bytes_from

SEED = int(os.environ.get("BIT_FLIP_SEED", "20261126"))
FLIPS = int(os.environ.get("BIT_FLIPS", "60"))
MODEL = "flips/net"
COMMITS = 12
EVERYTHING = 2**40
# What no node reads: RocksDB's diaries, locks, and what a running node says of itself.
UNREAD = ("LOG", "LOCK", "lock", "node.json")
Content = dict[str, object]


def everything_in(data: Path, chunk_ids: Sequence[ChunkId]) -> Content:
    """Open a node's stores as the node does, and read all that is in them."""
    identity = store_folder.read(data)
    found: Content = {"store": identity, "node": node_folder.read(data)}
    state = StateStore.open(data / "state", identity.store_id)
    try:
        log = RocksLogStore.open(
            data / "log", identity.store_id, last_at_least=state.applied(), installed=state.installed()
        )
        try:
            first, last = log.bounds()
            found |= {
                "bounds": (first, last),
                "hard state": log.hard_state(),
                "entries": log.read(LogIndex(first), LogIndex(last), bytes_max=EVERYTHING),
                "position": state.position(),
                "rows": list(state.view().scan(b"\x01", b"\xff")),
            }
        finally:
            log.close()
    finally:
        state.close()
    chunks = PackChunkStore.open(data / "chunks", encoding="auto", disk=Disk())
    try:
        found["chunks"] = {chunk_id: chunks.get(chunk_id) for chunk_id in chunk_ids}
    finally:
        chunks.close()
    return found


def ids_of(data: Path) -> list[ChunkId]:
    chunks = PackChunkStore.open(data / "chunks", encoding="auto", disk=Disk())
    try:
        return [chunk_id for chunk_id, _ in chunks._index.entries()]
    finally:
        chunks.close()


def part_of(file: Path) -> str:
    """Say what a file of a node's folder belongs to."""
    return file.parts[0] if len(file.parts) > 1 else file.name


@pytest.mark.parametrize("kill", [False, True], ids=["stopped", "killed"])
def test_no_flipped_bit_of_a_node_is_believed(tmp_path: Path, kill: bool) -> None:
    # given
    with LocalCluster(3, heartbeat_ms=100, election_ms=1000) as cluster:
        node = cluster.leader()
        with cluster.connect(node) as client:
            for seed in range(COMMITS):
                (tmp_path / "in").mkdir(exist_ok=True)
                (tmp_path / "in" / "weights.bin").write_bytes(bytes_from(seed, 20_000))
                made = client.model(MODEL).commit(tmp_path / "in", message=f"commit {seed}")
                client.model(MODEL).channel("production").set(made.name)
        cluster.wait_ready()
        if kill:
            cluster.kill(node)
        else:
            cluster.stop(node)
        stopped = tmp_path / "stopped"
        shutil.copytree(cluster.nodes[node].data, stopped)
    for name in ("sound", "ids"):
        shutil.copytree(stopped, tmp_path / name)
    chunk_ids = ids_of(tmp_path / "ids")
    truth = everything_in(tmp_path / "sound", chunk_ids)
    assert len(chunk_ids) >= COMMITS
    files = [
        path.relative_to(stopped)
        for path in sorted(stopped.rglob("*"))
        if path.is_file() and path.stat().st_size and path.name not in UNREAD
    ]
    chance = random.Random(SEED)
    tally: Counter[str] = Counter()

    for number in range(FLIPS):
        # when: each file in turn, so that small ones, which decide much, get their share
        file = files[number % len(files)]
        copy = tmp_path / "flipped"
        shutil.copytree(stopped, copy)
        content = bytearray((copy / file).read_bytes())
        bit = chance.randrange(len(content) * 8)
        content[bit // 8] ^= 1 << bit % 8
        (copy / file).write_bytes(content)

        # then
        try:
            found = everything_in(copy, chunk_ids)
        except McrError:
            tally[f"{part_of(file)}: noticed"] += 1
        else:
            wrong = [name for name in truth if found[name] != truth[name]]
            assert not wrong, f"believed: bit {bit} of {file}, seed {SEED}, flip {number}: {wrong} differ"
            tally[f"{part_of(file)}: without effect"] += 1
        shutil.rmtree(copy)

    for what, count in sorted(tally.items()):
        print(f"{count:6} {what}")  # noqa: T201 - the report
    noticed = sum(count for what, count in tally.items() if what.endswith("noticed"))
    print(f"seed {SEED}: {FLIPS} flips, {noticed} noticed, {FLIPS - noticed} without effect, 0 believed")  # noqa: T201
    assert noticed > FLIPS // 5
