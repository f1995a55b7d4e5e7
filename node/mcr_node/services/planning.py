"""What a layout would move: the real placement function, asked about the real chunks before and after.

Every chunk of every version is met, each once. Beyond what fits into memory an unbiased part of them is
looked at: ids are digests, so those below a limit are as good as drawn by lot, and the limit is halved when
they become too many.
"""

from collections.abc import Sequence
from dataclasses import field

from mcr.manifest import drain_async, walk_chunks, walk_files
from mcr.model import ChunkId
from mcr.values import dataclass
from mcr_node.core.members import Member
from mcr_node.core.placement.ring import goal, holders
from mcr_node.ports_log import ReplicatedLog
from mcr_node.services.chunks import LocalChunks
from mcr_node.services.copies import COPIES
from mcr_node.services.walking import all_models, versions_of

# Some 150 bytes each; one sample of so many is right to half a percent.
LOOKED_AT_MAX = 1 << 17
_DRAWN_BYTES = 8


@dataclass(slots=True)
class Plan:
    """What would move; see `mcr.v1.PlanLayoutResponse`. Bytes by id of the member."""

    chunks: int = 0
    chunks_moved: int = 0
    bytes_moved: int = 0
    looked_at: int = 0
    bytes_in: dict[int, int] = field(default_factory=dict)
    bytes_out: dict[int, int] = field(default_factory=dict)


class Sample:
    """Chunks and their lengths: all, or those whose ids are below a limit."""

    def __init__(self, most: int = LOOKED_AT_MAX) -> None:
        self._most = most
        self.lengths: dict[ChunkId, int] = {}
        # The sample is one of so many equal parts.
        self.parts = 1

    def add(self, chunk_id: ChunkId, length_bytes: int) -> None:
        """Meet a chunk."""
        if not self._is_drawn(chunk_id):
            return
        self.lengths[chunk_id] = length_bytes
        if len(self.lengths) > self._most:
            self.parts *= 2
            self.lengths = {one: length for one, length in self.lengths.items() if self._is_drawn(one)}

    def _is_drawn(self, chunk_id: ChunkId) -> bool:
        return int.from_bytes(chunk_id[:_DRAWN_BYTES], "big") * self.parts < 1 << (8 * _DRAWN_BYTES)


def planned(sample: Sample, before: Sequence[Member], after: Sequence[Member]) -> Plan:
    """Return what moves between two tables of members."""
    plan = Plan(looked_at=len(sample.lengths), chunks=len(sample.lengths) * sample.parts)
    goal_before, goal_after = goal(before, COPIES), goal(after, COPIES)
    for chunk_id, length_bytes in sample.lengths.items():
        was = [member.node_id for member in holders(chunk_id, before, goal_before)]
        will = [member.node_id for member in holders(chunk_id, after, goal_after)]
        fresh = [node_id for node_id in will if node_id not in was]
        plan.chunks_moved += sample.parts * bool(fresh)
        plan.bytes_moved += sample.parts * length_bytes * len(fresh)
        _add(plan.bytes_in, fresh, sample.parts * length_bytes)
        _add(plan.bytes_out, [one for one in was if one not in will], sample.parts * length_bytes)
    return plan


def _add(totals: dict[int, int], node_ids: Sequence[int], length_bytes: int) -> None:
    for node_id in node_ids:
        totals[node_id] = totals.get(node_id, 0) + length_bytes


class Planning:
    """Plans over the versions that one node knows of."""

    def __init__(self, log: ReplicatedLog, chunks: LocalChunks) -> None:
        """Plan by the manifests that `chunks` can get."""
        self._log = log
        self._chunks = chunks

    async def plan(self, before: Sequence[Member], after: Sequence[Member]) -> Plan:
        """Return what would move.

        Raises:
            McrError: a manifest cannot be had.
        """
        sample = await self._sample()
        return await self._chunks.run(lambda: planned(sample, before, after))

    async def _sample(self) -> Sample:
        sample = Sample()
        seen: dict[ChunkId, None] = {}
        for model in await all_models(self._log):
            async for version in versions_of(self._log, model):
                if version.manifest in seen:
                    continue
                seen[version.manifest] = None
                async for row in drain_async(walk_files(version.manifest), self._chunks.get):
                    async for span in drain_async(walk_chunks(row), self._chunks.get):
                        sample.add(span.id, span.length_bytes)
        return sample
