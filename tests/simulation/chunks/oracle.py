"""What must hold of the chunks of a cluster, looked at on the disks and never asked of the nodes.

lasting     every chunk of every visible version, and of every part of an open session, is whole on some disk
copies      it is on as many disks as it was sealed for, but for those that were damaged or thrown away since
            repair was last done
sites       a version that was sealed for two sites is in two
truth       no node gives bytes that do not hash to the id they were asked by
whole       a version of a session has all its parts
no loss     an acknowledged version is there, as it was acknowledged, and once
"""

from collections.abc import Callable, Sequence

from mcr.errors import McrError, MissingChunkError
from mcr.manifest import drain, walk_ids
from mcr.model import ChunkId, LogIndex, digest
from mcr_node.core.raft.messages import Entry
from mcr_node.core.state import codec, session_queries, sessions, trash_queries
from mcr_node.core.state.commands import CommitVersion
from mcr_node.core.state.outcomes import Accepted, Outcome, VersionResult
from mcr_node.core.state.session_commands import PutPart, SealSession
from mcr_node.core.state.trash_commands import TrashCommand
from mcr_node.core.state.view import View
from mcr_node.services.copies import COPIES
from tests.simulation.chunks.disks import Disk
from tests.simulation.chunks.node import Host
from tests.simulation.cluster.laws import LawBroken, law

# A seal that began so long before may have counted on what was thrown away meanwhile.
SEAL_S_MAX = 15.0


