"""A new cluster from one survivor: all that it held, or nothing changed, wherever it is interrupted."""

import asyncio
import shutil
from contextlib import suppress
from pathlib import Path

import pytest

from mcr.errors import FailedError, StoreBusyError
from mcr.model import LogIndex
from mcr_node.assembly import node_id_of, open_node
from mcr_node.core.members import Member, Membership, decode_membership, encode_context, encode_membership
from mcr_node.core.raft.conf_codec import encode_conf_change
from mcr_node.core.raft.messages import (
    ConfChangeSingle,
    ConfChangeType,
    ConfChangeV2,
    ConfState,
    Entry,
    EntryType,
)
from mcr_node.core.state import codec, queries
from mcr_node.core.state.digest import Divergence
from mcr_node.ports import HardState
from mcr_node.recovering import Survivor, recover
from mcr_node.runtime.applying import Applier
from mcr_node.runtime.raft_storage import to_log
from mcr_node.services.myself import Myself
from mcr_node.storage import node_folder, store_folder, successor
from mcr_node.storage.disk import Disk
from mcr_node.storage.log_store import RocksLogStore
from mcr_node.storage.node_folder import NodeIdentity
from mcr_node.storage.state_store import StateStore
from mcr_node.storage.store_folder import StoreIdentity, StoreLock
from tests.unit.node.runtime.test_runner import commit

OLD = StoreIdentity(b"old cluster's id", "raw")
MYSELF = 7
VOTERS = (MYSELF, 8, 9)
MEMBERS = tuple(Member(node_id, f"n{node_id}", f"127.0.0.1:{node_id}", "ams") for node_id in VOTERS)
# Of twelve entries nine are applied, and ten known to be committed.
APPLIED, COMMITTED, LAST = 9, 10, 12


def survivor(path: Path, *, voters: tuple[int, ...] = VOTERS) -> Path:
    """Make the folder of a node that a cluster left behind; the last entry but one adds a member."""
    store_folder.create(path, OLD)
    node_folder.write(path, NodeIdentity("n7", "ams", MYSELF))
    entries = [Entry(3, index, EntryType.NORMAL, codec.encode(commit(index))) for index in range(2, LAST + 1)]
    joiner = Member(10, "n10", "127.0.0.1:10")
    change = ConfChangeV2(
        (ConfChangeSingle(ConfChangeType.ADD_LEARNER, 10),), context=encode_context([joiner])
    )
    entries[LAST - 3] = Entry(3, LAST - 1, EntryType.CONF_CHANGE_V2, encode_conf_change(change))
    state = StateStore.open(path / "state", OLD.store_id)
    membership = Membership(ConfState(voters=voters), MEMBERS)
    state.write([], LogIndex(1), bytes(32), applied_term=3, configuration=encode_membership(membership))
    Applier(state).apply(entries[: APPLIED - 1])
    state.sync()
    state.close()
    log = RocksLogStore.open(path / "log", OLD.store_id)
    log.write([to_log(entry) for entry in (Entry(3, 1), *entries)], HardState(3, MYSELF, LogIndex(COMMITTED)))
    log.sync()
    log.close()
    return path


def agree(_: Survivor) -> None:
    pass


def opened(path: Path) -> tuple[int, Membership, list[int]]:
    """Open the node as a restart does; return its applied index, its members and its versions."""
    identity = store_folder.read(path)
    node = node_folder.read(path)
    assert node is not None
    state = StateStore.open(path / "state", identity.store_id)
    log = RocksLogStore.open(
        path / "log", identity.store_id, last_at_least=state.applied(), installed=state.installed()
    )
    versions = [
        version.number for version in queries.list_versions(state.view(), "a/b", before=None, limit=50)
    ]
    assert log.bounds()[1] >= state.applied() >= log.bounds()[0] - 1
    found = state.applied(), decode_membership(state.configuration()), versions
    log.close()
    state.close()
    return found


