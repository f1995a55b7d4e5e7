"""Which versions somebody is likely to read next: what channels point at, and what they go back to."""

from itertools import islice

from mcr.model import RefKind
from mcr_node.core.state import channels, keys
from mcr_node.core.state.keys import RefName
from mcr_node.core.state.records import RefRow
from mcr_node.core.state.view import View

# One step back of each channel is what a rollback without a name takes; further ones are taken by hand, and
# seldom.
WAYS_BACK = 1


def expected(view: View, model: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the versions that the channels of a model point at, and those that they go back to next."""
    now: dict[int, None] = {}
    back: dict[int, None] = {}
    for key, value in view.scan(*keys.refs_after(model, RefKind.CHANNEL, "")):
        row = RefRow.unpack(value)
        of = RefName(model, RefKind.CHANNEL, keys.ref_in(model, key))
        now[row.number] = None
        back |= dict.fromkeys(entry.number for entry in islice(channels.earlier(view, of, row), WAYS_BACK))
    return tuple(now), tuple(number for number in back if number not in now)
