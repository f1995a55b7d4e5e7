"""Times as people write them: ISO 8601 with a zone, or a span such as `2h`, back from now. Pure."""

from datetime import UTC, datetime

from mcr.errors import InvalidArgumentError
from mcr.spans import parse_span as parse_span

EXAMPLES = "write 2026-11-23T10:00:00Z, or a span such as 30m, 2h or 7d for that long ago"


def parse_time(text: str, *, now: datetime, argument: str = "--at") -> datetime:
    """Return the instant that `text` means, in UTC.

    Args:
        text: ISO 8601 with a zone (`Z` or `+01:00`), or a span, which is counted back from `now`.
        now: an aware datetime.
        argument: what to blame in the error.

    Raises:
        InvalidArgumentError: neither form; or a time without a zone, which would mean another instant on
            another machine; or before year 1.
    """
    assert now.tzinfo is not None, "the present must be an instant"
    word = text.strip()
    span = parse_span(word)
    if span is not None:
        try:
            return (now - span).astimezone(UTC)
        except OverflowError as error:
            raise InvalidArgumentError(argument, f"{text!r} reaches back too far") from error
    try:
        found = datetime.fromisoformat(word)
    except ValueError as error:
        raise InvalidArgumentError(argument, f"{text!r} is no time; {EXAMPLES}") from error
    if found.tzinfo is None:
        raise InvalidArgumentError(argument, f"{text!r} has no time zone; {EXAMPLES}")
    try:
        return found.astimezone(UTC)
    except OverflowError as error:
        raise InvalidArgumentError(argument, f"{text!r} is out of range") from error
