"""The running digest of the state: equal on all nodes that applied the same log, or one of them is wrong.

Each node remembers its digest after every so many entries. From time to time the log says what most voters
had at one of these (`CheckDigest`), and each node compares. The chain makes up for what a comparison misses:
a digest that once differed differs for ever, so a node that was down, or had forgotten, is found at the next.
"""

from collections.abc import Mapping, Sequence
from typing import Final, cast

import blake3

from mcr import canonical
from mcr.errors import CorruptStoreError
from mcr.model import DIGEST_BYTES, LogIndex
from mcr.values import dataclass
from mcr_node.core.state.commands import CheckDigest
from mcr_node.core.state.records import PLACE

DIGEST_START = bytes(DIGEST_BYTES)
_CONTEXT = b"mcr state digest 1\x00"
# One comparison costs an entry and a call to each voter: at this rate neither is felt, and a wrong state is
# found within seconds of a busy log.
DIGEST_ENTRIES: Final = 1_000
# Long enough for a follower to be asked about an index that it reached late, and small.
DIGESTS_KEPT_MAX: Final = 16


def next_digest(previous: bytes, index: LogIndex, changes: Sequence[tuple[bytes, bytes | None]]) -> bytes:
    """Return the digest after the changes of one log entry; a chain, so it vouches for all entries before.

    Args:
        previous: digest after entry `index - 1`, DIGEST_START before the first.
        index: log index of the entry.
        changes: as `apply` gives them, in key order; empty for a rejected command.
    """
    assert len(previous) == DIGEST_BYTES
    # The canonical form of [previous, index, changes].
    said = canonical.encode_ordered([previous, index, None])[:-1] + canonical.encode_pairs(changes)
    return blake3.blake3(_CONTEXT + said).digest()


@dataclass(frozen=True, slots=True)
class Divergence:
    """A state that is not what the log makes of it.

    Attributes:
        index: log index after which the digests were compared.
        found_at: index of the entry that brought the other digest; greater than `index`.
        ours: digest of this state, 32 bytes.
        theirs: digest of most voters' states, 32 bytes.
    """

    index: LogIndex
    found_at: LogIndex
    ours: bytes
    theirs: bytes


class DigestWatch:
    """What a node remembers of its digests, and what came of comparing them.

    One thread notes and compares; any may look.
    """

    def __init__(self, entries: int = DIGEST_ENTRIES, divergence: Divergence | None = None) -> None:
        """Remember the digest after each multiple of `entries`, the same on all nodes.

        Args:
            entries: 2 at least, for each comparison is an entry itself.
            divergence: what an earlier life of the node found.
        """
        assert entries > 1
        self._entries = entries
        # Replaced by each note, so that whoever looks meanwhile sees one or the other.
        self._known: Mapping[LogIndex, bytes] = {}
        self.divergence = divergence
        # The last index that the log asked to compare.
        self.checked = LogIndex(0)

    @property
    def known(self) -> Mapping[LogIndex, bytes]:
        """The digests that are remembered, oldest first."""
        return self._known

    def note(self, index: LogIndex, digest: bytes) -> None:
        """Remember the digest after entry `index`, if it is one of those."""
        if index % self._entries == 0:
            kept = list(self._known.items())[1 - DIGESTS_KEPT_MAX :]
            self._known = {**dict(kept), index: digest}

    def forget(self) -> None:
        """Forget all: the state is another one now."""
        self._known = {}

    def compare(self, found_at: LogIndex, command: CheckDigest) -> Divergence | None:
        """Return what is wrong when this node's digest is another one; None too when its own is not known.

        Args:
            found_at: log index of the command.
            command: tells the digest of most voters.
        """
        self.checked = max(self.checked, command.index)
        ours = self._known.get(command.index)
        if ours is not None and ours != command.digest:
            self.divergence = Divergence(command.index, found_at, ours, command.digest)
        return self.divergence


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a comparison of the voters' digests shows.

    Attributes:
        index: log index after which they were taken; 0 = they show nothing yet.
        digest: that of a majority of the voters; None = no digest can have one, so some states are wrong and
            nobody can tell which.
    """

    index: LogIndex
    digest: bytes | None = None


def judge(answers: Sequence[Mapping[LogIndex, bytes]], after: LogIndex) -> Verdict:
    """Say which digest is right: that of a majority of the voters, at the newest index at which there is one.

    Not simply the leader's: with three voters a leader whose state is wrong would put both others out of
    service, and then give them its own.

    Args:
        answers: for each voter, what it remembers; nothing for one that did not answer.
        after: only indexes beyond this one are looked at.
    """
    majority = len(answers) // 2 + 1
    indexes = sorted({index: None for answer in answers for index in answer if index > after}, reverse=True)
    disputed = Verdict(LogIndex(0))
    for index in indexes:
        found = [answer[index] for answer in answers if index in answer]
        counts = {digest: found.count(digest) for digest in found}
        digest = max(counts, key=lambda one: counts[one])
        if counts[digest] >= majority:
            return Verdict(index, digest)
        if counts[digest] + len(answers) - len(found) < majority:
            disputed = Verdict(index)
    return disputed


def encode_divergence(divergence: Divergence) -> bytes:
    """Return the canonical bytes of a divergence, as they stand in the state store."""
    return canonical.encode([divergence.index, divergence.found_at, divergence.ours, divergence.theirs])


def decode_divergence(data: bytes) -> Divergence:
    """Return a divergence from the state store.

    Raises:
        CorruptStoreError: it is none.
    """
    try:
        index, found_at, ours, theirs = cast("tuple[int, int, bytes, bytes]", canonical.decode(data))
    except (ValueError, TypeError) as error:
        raise CorruptStoreError(PLACE, f"the note of a divergence cannot be read: {error}") from error
    return Divergence(LogIndex(index), LogIndex(found_at), ours, theirs)
