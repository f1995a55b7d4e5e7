"""Limits and checks of single values, for whatever carries them."""

import re

from mcr.bases import BaseVersion
from mcr.errors import InvalidArgumentError
from mcr.model import NAME_CHARACTERS_MAX
from mcr.references import check_model
from mcr_node.core.state.keys import NUMBER_MAX

PRINCIPAL_CHARACTERS_MAX = 256
REASON_CHARACTERS_MAX = 4096
# METRICS_MAX names of this length, the longest description and the largest parameters make 1.7 MiB in UTF-8,
# so a command always fits in one log entry of 2 MiB.
METRIC_NAME_CHARACTERS_MAX = NAME_CHARACTERS_MAX
# The last millisecond of the year 9999, which is as far as dates can be shown.
AT_MS_MAX = 253_402_300_799_999
_VERSION_ID = re.compile("[0-9a-f]{64}")


def is_unicode(text: str) -> bool:
    """Tell whether `text` has a UTF-8 form, that is, no lone surrogate."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def shown(text: str) -> str:
    """Return the start of a text that may be anything, in a form that any terminal and encoding takes."""
    return text[:NAME_CHARACTERS_MAX].encode("ascii", "backslashreplace").decode()


def check_text(argument: str, text: str, characters_max: int) -> None:
    """Check a free text.

    Raises:
        InvalidArgumentError: it is too long or not valid Unicode.
    """
    if len(text) > characters_max:
        raise InvalidArgumentError(argument, f"it has {len(text)} characters, at most {characters_max}")
    if not is_unicode(text):
        raise InvalidArgumentError(argument, "it is not valid Unicode")


def check_principal(argument: str, principal: str) -> None:
    """Check the name of a principal.

    Raises:
        InvalidArgumentError: it is empty, too long or not valid Unicode.
    """
    if not principal:
        raise InvalidArgumentError(argument, "a principal is empty")
    check_text(argument, principal, PRINCIPAL_CHARACTERS_MAX)


def check_number(argument: str, number: int, minimum: int, maximum: int = NUMBER_MAX) -> None:
    """Check an integer.

    Raises:
        InvalidArgumentError: it is out of range.
    """
    if not minimum <= number <= maximum:
        raise InvalidArgumentError(argument, f"{number} is not between {minimum} and {maximum}")


def metric_name_fault(name: str) -> str:
    """Return what is wrong with the name of a metric; "" if nothing is.

    Freer than other names, because training loops use `eval/loss` and `val acc@5`; it stands alone in its
    place, so nothing has to be told apart from it.
    """
    if not name:
        return "the name is empty"
    if len(name) > METRIC_NAME_CHARACTERS_MAX:
        return f"the name has {len(name)} characters, at most {METRIC_NAME_CHARACTERS_MAX}"
    if not is_unicode(name) or not name.isprintable():
        return "the name has a character that cannot be shown"
    return ""


def check_base(base: BaseVersion) -> None:
    """Check what a version is said to be derived from, as far as that needs no state.

    Raises:
        InvalidArgumentError, InvalidNameError: it cannot be a version.
    """
    check_model(base.model)
    check_number("base", base.number, 1)
    if not _VERSION_ID.fullmatch(base.id):
        raise InvalidArgumentError("base", "its id is not 64 lower-case hexadecimal characters")
