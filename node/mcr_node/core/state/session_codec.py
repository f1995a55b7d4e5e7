"""Commands about sessions to the bytes of a log entry and back; a part of `codec`."""

from collections.abc import Callable
from typing import assert_never

from mcr import canonical
from mcr.model import ChunkId, ParameterValue, RequestId
from mcr_node.core.state.base_codec import base_from_wire, base_to_wire
from mcr_node.core.state.session_commands import (
    AbortSession,
    BeginSession,
    PutPart,
    SealSession,
    SessionCommand,
)
from mcr_node.format.v1 import command_pb2, session_commands_pb2
from mcr_node.format.v1 import session_commands_pb2 as pb


def to_wire(command: SessionCommand, message: command_pb2.Command) -> None:
    """Set the content of a message."""
    match command:
        case BeginSession():
            message.begin_session.CopyFrom(
                pb.BeginSession(
                    model=command.model,
                    session=command.session,
                    branch=command.branch,
                    expected_head=command.expected_head,
                    parent=command.parent,
                    description=command.description,
                    parameters=canonical.encode(command.parameters),
                    lifetime_ms=command.lifetime_ms,
                    base=None if command.base is None else base_to_wire(command.base),
                )
            )
        case PutPart():
            message.put_part.CopyFrom(
                pb.PutPart(
                    model=command.model,
                    session=command.session,
                    name=command.name,
                    is_folder=command.is_folder,
                    manifest=command.manifest,
                    bytes_total=command.bytes_total,
                    file_count=command.file_count,
                    chunk_count=command.chunk_count,
                    gc_round=command.gc_round,
                    layout_epoch=command.layout_epoch,
                )
            )
        case SealSession():
            message.seal_session.CopyFrom(
                pb.SealSession(
                    model=command.model,
                    session=command.session,
                    generation=command.generation,
                    manifest=command.manifest,
                    bytes_total=command.bytes_total,
                    file_count=command.file_count,
                    chunk_count=command.chunk_count,
                    gc_round=command.gc_round,
                    layout_epoch=command.layout_epoch,
                )
            )
        case AbortSession(model=model, session=session, reason=reason):
            message.abort_session.CopyFrom(pb.AbortSession(model=model, session=session, reason=reason))
        case other:
            assert_never(other)


def from_wire(
    message: command_pb2.Command, mapping_from_wire: Callable[[bytes], dict[str, ParameterValue]]
) -> SessionCommand:
    """Read a message whose content is about a session."""
    request_id, principal, at_ms = RequestId(message.request_id), message.principal, message.at_ms
    if message.HasField("begin_session"):
        begin = message.begin_session
        return BeginSession(
            request_id=request_id,
            principal=principal,
            at_ms=at_ms,
            model=begin.model,
            session=begin.session,
            branch=begin.branch,
            expected_head=begin.expected_head if begin.HasField("expected_head") else None,
            parent=begin.parent if begin.HasField("parent") else None,
            description=begin.description,
            parameters=mapping_from_wire(begin.parameters),
            lifetime_ms=begin.lifetime_ms,
            base=base_from_wire(begin.base) if begin.HasField("base") else None,
        )
    if message.HasField("put_part"):
        put = message.put_part
        return PutPart(
            request_id=request_id,
            principal=principal,
            at_ms=at_ms,
            model=put.model,
            session=put.session,
            name=put.name,
            is_folder=put.is_folder,
            manifest=ChunkId(put.manifest),
            bytes_total=put.bytes_total,
            file_count=put.file_count,
            chunk_count=put.chunk_count,
            gc_round=put.gc_round,
            layout_epoch=put.layout_epoch if put.HasField("layout_epoch") else None,
        )
    if message.HasField("seal_session"):
        seal = message.seal_session
        return SealSession(
            request_id=request_id,
            principal=principal,
            at_ms=at_ms,
            model=seal.model,
            session=seal.session,
            generation=seal.generation,
            manifest=ChunkId(seal.manifest),
            bytes_total=seal.bytes_total,
            file_count=seal.file_count,
            chunk_count=seal.chunk_count,
            gc_round=seal.gc_round,
            layout_epoch=seal.layout_epoch if seal.HasField("layout_epoch") else None,
        )
    abort: session_commands_pb2.AbortSession = message.abort_session
    return AbortSession(
        request_id=request_id,
        principal=principal,
        at_ms=at_ms,
        model=abort.model,
        session=abort.session,
        reason=abort.reason,
    )
