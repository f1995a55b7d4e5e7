"""Checks of the commands about merges that need no state, and their limits."""

from collections.abc import Callable, Sequence
from typing import assert_never

from mcr.errors import InvalidArgumentError
from mcr.model import DESCRIPTION_CHARACTERS_MAX, DIGEST_BYTES, KIB, MIB, Parameters
from mcr.references import check_name
from mcr_node.core.state.merge_commands import (
    CommitMerge,
    DropMerge,
    MergeCommand,
    OpenMerge,
    ResolveConflicts,
)
from mcr_node.core.state.texts import check_number, check_text, is_unicode, shown

# With the largest parameters and description 1.8 MiB, so a command fits in one log entry of 2 MiB.
MERGE_DOCUMENT_BYTES_MAX = 512 * KIB
# People decide dozens; what is more is decided by a pattern. Each is a row that the command writes.
MERGE_CONFLICTS_MAX = 4096
MERGE_CONFLICTS_BYTES_MAX = 1 * MIB
# Each may hold MERGE_CONFLICTS_MAX rows.
MERGES_WAITING_MAX = 64
# A path and the name of a tensor in it, each at its longest.
CONFLICT_NAME_CHARACTERS_MAX = 8448
CHOICE_CHARACTERS_MAX = 4096


def check(command: MergeCommand, check_parameters: Callable[[Parameters], None]) -> None:
    """Check what a command says.

    Raises:
        InvalidArgumentError, InvalidNameError: says what and why.
    """
    match command:
        case CommitMerge():
            _check_sides(command)
            check_parameters(command.parameters)
            check_number("merge", command.merge, 0)
            check_text("description", command.description, DESCRIPTION_CHARACTERS_MAX)
            if len(command.manifest) != DIGEST_BYTES:
                raise InvalidArgumentError(
                    "manifest", f"it has {len(command.manifest)} bytes, not {DIGEST_BYTES}"
                )
            check_number("bytes_total", command.bytes_total, 0)
            check_number("file_count", command.file_count, 0)
            check_number("chunk_count", command.chunk_count, 0)
            if command.layout_epoch is not None:
                check_number("layout_epoch", command.layout_epoch, 0)
        case OpenMerge():
            _check_sides(command)
            check_number("base", command.base, 0)
            _check_named("conflicts", [(name, len(detail)) for name, detail in command.conflicts])
        case ResolveConflicts():
            check_number("merge", command.merge, 1)
            for _, choice in command.choices:
                if not choice:
                    raise InvalidArgumentError("choices", "a choice is empty")
                check_text("choice", choice, CHOICE_CHARACTERS_MAX)
            _check_named("choices", [(name, len(choice)) for name, choice in command.choices])
        case DropMerge():
            check_number("merge", command.merge, 1)
        case other:
            assert_never(other)


def _check_sides(command: CommitMerge | OpenMerge) -> None:
    check_name("branch", command.branch)
    check_number("ours", command.ours, 1)
    check_number("theirs", command.theirs, 1)
    if command.ours == command.theirs:
        raise InvalidArgumentError("theirs", f"v{command.theirs} cannot be merged into itself")
    if not 0 < len(command.document) <= MERGE_DOCUMENT_BYTES_MAX:
        reason = f"it has {len(command.document)} bytes, 1 to {MERGE_DOCUMENT_BYTES_MAX} allowed"
        raise InvalidArgumentError("document", reason)


def _check_named(argument: str, items: Sequence[tuple[str, int]]) -> None:
    """Check names that must differ, and how much there is; an item is a name and a length."""
    if not 0 < len(items) <= MERGE_CONFLICTS_MAX:
        raise InvalidArgumentError(argument, f"{len(items)} at once, 1 to {MERGE_CONFLICTS_MAX} allowed")
    seen: dict[str, int] = {}
    for name, length in items:
        if not 0 < len(name) <= CONFLICT_NAME_CHARACTERS_MAX or not is_unicode(name):
            reason = f"{shown(name)!r} is empty, too long or not valid Unicode"
            raise InvalidArgumentError(argument, reason)
        if name in seen:
            raise InvalidArgumentError(argument, f"{shown(name)!r} comes twice")
        seen[name] = length
    total = sum(len(name.encode()) + length for name, length in seen.items())
    if total > MERGE_CONFLICTS_BYTES_MAX:
        raise InvalidArgumentError(argument, f"they take {total} bytes, at most {MERGE_CONFLICTS_BYTES_MAX}")
