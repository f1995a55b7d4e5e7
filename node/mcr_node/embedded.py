"""A whole node in the caller's process: the door of the embedded store.

The same log, state, chunk store and services as on a node of a cluster, with one voter and no network.
"""

import asyncio
import secrets
from contextlib import suppress
from pathlib import Path

from mcr.blocking import settle
from mcr.errors import McrError
from mcr.transfer import ChunkTransport
from mcr_node.assembly import Node, Parts, open_node
from mcr_node.services.admin import AdminService, Myself
from mcr_node.services.layout import LayoutService
from mcr_node.services.needing import ExplainingChunks
from mcr_node.services.settling import Settling
from mcr_node.storage import store_folder
from mcr_node.storage.database import Database
from mcr_node.storage.disk import Disk
from mcr_node.storage.log_store import OpenDatabase
from mcr_node.storage.store_folder import Encoding, StoreIdentity

# The name of the only member of a store that nobody serves.
NAME = "embedded"


def init_store(path: Path, *, encoding: Encoding) -> None:
    """Make a store; see `mcr.init`."""
    store_folder.create(path, StoreIdentity(secrets.token_bytes(store_folder.STORE_ID_BYTES), encoding))


async def open_store(
    path: Path,
    *,
    principal: str,
    timeout_s: float | None,
    disk: Disk | None = None,
    open_database: OpenDatabase = Database.open,
) -> "EmbeddedNode":
    """Open a store in this process; see `mcr.aio.connect`.

    Args:
        path: the store's folder.
        principal: who acts.
        timeout_s: how long to wait for another process that has it open; None = not at all.
        disk: where segments are written; the real one by default.
        open_database: opens the databases of the log, the state and the chunk index.
    """
    parts = Parts(disk=disk, open_database=open_database)
    node = await open_node(path, Myself(NAME, str(path)), timeout_s=timeout_s, parts=parts)
    try:
        await node.runner.start()
        # What was due while nobody had the store open; a store that takes no writes says so when it is asked.
        with suppress(McrError, TimeoutError):
            await Settling(node.log).settle()
    except BaseException:
        await node.close()
        raise
    return EmbeddedNode(node, principal)


class EmbeddedNode:
    """`mcr.connection.Connection` to a store in this process."""

    def __init__(self, node: Node, principal: str) -> None:
        self._node = node
        self._background = asyncio.create_task(Settling(node.log).settle_for_ever(), name="mcr-settling")
        self.runner = node.runner
        self.versions = node.versions(principal)
        self.merges = node.merges(principal)
        self.receipts = node.receipts(principal)
        self.policies = node.policies(principal)
        self.sessions = node.sessions(principal)
        self.trash = node.trash(principal)
        self.retention = node.retention(principal)
        self.chunks: ChunkTransport = ExplainingChunks(node.chunks, node.needing)
        self.admin: AdminService = node.admin
        self.layout: LayoutService = node.layout
        self.quotas = node.quotas(principal)

    @property
    def location(self) -> str:
        """The store's folder."""
        return str(self._node.path)

    async def close(self) -> None:
        """Sync and release everything; may be called twice."""
        await settle([self._background])
        await self._node.close()
