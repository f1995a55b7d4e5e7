"""Roots: why a version must stay. Whoever brings another reason adds it to `Uses`.

Laws:
    What a head, a tag or a channel names is not deleted, nor what a channel goes back to at its next
    `WAYS_BACK` rollbacks, nor its last good version.
    A pinned version is not deleted, nor one that somebody has loaded, nor one that a merge which waits for
    decisions is of.
The bytes of a version are kept while it is there, while it is in the trash, and for a while after
(`core.state.collecting`).
"""

from collections.abc import Iterator
from itertools import islice

from mcr.model import RefKind
from mcr_node.core.state import keys, lookup, receipts, trash_keys
from mcr_node.core.state.keys import RefName
from mcr_node.core.state.merge_checks import MERGES_WAITING_MAX
from mcr_node.core.state.records import RefRow, StandingRow, WaitingRow, read
from mcr_node.core.state.trash_records import PinRow
from mcr_node.core.state.view import View

# A rollback that went wrong is followed by one more, perhaps by two.
WAYS_BACK = 3
# As for a rollback to the last good version: each step reads one entry of the history.
LAST_GOOD_STEPS_MAX = 256
# How many refs at one version are named; more would not help.
NAMED_MAX = 4


class Uses:
    """What needs the versions of one model, as of one view.

    The channels are read once, a few entries each; what else there is, is asked for each version.
    """

    def __init__(self, view: View, model: str) -> None:
        self._view = view
        self._model = model
        self._ways_back: dict[int, list[str]] = {}
        self._merges: dict[int, list[str]] = {}
        for key, value in islice(view.scan(*keys.waiting_after(model, 0)), MERGES_WAITING_MAX):
            row = WaitingRow.unpack(value)
            for number in (row.base, row.ours, row.theirs):
                self._merges.setdefault(number, []).append(f"merge {keys.number_in(key)} waits for it")
        for key, value in view.scan(*keys.refs_after(model, RefKind.CHANNEL, "")):
            of = RefName(model, RefKind.CHANNEL, keys.ref_in(model, key))
            for number in _ways_back(view, of, RefRow.unpack(value)):
                self._ways_back.setdefault(number, []).append(f"{of} may go back to it")

    def of(self, number: int) -> tuple[str, ...]:
        """Return what needs a version, one clause each; nothing = it may be deleted."""
        pointers = islice(self._view.scan(*keys.pointers(self._model, number)), NAMED_MAX)
        found = [f"{keys.pointer_in(self._model, key)} is at it" for key, _ in pointers]
        found += self._ways_back.get(number, ())[:NAMED_MAX]
        found += self._merges.get(number, ())[:NAMED_MAX]
        pin = read(self._view, trash_keys.pin(self._model, number), PinRow)
        if pin is not None:
            found.append(f"{pin.actor} pinned it{f': {pin.reason}' if pin.reason else ''}")
        if receipts.is_in_use(self._view, self._model, number):
            found.append("somebody has it loaded (mcr served)")
        return tuple(found)


def _ways_back(view: View, of: RefName, row: RefRow) -> Iterator[int]:
    """Yield the versions that a channel goes back to at its next rollbacks, and its last good one."""
    below = row.below
    is_good_met = False
    for met in range(LAST_GOOD_STEPS_MAX):
        if not below or (met >= WAYS_BACK and is_good_met):
            return
        entry = lookup.move_row(view, of, below)
        standing = read(view, keys.standing(of, entry.number), StandingRow)
        is_good = entry.number != row.number and (standing is None or not standing.rolled_back)
        if met < WAYS_BACK or (is_good and not is_good_met):
            yield entry.number
        is_good_met = is_good_met or is_good
        below = entry.below
