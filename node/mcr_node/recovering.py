"""A new cluster from what one node holds, when the majority of the old one is gone for good.

The node's data becomes that of a cluster with one voter, under a new id: no node of the old cluster can speak
to it, or it to them, whatever of them comes back. Versions and chunks stay. The log begins anew after what
the old one held, so that whoever joins gets a snapshot first and never sees an entry of the old cluster.
"""

import secrets
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

from mcr.errors import FailedError, InvalidArgumentError
from mcr.model import MIB, LogIndex
from mcr.values import dataclass
from mcr_node.assembly import node_id_of
from mcr_node.core.members import Member, Membership, decode_context, decode_membership, encode_membership
from mcr_node.core.raft.conf_codec import decode_conf_change
from mcr_node.core.raft.errors import ConfChangeError
from mcr_node.core.raft.messages import ConfChangeType, ConfChangeV2, ConfState, Entry, is_conf_change
from mcr_node.core.state import queries
from mcr_node.core.state.digest import next_digest
from mcr_node.runtime.applying import ENTRIES_PER_WRITE_MAX, Applier
from mcr_node.runtime.raft_storage import from_log
from mcr_node.storage import node_folder, store_folder, successor
from mcr_node.storage.disk import Disk
from mcr_node.storage.log_store import RocksLogStore
from mcr_node.storage.node_folder import NodeIdentity
from mcr_node.storage.state_store import StateStore
from mcr_node.storage.store_folder import StoreIdentity, StoreLock

READ_BYTES_MAX = 4 * MIB
MODELS_PAGE = 500


@dataclass(frozen=True, slots=True)
class Survivor:
    """What a node holds, and what becomes of it.

    Attributes:
        name: of the node.
        cluster_id: the old one, 16 bytes.
        new_cluster_id: the new one, 16 bytes.
        was_voter: False = a learner, which may lack more.
        applied: index of the last log entry in its state.
        committed: index of the last one that it knows to be committed.
        last: index of the last one that it holds: those after `committed` are taken for committed.
        dropped: names of the members that the new cluster does not have.
        model_count: models in its state now.
        kept: where log and state of the old cluster are afterwards.
    """

    name: str
    cluster_id: bytes
    new_cluster_id: bytes
    was_voter: bool
    applied: int
    committed: int
    last: int
    dropped: tuple[str, ...]
    model_count: int
    kept: Path


def recover(path: Path, confirm: Callable[[Survivor], None], *, disk: Disk | None = None) -> Survivor:
    """Make the folder of a stopped node that of a new cluster of its own; all or nothing.

    Args:
        path: the node's folder.
        confirm: is told what will be; raises to leave everything as it is.
        disk: renames and syncs; the real one by default.

    Raises:
        StoreBusyError: the node runs.
        StoreNotFoundError, CorruptStoreError, StoreFormatError: see `mcr.errors`.
        FailedError: there is nothing to recover, or the state is known to be wrong.
    """
    disk = disk or Disk()
    successor.finish(path, disk)
    identity = store_folder.read(path)
    node = node_folder.read(path)
    if node is None:
        raise FailedError("recovering", f"{path} is an embedded store, which needs nobody else")
    lock = StoreLock(path)
    try:
        lock.acquire()
        return _Recovery(path, identity, node, disk).run(confirm)
    finally:
        lock.release()


