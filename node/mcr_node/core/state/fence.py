"""The fence behind a change of the members: what was sealed before it is looked for again.

A commit names the epoch of the members among whom its chunks were found to be held. When one of them is to
leave, the nodes are told, then the fence is raised to that epoch, and only then the versions are counted: one
that counts on the member who leaves stands in the log before the fence, and is counted, or it is refused.
"""

from mcr.errors import MembersChangedError
from mcr_node.core.state import space_keys
from mcr_node.core.state.outcomes import CountResult
from mcr_node.core.state.records import read
from mcr_node.core.state.space_commands import FenceCommits
from mcr_node.core.state.space_records import FenceRow
from mcr_node.core.state.step import Step
from mcr_node.core.state.view import View


def fence_of(view: View) -> int:
    """Return the epoch from which on seals count; 0 = all do."""
    row = read(view, space_keys.FENCE, FenceRow)
    return 0 if row is None else row.epoch


def raise_fence(step: Step, command: FenceCommits) -> CountResult:
    """Raise the fence; it never sinks."""
    if command.epoch <= fence_of(step.overlay):
        return CountResult(0)
    step.overlay.put(space_keys.FENCE, FenceRow(epoch=command.epoch).pack())
    return CountResult(1)


def check_sealed(view: View, epoch: int | None) -> None:
    """Check that a commit was sealed among members that count.

    Args:
        view: where to read.
        epoch: of those members; None = by a release that names none.

    Raises:
        MembersChangedError: seal it again.
    """
    fence = fence_of(view)
    if epoch is not None and epoch < fence:
        raise MembersChangedError(epoch, fence)
