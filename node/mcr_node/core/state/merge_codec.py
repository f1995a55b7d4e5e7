"""The commands about merges, to the bytes of a log entry and back; a part of `codec`."""

from collections.abc import Callable

from mcr import canonical
from mcr.model import ChunkId, ParameterValue, RequestId
from mcr_node.core.state.merge_commands import (
    CommitMerge,
    DropMerge,
    MergeCommand,
    OpenMerge,
    ResolveConflicts,
)
from mcr_node.format.v1 import command_pb2 as pb
from mcr_node.format.v1 import merge_commands_pb2 as merge


def to_wire(command: MergeCommand, message: pb.Command) -> None:
    """Set the content of a message."""
    match command:
        case CommitMerge():
            message.commit_merge.CopyFrom(
                merge.CommitMerge(
                    model=command.model,
                    branch=command.branch,
                    ours=command.ours,
                    theirs=command.theirs,
                    merge=command.merge,
                    document=command.document,
                    description=command.description,
                    parameters=canonical.encode(command.parameters),
                    manifest=command.manifest,
                    bytes_total=command.bytes_total,
                    file_count=command.file_count,
                    chunk_count=command.chunk_count,
                    gc_round=command.gc_round,
                    layout_epoch=command.layout_epoch,
                )
            )
        case OpenMerge():
            message.open_merge.CopyFrom(
                merge.OpenMerge(
                    model=command.model,
                    branch=command.branch,
                    ours=command.ours,
                    theirs=command.theirs,
                    base=command.base,
                    document=command.document,
                    conflicts=[
                        merge.MergeConflict(name=name, detail=detail) for name, detail in command.conflicts
                    ],
                )
            )
        case ResolveConflicts():
            message.resolve_conflicts.CopyFrom(
                merge.ResolveConflicts(
                    model=command.model,
                    merge=command.merge,
                    choices=[merge.MergeChoice(name=name, choice=choice) for name, choice in command.choices],
                )
            )
        case DropMerge():
            message.drop_merge.CopyFrom(merge.DropMerge(model=command.model, merge=command.merge))


def from_wire(
    message: pb.Command, mapping_from_wire: Callable[[bytes], dict[str, ParameterValue]]
) -> MergeCommand:
    """Read a command whose content is about merges.

    Raises:
        CorruptStoreError: its parameters are no mapping.
    """
    request_id, principal, at_ms = RequestId(message.request_id), message.principal, message.at_ms
    match message.WhichOneof("content"):
        case "commit_merge":
            made = message.commit_merge
            return CommitMerge(
                request_id=request_id,
                principal=principal,
                at_ms=at_ms,
                model=made.model,
                branch=made.branch,
                ours=made.ours,
                theirs=made.theirs,
                merge=made.merge,
                document=made.document,
                description=made.description,
                parameters=mapping_from_wire(made.parameters),
                manifest=ChunkId(made.manifest),
                bytes_total=made.bytes_total,
                file_count=made.file_count,
                chunk_count=made.chunk_count,
                gc_round=made.gc_round if made.HasField("gc_round") else None,
                layout_epoch=made.layout_epoch if made.HasField("layout_epoch") else None,
            )
        case "open_merge":
            opened = message.open_merge
            return OpenMerge(
                request_id=request_id,
                principal=principal,
                at_ms=at_ms,
                model=opened.model,
                branch=opened.branch,
                ours=opened.ours,
                theirs=opened.theirs,
                base=opened.base,
                document=opened.document,
                conflicts=tuple((conflict.name, conflict.detail) for conflict in opened.conflicts),
            )
        case "resolve_conflicts":
            resolved = message.resolve_conflicts
            return ResolveConflicts(
                request_id=request_id,
                principal=principal,
                at_ms=at_ms,
                model=resolved.model,
                merge=resolved.merge,
                choices=tuple((choice.name, choice.choice) for choice in resolved.choices),
            )
        case _:
            dropped = message.drop_merge
            return DropMerge(
                request_id=request_id,
                principal=principal,
                at_ms=at_ms,
                model=dropped.model,
                merge=dropped.merge,
            )
