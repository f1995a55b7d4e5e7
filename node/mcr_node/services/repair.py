"""Repair: sees to it that every chunk of every version has its copies, also after a node is gone for good.

Each model is looked after by one node that answers, the same in the eyes of all of them. It counts the copies
of what the versions need, then copies what has too few, most endangered first. It looks again when somebody
comes or goes, when there are new versions, and now and then.
"""

from collections import Counter
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import groupby

from mcr.errors import FailedError, McrError
from mcr.model import MIB, Chunk, ChunkId, digest
from mcr_node.core.members import Member
from mcr_node.ports import Clock
from mcr_node.ports_log import ReplicatedLog
from mcr_node.services.census import Census, Copies
from mcr_node.services.chunks import LocalChunks
from mcr_node.services.copies import CHUNKS_AT_ONCE, COPIES, Holders
from mcr_node.services.lacking import Among, Lacking, Lost, Order, Plan, Round, by_danger, sentence_of, way_of
from mcr_node.services.pace import REPAIR_BYTES_PER_S
from mcr_node.services.presence import NS_PER_S, Presence
from mcr_node.services.walking import Kept, all_models, versions_of
from mcr_node.services.workers import Step

# All versions are looked through again so often although nobody came or went: a copy may have been lost in
# ways that nobody told.
REWALK_S = 6 * 3600.0
# New versions were sealed with their copies, so there is no hurry to look at them.
NEW_VERSIONS_S = 60.0
# What could not be copied is tried again so often.
AGAIN_S = 60.0
# A node that joins fetches all that was decided before, and is to vote soon. All versions are looked through
# again for it, so this begins only after so long where it changes nothing but who looks after which models.
NEWCOMERS_S = 10.0
# How often the members are asked whether they are there, which costs each node a few calls; oftener where
# silence counts sooner.
LOOK_S = 5.0
LOOKS_IN_SILENCE = 4
# What is copied in one step, as far as the lengths of the chunks before tell; and at most so many.
COPY_BYTES = 8 * MIB
COPY_CHUNKS_MAX = 256
# Lost chunks of which versions and files are named; whoever lost more needs a backup, not a list.
LOST_NAMED_MAX = 100
VERSIONS_NAMED_MAX = 20


