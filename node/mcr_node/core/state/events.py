"""The newest moves of all refs by log index: what watchers follow, and go on from after they lost a stream.

Laws:
    A command moves at most one ref, so a log index has at most one event.
    The newest events are kept, without gaps; what is gone is known, so a watcher is told rather than left
    with a hole. The moves themselves stay in the history of their refs for ever.
"""

from dataclasses import replace
from itertools import islice

from mcr.values import dataclass
from mcr_node.core.state import keys
from mcr_node.core.state.keys import RefName
from mcr_node.core.state.records import EventRow, EventsRow, read
from mcr_node.core.state.step import Step


@dataclass(frozen=True, slots=True)
class Window:
    """How many events are kept.

    Attributes:
        count_max: 65,536 rows of some 100 bytes are 7 MB on disk, and hours of a busy cluster: a watcher that
            was away longer lists what there is and begins anew.
        evictions_max: forgotten per command at most. Two, so that a smaller window of a later release is
            reached although each command adds one.
    """

    count_max: int = 1 << 16
    evictions_max: int = 2


WINDOW = Window()


def keep(step: Step, of: RefName, generation: int, *, window: Window = WINDOW) -> None:
    """Note that this command moved a ref, and forget the oldest events beyond the window."""
    overlay = step.overlay
    assert not overlay.has_changed(keys.event(step.index)), "a command moves one ref"
    row = EventRow(model=of.model, kind=str(of.kind), name=of.name, generation=generation)
    overlay.put(keys.event(step.index), row.pack())
    before = read(overlay, keys.EVENTS, EventsRow) or EventsRow()
    now = EventsRow(count=before.count + 1, gone_through=before.gone_through)
    excess = min(now.count - window.count_max, window.evictions_max)
    if excess > 0:
        for key, _ in list(islice(overlay.scan(*keys.events_after(now.gone_through)), excess)):
            overlay.delete(key)
            now = replace(now, count=now.count - 1, gone_through=keys.number_in(key))
    overlay.put(keys.EVENTS, now.pack())
