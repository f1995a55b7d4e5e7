"""Parameters, three-way: each leaf of the tree on its own. 1, 1.0 and true are different values."""

from collections.abc import Mapping
from enum import Enum
from typing import Final

from mcr import canonical
from mcr.merging.choices import PARAMETER_PREFIX, Conflict, ConflictKind, Judge, Value
from mcr.model import Parameters, ParameterValue
from mcr.tensors.merging import Method, Strategy

SHOWN_CHARACTERS_MAX = 200


class _Absent(Enum):
    ABSENT = 0


ABSENT: Final = _Absent.ABSENT
_Maybe = ParameterValue | _Absent


def merge_parameters(base: Parameters, ours: Parameters, theirs: Parameters, judge: Judge) -> Parameters:
    """Return the merged tree; where `judge` leaves a conflict open, ours stands."""
    merged = _merge(base, ours, theirs, (), judge)
    assert isinstance(merged, Mapping), "two mappings give one"
    return merged


def _merge(base: _Maybe, ours: _Maybe, theirs: _Maybe, path: tuple[str, ...], judge: Judge) -> _Maybe:
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        below = base if isinstance(base, Mapping) else {}
        names = dict.fromkeys([*ours, *theirs, *below])
        merged: dict[str, ParameterValue] = {}
        for name in names:
            value = _merge(
                below.get(name, ABSENT),
                ours.get(name, ABSENT),
                theirs.get(name, ABSENT),
                (*path, name),
                judge,
            )
            if value is not ABSENT:
                merged[name] = value
        return merged
    if _same(ours, theirs) or _same(theirs, base):
        return ours
    if _same(ours, base):
        return theirs
    name = ".".join(path)
    conflict = Conflict(
        ConflictKind.PARAMETER,
        PARAMETER_PREFIX.rstrip(":") + "\x00" + name,
        _shown(base),
        _shown(ours),
        _shown(theirs),
    )
    match judge.decide(conflict):
        case Value(value):
            return value
        case Strategy(Method.THEIRS):
            return theirs
        case Strategy(Method.BASE):
            return base
        case _:
            return ours


def _same(one: _Maybe, other: _Maybe) -> bool:
    if one is ABSENT or other is ABSENT:
        return one is other
    return canonical.encode(one) == canonical.encode(other)


def _shown(value: _Maybe) -> str | None:
    if value is ABSENT:
        return None
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= SHOWN_CHARACTERS_MAX else text[: SHOWN_CHARACTERS_MAX - 1] + "…"
