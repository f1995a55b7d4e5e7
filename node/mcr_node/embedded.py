"""A whole node in the caller's process: the door of the embedded store.

The same log, state, chunk store and services as on a node of a cluster, with one voter and no network.
"""

import asyncio
import secrets
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from mcr.blocking import settle
from mcr.durability import Durability
from mcr.errors import McrError
from mcr.transfer import ChunkTransport
from mcr_node.assembly import Node, Parts, open_node
from mcr_node.services.myself import Myself
from mcr_node.services.needing import ExplainingChunks
from mcr_node.services.settling import Settling
from mcr_node.storage import store_folder
from mcr_node.storage.database import Database
from mcr_node.storage.disk import Disk
from mcr_node.storage.log_store import OpenDatabase
from mcr_node.storage.store_folder import Encoding, StoreIdentity

if TYPE_CHECKING:
    from mcr_node.services.admin import AdminService
    from mcr_node.services.layout import LayoutService
    from mcr_node.services.merges import MergesService
    from mcr_node.services.policies import PoliciesService
    from mcr_node.services.quotas import QuotasService
    from mcr_node.services.receipts import ReceiptsService
    from mcr_node.services.retention import RetentionService
    from mcr_node.services.sessions import SessionsService
    from mcr_node.services.trash import TrashService

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
        self._principal = principal
        self.chunks: ChunkTransport = ExplainingChunks(node.chunks, node.needing)

    # Most commands ask two or three of the services, so each is made and loaded when it is first asked.

    @cached_property
    def merges(self) -> "MergesService":
        """Merges and their conflicts."""
        return self._node.merges(self._principal)

    @cached_property
    def receipts(self) -> "ReceiptsService":
        """Who has loaded what."""
        return self._node.receipts(self._principal)

    @cached_property
    def policies(self) -> "PoliciesService":
        """Rules that roll back and forward."""
        return self._node.policies(self._principal)

    @cached_property
    def sessions(self) -> "SessionsService":
        """Versions from many writers."""
        return self._node.sessions(self._principal)

    @cached_property
    def trash(self) -> "TrashService":
        """Deletion and pins."""
        return self._node.trash(self._principal)

    @cached_property
    def retention(self) -> "RetentionService":
        """Which versions stay."""
        return self._node.retention(self._principal)

    @cached_property
    def quotas(self) -> "QuotasService":
        """How much models may take."""
        return self._node.quotas(self._principal)

    @property
    def admin(self) -> "AdminService":
        """The store itself."""
        return self._node.admin

    @property
    def layout(self) -> "LayoutService":
        """Who holds what."""
        return self._node.layout

    def chunks_for(self, durability: Durability | None) -> ChunkTransport:
        """See Connection: there is nowhere to spread to."""
        return self.chunks

    @property
    def location(self) -> str:
        """The store's folder."""
        return str(self._node.path)

    async def close(self) -> None:
        """Sync and release everything; may be called twice."""
        await settle([self._background])
        await self._node.close()
