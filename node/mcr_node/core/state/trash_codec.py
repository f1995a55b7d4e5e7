"""The commands of `trash_commands` as messages and back; a part of `codec`.

Each message has the fields of its command, under the same names.
"""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from mcr.errors import CorruptStoreError
from mcr.model import RefKind, RequestId
from mcr_node.core.state.envelope import Envelope
from mcr_node.core.state.records import PLACE
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
from mcr_node.format.v1 import command_pb2 as pb

_COMMANDS: Mapping[str, type[TrashCommand]] = {
    "delete_versions": DeleteVersions,
    "delete_name": DeleteName,
    "delete_model": DeleteModel,
    "restore_versions": RestoreVersions,
    "empty_trash": EmptyTrash,
    "pin_version": PinVersion,
    "unpin_version": UnpinVersion,
    "mark_garbage": MarkGarbage,
    "hold_upload": HoldUpload,
    "release_upload": ReleaseUpload,
}
_NAMES = {command: name for name, command in _COMMANDS.items()}
_ENVELOPE = frozenset(each.name for each in fields(Envelope))


def _own_fields(command: type[TrashCommand]) -> list[str]:
    return [each.name for each in fields(command) if each.name not in _ENVELOPE]


def to_wire(command: TrashCommand, message: pb.Command) -> None:
    """Write the content of a command."""
    content = getattr(message, _NAMES[type(command)])
    content.SetInParent()
    for name in _own_fields(type(command)):
        value = getattr(command, name)
        if isinstance(value, tuple):
            getattr(content, name).extend(value)
        else:
            setattr(content, name, value)


def knows(content: str | None) -> bool:
    """Say whether a command with this content is read here."""
    return content in _COMMANDS


def from_wire(message: pb.Command) -> TrashCommand:
    """Read a command whose content is one that `knows` knows.

    Raises:
        CorruptStoreError: it is no command.
    """
    name = message.WhichOneof("content") or ""
    command = _COMMANDS[name]
    content = getattr(message, name)
    values: dict[str, Any] = {}
    for field in _own_fields(command):
        value = getattr(content, field)
        if field == "numbers":
            value = tuple(value)
        elif field == "kind":
            value = _kind(value)
        values[field] = value
    return command(
        request_id=RequestId(message.request_id), principal=message.principal, at_ms=message.at_ms, **values
    )


def _kind(text: str) -> RefKind:
    try:
        return RefKind(text)
    except ValueError as error:
        raise CorruptStoreError(PLACE, f"a command speaks of a {text!r}") from error
