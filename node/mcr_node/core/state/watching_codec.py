"""Commands about receipts to the bytes of a log entry and back: a part of `codec`."""

from mcr.model import RequestId
from mcr_node.core.state.commands import Acknowledge
from mcr_node.format.v1 import command_pb2 as pb


def acknowledge_to_wire(command: Acknowledge) -> pb.Acknowledge:
    """Return the content of a command."""
    return pb.Acknowledge(
        model=command.model,
        number=command.number,
        channel=command.channel,
        generation=command.generation,
        consumer=command.consumer,
        rank=command.rank,
        state=command.state,
    )


def acknowledge_from_wire(message: pb.Command) -> Acknowledge:
    """Read a command whose content this is."""
    found = message.acknowledge
    return Acknowledge(
        request_id=RequestId(message.request_id),
        principal=message.principal,
        at_ms=message.at_ms,
        model=found.model,
        number=found.number,
        channel=found.channel,
        generation=found.generation,
        consumer=found.consumer,
        rank=found.rank,
        state=found.state,
    )