class Oracle:
    """Watches the disks."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        self.hosts: dict[str, Host] = {}
        # Copies that each needed chunk must have, at least.
        self.expected: dict[ChunkId, int] = {}
        self.versions = 0
        self.checks = 0
        self.acknowledged: dict[bytes, tuple[str, int, ChunkId]] = {}
        # Ids of requests for a version that must be in two sites.
        self.wide: dict[bytes, None] = {}
        self._now_s = now_s
        # When, and what was on it.
        self._thrown_away: list[tuple[float, frozenset[ChunkId]]] = []
        self._made: dict[bytes, int] = {}
        self._needed: dict[ChunkId, tuple[ChunkId, ...]] = {}
        self._view: View | None = None
        # Manifests of the versions that are kept; None = to be looked up anew.
        self._kept: dict[ChunkId, None] | None = None
        self._all: dict[ChunkId, None] | None = None

    # ---- what happens ----

    def applied(self, entry: Entry, outcome: Outcome, view: View) -> None:
        """The first node has applied a command."""
        self._view, self._all = view, None
        if not isinstance(outcome, Accepted) or outcome.already_applied:
            return
        command = codec.decode(entry.data)
        if isinstance(command, (CommitVersion, SealSession)) and isinstance(outcome.result, VersionResult):
            if outcome.index == LogIndex(entry.index):
                self._made[command.request_id] = self._made.get(command.request_id, 0) + 1
            self.versions += 1
            ids = self._need(command.manifest)
            if isinstance(command, SealSession):
                _check_whole(view, command)
            if self._kept is not None:
                self._kept[command.manifest] = None
            if command.request_id in self.wide:
                self._check_sites(ids)
            self.check(f"version {outcome.result.number} was made")
        if isinstance(command, PutPart):
            self.check("a part was put")
        if isinstance(command, TrashCommand):
            self._kept = None

    def answered(self, request_id: bytes, model: str, number: int, manifest: ChunkId) -> None:
        """A client was told of its version."""
        known = self.acknowledged.setdefault(request_id, (model, number, manifest))
        law(known == (model, number, manifest), f"no loss: {request_id!r} was {known}, and is v{number}")

    def given(self, chunk_id: ChunkId, data: bytes) -> None:
        """A node gave bytes to a client."""
        law(digest(data) == chunk_id, f"truth: other bytes than those of {chunk_id.hex()[:12]} were given")

    def thrown_away(self, disk: Disk) -> None:
        """A disk is about to be thrown away."""
        self._thrown_away.append((self._now_s(), frozenset(disk.durable)))
        for chunk_id in self.expected:
            if disk.has(chunk_id):
                self.expected[chunk_id] = max(1, self.expected[chunk_id] - 1)

    def rotten(self, chunk_id: ChunkId) -> None:
        """A copy was damaged."""
        self.expected[chunk_id] = max(1, self.expected[chunk_id] - 1)

    def settled(self) -> None:
        """Repair is done: from now on all copies count again."""
        self.expected = dict.fromkeys(self.needed(), COPIES)

    # ---- what is needed ----

    def _need(self, manifest: ChunkId) -> tuple[ChunkId, ...]:
        """Return what a manifest names, as the disks tell."""
        known = self._needed.get(manifest)
        if known is not None:
            return known
        try:
            ids = tuple(dict.fromkeys(drain(walk_ids(manifest), self._read)))
        except McrError as error:
            raise AssertionError(f"lasting: a manifest that is visible cannot be read: {error}") from error
        self._needed[manifest] = ids
        for chunk_id in ids:
            self.expected.setdefault(chunk_id, max(1, COPIES - self._lost_lately(chunk_id)))
        return ids

    def _lost_lately(self, chunk_id: ChunkId) -> int:
        """Return how many disks with it were thrown away since a seal that ends now may have begun."""
        return sum(chunk_id in held for at_s, held in self._thrown_away if self._now_s() - at_s < SEAL_S_MAX)

    def _read(self, ids: Sequence[ChunkId]) -> list[bytes]:
        found: list[bytes] = []
        for chunk_id in ids:
            disk = next((disk for disk in self.disks() if disk.has_good(chunk_id)), None)
            if disk is None:
                raise MissingChunkError(chunk_id.hex())
            found.append(disk.durable[chunk_id])
        return found

    def disks(self) -> list[Disk]:
        return [host.disk for host in self.hosts.values()]

    def manifests(self) -> list[ChunkId]:
        """Return the manifests of all that is kept, as of the last command that was applied."""
        if self._view is None:
            return []
        if self._kept is None:
            self._kept = self._look_up(self._view)
        return list(self._kept | dict.fromkeys(sessions.roots(self._view)))

    def _look_up(self, view: View) -> dict[ChunkId, None]:
        found: dict[ChunkId, None] = {}
        for name, _ in trash_queries.all_models(view, after="", limit=100):
            before: int | None = None
            while page := trash_queries.contents(view, name, before=before, limit=100):
                found |= {version.manifest: None for version in page if not version.is_purged}
                before = page[-1].number
        return found

    def needed(self) -> dict[ChunkId, None]:
        """Return all chunks of it."""
        if self._all is None:
            self._all = {}
            for manifest in self.manifests():
                self._all.update(dict.fromkeys(self._need(manifest)))
        return self._all

    def state_of(self, model: str, name: str) -> str:
        """Return what a session is; "" for one that nobody knows any more."""
        assert self._view is not None
        try:
            return session_queries.get_session(self._view, model, name).state
        except McrError:
            return ""

    # ---- laws ----

    def check(self, when: str) -> None:
        """Look at all disks."""
        self.checks += 1
        for disk in self.disks():
            law(not disk.breaches, disk.breaches[0] if disk.breaches else "")
        disks = [disk for disk in self.disks() if disk.durable]
        counts: dict[ChunkId, int] = {}
        bad: dict[ChunkId, int] = {}
        for disk in disks:
            for chunk_id in disk.durable:
                counts[chunk_id] = counts.get(chunk_id, 0) + 1
            for chunk_id in disk.bad:
                bad[chunk_id] = bad.get(chunk_id, 0) + 1
        for chunk_id in self.needed():
            count = counts.get(chunk_id, 0)
            if count <= bad.get(chunk_id, 0):
                raise LawBroken(f"lasting: nobody has chunk {chunk_id.hex()[:12]} when {when}")
            expected = self.expected.setdefault(chunk_id, 1)
            if count < expected:
                raise LawBroken(f"copies: {count} of {expected} of {chunk_id.hex()[:12]} when {when}")

    def _check_sites(self, ids: Sequence[ChunkId]) -> None:
        for chunk_id in ids:
            # A copy that was counted may be gone again by now: with its disk, or because it went bad.
            if self._lost_lately(chunk_id) or self.expected.get(chunk_id, COPIES) < COPIES:
                continue
            sites = {host.member.site: None for host in self.hosts.values() if host.disk.has(chunk_id)}
            law(len(sites) >= 2, f"sites: chunk {chunk_id.hex()[:12]} is in {len(sites)}")

    def goes(self, leaving: Host) -> None:
        """A member was found drained: nothing may depend on its disk, which is thrown away."""
        self._thrown_away.append((self._now_s(), frozenset(leaving.disk.durable)))
        for chunk_id in self.needed():
            left = [disk for disk in self.disks() if disk is not leaving.disk and disk.has(chunk_id)]
            is_good = any(disk.has_good(chunk_id) for disk in left)
            law(is_good, f"lasting: {leaving.name} may go, and has the last good {chunk_id.hex()[:12]}")
            enough = len(left) >= self.expected.get(chunk_id, 1)
            law(enough, f"copies: {leaving.name} may go, and {chunk_id.hex()[:12]} depends on it")

    def check_end(self) -> None:
        """All is calm."""
        assert self._view is not None
        for request_id, count in self._made.items():
            law(count == 1, f"no loss: request {request_id!r} made {count} versions")
        for request_id, (model, number, manifest) in self.acknowledged.items():
            page = trash_queries.contents(self._view, model, before=number + 1, limit=1)
            found = page[0] if page and not page[0].is_purged else None
            is_there = found is not None and (found.number, found.manifest) == (number, manifest)
            law(is_there, f"no loss: {model}@v{number} of {request_id!r} is gone")

    def lacking(self) -> str:
        """Return which chunk lacks whole copies on members that stay, and who has it; "" if none does."""
        staying = [
            host
            for host in self.hosts.values()
            if host.life.is_alive
            and (known := host.log.membership.get(host.node_id)) is not None
            and known.is_staying
        ]
        for chunk_id in self.needed():
            having = [host.name for host in staying if host.disk.has_good(chunk_id)]
            if len(having) < min(COPIES, len(staying)):
                bad = [host.name for host in staying if chunk_id in host.disk.bad]
                parts = (
                    [one for one in sessions.roots(self._view) if chunk_id in self._need(one)]
                    if self._view
                    else []
                )
                return (
                    f"{chunk_id.hex()[:12]} is on {having}, bad on {bad} of {[host.name for host in staying]}"
                    f"{', of an open session' if parts else ''}"
                )
        return ""


def _check_whole(view: View, command: SealSession) -> None:
    found = session_queries.get_session(view, command.model, command.session)
    files = (found.progress.file_count, found.progress.bytes_total)
    law(
        files == (command.file_count, command.bytes_total),
        f"whole: session {command.session} has {files}, and not so its version",
    )
