"""Commands about receipts and policies to the bytes of a log entry and back: a part of `codec`."""

from typing import TypedDict, assert_never

from mcr import canonical
from mcr.canonical import CanonicalError
from mcr.errors import CorruptStoreError
from mcr.model import ParameterValue, RequestId
from mcr_node.core.state.commands import (
    Acknowledge,
    ApproveMove,
    DeletePolicy,
    FreezeChannel,
    SetPolicy,
    Settle,
)
from mcr_node.format.v1 import command_pb2 as pb

Watching = Acknowledge | SetPolicy | DeletePolicy | FreezeChannel | ApproveMove | Settle
# The place named in errors.
PLACE = "log"


class _Envelope(TypedDict):
    request_id: RequestId
    principal: str
    at_ms: int


def put(message: pb.Command, command: Watching) -> None:
    """Put the content of a command into a message."""
    match command:
        case Acknowledge():
            message.acknowledge.CopyFrom(
                pb.Acknowledge(
                    model=command.model,
                    number=command.number,
                    channel=command.channel,
                    generation=command.generation,
                    consumer=command.consumer,
                    rank=command.rank,
                    state=command.state,
                )
            )
        case SetPolicy(model=model, name=name, rules=rules):
            message.set_policy.CopyFrom(pb.SetPolicy(model=model, name=name, rules=canonical.encode(rules)))
        case DeletePolicy(model=model, name=name):
            message.delete_policy.CopyFrom(pb.DeletePolicy(model=model, name=name))
        case FreezeChannel(model=model, channel=channel, level=level, reason=reason):
            message.freeze_channel.CopyFrom(
                pb.FreezeChannel(model=model, channel=channel, level=level, reason=reason)
            )
        case ApproveMove():
            message.approve_move.CopyFrom(
                pb.ApproveMove(
                    model=command.model,
                    channel=command.channel,
                    request=command.request,
                    available=command.available,
                    withdraw=command.withdraw,
                )
            )
        case Settle(model=model, policy=policy, generation=generation):
            message.settle.CopyFrom(pb.Settle(model=model, policy=policy, generation=generation))
        case other:
            assert_never(other)


def get(message: pb.Command) -> Watching:
    """Read a command whose content is one of these.

    Raises:
        CorruptStoreError: its rules are no mapping.
    """
    envelope = _Envelope(
        request_id=RequestId(message.request_id), principal=message.principal, at_ms=message.at_ms
    )
    match message.WhichOneof("content"):
        case "acknowledge":
            found = message.acknowledge
            return Acknowledge(
                **envelope,
                model=found.model,
                number=found.number,
                channel=found.channel,
                generation=found.generation,
                consumer=found.consumer,
                rank=found.rank,
                state=found.state,
            )
        case "set_policy":
            policy = message.set_policy
            return SetPolicy(**envelope, model=policy.model, name=policy.name, rules=_rules(policy.rules))
        case "delete_policy":
            deletion = message.delete_policy
            return DeletePolicy(**envelope, model=deletion.model, name=deletion.name)
        case "freeze_channel":
            freeze = message.freeze_channel
            return FreezeChannel(
                **envelope,
                model=freeze.model,
                channel=freeze.channel,
                level=freeze.level,
                reason=freeze.reason,
            )
        case "approve_move":
            approval = message.approve_move
            return ApproveMove(
                **envelope,
                model=approval.model,
                channel=approval.channel,
                request=approval.request,
                available=tuple(approval.available),
                withdraw=approval.withdraw,
            )
        case "settle":
            settle = message.settle
            return Settle(**envelope, model=settle.model, policy=settle.policy, generation=settle.generation)
        case other:
            raise AssertionError(f"{other} is read elsewhere")


def _rules(data: bytes) -> dict[str, ParameterValue]:
    try:
        value = canonical.decode(data)
    except CanonicalError as error:
        raise CorruptStoreError(PLACE, f"the rules of a policy: {error}") from error
    if not isinstance(value, dict):
        raise CorruptStoreError(PLACE, "the rules of a policy are no mapping")
    return value
