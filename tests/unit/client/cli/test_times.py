"""Times as people write them."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcr.cli.times import parse_span, parse_time
from mcr.errors import InvalidArgumentError

NOW = datetime(2026, 11, 23, 10, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "length"),
    [
        ("30s", timedelta(seconds=30)),
        ("30m", timedelta(minutes=30)),
        ("2h", timedelta(hours=2)),
        ("7d", timedelta(days=7)),
        ("1w", timedelta(weeks=1)),
        ("1.5h", timedelta(minutes=90)),
        ("1h30m", timedelta(minutes=90)),
        ("0s", timedelta(0)),
    ],
)
def test_a_span_reaches_back_from_now(text: str, length: timedelta) -> None:
    assert parse_time(text, now=NOW) == NOW - length


@pytest.mark.parametrize("text", ["", "h", "2", "2 h", "-2h", "2H", "2y", "٢h", "2h ago", "1e3s"])
def test_other_words_are_no_spans(text: str) -> None:
    assert parse_span(text) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-23T10:00:00Z", NOW),
        ("2026-11-23T11:00:00+01:00", NOW),
        ("2026-11-23 10:00Z", NOW),
        ("20261123T100000Z", NOW),
        (" 2026-11-23T10:00:00.250Z ", NOW + timedelta(milliseconds=250)),
    ],
)
def test_iso_times_with_a_zone_are_instants(text: str, expected: datetime) -> None:
    found = parse_time(text, now=NOW)
    assert found == expected
    assert found.tzinfo is UTC


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("2026-11-23T10:00:00", "no time zone"),
        ("2026-11-23", "no time zone"),
        ("yesterday", "is no time"),
        ("", "is no time"),
        ("2026-13-01T00:00:00Z", "is no time"),
        ("999999999w", "is no time"),
        ("999999w", "too far"),
        ("0001-01-01T00:00:00+05:00", "out of range"),
    ],
)
def test_what_names_no_instant_is_refused(text: str, reason: str) -> None:
    with pytest.raises(InvalidArgumentError, match=reason) as caught:
        parse_time(text, now=NOW, argument="--at")
    assert caught.value.argument == "--at"


@given(
    st.datetimes(
        min_value=datetime.fromisoformat("1970-01-02"),
        max_value=datetime.fromisoformat("2100-01-01"),
        timezones=st.integers(-12 * 60, 12 * 60).map(lambda m: timezone(timedelta(minutes=m))),
    )
)
def test_every_iso_form_of_an_aware_datetime_is_read_back(at: datetime) -> None:
    assert parse_time(at.isoformat(), now=NOW) == at
