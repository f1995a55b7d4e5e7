"""Garbage collection on a node: it forgets chunks that no version needs, and gives their space back.

A mark in the log begins a round (`core.state.collecting`); the leader makes one when the interval is over.
Then each node, for itself, writes down what is to be kept: all that a root names, and what was brought or
counted on lately; goes through what it holds, in the order of the ids, and forgets the rest; and rewrites
segments of which much is dead, the emptiest first. Why nothing is forgotten that a commit relies on, is said
in `services.promises`.

What is to be kept goes to files, so memory does not grow with the number of chunks. Manifests are walked node
by node; one that other versions had too is not opened again.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import field
from functools import partial

from mcr.errors import (
    CorruptChunkError,
    DivergedError,
    FailedError,
    HeadMovedError,
    MissingChunkError,
    RequestReusedError,
)
from mcr.manifest import Opened, Steps, walk_new_ids
from mcr.model import ChunkId, LogIndex, RequestId
from mcr.values import dataclass
from mcr_node.core.state import collecting, sessions, trash_queries
from mcr_node.core.state.outcomes import Rejected
from mcr_node.core.state.trash_commands import MarkGarbage
from mcr_node.core.state.trash_queries import Content
from mcr_node.core.state.trash_records import CollectingRow
from mcr_node.ports import Clock, HeldChunk
from mcr_node.ports_garbage import GarbageFolder, IdSet
from mcr_node.ports_log import ReplicatedLog
from mcr_node.services.chunks import VOUCH_IDS_MAX, LocalChunks
from mcr_node.services.damage import WatchedStore
from mcr_node.services.pace import COLLECT_BYTES_PER_S, COLLECT_INTERVAL_S
from mcr_node.services.promises import Promises, TooManyPromisesError
from mcr_node.services.surplus import Surplus
from mcr_node.services.walking import all_models
from mcr_node.services.workers import Step

# Segments are rewritten until so much of all files is dead at most.
DEAD_SHARE_MAX = 0.05
# How often it is looked whether a mark is due, or came.
LOOK_S, LOOKS_IN_INTERVAL = 5.0, 8
# A run that failed is tried again so soon.
AGAIN_S = 60.0
# After so many marks without a sweep, an operator is told.
STUCK_ROUNDS = 3
PAGE_MAX = 256
# Removed in one step, with one sync; nothing is promised meanwhile.
SWEEP_CHUNKS = 4096
# Nodes of manifests known to be walked, some 150 bytes each. Beyond, some are walked again.
OPENED_MAX = 1 << 18
# Journal pages that are taken over in one step.
JOURNAL_PAGES = 8
VERSIONS_NAMED_MAX = 100
NS_PER_S, MS_PER_S = 1_000_000_000, 1000
PRINCIPAL = "mcr:gc"
# Another node was faster, or the last mark is too young; or nodes were told different intervals.
_NO_MARK = (HeadMovedError.code, FailedError.code, RequestReusedError.code)


@dataclass(frozen=True, slots=True)
class Settings:
    """How eager garbage collection is.

    Attributes:
        interval_s: between two marks; the same on all nodes of a cluster.
        bytes_per_s: what it reads and writes at most.
    """

    interval_s: float = COLLECT_INTERVAL_S
    bytes_per_s: float = COLLECT_BYTES_PER_S


@dataclass(slots=True)
class CollectionPlan:
    """What a collection would do on one node.

    Attributes:
        chunks, bytes_total: that would go, as they stand on disk.
        chunks_deleted, bytes_deleted: of them, those that deleted versions had; the others never came to be
            part of a version.
        chunks_waiting, bytes_waiting: that no version needs, but were brought or counted on lately, or while
            an upload holds a lease.
        bytes_dead: of files, that rewriting segments gives back.
        versions: deleted versions whose bytes would go, `model@v3`; VERSIONS_NAMED_MAX at most.
    """

    chunks: int = 0
    bytes_total: int = 0
    chunks_deleted: int = 0
    bytes_deleted: int = 0
    chunks_waiting: int = 0
    bytes_waiting: int = 0
    bytes_dead: int = 0
    versions: list[str] = field(default_factory=list)


class Collector:
    """`services.workers.Task`: garbage collection of one node."""

    name = "gc"

    def __init__(
        self,
        log: ReplicatedLog,
        store: WatchedStore,
        chunks: LocalChunks,
        promises: Promises,
        folder: GarbageFolder,
        settings: Settings,
        surplus: Surplus | None = None,
    ) -> None:
        """Collect what `store` holds; `chunks` finds manifests, also on other nodes.

        `surplus` tells what others hold as well; None = there are none.
        """
        self._surplus = surplus
        self._log = log
        self._store = store
        self._chunks = chunks
        self._promises = promises
        self._folder = folder
        self._clock: Clock = log.clock
        self._interval_ms = round(settings.interval_s * MS_PER_S)
        self.bytes_per_s = settings.bytes_per_s
        self.look_s = min(LOOK_S, settings.interval_s / LOOKS_IN_INTERVAL)
        self._began_ms = self._clock.now_ms()
        # Rounds whose mark is not beyond were begun before this process could know what was promised in them.
        self._floor: LogIndex | None = None
        self._swept_round = -1
        # A round in which nothing more can be swept, and when a run failed last.
        self._hopeless_round = -1
        self._failed_ns: int | None = None
        self._chunks_swept = self._bytes_swept = self._bytes_given_back = 0
        self._surplus_dropped = self._surplus_bytes_dropped = 0

    # ---- services.workers.Task ----

    async def is_due(self) -> bool:
        """See Task."""
        if self._log.failure is not None:
            return False
        await self._find_floor()
        row = await self._row()
        if self._log.is_leader and self._mark_is_due(row):
            row = await self._mark(row, self._interval_ms)
        if self._failed_ns is not None and self._clock.monotonic_ns() - self._failed_ns < AGAIN_S * NS_PER_S:
            return False
        return row.round > max(self._swept_round, self._hopeless_round) and self._may_sweep(row)

    async def run(self, *, asked: bool) -> AsyncGenerator[Step]:
        """See Task. Whoever asks wants a mark now, if the last one is old enough."""
        await self._find_floor()
        row = await self._row()
        if asked:
            row = await self._mark(row, self._interval_ms)
        self._failed_ns = self._clock.monotonic_ns()
        if self._may_sweep(row):
            async for step in self._collect(row):
                yield step
        async for step in self._compact():
            yield step
        if not self._may_sweep(row):
            raise FailedError("gc", "this node started after the last mark; it sweeps after the next one")
        self._failed_ns = None

    def counts(self) -> Mapping[str, int]:
        """See Task."""
        stats = self._store.stats()
        return {
            "round": self._present_round,
            "chunks_swept": self._chunks_swept,
            "bytes_swept": self._bytes_swept,
            "surplus_dropped": self._surplus_dropped,
            "surplus_bytes_dropped": self._surplus_bytes_dropped,
            "bytes_given_back": self._bytes_given_back,
            "bytes_dead": stats.bytes_used - stats.bytes_live,
            "bytes_used": stats.bytes_used,
        }

    def findings(self) -> list[str]:
        """See Task."""
        return []

    @property
    def _present_round(self) -> int:
        try:
            return self._promises.present_round
        except DivergedError:
            # A node whose state is wrong still says how it does; it is in no round.
            return 0

    @property
    def is_stuck(self) -> bool:
        """Whether several marks came, and nothing was swept after them, for another reason than a restart."""
        behind = self._present_round - self._swept_round
        return self._failed_ns is not None and behind >= STUCK_ROUNDS

    # ---- marks ----

    async def _row(self) -> CollectingRow:
        return await self._log.run(lambda: collecting.collecting_row(self._log.view()))

    async def _find_floor(self) -> None:
        if self._floor is None:
            # Linearizable: whatever an earlier process of this node promised, it had heard of no later mark.
            self._floor = await self._log.read_index(at_least=None, stale_ok=False)

    def _may_sweep(self, row: CollectingRow) -> bool:
        return self._floor is not None and row.index > self._floor

    def _mark_is_due(self, row: CollectingRow) -> bool:
        # A new cluster, or one that never collected, has as long from here.
        since_ms = self._clock.now_ms() - max(row.marked_at_ms, self._began_ms if not row.index else 0)
        return since_ms >= self._interval_ms

    async def _mark(self, row: CollectingRow, interval_ms: int) -> CollectingRow:
        """Begin a round, unless another node does, or it is too early; return how far it is then."""
        outcome = await self._log.propose(
            MarkGarbage(
                # Whoever proposes the same mark proposes the same command.
                request_id=RequestId(b"mcr gc mark %d" % row.round),
                principal=PRINCIPAL,
                at_ms=self._clock.now_ms(),
                after_round=row.round,
                interval_ms=interval_ms,
            )
        )
        if isinstance(outcome, Rejected) and outcome.code not in _NO_MARK:
            raise outcome.error()
        return await self._row()

    # ---- sweeping ----

    async def _collect(self, row: CollectingRow) -> AsyncGenerator[Step]:
        keep = await self._chunks.run(partial(self._folder.new_set, "keep"))
        touched = await self._chunks.run(partial(self._folder.new_set, "touched"))
        try:
            await self._chunks.run(partial(self._promises.begin_sweep, row.round))
            since = await self._log.run(lambda: collecting.held_since(self._log.view()))
            await self._note_touched(since, keep)
            if self._surplus is not None:
                await self._note_touched(since, touched)
            async for step in self._note_roots(keep):
                yield step
            async for step in self._sweep(row, keep, touched):
                yield step
            await self._chunks.run(partial(self._folder.journal.forget, since))
            self._swept_round = row.round
        except TooManyPromisesError as error:
            self._hopeless_round = row.round
            reason = "too much was uploaded since the last mark; it goes on after the next one"
            raise FailedError("gc", reason) from error
        finally:
            self._promises.end_sweep()
            await self._chunks.run(keep.drop)
            await self._chunks.run(touched.drop)

    async def _note_touched(self, since_round: int, keep: IdSet) -> None:
        pages = self._folder.journal.read(since_round)
        while await self._chunks.run(partial(_take_over, pages, keep)):
            continue

    async def _note_roots(self, keep: IdSet) -> AsyncGenerator[Step]:
        """Write down all that roots name.

        Parts of sessions first: one that is sealed meanwhile is a version by then.
        """
        opened: Opened = set()
        parts = await self._log.run(lambda: list(sessions.roots(self._log.view())))
        for done, manifest in enumerate(parts):
            cost_bytes = await self._note(manifest, opened, keep)
            yield Step("parts looked through", done + 1, len(parts), cost_bytes)
        models = await all_models(self._log)
        total = sum(models.values())
        done = 0
        for model in models:
            async for content in self._contents(model):
                cost_bytes = 0
                if content.is_root:
                    cost_bytes = await self._note(content.manifest, opened, keep, tolerant=content.is_purged)
                done += 1
                yield Step("versions looked through", done, max(done, total), cost_bytes)

    async def _contents(self, model: str) -> AsyncIterator[Content]:
        before: int | None = None
        while page := await self._log.run(
            partial(trash_queries.contents, self._log.view(), model, before=before, limit=PAGE_MAX)
        ):
            for content in page:
                yield content
            before = page[-1].number

    async def _note(
        self,
        manifest: ChunkId,
        opened: Opened,
        keep: IdSet,
        *,
        tolerant: bool = False,
    ) -> int:
        """Write down what a manifest names; return how many bytes had to be read.

        Args:
            manifest: its root.
            opened: nodes that need not be opened again.
            keep: where to.
            tolerant: what cannot be found is not missed.

        Raises:
            McrError: a node of it cannot be had, so nothing can be told of what it names.
        """
        if len(opened) > OPENED_MAX:
            opened.clear()
        # One that breaks off leaves nodes behind that were met and not opened; another version may need them.
        walk = walk_new_ids(manifest, set() if tolerant else opened)
        run = self._chunks.run
        read_bytes = 0
        await run(lambda: keep.add(walk.take()))
        while ids := await run(walk.needs):
            try:
                found = dict(zip(ids, await self._chunks.get(ids), strict=True))
            except (MissingChunkError, CorruptChunkError):
                if tolerant:
                    return read_bytes
                raise
            read_bytes += sum(map(len, found.values()))
            await run(partial(_feed, walk, found, keep))
        return read_bytes

    async def _sweep(self, row: CollectingRow, keep: IdSet, touched: IdSet) -> AsyncGenerator[Step]:
        """Go through what this node holds, and forget what is not to be kept, or not here."""
        total = self._store.stats().chunk_count
        done = 0
        async for page in self._held():
            dead = await self._chunks.run(partial(_without, page, keep))
            for start in range(0, len(dead), SWEEP_CHUNKS):
                count, frame_bytes = await self._forget(row, dead[start : start + SWEEP_CHUNKS])
                self._chunks_swept += count
                self._bytes_swept += frame_bytes
            async for cost_bytes in self._drop_surplus(row, page, dead, touched):
                yield Step("copies asked for", done, max(done, total), cost_bytes)
            done += len(page)
            yield Step("chunks looked at", done, max(done, total), 0)
        await self._chunks.run(partial(_forget_unhealed, self._store, keep))

    async def _forget(self, row: CollectingRow, part: Sequence[HeldChunk]) -> tuple[int, int]:
        """Forget chunks, but for those promised meanwhile; return how many went and what they took."""
        ids = [held.chunk_id for held in part]
        swept = set(await self._chunks.run(partial(self._promises.sweep, row.round, ids, self._store.remove)))
        return len(swept), sum(held.frame_bytes for held in part if held.chunk_id in swept)

    async def _drop_surplus(
        self, row: CollectingRow, page: Sequence[HeldChunk], dead: Sequence[HeldChunk], touched: IdSet
    ) -> AsyncGenerator[int]:
        """Forget what versions need, but others hold and vouch for; yield what each step cost, in bytes."""
        if self._surplus is None:
            return
        gone = {held.chunk_id for held in dead}
        needed = [held for held in page if held.chunk_id not in gone]
        needed = await self._chunks.run(partial(_without, needed, touched))
        for start in range(0, len(needed), VOUCH_IDS_MAX):
            spare = await self._surplus.spare(needed[start : start + VOUCH_IDS_MAX])
            if spare.chunks:
                count, frame_bytes = await self._forget(row, spare.chunks)
                self._surplus_dropped += count
                self._surplus_bytes_dropped += frame_bytes
            yield spare.cost_bytes

    async def _held(self) -> AsyncIterator[list[HeldChunk]]:
        after: ChunkId | None = None
        while page := await self._chunks.run(partial(self._store.held, after)):
            yield page
            after = page[-1].chunk_id

    async def _compact(self) -> AsyncGenerator[Step]:
        """Rewrite the emptiest segments until little is dead."""
        done = 0
        while True:
            stats = self._store.stats()
            if stats.bytes_used - stats.bytes_live <= DEAD_SHARE_MAX * stats.bytes_used:
                return
            found = await self._chunks.run(
                partial(self._store.compact_one, live_share_min=1 - DEAD_SHARE_MAX)
            )
            if found is None:
                return
            done += 1
            self._bytes_given_back += found.bytes_freed
            yield Step("segments rewritten", done, 0, found.bytes_copied)

    # ---- for operators ----

    async def collect_now(self) -> None:
        """Run to the end, as an embedded store does, which has no background of its own.

        Raises:
            McrError: it could not do all.
        """
        async for _ in self.run(asked=True):
            continue

    async def plan(self) -> CollectionPlan:
        """Return what would go now; nothing is changed.

        Raises:
            McrError: a manifest cannot be read, so it cannot be told.
        """
        plan = CollectionPlan()
        run = self._chunks.run
        roots = await run(partial(self._folder.new_set, "plan-roots"))
        touched = await run(partial(self._folder.new_set, "plan-touched"))
        deleted = await run(partial(self._folder.new_set, "plan-deleted"))
        try:
            since = await self._log.run(lambda: collecting.held_since(self._log.view()))
            await self._note_touched(since, touched)
            async for _ in self._note_roots(roots):
                continue
            await self._note_deleted(deleted, plan)
            async for page in self._held():
                await run(partial(_explain, page, roots, touched, deleted, plan))
        finally:
            for one in (roots, touched, deleted):
                await run(one.drop)
        stats = self._store.stats()
        plan.bytes_dead = stats.bytes_used - stats.bytes_live
        return plan

    async def _note_deleted(self, deleted: IdSet, plan: CollectionPlan) -> None:
        """Write down what versions name that were given up, as far as this node still knows."""
        opened: Opened = set()
        for model in await all_models(self._log):
            async for content in self._contents(model):
                if content.is_root or await self._chunks.missing([content.manifest]):
                    continue
                await self._note(content.manifest, opened, deleted, tolerant=True)
                if len(plan.versions) < VERSIONS_NAMED_MAX:
                    plan.versions.append(f"{model}@v{content.number}")


def _take_over(pages: Iterator[list[ChunkId]], keep: IdSet) -> bool:
    for _ in range(JOURNAL_PAGES):
        page = next(pages, None)
        if page is None:
            return False
        keep.add(page)
    return True


def _feed(walk: Steps[ChunkId], found: Mapping[ChunkId, bytes], keep: IdSet) -> None:
    walk.feed(found)
    keep.add(walk.take())


def _without(page: list[HeldChunk], keep: IdSet) -> list[HeldChunk]:
    kept = keep.among([held.chunk_id for held in page])
    return [held for held in page if held.chunk_id not in kept]


def _forget_unhealed(store: WatchedStore, keep: IdSet) -> None:
    """Of what was damaged, nobody waits for a copy any more that no version needs."""
    unhealed = store.unhealed()
    kept = keep.among(unhealed)
    store.remove([one for one in unhealed if one not in kept])


def _explain(
    page: list[HeldChunk], roots: IdSet, touched: IdSet, deleted: IdSet, plan: CollectionPlan
) -> None:
    dead = _without(page, roots)
    ids = [held.chunk_id for held in dead]
    waiting, of_deleted = touched.among(ids), deleted.among(ids)
    for held in dead:
        if held.chunk_id in waiting:
            plan.chunks_waiting += 1
            plan.bytes_waiting += held.frame_bytes
            continue
        plan.chunks += 1
        plan.bytes_total += held.frame_bytes
        if held.chunk_id in of_deleted:
            plan.chunks_deleted += 1
            plan.bytes_deleted += held.frame_bytes
