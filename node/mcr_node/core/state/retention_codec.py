"""The commands of `retention_commands` as messages and back; a part of `codec`."""

from typing import assert_never

from mcr.model import RequestId
from mcr_node.core.state.retention_commands import RetentionCommand, RetireVersions, SetRetention
from mcr_node.format.v1 import command_pb2 as pb
from mcr_node.format.v1 import retention_pb2 as content

NAMES = ("set_retention", "retire_versions")


def to_wire(command: RetentionCommand, message: pb.Command) -> None:
    """Write the content of a command."""
    match command:
        case SetRetention():
            message.set_retention.CopyFrom(
                content.SetRetention(
                    model=command.model,
                    branch=command.branch,
                    last=command.last,
                    best=[
                        content.RetainBest(count=count, metric=metric, goal=goal)
                        for count, metric, goal in command.best
                    ],
                    every=command.every,
                    age_min_ms=command.age_min_ms,
                    trash_ms=command.trash_ms,
                    is_none=command.is_none,
                )
            )
        case RetireVersions():
            message.retire_versions.CopyFrom(
                content.RetireVersions(
                    model=command.model,
                    branch=command.branch,
                    generation=command.generation,
                    numbers=command.numbers,
                )
            )
        case RetentionCommand():
            raise AssertionError("the base of commands is no command")
        case other:
            assert_never(other)


def from_wire(message: pb.Command) -> RetentionCommand:
    """Read a command whose content is one of `NAMES`."""
    request_id, principal, at_ms = RequestId(message.request_id), message.principal, message.at_ms
    if message.HasField("set_retention"):
        rules = message.set_retention
        return SetRetention(
            request_id=request_id,
            principal=principal,
            at_ms=at_ms,
            model=rules.model,
            branch=rules.branch,
            last=rules.last,
            best=tuple((each.count, each.metric, each.goal) for each in rules.best),
            every=rules.every,
            age_min_ms=rules.age_min_ms,
            trash_ms=rules.trash_ms,
            is_none=rules.is_none,
        )
    retiring = message.retire_versions
    return RetireVersions(
        request_id=request_id,
        principal=principal,
        at_ms=at_ms,
        model=retiring.model,
        branch=retiring.branch,
        generation=retiring.generation,
        numbers=tuple(retiring.numbers),
    )