def test_the_new_cluster_has_all_that_the_survivor_held_and_nobody_else(tmp_path: Path) -> None:
    path = survivor(tmp_path / "d")
    told: list[Survivor] = []
    recover(path, told.append)

    assert (told[0].applied, told[0].committed, told[0].last) == (APPLIED, COMMITTED, LAST)
    assert (told[0].dropped, told[0].was_voter, told[0].model_count) == (("n10", "n8", "n9"), True, 1)
    identity = store_folder.read(path)
    assert identity.store_id == told[0].new_cluster_id != OLD.store_id
    applied, membership, versions = opened(path)
    node_id = node_id_of(identity.store_id)
    assert node_id not in VOTERS
    assert membership == Membership(ConfState(voters=(node_id,)), (Member(node_id, "n7", site="ams"),))
    # Ten entries made versions; the change of members at the end of the old log is void.
    assert (applied, versions) == (LAST + 1, list(range(10, 0, -1)))
    assert store_folder.read(path / successor.KEPT) == OLD


def test_the_new_cluster_decides_alone(tmp_path: Path) -> None:
    path = survivor(tmp_path / "d")
    recover(path, agree)

    async def story() -> None:
        node = await open_node(path, Myself("n7", "127.0.0.1:1"))
        await node.runner.start()
        await node.runner.propose(commit(100))
        assert node.runner.is_leader
        await node.close()

    asyncio.run(story())
    assert opened(path)[2][0] == 11


class CrashError(Exception):
    """The process is gone."""


class CrashingDisk(Disk):
    """Ends before its n-th change of a name, or sync of a folder."""

    def __init__(self, crash_at: int) -> None:
        self.left = crash_at

    def _step(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise CrashError

    def rename(self, source: Path, target: Path) -> None:
        self._step()
        super().rename(source, target)

    def remove_tree(self, path: Path) -> None:
        self._step()
        super().remove_tree(path)

    def sync_directory(self, path: Path) -> None:
        self._step()
        super().sync_directory(path)


def test_a_recovery_that_is_interrupted_anywhere_leaves_one_cluster_or_the_other(tmp_path: Path) -> None:
    template = survivor(tmp_path / "template")
    outcomes = []
    for crash_at in range(1, 200):
        path = tmp_path / f"crash-{crash_at}"
        shutil.copytree(template, path)
        disk = CrashingDisk(crash_at)
        with suppress(CrashError):
            recover(path, agree, disk=disk)
        if disk.left > 0:
            break
        # The next start, whichever of the two it finds.
        successor.finish(path)
        applied, membership, versions = opened(path)
        is_new = store_folder.read(path) != OLD
        outcomes.append(is_new)
        if is_new:
            assert (applied, len(versions), len(membership.members)) == (LAST + 1, 10, 1)
        else:
            assert (applied, len(versions), len(membership.members)) == (APPLIED, APPLIED - 1, 3)
        if crash_at % 8 == 1 and not is_new:
            recover(path, agree)
            assert opened(path)[0] == LAST + 1
        shutil.rmtree(path)
    assert set(outcomes) == {False, True}
    assert outcomes == sorted(outcomes), "once it is the new cluster, it stays so"


def test_a_recovery_is_refused_where_it_would_do_harm(tmp_path: Path) -> None:
    running = survivor(tmp_path / "running")
    lock = StoreLock(running)
    lock.acquire()
    with pytest.raises(StoreBusyError):
        recover(running, agree)
    lock.release()

    alone = survivor(tmp_path / "alone", voters=(MYSELF,))
    with pytest.raises(FailedError, match="only voter"):
        recover(alone, agree)

    wrong = survivor(tmp_path / "wrong")
    state = StateStore.open(wrong / "state", OLD.store_id)
    state.fence(Divergence(LogIndex(5), LogIndex(6), bytes(32), bytes(32)))
    state.close()
    with pytest.raises(FailedError, match="recover another node"):
        recover(wrong, agree)

    doubtful = survivor(tmp_path / "doubtful")

    def refuse(_: Survivor) -> None:
        raise FailedError("recovery", "not today")

    with pytest.raises(FailedError, match="not today"):
        recover(doubtful, refuse)
    assert opened(doubtful)[0] == APPLIED
    assert store_folder.read(doubtful) == OLD
