"""What another node hands over is looked at before anything believes it."""

import pytest

from mcr.model import RequestId
from mcr_node.core.entry import LOG_ENTRY_BYTES_MAX
from mcr_node.core.members import ADDRESS_BYTES_MAX
from mcr_node.core.raft.messages import NODE_ID_MAX, MessageType
from mcr_node.core.state import codec as command_codec
from mcr_node.core.state.commands import CreateTag
from mcr_node.format.v1 import command_pb2
from mcr_node.peer.v1 import raft_pb2
from mcr_node.transport import codec
from mcr_node.transport.receiving import is_address, is_command

TAG = CreateTag(request_id=RequestId(b"one"), principal="me", at_ms=1, model="a/b", name="good", number=1)


def newer() -> bytes:
    """A command of a release that is yet to come."""
    message = command_pb2.Command.FromString(command_codec.encode(TAG))
    message.format += 1
    return message.SerializeToString()


def test_a_command_may_go_into_the_log() -> None:
    assert is_command(command_codec.encode(TAG))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"what",
        command_codec.encode(TAG)[:-1],
        command_codec.encode(TAG) + b"\xfa\x7f\x01x",
        newer(),
        bytes(LOG_ENTRY_BYTES_MAX + 1),
    ],
    ids=["empty", "noise", "cut off", "unknown field", "newer format", "too long"],
)
def test_what_would_stop_every_node_does_not_get_into_the_log(data: bytes) -> None:
    assert not is_command(data)


@pytest.mark.parametrize("address", ["127.0.0.1:7101", "node-1.example:1", "[::1]:7101"])
def test_addresses_are_dialled(address: str) -> None:
    assert is_address(address)


@pytest.mark.parametrize(
    "address", ["", ":", "x", "x:", "x:y", "x:99999", "a" * ADDRESS_BYTES_MAX + ":1", "\x00:1"]
)
def test_what_is_no_address_is_not_dialled(address: str) -> None:
    assert not is_address(address)


@pytest.mark.parametrize("sender", [0, 2, NODE_ID_MAX + 1, NODE_ID_MAX + 2])
def test_nobody_speaks_in_the_name_of_a_queue_of_nobody_or_of_the_node_itself(sender: int) -> None:
    with pytest.raises(codec.WireError):
        codec.decode(raft_pb2.RaftMessage(type=MessageType.HEARTBEAT, term=1), sender=sender, to=2)