class _Recovery:
    """One recovery, under the store's lock."""

    def __init__(self, path: Path, identity: StoreIdentity, node: NodeIdentity, disk: Disk) -> None:
        self._path = path
        self._old = identity
        self._node = node
        self._disk = disk
        self._new = StoreIdentity(secrets.token_bytes(store_folder.STORE_ID_BYTES), identity.encoding)

    def run(self, confirm: Callable[[Survivor], None]) -> Survivor:
        state = StateStore.open(self._path / "state", self._old.store_id, disk=self._disk)
        try:
            log = RocksLogStore.open(
                self._path / "log",
                self._old.store_id,
                last_at_least=state.applied(),
                installed=state.installed(),
                disk=self._disk,
            )
            try:
                survivor = self._look(state, log)
                confirm(survivor)
                # Copies and new files only; what is there stays as it is until all of them are synced.
                successor.make(self._path, self._disk, partial(self._fill, state=state, log=log))
            finally:
                log.close()
        finally:
            state.close()
        successor.move(self._path, self._disk)
        return survivor

    def _look(self, state: StateStore, log: RocksLogStore) -> Survivor:
        what = f"recovering {self._node.name}"
        membership = decode_membership(state.configuration())
        node_id = self._node.node_id or node_id_of(self._old.store_id)
        if membership.conf == ConfState():
            raise FailedError(what, "it never heard of its cluster, or was never joined by another node")
        if membership.conf.voters == (node_id,) and not membership.conf.voters_outgoing:
            raise FailedError(what, "it is the only voter, so it needs nobody else; just start it")
        divergence = state.divergence()
        if divergence is not None:
            reason = f"its state differed from that of most voters at index {divergence.index}"
            raise FailedError(what, f"{reason}; recover another node")
        return Survivor(
            name=self._node.name,
            cluster_id=self._old.store_id,
            new_cluster_id=self._new.store_id,
            was_voter=node_id in membership.conf.voters,
            applied=state.applied(),
            committed=max(log.hard_state().commit, state.applied()),
            last=log.bounds()[1],
            dropped=tuple(
                sorted(name for known, name in _names(membership, state, log).items() if known != node_id)
            ),
            model_count=_count_models(state),
            kept=self._path / successor.KEPT,
        )

    def _fill(self, folder: Path, *, state: StateStore, log: RocksLogStore) -> None:
        store_folder.create(folder, self._new)
        # Without a node id of its own: the node with which a cluster begins has the one that its id implies.
        node_folder.write(folder, NodeIdentity(self._node.name, self._node.site))
        state.export(folder / "state")
        copy = StateStore.open(folder / "state", self._old.store_id, disk=self._disk)
        try:
            # Those beyond the known commit index too: the old leader may have had a majority for them, and
            # have answered, without this node hearing of it. To drop them could lose what was acknowledged;
            # to keep them does at worst what somebody asked for and got no answer to.
            apply_entries(copy, log, last=log.bounds()[1])
            # A place of its own in the log, of a term that nobody has seen: the new members stand in it.
            last, term = LogIndex(log.bounds()[1] + 1), log.hard_state().term + 1
            node_id = node_id_of(self._new.store_id)
            member = Member(node_id, self._node.name, site=self._node.site)
            membership = Membership(ConfState(voters=(node_id,)), (member,))
            digest = next_digest(copy.state_digest(), last, [])
            copy.write([], last, digest, applied_term=term, configuration=encode_membership(membership))
            copy.belong_to(self._new.store_id)
        finally:
            copy.close()
        fresh = RocksLogStore.open(folder / "log", self._new.store_id, disk=self._disk)
        try:
            fresh.reset(last, term)
        finally:
            fresh.close()


def _names(membership: Membership, state: StateStore, log: RocksLogStore) -> dict[int, str]:
    """Return the names of the members by id, as they are once all of the log is applied."""
    names = {member.node_id: member.name for member in membership.members}
    for entry in _entries_after(state.applied(), log, log.bounds()[1]):
        with suppress(ConfChangeError, InvalidArgumentError):
            change = decode_conf_change(entry) if is_conf_change(entry) else ConfChangeV2()
            names |= {member.node_id: member.name for member in decode_context(change.context).members}
            for single in change.changes:
                if single.type is ConfChangeType.REMOVE_NODE:
                    names.pop(single.node_id, None)
    return names


def apply_entries(state: StateStore, log: RocksLogStore, *, last: LogIndex) -> None:
    """Apply what a log holds beyond a state, up to an entry. Changes of the members change nothing."""
    applier = Applier(state)
    run: list[Entry] = []
    for entry in _entries_after(state.applied(), log, last):
        if not is_conf_change(entry):
            run.append(entry)
        if len(run) == ENTRIES_PER_WRITE_MAX or is_conf_change(entry):
            applier.apply(run)
            run = []
        if is_conf_change(entry):
            applier.apply_change(entry, None)
    applier.apply(run)


def _entries_after(index: int, log: RocksLogStore, last: LogIndex) -> Iterator[Entry]:
    while index < last:
        for found in log.read(LogIndex(index + 1), last, bytes_max=READ_BYTES_MAX):
            yield from_log(found)
            index = found.index


def _count_models(state: StateStore) -> int:
    count, after = 0, ""
    while page := queries.list_models(state.view(), after=after, limit=MODELS_PAGE):
        count, after = count + len(page), page[-1].name
    return count
