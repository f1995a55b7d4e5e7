"""What can be asked about merges: where two versions meet, what waits, how a version was computed."""

from heapq import heappop, heappush
from itertools import islice

from mcr.errors import InvalidArgumentError, MergeNotFoundError
from mcr.values import dataclass
from mcr_node.core.state import keys, lookup
from mcr_node.core.state.merges import waiting_row
from mcr_node.core.state.queries import PAGE_MAX
from mcr_node.core.state.records import ConflictRow, DocumentRow, WaitingRow, read
from mcr_node.core.state.view import View

# A record is read in some 20 microseconds; histories that parted further back than this are told so.
BASE_STEPS_MAX = 200_000
_OURS, _THEIRS = 1, 2
_BOTH = _OURS | _THEIRS


@dataclass(frozen=True, slots=True)
class Waiting:
    """A merge that waits."""

    merge: int
    row: WaitingRow


@dataclass(frozen=True, slots=True)
class Conflict:
    """A conflict of a merge that waits."""

    name: str
    row: ConflictRow


def merge_base(view: View, model: str, ours: int, theirs: int) -> int:
    """Return the newest version that both come from, one of them itself perhaps; 0 = there is none.

    Parents have smaller numbers, so taking the greatest number that is left meets each version after all
    its descendants, and the first that both sides reach has no descendant that both reach. Where histories
    crossed (each side merged the other before) several versions are such; the newest counts, everywhere.

    Raises:
        ModelNotFoundError, ReferenceNotFoundError: there is no such version.
        InvalidArgumentError: they parted too far back.
    """
    reached = {ours: _OURS}
    reached[theirs] = reached.get(theirs, 0) | _THEIRS
    pending = [-number for number in reached]
    pending.sort()
    for _ in range(BASE_STEPS_MAX):
        if not pending:
            return 0
        number = -heappop(pending)
        sides = reached.pop(number)
        record = lookup.record(view, model, number)
        if sides == _BOTH:
            return number
        for parent in record.parents:
            if parent not in reached:
                heappush(pending, -parent)
            reached[parent] = reached.get(parent, 0) | sides
    reason = f"v{ours} and v{theirs} have nothing in common in {BASE_STEPS_MAX} versions of their histories"
    raise InvalidArgumentError("theirs", reason)


def list_waiting(view: View, model: str, *, after: int, limit: int) -> list[Waiting]:
    """Return merges that wait and have a greater number than `after`, by number.

    Raises:
        ModelNotFoundError: there is no such model.
    """
    lookup.model_row(view, model)
    rows = islice(view.scan(*keys.waiting_after(model, after)), min(limit, PAGE_MAX))
    return [Waiting(keys.number_in(key), WaitingRow.unpack(value)) for key, value in rows]


def list_conflicts(
    view: View, model: str, merge: int, *, after: str, limit: int
) -> tuple[Waiting, list[Conflict]]:
    """Return a merge that waits, and its conflicts whose name comes after `after`, by name.

    Raises:
        ModelNotFoundError, MergeNotFoundError: there is no such merge.
    """
    row = waiting_row(view, model, merge)
    rows = islice(view.scan(*keys.conflicts_after(model, merge, after)), min(limit, PAGE_MAX))
    found = [Conflict(keys.conflict_in(model, key), ConflictRow.unpack(value)) for key, value in rows]
    return Waiting(merge, row), found


def document(view: View, model: str, number: int) -> bytes:
    """Return how a version was merged.

    Raises:
        ModelNotFoundError, ReferenceNotFoundError: there is no such version.
        MergeNotFoundError: it is no merge.
    """
    lookup.record_bytes(view, model, number)
    row = read(view, keys.merge_document(model, number), DocumentRow)
    if row is None:
        raise MergeNotFoundError(model, f"v{number}", "that version is no merge")
    return row.document
