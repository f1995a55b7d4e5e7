"""At which sites all bytes of a version are, for channels that demand it before they move there.

Looked up by the node that proposes the move, which vouches for it in the command: what applies a command
knows no chunks. Bytes can be lost again after the look; this is a promise about the moment of the move, and
repair and placement keep it.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import cast

from mcr.errors import McrError
from mcr.manifest import drain_async, walk_ids
from mcr.model import ChunkId, RefKind
from mcr.references import check_name
from mcr.values import dataclass
from mcr_node.core.members import Member
from mcr_node.core.state import keys, lookup, protection
from mcr_node.core.state.keys import RefName
from mcr_node.core.state.records import RefRow, read
from mcr_node.core.state.view import View
from mcr_node.ports_log import ReplicatedLog
from mcr_node.services.chunks import LocalChunks
from mcr_node.services.copies import IDS_AT_ONCE, Holders


@dataclass(frozen=True, slots=True)
class _Wanted:
    """Which sites a move needs, and of which manifest."""

    sites: Sequence[str]
    manifest: ChunkId


class Availability:
    """Looks where the chunks of a version are."""

    def __init__(
        self,
        log: ReplicatedLog,
        chunks: LocalChunks,
        holders: Holders | None,
        me: Callable[[], Member],
        others: Callable[[], Sequence[Member]],
    ) -> None:
        """Look at this node's `chunks` and at those of the other members; `holders` None = there are none."""
        self._log = log
        self._chunks = chunks
        self._holders = holders
        self._me = me
        self._others = others

    async def of(self, model: str, channel: str, number: int) -> tuple[str, ...]:
        """Return those sites that a channel demands and that have all bytes of a version.

        What does not exist has no sites; applying the move says what is wrong.
        """
        check_name("channel", channel)
        return await self._sites(lambda view: _wanted(view, model, channel, number))

    async def of_pending(self, model: str, channel: str) -> tuple[str, ...]:
        """Return the same for the version that a channel's waiting move goes to."""
        check_name("channel", channel)

        def wanted(view: View) -> _Wanted | None:
            ref = read(view, keys.ref(RefName(model, RefKind.CHANNEL, channel)), RefRow)
            if ref is None or ref.pending is None:
                return None
            return _wanted(view, model, channel, cast("int", ref.pending["number"]))

        return await self._sites(wanted)

    async def _sites(self, wanted: Callable[[View], _Wanted | None]) -> tuple[str, ...]:
        found = await self._log.run(lambda: wanted(self._log.view()))
        if found is None:
            return ()
        return tuple([site for site in found.sites if await self._is_at(site, found.manifest)])

    async def _is_at(self, site: str, manifest: ChunkId) -> bool:
        batch: list[ChunkId] = []
        async for chunk_id in drain_async(walk_ids(manifest), self._chunks.get):
            batch.append(chunk_id)
            if len(batch) == IDS_AT_ONCE:
                if await self._lacking(site, batch):
                    return False
                batch = []
        return not await self._lacking(site, batch)

    async def _lacking(self, site: str, ids: Sequence[ChunkId]) -> set[ChunkId]:
        """Return what no node of a site holds; a node that does not answer holds nothing."""
        left = set(ids)
        if self._me().site == site:
            left = await self._chunks.missing(list(left))
        for member in self._others():
            if left and self._holders is not None and member.site == site:
                with suppress(McrError):
                    left = await self._holders.missing(member.address, list(left))
        return left


def _wanted(view: View, model: str, channel: str, number: int) -> _Wanted | None:
    ref = read(view, keys.ref(RefName(model, RefKind.CHANNEL, channel)), RefRow)
    sites = [] if ref is None else protection.sites_needed(ref.protection)
    with suppress(McrError):
        return _Wanted(sites, lookup.record(view, model, number).manifest) if sites else None
    return None
