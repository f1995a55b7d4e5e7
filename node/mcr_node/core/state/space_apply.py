"""The commands of `space_commands`: checked, carried out, written and read; a part of `apply` and `codec`."""

from mcr.model import RequestId
from mcr.references import check_model, check_name
from mcr_node.core.state import fence, quotas
from mcr_node.core.state.outcomes import CountResult
from mcr_node.core.state.space_commands import CountQuota, FenceCommits, SetQuota, SpaceCommand
from mcr_node.core.state.step import Step
from mcr_node.core.state.texts import check_number
from mcr_node.format.v1 import command_pb2 as pb

CONTENTS = ("set_quota", "count_quota", "fence_commits")


def check(command: SpaceCommand) -> None:
    """Check a command's own content.

    Raises:
        InvalidArgumentError, InvalidNameError: says what and why.
    """
    match command:
        case SetQuota():
            check_scope(command.scope)
            if command.bytes_max is not None:
                check_number("bytes_max", command.bytes_max, 0)
        case CountQuota():
            check_scope(command.scope)
        case FenceCommits():
            check_number("epoch", command.epoch, 1)
        case _:
            raise AssertionError("the base of commands is no command")


def check_scope(scope: str) -> str:
    """Return a scope that is the name of a model or of a namespace.

    Raises:
        InvalidNameError: it is neither.
    """
    return check_model(scope) if "/" in scope else check_name("namespace", scope)


def carry_out(step: Step, command: SpaceCommand) -> CountResult:
    """Carry out a command."""
    match command:
        case SetQuota():
            return quotas.set_quota(step, command)
        case CountQuota():
            return quotas.count(step, command)
        case FenceCommits():
            return fence.raise_fence(step, command)
        case _:
            raise AssertionError("the base of commands is no command")


def to_wire(command: SpaceCommand, message: pb.Command) -> None:
    """Write the content of a command."""
    match command:
        case SetQuota():
            message.set_quota.scope = command.scope
            if command.bytes_max is not None:
                message.set_quota.bytes_max = command.bytes_max
        case CountQuota():
            message.count_quota.scope = command.scope
        case FenceCommits():
            message.fence_commits.epoch = command.epoch
        case _:
            raise AssertionError("the base of commands is no command")


def from_wire(message: pb.Command) -> SpaceCommand:
    """Read a command whose content is one of CONTENTS."""
    request_id, principal, at_ms = RequestId(message.request_id), message.principal, message.at_ms
    match message.WhichOneof("content"):
        case "set_quota":
            quota = message.set_quota
            return SetQuota(
                request_id=request_id,
                principal=principal,
                at_ms=at_ms,
                scope=quota.scope,
                bytes_max=quota.bytes_max if quota.HasField("bytes_max") else None,
            )
        case "count_quota":
            return CountQuota(
                request_id=request_id, principal=principal, at_ms=at_ms, scope=message.count_quota.scope
            )
        case "fence_commits":
            return FenceCommits(
                request_id=request_id, principal=principal, at_ms=at_ms, epoch=message.fence_commits.epoch
            )
        case other:
            raise AssertionError(f"{other} is of another part")
