"""What a version was derived from, to the bytes of a log entry and back; a part of `codec`."""

from mcr.bases import BaseVersion
from mcr_node.format.v1 import base_pb2 as pb


def base_to_wire(base: BaseVersion) -> pb.BaseVersion:
    """Return a base as a message."""
    return pb.BaseVersion(model=base.model, number=base.number, version_id=bytes.fromhex(base.id))


def base_from_wire(message: pb.BaseVersion) -> BaseVersion:
    """Read a base."""
    return BaseVersion(message.model, message.number, message.version_id.hex())
