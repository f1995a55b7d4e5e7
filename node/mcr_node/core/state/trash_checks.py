"""Checks of the commands of `trash_commands` that need no state; a part of `checks`."""

from itertools import pairwise
from typing import assert_never

from mcr.errors import InvalidArgumentError
from mcr.references import check_model, check_name
from mcr_node.core.state.texts import REASON_CHARACTERS_MAX, check_number, check_text
from mcr_node.core.state.trash import DELETIONS_MAX
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

LEASE_BYTES_MAX = 64
# Ten years: whoever keeps things longer in the trash does not want them deleted.
KEEP_MS_MAX = 10 * 366 * 86_400_000
# Nobody knows of an upload that said nothing for a day whether it goes on.
HOLD_MS_MAX = 86_400_000


def check(command: TrashCommand) -> None:
    """Check a command's own content.

    Raises:
        InvalidArgumentError, InvalidNameError: says what and why.
    """
    match command:
        case DeleteVersions():
            check_model(command.model)
            _check_numbers(command.numbers, 1)
            check_text("reason", command.reason, REASON_CHARACTERS_MAX)
            check_number("keep_ms", command.keep_ms, 0, KEEP_MS_MAX)
        case DeleteName():
            check_model(command.model)
            check_name(str(command.kind), command.name)
            check_text("reason", command.reason, REASON_CHARACTERS_MAX)
        case DeleteModel():
            check_model(command.model)
            check_text("reason", command.reason, REASON_CHARACTERS_MAX)
            check_number("keep_ms", command.keep_ms, 0, KEEP_MS_MAX)
        case RestoreVersions():
            check_model(command.model)
            _check_numbers(command.numbers, 0)
        case EmptyTrash():
            if command.model or command.numbers:
                check_model(command.model)
            _check_numbers(command.numbers, 0)
        case PinVersion():
            check_model(command.model)
            check_number("number", command.number, 1)
            check_text("reason", command.reason, REASON_CHARACTERS_MAX)
        case UnpinVersion():
            check_model(command.model)
            check_number("number", command.number, 1)
        case MarkGarbage():
            check_number("after_round", command.after_round, 0)
            check_number("interval_ms", command.interval_ms, 0, KEEP_MS_MAX)
        case HoldUpload():
            check_lease(command.lease, 1)
            check_number("hold_ms", command.hold_ms, 1, HOLD_MS_MAX)
        case ReleaseUpload():
            check_lease(command.lease, 1)
        case TrashCommand():
            raise AssertionError("the base of commands is no command")
        case other:
            assert_never(other)


def _check_numbers(numbers: tuple[int, ...], count_min: int) -> None:
    if not count_min <= len(numbers) <= DELETIONS_MAX:
        raise InvalidArgumentError("numbers", f"there are {len(numbers)}, not {count_min} to {DELETIONS_MAX}")
    for number in numbers:
        check_number("numbers", number, 1)
    if any(one >= two for one, two in pairwise(numbers)):
        raise InvalidArgumentError("numbers", "they are not ascending, or one stands twice")


def check_lease(lease: bytes, bytes_min: int) -> None:
    """Check what names a lease.

    Raises:
        InvalidArgumentError: it is too short or too long.
    """
    if not bytes_min <= len(lease) <= LEASE_BYTES_MAX:
        raise InvalidArgumentError(
            "lease", f"it has {len(lease)} bytes, not {bytes_min} to {LEASE_BYTES_MAX}"
        )
