"""Applying on many nodes what was applied already: the same entry on the same state gives the same.

Nearly all time of a simulation would go into applying each entry once more on each node. A node whose
state has the digest that the oracle's had takes over what the oracle made of the entry; now and then it does
the work itself, as the product does, or had done it before the entry was committed, and the oracle compares.
"""

from collections.abc import Sequence
from typing import Protocol

from mcr.model import LogIndex
from mcr_node.core.raft.messages import Entry
from mcr_node.core.state.outcomes import Outcome
from mcr_node.runtime.applying import Applier
from tests.simulation.cluster.disk import Changes, StateDisk
from tests.simulation.cluster.world import World

# Of the writes to a state, so many are worked out on the node itself.
OWN_WORK_PER_MILLE = 100


class Made(Protocol):
    """What came of an entry."""

    digest: bytes
    outcome: Outcome | None
    changes: Changes


class Memory(Protocol):
    """Who knows what came of an entry on a state of that digest."""

    def made_of(self, entry: Entry, digest: bytes) -> Made | None: ...


class SparedApplier(Applier):
    """The applier of a node of the simulation."""

    def __init__(self, state: StateDisk, memory: Memory, world: World) -> None:
        super().__init__(state)
        self._disk = state
        self._memory = memory
        self._world = world

    def apply(self, entries: Sequence[Entry]) -> list[Outcome | None]:
        if not entries:
            return []
        if self._foreseen is not None or self._world.happens(OWN_WORK_PER_MILLE):
            return super().apply(entries)
        outcomes: list[Outcome | None] = []
        changes: list[tuple[bytes, bytes | None]] = []
        digest = self.digest
        for entry in entries:
            made = self._memory.made_of(entry, digest)
            if made is None:
                return super().apply(entries)
            outcomes.append(made.outcome)
            changes += made.changes
            digest = made.digest
        last = entries[-1]
        self._disk.write(changes, LogIndex(last.index), digest, applied_term=last.term)
        self.digest = digest
        return outcomes
