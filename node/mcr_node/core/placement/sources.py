"""Whom to ask for a chunk that is not here, in what order, and when to ask a second one as well.

Two questions come up for every chunk. *Who fetches it?* One node of each site, the first of the chunk's
rendezvous among those of the site, and the others ask that one: so a chunk crosses to a site once, however
many read it there, and a source is asked once by a site, not once by a node. By the same rendezvous the
holders are chosen (`core.placement.ring`), so the one that is asked is the likeliest to hold it. *From whom?*
From the holders of its own site before those of others, and within these from whoever is expected to be done
first.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from mcr.values import dataclass
from mcr_node.core.members import Member
from mcr_node.core.placement.ring import ranked

US_PER_S: Final = 1_000_000
# What is believed of a node that nobody measured: a line that is neither idle nor slow, so that it is tried.
LATENCY_US_DEFAULT: Final = 1_000
BYTES_PER_S_DEFAULT: Final = 50_000_000
# A second request goes out when the first one took so many times as long as was expected, and not before
# there was time for a pause of a busy machine. "Hedged requests" after the 95th percentile are what Dean and
# Barroso advise ("The Tail at Scale", CACM 2013); a node has too few measurements of a peer for percentiles.
HEDGE_FACTOR: Final = 4
HEDGE_US_MIN: Final = 300_000
HEDGE_US_MAX: Final = 5_000_000
# They also advise a bound on what is asked for twice: here one of so many chunks, and a few at first, since
# who begins to read meets the node that hangs before it has earned anything.
HEDGE_SHARE: Final = 16
HEDGES_AT_FIRST: Final = 8


@dataclass(frozen=True, slots=True)
class Source:
    """A node that has a chunk, and what is known of the way to it.

    Attributes:
        latency_us: of a request that moves no bytes; 0 = never measured.
        bytes_per_s: that came lately, over all streams; 0 = never measured.
        waiting_bytes: asked of it and not yet here.
        is_failing: it failed a moment ago.
    """

    member: Member
    latency_us: int = 0
    bytes_per_s: int = 0
    waiting_bytes: int = 0
    is_failing: bool = False


def expected_us(source: Source, length_bytes: int) -> int:
    """Return how long something asked for now takes, behind all that waits already."""
    rate = source.bytes_per_s or BYTES_PER_S_DEFAULT
    latency_us = source.latency_us or LATENCY_US_DEFAULT
    return latency_us + (source.waiting_bytes + length_bytes) * US_PER_S // rate


def ordered(
    sources: Iterable[Source], site: str, length_bytes: int, *, failed: int | None = None
) -> tuple[Source, ...]:
    """Return sources from the one to ask first to the last resort.

    Whoever failed a moment ago comes after all others, and `failed` behind these: so nobody is asked twice in
    a row as long as there is another. Any order of `sources` gives the same.

    Args:
        sources: who has it.
        site: of the node that asks.
        length_bytes: of the chunk, as far as it can be told.
        failed: id of the node with which the last try failed.
    """

    def rank(source: Source) -> tuple[bool, bool, bool, int, int]:
        member = source.member
        return (
            member.node_id == failed,
            source.is_failing,
            member.site != site,
            expected_us(source, length_bytes),
            member.node_id,
        )

    return tuple(sorted(sources, key=rank))


def relay(key: bytes, me: Member, others: Sequence[Member]) -> Member:
    """Return which node of a site fetches a chunk for all of it.

    Args:
        key: chunk id.
        me: the node that asks.
        others: the other members, of any site, without those that fail.
    """
    return ranked(key, [me, *(member for member in others if member.site == me.site)])[0]


def hedge_after_us(source: Source, length_bytes: int) -> int:
    """Return how long to wait for a source before another one is asked as well."""
    return min(max(HEDGE_FACTOR * expected_us(source, length_bytes), HEDGE_US_MIN), HEDGE_US_MAX)


def is_worth_a_hedge(source: Source, silent_us: int, other: Source, length_bytes: int) -> bool:
    """Say whether to ask another source as well, once `hedge_after_us` has passed.

    A source from which something comes is only slow, and what it sends may fill a line that both share; so
    another one must be expected to be done in half the time that the first still needs.

    Args:
        source: was asked.
        silent_us: for how long nothing has come from it at all.
        other: may be asked.
        length_bytes: of the chunk.
    """
    if silent_us >= hedge_after_us(source, length_bytes):
        return True
    return not other.is_failing and 2 * expected_us(other, length_bytes) < expected_us(source, 0)


def may_hedge(chunks_fetched: int, hedges_lost: int) -> bool:
    """Say whether one more may be asked for twice, after so many that were in vain."""
    return hedges_lost < HEDGES_AT_FIRST + chunks_fetched // HEDGE_SHARE
