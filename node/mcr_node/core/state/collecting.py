"""Garbage collection as far as all nodes must agree on it: its rounds, and the leases of uploads.

A *mark* ends a round and begins the next one. Each node then forgets, for itself, chunks that no version
needs as of the mark. The laws here are what makes that safe, whatever clocks, restarts and pauses do:

    A commit names the round in which it was found that its chunks are held, and is refused in any other. So
    each version that counts on what was held in a round stands in the log before the mark that ends it, and
    whoever looks for garbage after that mark sees it.
    Marks are in order, and never nearer than the interval that they name.
    What was in the trash and is given up stays a root for two marks, so that whoever reads it can go on.
    A lease says since which round an upload is under way. Chunks that were brought or counted on since then
    are not garbage. It saves work and keeps nothing else from happening: a lease that lapsed costs that the
    upload is repeated in part.
"""

from dataclasses import replace
from itertools import islice

from mcr.errors import FailedError, HeadMovedError, NodeBusyError, SealOutdatedError
from mcr_node.core.state import trash_keys
from mcr_node.core.state.outcomes import CountResult, RoundResult
from mcr_node.core.state.records import read
from mcr_node.core.state.step import Step
from mcr_node.core.state.trash import purge_expired
from mcr_node.core.state.trash_commands import HoldUpload, MarkGarbage, ReleaseUpload
from mcr_node.core.state.trash_records import CollectingRow, LeaseRow, TrashRow
from mcr_node.core.state.view import View

# Uploads that are under way for longer than a moment, in the whole cluster; read at each mark.
LEASES_MAX = 4096
# Marks after which what was given up is no root any more; the second one is an interval later at least.
PURGED_ROUNDS = 2


def collecting_row(view: View) -> CollectingRow:
    """Return how far garbage collection is."""
    return read(view, trash_keys.COLLECTING, CollectingRow) or CollectingRow()


def round_of(view: View) -> int:
    """Return the present round; 0 before the first mark."""
    return collecting_row(view).round


def is_root(row: TrashRow | None, present_round: int) -> bool:
    """Say whether the bytes of a version that was deleted so, or not at all, are kept."""
    return row is None or not row.is_purged or present_round < row.purged_round + PURGED_ROUNDS


def held_since(view: View) -> int:
    """Return the first round of which all that was brought or counted on is kept for an upload.

    The present and the last one in any case: what came just before a mark has time until the next one. A
    lease is taken when an upload has been under way for a moment, so the round before it counts too.
    """
    row = collecting_row(view)
    rounds = [
        lease.round - 1
        for _, value in view.scan(*trash_keys.leases())
        if (lease := LeaseRow.unpack(value)).until_ms > row.marked_at_ms
    ]
    return min([row.round - 1, *rounds])


def check_round(view: View, sealed_round: int | None) -> None:
    """Check that no garbage was marked since the chunks of a version were found to be held.

    Raises:
        SealOutdatedError: it was; look again.
    """
    present = round_of(view)
    if sealed_round is not None and sealed_round != present:
        raise SealOutdatedError(sealed_round, present)


def mark(step: Step, command: MarkGarbage) -> RoundResult:
    """End a round: give up what was in the trash for long enough, and forget leases that lapsed.

    Raises:
        HeadMovedError: another mark came first.
        FailedError: the last one was too short a time ago.
    """
    row = collecting_row(step.overlay)
    if row.round != command.after_round:
        raise HeadMovedError(f"round {command.after_round}", f"round {row.round}", "garbage collection")
    since_ms = step.at_ms - row.marked_at_ms
    if row.index and since_ms < command.interval_ms:
        reason = f"the last mark was {since_ms} ms ago, less than {command.interval_ms}"
        raise FailedError("garbage collection", reason)
    purge_expired(step, row.round)
    kept = row.lease_count - _drop_lapsed(step)
    now = CollectingRow(round=row.round + 1, index=step.index, marked_at_ms=step.at_ms, lease_count=kept)
    step.overlay.put(trash_keys.COLLECTING, now.pack())
    return RoundResult(now.round)


def _drop_lapsed(step: Step) -> int:
    lapsed = [
        key
        for key, value in islice(step.overlay.scan(*trash_keys.leases()), LEASES_MAX)
        if LeaseRow.unpack(value).until_ms <= step.at_ms
    ]
    for key in lapsed:
        step.overlay.delete(key)
    return len(lapsed)


def hold(step: Step, command: HoldUpload) -> RoundResult:
    """Take a lease, or renew it; the result names the round since which it holds.

    One that lapsed meanwhile begins anew.

    Raises:
        NodeBusyError: there are too many.
    """
    row = collecting_row(step.overlay)
    key = trash_keys.lease(command.lease)
    found = read(step.overlay, key, LeaseRow)
    count = row.lease_count
    if found is None:
        if count >= LEASES_MAX:
            count -= _drop_lapsed(step)
        if count >= LEASES_MAX:
            raise NodeBusyError("uploads with a lease", LEASES_MAX)
        count += 1
    until_ms = step.at_ms + command.hold_ms
    if found is None or found.until_ms <= step.at_ms:
        found = LeaseRow(principal=step.principal, round=row.round, since_ms=step.at_ms, until_ms=until_ms)
    else:
        found = replace(found, until_ms=max(found.until_ms, until_ms))
    step.overlay.put(key, found.pack())
    if count != row.lease_count:
        step.overlay.put(trash_keys.COLLECTING, replace(row, lease_count=count).pack())
    return RoundResult(found.round)


def release(step: Step, command: ReleaseUpload) -> CountResult:
    """Give a lease back; one that is not there is given back already."""
    return CountResult(drop_lease(step, command.lease))


def drop_lease(step: Step, lease: bytes) -> int:
    """Forget a lease, if it is there; return how many were."""
    key = trash_keys.lease(lease)
    if not lease or step.overlay.get(key) is None:
        return 0
    row = collecting_row(step.overlay)
    step.overlay.delete(key)
    step.overlay.put(trash_keys.COLLECTING, replace(row, lease_count=row.lease_count - 1).pack())
    return 1
