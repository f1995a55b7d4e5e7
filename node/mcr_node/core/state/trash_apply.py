"""Which function carries out which command of `trash_commands`; a part of `apply`."""

from typing import assert_never

from mcr_node.core.state import collecting, trash
from mcr_node.core.state.outcomes import Result
from mcr_node.core.state.step import Step
from mcr_node.core.state.trash_commands import (
    DeleteModel,
    DeleteName,
    DeleteVersions,
    EmptyTrash,
    HoldUpload,
    MarkGarbage,
    PinVersion,
    ReleaseUpload,
    RestoreVersions,
    TrashCommand,
    UnpinVersion,
)


def carry_out(step: Step, command: TrashCommand) -> Result:
    """Carry out a command."""
    match command:
        case DeleteVersions():
            return trash.delete_versions(step, command)
        case DeleteName():
            return trash.delete_name(step, command)
        case DeleteModel():
            return trash.delete_model(step, command)
        case RestoreVersions():
            return trash.restore(step, command)
        case EmptyTrash():
            return trash.empty(step, command)
        case PinVersion():
            return trash.pin(step, command)
        case UnpinVersion():
            return trash.unpin(step, command)
        case MarkGarbage():
            return collecting.mark(step, command)
        case HoldUpload():
            return collecting.hold(step, command)
        case ReleaseUpload():
            return collecting.release(step, command)
        case TrashCommand():
            raise AssertionError("the base of commands is no command")
        case other:
            assert_never(other)
