"""What stopped nodes hold on their disks: read from the files, not asked of the nodes."""

import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from mcr.errors import MissingChunkError
from mcr.manifest import drain, walk_ids
from mcr.model import ChunkId, LogIndex
from mcr_node.core.state import trash_queries
from mcr_node.recovering import apply_entries
from mcr_node.storage import store_folder
from mcr_node.storage.chunk_store import PackChunkStore
from mcr_node.storage.disk import Disk
from mcr_node.storage.log_store import RocksLogStore
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
    """Copy what a node that stands still has on its disk; return where."""
    shutil.copytree(data, to, ignore=shutil.ignore_patterns("snapshots", "cache"))
    return to


def visible_manifests(folders: Sequence[Path]) -> dict[str, ChunkId]:
    """Return the manifests of all versions, by name, after all that is committed.

    What the states hold is not enough: they are synced now and then only, and after a power loss one may show
    a version that was deleted long ago, and its chunks are gone. So the log is applied, as far as a majority
    of the nodes has it.

    Args:
        folders: of all members, none of which runs. Their states are written to: give copies.
    """
    with ExitStack() as stack:
        nodes = [_opened(folder, stack) for folder in folders]
        state, log = max(nodes, key=lambda node: _place(node[1]))
        committed = next(
            (index for index in _downwards(log) if 2 * _holders(index, log, nodes) > len(nodes)), LogIndex(0)
        )
        known, _ = max(nodes, key=lambda node: node[0].applied())
        if known.applied() >= committed:
            # It knows more: of members that left, or of a log that was compacted.
            state = known
        else:
            apply_entries(state, log, last=committed)
        return {
            f"{model}@v{number}": ChunkId(manifest)
            for model, number, manifest in trash_queries.root_manifests(state.view())
        }


def _opened(folder: Path, stack: ExitStack) -> tuple[StateStore, RocksLogStore]:
    identity = store_folder.read(folder).store_id
    state = StateStore.open(folder / "state", identity)
    stack.callback(state.close)
    log = RocksLogStore.open(
        folder / "log", identity, last_at_least=state.applied(), installed=state.installed()
    )
    stack.callback(log.close)
    return state, log


def _place(log: RocksLogStore) -> tuple[int, LogIndex]:
    """Return term and index of the last entry: by them a leader is elected (Raft §5.4.1)."""
    _, last = log.bounds()
    return log.term(last), last


def _downwards(log: RocksLogStore) -> Iterator[LogIndex]:
    first, last = log.bounds()
    return map(LogIndex, range(last, first - 1, -1))


def _holders(index: LogIndex, of: RocksLogStore, nodes: Sequence[tuple[StateStore, RocksLogStore]]) -> int:
    """Count the logs that hold an entry of one of them, or held it once."""
    count = 0
    for _, log in nodes:
        first, last = log.bounds()
        count += index < first or (index <= last and log.term(index) == of.term(index))
    return count
