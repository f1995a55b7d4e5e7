"""Keys of deletions, pins and garbage collection: a part of the layout that `keys` shows."""

import struct

from mcr.values import dataclass
from mcr_node.core.state.keys import Span
from mcr_node.core.state.view import prefix_end

COLLECTING = b"G"
_NUMBER = struct.Struct(">Q")
_NUL = b"\x00"
_AGE, _MODEL, _VERSION = b"Da", b"Dm", b"Dv"
_LEASE, _PIN = b"L", b"P"


@dataclass(frozen=True, slots=True)
class Trashed:
    """What was deleted: one version, or all of a model up to one.

    Attributes:
        number: of the version; of the last one for a model.
    """

    model: str
    number: int
    whole_model: bool = False


def _numbered(family: bytes, model: str, number: int) -> bytes:
    return family + model.encode() + _NUL + _NUMBER.pack(number)


def trash(of: Trashed) -> bytes:
    """Key of a TrashRow."""
    return _numbered(_MODEL if of.whole_model else _VERSION, of.model, of.number)


def model_deletions_from(model: str, number: int) -> Span:
    """All deletions of a model that took the version of this number with it, the first one first."""
    family = _MODEL + model.encode() + _NUL
    return family + _NUMBER.pack(number), prefix_end(family)


def number_in(key: bytes) -> int:
    """Return the number that a key ends with."""
    (number,) = _NUMBER.unpack(key[-_NUMBER.size :])
    return int(number)


def trash_age(of: Trashed, until_ms: int) -> bytes:
    """Key of a TrashAgeRow."""
    return _AGE + _NUMBER.pack(until_ms) + _numbered(b"m" if of.whole_model else b"v", of.model, of.number)


def trash_ages(after: bytes, until_ms: int | None = None) -> Span:
    """All that is in the trash, what goes first before the rest.

    Args:
        after: only what comes after this key; empty = all.
        until_ms: only what may go at this time; None = all.
    """
    end = prefix_end(_AGE) if until_ms is None else _AGE + _NUMBER.pack(until_ms + 1)
    return (after + _NUL if after.startswith(_AGE) else _AGE), end


def trashed_in(key: bytes) -> Trashed:
    """Return what the key of a TrashAgeRow names."""
    rest = key[len(_AGE) + _NUMBER.size :]
    return Trashed(rest[1 : -_NUMBER.size - 1].decode(), number_in(key), rest[:1] == b"m")


def pin(model: str, number: int) -> bytes:
    """Key of a PinRow."""
    return _numbered(_PIN, model, number)


def pins_after(model: str, number: int) -> Span:
    """All pinned versions of a model with a greater number."""
    return pin(model, number) + _NUL, prefix_end(_PIN + model.encode() + _NUL)


def lease(lease_id: bytes) -> bytes:
    """Key of a LeaseRow."""
    return _LEASE + lease_id


def leases() -> Span:
    """All leases."""
    return _LEASE, prefix_end(_LEASE)
