"""Lengths of time as people write them: `30m`, `2h`, `1.5d`, `1h30m`. Pure."""

import re
from datetime import timedelta

_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_PART = r"[0-9]{1,9}(?:\.[0-9]{1,9})?[smhdw]"
_SPAN = re.compile(rf"(?:{_PART})+", re.ASCII)
_PARTS = re.compile(r"([0-9.]+)([smhdw])", re.ASCII)


def parse_span(text: str) -> timedelta | None:
    """Return the length of a span such as `2h`, `1.5d` or `1h30m`; None when `text` has another form."""
    if _SPAN.fullmatch(text) is None:
        return None
    seconds = sum(float(count) * _UNIT_SECONDS[unit] for count, unit in _PARTS.findall(text))
    try:
        return timedelta(seconds=seconds)
    except OverflowError:
        return None


def span_text(length_ms: int) -> str:
    """Return a span for people: `10m`, `1h30m`, `2.5s`."""
    if length_ms % 1000:
        return f"{length_ms / 1000:g}s"
    left_s = length_ms // 1000
    parts = []
    for unit in ("d", "h", "m", "s"):
        count, left_s = divmod(left_s, _UNIT_SECONDS[unit])
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"
