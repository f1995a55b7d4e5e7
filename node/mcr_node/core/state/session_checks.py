"""Checks of what commands about sessions hold; names of models and parameters are checked by `checks`."""

from typing import assert_never

from mcr.errors import InvalidArgumentError
from mcr.manifest import check_path
from mcr.model import DESCRIPTION_CHARACTERS_MAX, DIGEST_BYTES
from mcr.references import check_name
from mcr_node.core.state.session_commands import (
    AbortSession,
    BeginSession,
    PutPart,
    SealSession,
    SessionCommand,
)
from mcr_node.core.state.texts import REASON_CHARACTERS_MAX, check_base, check_number, check_text

# A writer that is slower than a minute from one part to the next is no reason to lose all others' work.
LIFETIME_MS_MIN = 60 * 1000
LIFETIME_MS_MAX = 30 * 24 * 60 * 60 * 1000
# A part is a writer, or a file of one; paths inside a folder may be longer.
PART_NAME_BYTES_MAX = 1024


def check(command: SessionCommand) -> None:
    """Check one command.

    Raises:
        InvalidArgumentError, InvalidNameError, UnsafePathError: says what and why.
    """
    check_name("session", command.session)
    match command:
        case BeginSession():
            check_name("branch", command.branch)
            if command.expected_head is not None:
                check_number("expected_head", command.expected_head, 0)
            if command.parent is not None:
                check_number("parent", command.parent, 1)
            if command.base is not None:
                check_base(command.base)
            check_text("description", command.description, DESCRIPTION_CHARACTERS_MAX)
            check_number("lifetime_ms", command.lifetime_ms, LIFETIME_MS_MIN, LIFETIME_MS_MAX)
        case PutPart():
            check_path(command.name)
            if len(command.name.encode()) > PART_NAME_BYTES_MAX:
                raise InvalidArgumentError("name", f"it has more than {PART_NAME_BYTES_MAX} bytes")
            _check_content(command)
        case SealSession():
            check_number("generation", command.generation, 1)
            _check_content(command)
        case AbortSession():
            check_text("reason", command.reason, REASON_CHARACTERS_MAX)
        case other:
            assert_never(other)


def _check_content(command: PutPart | SealSession) -> None:
    if len(command.manifest) != DIGEST_BYTES:
        raise InvalidArgumentError("manifest", f"it has {len(command.manifest)} bytes, not {DIGEST_BYTES}")
    check_number("bytes_total", command.bytes_total, 0)
    check_number("file_count", command.file_count, 0)
    check_number("chunk_count", command.chunk_count, 0)
    check_number("gc_round", command.gc_round, 0)
    if command.layout_epoch is not None:
        check_number("layout_epoch", command.layout_epoch, 0)