class Repair:
    """`services.workers.Task`: the repair of one node's share of the models."""

    name = "repair"

    def __init__(
        self,
        log: ReplicatedLog,
        chunks: LocalChunks,
        holders: Holders,
        presence: Presence,
        clock: Clock,
        order: Order,
        *,
        bytes_per_s: float = REPAIR_BYTES_PER_S,
    ) -> None:
        """Look after what `log` names; `order` says who takes copies of a chunk, who has a model."""
        self._log = log
        self._chunks = chunks
        self._holders = holders
        self._presence = presence
        self._clock = clock
        self._order = order
        self.bytes_per_s = bytes_per_s
        self.look_s = min(LOOK_S, presence.silence_s / LOOKS_IN_SILENCE)
        self._models: dict[str, Lacking] = {}
        # Who took part in the last run, by id; what it left to do; how far the log was; and when it ended.
        self._last_among: Among | None = None
        # Others were seen since. Whoever comes may take over what others then drop, and be gone again while
        # a run waits for it to settle: the same members then hold less.
        self._is_unsure = False
        self._last_applied = 0
        self._last_ns = 0
        # Among whom a run broke off, and when; None = the last one did not.
        self._broke_off: tuple[Among, int] | None = None
        self._copied = self._bytes_copied = self._counted = 0
        # The newest layout under which all that is looked after here was looked through.
        self._epoch = 0
        self._wanted = 1
        # Who was seen last to take part, and until when a run may wait although it would be due.
        self._seen_among: Among | None = None
        self._waits_until_ns = 0
        # Whoever ever took part in a run, by id.
        self._members_met: dict[int, None] = {}

    # ---- services.workers.Task ----

    async def is_due(self) -> bool:
        """See Task."""
        found = await self._begin(asked=False)
        if found is None:
            return False
        now_ns = self._clock.monotonic_ns()
        self._is_unsure = self._is_unsure or found.among != self._last_among
        if self._broke_off is not None and self._broke_off[0] == found.among:
            # What made it break off may well be there still.
            return now_ns - self._broke_off[1] >= AGAIN_S * NS_PER_S
        since_s = (now_ns - self._last_ns) / NS_PER_S
        if found.among != self._last_among:
            return not self._may_wait(found, now_ns)
        if self._is_unsure:
            return True
        # Whatever the change was, it is the same members who hold the same.
        self._epoch = found.epoch
        # Somebody waits for a drain, which may hang on a version made before all nodes knew of it.
        new_versions_s = 0 if found.leaving else NEW_VERSIONS_S
        return (
            (self._short > 0 and since_s >= AGAIN_S)
            or (self._log.applied > self._last_applied and since_s >= new_versions_s)
            or since_s >= REWALK_S
        )

    async def run(self, *, asked: bool) -> AsyncGenerator[Step]:
        """See Task. Who asks knows that whoever is silent now will not come back: they count as gone."""
        found = await self._begin(asked=asked)
        if found is None:
            raise FailedError("repair", "this node is no member that stays, or out of service")
        again = asked or self._is_unsure or found.among != self._last_among or self._short > 0
        applied = self._log.applied
        self._members_met.update(dict.fromkeys(found.among[0]))
        try:
            async for step in self._look_through(found, self._models, again=again):
                yield step
            async for step in self._copy_all(found):
                yield step
        except McrError:
            self._broke_off = found.among, self._clock.monotonic_ns()
            raise
        self._broke_off = None
        is_all = not any(model.known.more for model in self._models.values())
        # What was too much for one run is due at once.
        self._last_among = found.among if is_all else None
        self._last_applied = applied
        self._last_ns = self._clock.monotonic_ns()
        if is_all:
            self._epoch = found.epoch
            self._is_unsure = False
        if self._short:
            raise FailedError("repair", self._why_not_all(found))

    def _may_wait(self, found: Round, now_ns: int) -> bool:
        """Say whether nothing lacks a copy by what changed, and who joined needs the machines first."""
        if found.among != self._seen_among:
            before, self._seen_among = self._last_among, found.among
            if before is None:
                may_wait = found.myself.node_id not in self._log.membership.conf.voters
            else:
                came = [one for one in found.among[0] if one not in before[0]]
                is_new = not any(one in self._members_met for one in came)
                may_wait = is_new and _is_only_more(before, found.among) and not self._short
            self._waits_until_ns = now_ns + round(NEWCOMERS_S * NS_PER_S) if may_wait else 0
        return now_ns < self._waits_until_ns

    def counts(self) -> Mapping[str, int]:
        """See Task."""
        return {
            "chunks_under_replicated": self.under_replicated,
            "chunks_lost": self.lost,
            "chunks_leaving": self._short - self.under_replicated,
            "layout_epoch": self._epoch,
            "chunks_counted": self._counted,
            "chunks_copied": self._copied,
            "bytes_copied": self._bytes_copied,
        }

    def findings(self) -> list[str]:
        """See Task."""
        return [
            sentence_of(chunk_id, lost)
            for model in self._models.values()
            for chunk_id, lost in model.lost.items()
        ][:LOST_NAMED_MAX]

    # ---- for operators ----

    @property
    def under_replicated(self) -> int:
        """How many chunks of the models looked after here have too few copies; lost ones too.

        Those that have them, but on nodes that are leaving, are `chunks_leaving` among the counts.
        """
        return sum(
            model.known.more
            - model.known.more_leaving
            + sum(len(one.anywhere) < self._wanted for one in model.known.short.values())
            for model in self._models.values()
        )

    @property
    def _short(self) -> int:
        """How many are to be copied, in all."""
        return sum(len(model.known.short) + model.known.more for model in self._models.values())

    @property
    def lost(self) -> int:
        """How many of them no node has that answers."""
        return sum(model.known.lost for model in self._models.values())

    async def plan(self) -> Plan:
        """Return what a run asked for now would copy; nothing is changed.

        Raises:
            McrError: a node stopped answering.
        """
        plan = Plan()
        found = await self._begin(asked=True)
        if found is None:
            return plan
        models: dict[str, Lacking] = {}
        async for _ in self._look_through(found, models, again=True):
            pass
        plan.lost = sum(model.known.lost for model in models.values())
        todo = await self._chunks.run(partial(by_danger, list(models.values()), found))
        times_of: dict[ChunkId, dict[ChunkId, int]] = {}
        for _, copies, targets in todo:
            if targets:
                times_of.setdefault(copies.manifest, {})[copies.chunk_id] = len(targets)
        census = self._census(found)
        for manifest, times in times_of.items():
            for chunk_id, (_, length_bytes) in (await census.measure(manifest, list(times))).items():
                plan.bytes_total += length_bytes * times[chunk_id]
            plan.chunks += len(times)
        return plan

    # ---- counting ----

    async def _begin(self, *, asked: bool) -> Round | None:
        """Return who takes part now; None when nobody does, or it is not known yet who does."""
        present = await self._presence.look()
        membership = self._log.membership
        myself = membership.get(self._log.node_id)
        is_out_of_service = self._log.failure is not None
        # Nobody waits for one that is to go anyway.
        is_awaited = any(not member.leaving for member in present.silent)
        if myself is None or myself.leaving or is_out_of_service or (is_awaited and not asked):
            return None
        staying = [one for one in (*present.alive, *present.silent, *present.gone) if not one.leaving]
        self._wanted = min(COPIES, len(staying) + 1)
        return Round(present, myself, self._wanted, membership.epoch, self._order)

    def _census(self, found: Round) -> Census:
        return Census(
            self._chunks, self._holders, found.myself, found.present.alive, found.wanted, found.lives
        )

    async def _look_through(
        self, found: Round, models: dict[str, Lacking], *, again: bool
    ) -> AsyncGenerator[Step]:
        """Count the copies of all chunks that this node looks after; bring `models` up to date.

        Args:
            found: who takes part.
            models: what is known.
            again: also those versions that were looked through before.
        """
        census = self._census(found)
        mine = await self._mine(found)
        for name in [name for name in models if name not in mine]:
            del models[name]
        total = sum(mine.values())
        done = 0
        for name, version_count in mine.items():
            now_ns = self._clock.monotonic_ns()
            model = models.setdefault(name, Lacking())
            is_old = now_ns - model.looked_ns >= REWALK_S * NS_PER_S
            fresh = Lacking(looked_ns=now_ns) if again or is_old or not model.looked_at else model
            after = fresh.looked_at
            versions = versions_of(self._log, name, after=after)
            async for count, counted, needing in census.count_all(versions, fresh.known):
                done += count
                self._counted += counted.chunks
                await self._name_lost(census, needing[0], counted.short, fresh)
                yield Step("versions looked through", done, total, counted.cost_bytes)
            done += after
            fresh.looked_at = version_count
            models[name] = fresh
            yield Step("versions looked through", done, total, 0)

    async def _mine(self, found: Round) -> dict[str, int]:
        """Return the models that this node looks after, and how many versions each ever had."""
        mine: dict[str, int] = {}
        for name, version_count in (await all_models(self._log)).items():
            first = self._order(found.nodes, ChunkId(digest(name.encode())))[0]
            if first.node_id == self._log.node_id:
                mine[name] = version_count
        return mine

    async def _name_lost(
        self, census: Census, version: Kept, short: Sequence[Copies], model: Lacking
    ) -> None:
        lost = [copies.chunk_id for copies in short if not copies.anywhere]
        fresh = [chunk_id for chunk_id in lost if chunk_id not in model.lost]
        fresh = fresh[: max(0, LOST_NAMED_MAX - len(model.lost))]
        if fresh:
            files = await census.measure(version.manifest, fresh)
            model.lost |= {one: Lost(files[one][0] if one in files else "") for one in fresh}
        name = version.name
        for chunk_id in lost:
            known = model.lost.get(chunk_id)
            # An id may come more than once in a version.
            is_new = known is not None and name not in known.versions
            if known is not None and is_new and len(known.versions) < VERSIONS_NAMED_MAX:
                known.versions.append(name)

    # ---- copying ----

    async def _copy_all(self, found: Round) -> AsyncGenerator[Step]:
        """Copy what has too few copies, that with the fewest first."""
        # Beside the event loop: there may be a hundred thousand. Nobody else changes them.
        todo = await self._chunks.run(partial(by_danger, list(self._models.values()), found))
        refused: dict[int, McrError] = {}
        done = 0
        at_once = CHUNKS_AT_ONCE
        for _, group in groupby(todo, key=way_of):
            left = list(group)
            while left:
                part, left = left[:at_once], left[at_once:]
                cost_bytes = await self._copy(found, [copies for _, copies, _ in part], refused)
                done += len(part)
                # How long chunks are is not known before; each part takes a sync, so short ones go together.
                room = COPY_BYTES // max(1, cost_bytes // len(part))
                at_once = max(1, min(room, 2 * at_once, COPY_CHUNKS_MAX))
                if cost_bytes:
                    for model, copies, _ in part:
                        model.known.has(copies.chunk_id)
                yield Step("chunks copied", done, len(todo), cost_bytes)

    async def _copy(self, found: Round, part: Sequence[Copies], refused: dict[int, McrError]) -> int:
        """Bring chunks with the same holders to where they lack; durable there when this returns.

        Returns:
            How many bytes were sent; 0 when there are too few nodes that take them, or the holder lost them.
        """
        ids = [copies.chunk_id for copies in part]
        try:
            chunks = await self._read(found, ids, part[0].anywhere)
        except McrError:
            # Damaged there, or gone silent: counted anew by the next run.
            return 0
        length_bytes = sum(len(chunk.data) for chunk in chunks)
        sent_bytes = 0
        while targets := found.targets(part[0], refused):
            for member in targets:
                try:
                    await self._write(found, member, chunks)
                except McrError as error:
                    # Full, or gone silent: another one takes it.
                    refused[member.node_id] = error
                    continue
                # Not chosen once more for the same chunks.
                part = [replace(each, holders=(*each.holders, member.node_id)) for each in part]
                self._copied += len(ids)
                self._bytes_copied += length_bytes
                sent_bytes += length_bytes
        return max(1, sent_bytes) if len(part[0].holders) >= found.wanted else 0

    async def _read(self, found: Round, ids: Sequence[ChunkId], holders: Sequence[int]) -> list[Chunk]:
        if self._log.node_id in holders:
            data = await self._chunks.get(ids)
        else:
            data = await self._holders.get(found.known[holders[0]].address, ids)
        # Verified at either end: here when it was read or received, there when it is received.
        return [Chunk(one, each) for one, each in zip(ids, data, strict=True)]

    async def _write(self, found: Round, member: Member, chunks: Sequence[Chunk]) -> None:
        if member.node_id == self._log.node_id:
            await self._chunks.put_verified(chunks)
        else:
            await self._holders.put(member.address, chunks)
            found.lives.check(member, await self._holders.sync(member.address))

    def _why_not_all(self, found: Round) -> str:
        if said := self.findings():
            return said[0]
        if len(found.nodes) < found.wanted:
            return f"{self._short} chunks need another node, and no other answers"
        return f"{self._short} chunks could not be copied; it is tried again"


def _is_only_more(before: Among, after: Among) -> bool:
    """Say whether members came and nothing else changed: nobody went, or started again, or is to leave."""
    return before[1:3] == after[1:3] and all(
        not Counter(known) - Counter(now) for known, now in ((before[0], after[0]), (before[3], after[3]))
    )
