"""Chunk id and member table in, ordered holders out: weighted rendezvous hashing, sites before nodes.

Each member draws a number for each key from a hash of both, and the highest win (Thaler and Ravishankar, "A
Name-Based Mapping Scheme for Rendezvous", 1996; "Using Name-Based Mappings to Increase Hit Rates", 1998).
Weights come in by the logarithm method: with u uniform in (0, 1), weight / -ln u is highest for a member with
the probability of its share of all weights. So a member that comes takes only what it wins, and one that goes
leaves behind only what it held.

There is no table to agree about: whoever knows the members knows the holders of every chunk.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Final

from mcr.durability import Durability
from mcr.model import digest
from mcr_node.core.members import Member

# What a node that names no capacity counts as: a constant, and not the mean of the others, because then one
# member that comes would change the weight of all, and move what it does not take.
CAPACITY_BYTES_DEFAULT: Final = 1024**4
_UNIFORM_BITS: Final = 53


def is_met_by(durability: Durability, holding: Iterable[Member]) -> bool:
    """Say whether members that all hold something are enough."""
    sites = {member.node_id: member.site for member in holding}
    return len(sites) >= durability.copies and len(set(sites.values())) >= durability.sites


def goal(members: Iterable[Member], copies: int) -> Durability:
    """Return how widely placement spreads chunks over some members: over sites first, as far as there are."""
    sites = {member.node_id: member.site for member in members}
    wanted = max(1, min(copies, len(sites)))
    return Durability(wanted, max(1, min(wanted, len(set(sites.values())))))


def ranked(key: bytes, members: Iterable[Member]) -> tuple[Member, ...]:
    """Return members from the one that wins a key downwards; any order of the table gives the same."""
    drawn = [(_score(key, member), member.node_id, member) for member in members]
    drawn.sort(key=lambda each: each[:2], reverse=True)
    return tuple(member for _, _, member in drawn)


def holders(key: bytes, members: Iterable[Member], durability: Durability) -> tuple[Member, ...]:
    """Return who is to hold a chunk, in order; fewer, or of fewer sites, only where there are no more.

    Args:
        key: chunk id.
        members: those that can hold chunks; whoever is awaited, or about to leave, is not among them.
        durability: how many, and of how many sites.
    """
    return added(key, members, durability, held=())


def added(
    key: bytes,
    members: Iterable[Member],
    durability: Durability,
    *,
    held: Sequence[Member],
    near: str | None = None,
) -> tuple[Member, ...]:
    """Return who must hold a chunk beside those that do; see `chosen`.

    Args:
        key: chunk id.
        members: those that can hold chunks; `held` may be among them.
        durability: how many in all, and of how many sites.
        held: who holds it already, and counts.
        near: see `chosen`.
    """
    return chosen(ranked(key, members), durability, held=held, near=near)


def chosen(
    order: Iterable[Member], durability: Durability, *, held: Sequence[Member], near: str | None = None
) -> tuple[Member, ...]:
    """Return who must hold something beside those that do, the best one first.

    Each step takes the best one of those allowed: until there are enough sites, of a site that has no copy
    yet; from then on of any. A member that is never taken changes no step, so whatever it does, comes or
    goes, the others stay as they were.

    Args:
        order: those that can hold it, the best one first; `held` may be among them.
        durability: how many in all, and of how many sites.
        held: who holds it already, and counts.
        near: a site whose nodes are taken first once there are enough sites, for a copy that somebody waits
            for; None = all alike.
    """
    taken = {member.node_id: member for member in held}
    left = [member for member in order if member.node_id not in taken]
    found: list[Member] = []
    while left and not is_met_by(durability, taken.values()):
        used = {member.site for member in taken.values()}
        fresh = [member for member in left if member.site not in used]
        if len(used) < durability.sites and fresh:
            best = fresh[0]
        elif len(taken) < durability.copies:
            best = next((member for member in left if member.site == near), left[0])
        else:
            # Enough copies, and no site that has none.
            break
        left.remove(best)
        taken[best.node_id] = best
        found.append(best)
    return tuple(found)


def _score(key: bytes, member: Member) -> float:
    drawn = int.from_bytes(digest(key + member.node_id.to_bytes(8, "big"))[:8], "big")
    # Never 0 and never 1, so that the logarithm is finite and not 0. Logarithms may differ in the last bit
    # between machines; two members would have to draw the same 50 bits for that to change their order, and
    # what would come of it is one copy too many.
    uniform = ((drawn >> (64 - _UNIFORM_BITS)) + 0.5) / 2**_UNIFORM_BITS
    return (member.capacity_bytes or CAPACITY_BYTES_DEFAULT) / -math.log(uniform)
