"""What this node said it holds since garbage was last marked: it must not be forgotten before the next mark.

Whoever counts on an answer, to seal a commit, gets the round of garbage collection in which it was given. A
commit is accepted in that round only (`core.state.collecting`); so what is promised in a round need not be
kept for whoever comes back after its end, and what was promised in it is in the log by then, for all to see.

The safety case of a sweep in round r, which forgets chunks that no version needs as of the mark that began r:

    A version accepted before that mark is seen by the sweep, which looks after it.
    A version accepted later, that counts on this node, counts on answers given in round r or a later one.
    All of those since the mark are here: in the journal up to the moment when the sweep began, and in memory
    since then, whatever rounds began meanwhile. `sweep` leaves them out, in one step with removing.
    A process that did not see the mark come does not sweep in its round, since what was promised before it
    started is not known to it (`services.collecting`).

Nothing here depends on clocks, or on what is on disk: the journal only saves uploads from being repeated.
"""

import secrets
import threading
from collections.abc import Callable, Iterator, Sequence

from mcr.errors import McrError
from mcr.model import Chunk, ChunkId
from mcr_node.ports import ChunkStore, ChunkStoreStats, Compacted, HeldChunk, PutReceipt, Scrubbed
from mcr_node.ports_garbage import Promise, TouchJournal

# Promised while a sweep is under way, some 100 bytes each. A sweep that meets more ends, for this round.
RECENT_MAX = 1 << 18
# Promised in one round, 256 MiB of journal: a million chunks of 1 MiB, eight times over. In a round with more
# nothing is swept.
ROUND_MAX = 1 << 23
LIFE_BITS = 62


class TooManyPromisesError(Exception):
    """Nothing can be swept in this round: not all that was promised since it began is known."""


class Promises:
    """The promises of one node. May be used from several threads at once."""

    def __init__(self, store: ChunkStore, journal: TouchJournal, round_of: Callable[[], int]) -> None:
        """Promise what `store` holds; `round_of` reads the round from the state of this node."""
        self._store = store
        self._journal = journal
        self._round_of = round_of
        self._lock = threading.Lock()
        # Drawn anew by each process, so that whoever counts on a promise notices a restart.
        self.life = 1 + secrets.randbits(LIFE_BITS)
        self._round = -1
        self._noted = 0
        # The last round of which not all that was promised is noted: no sweep of it, or before, may go on.
        self._lossy_round = -1
        # Promised since a sweep began; None = there is none under way.
        self._recent: set[ChunkId] | None = None

    @property
    def present_round(self) -> int:
        """The round in which a promise would be given now."""
        return self._round_of()

    def promise(self, ids: Sequence[ChunkId]) -> Promise:
        """Say which of some chunks are held, and keep them until the round ends."""
        present = self.touch(ids)
        # Looked for after they were noted: what a sweep removed before that is missing.
        return Promise(self._store.missing(ids), present, self.life)

    def touch(self, ids: Sequence[ChunkId]) -> int:
        """Note chunks that are brought or counted on; return the round."""
        present = self._round_of()
        with self._lock:
            self._advance(present)
            self._note(ids)
            return self._round

    def _advance(self, present: int) -> None:
        if present > self._round:
            self._round = present
            self._noted = 0

    def _note(self, ids: Sequence[ChunkId]) -> None:
        self._noted += len(ids)
        if self._noted > ROUND_MAX or self._lossy_round == self._round:
            self._lossy_round = self._round
            return
        try:
            self._journal.append(self._round, ids)
        except McrError:
            self._lossy_round = self._round
        if self._recent is not None:
            self._recent.update(ids)

    # ---- sweeping ----

    def begin_sweep(self, of_round: int) -> None:
        """Begin the sweep of a round; all that is promised from now on is left out.

        Raises:
            TooManyPromisesError: not all is known that was promised since the round began.
        """
        with self._lock:
            self._advance(of_round)
            self._recent = set()
            self._check(of_round)

    def end_sweep(self) -> None:
        """Sweep no more."""
        with self._lock:
            self._recent = None

    def sweep(
        self, of_round: int, ids: Sequence[ChunkId], remove: Callable[[Sequence[ChunkId]], object]
    ) -> list[ChunkId]:
        """Forget those of some chunks that were not promised since the sweep began; return them.

        Args:
            of_round: the round of the sweep.
            ids: chunks that no version needed at its mark.
            remove: forgets chunks, durably.

        Raises:
            TooManyPromisesError: not all is known that was promised meanwhile; nothing was removed.
        """
        with self._lock:
            recent = self._check(of_round)
            doomed = [one for one in ids if one not in recent]
            if doomed:
                remove(doomed)
            return doomed

    def _check(self, of_round: int) -> set[ChunkId]:
        assert self._recent is not None, "a sweep is under way"
        if self._lossy_round >= of_round or len(self._recent) > RECENT_MAX:
            raise TooManyPromisesError
        return self._recent


class PromisingStore:
    """`ports.ChunkStore` over another one: what is put is kept until the round ends."""

    def __init__(self, store: ChunkStore, promises: Promises) -> None:
        self._store = store
        self._promises = promises

    def missing(self, ids: Sequence[ChunkId]) -> set[ChunkId]:
        """See ChunkStore. Nobody may count on it for longer than a moment; `Promises.promise` is for that."""
        return self._store.missing(ids)

    def put(self, chunks: Sequence[Chunk]) -> PutReceipt:
        """See ChunkStore."""
        # Before: what is held already is not written again, and must not go in between.
        self._promises.touch([chunk.id for chunk in chunks])
        return self._store.put(chunks)

    def sync(self) -> None:
        """See ChunkStore."""
        self._store.sync()

    def get(self, chunk_id: ChunkId) -> bytes:
        """See ChunkStore."""
        return self._store.get(chunk_id)

    def get_into(self, chunk_id: ChunkId, place: memoryview) -> int:
        """See ChunkStore."""
        return self._store.get_into(chunk_id, place)

    def expect(self, ids: Sequence[ChunkId]) -> None:
        """See ChunkStore."""
        self._store.expect(ids)

    def remove(self, ids: Sequence[ChunkId]) -> int:
        """See ChunkStore."""
        return self._store.remove(ids)

    def held(self, after: ChunkId | None) -> list[HeldChunk]:
        """See ChunkStore."""
        return self._store.held(after)

    def compact(self, *, live_share_min: float) -> int:
        """See ChunkStore."""
        return self._store.compact(live_share_min=live_share_min)

    def compact_one(self, *, live_share_min: float) -> Compacted | None:
        """See ChunkStore."""
        return self._store.compact_one(live_share_min=live_share_min)

    def scrub(self, after: ChunkId | None = None) -> Iterator[Scrubbed]:
        """See ChunkStore."""
        return self._store.scrub(after)

    def stats(self) -> ChunkStoreStats:
        """See ChunkStore."""
        return self._store.stats()

    def close(self) -> None:
        """See ChunkStore."""
        self._store.close()
