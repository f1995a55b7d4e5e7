"""Where sessions stand in the view: their keys, and the rows at them.

    key                                value             one for each
    --------------------------------   ---------------   ----------------------------------
    S M                                SessionsRow       state
    S n model NUL session              SessionRow        session, the latest of its name
    S p serial                         ProgressRow       session
    S x time serial                    WhereRow          open session, by when to look whether it expired
    S e time serial                    WhereRow          ended session, by when it ended
    S g serial                         WhereRow          ended session whose parts are still to be removed
    S b serial                         SessionBaseRow    session whose version is derived from another one
    T serial path                      PartRow           part of a session

A session's serial is the log index of its beginning. The path of a part that is a folder ends with `/`, so
that the order of the keys is the order of the paths in the manifest: no path stands between a folder and what
is below it.
"""

import struct
from dataclasses import field
from typing import Literal

from mcr.model import Parameters
from mcr.values import dataclass
from mcr_node.core.state.keys import NUMBER_MAX, Span
from mcr_node.core.state.records import Row
from mcr_node.core.state.view import prefix_end

SESSIONS = b"SM"
_NUMBER = struct.Struct(">Q")
_NUMBER_BYTES = _NUMBER.size
_NUL = b"\x00"
_SLASH = b"/"

State = Literal["open", "sealed", "aborted", "expired"]


@dataclass(frozen=True, slots=True)
class SessionsRow(Row):
    """What concerns all sessions.

    Attributes:
        open_count, ended_count: how many are open, and how many ended ones are still known.
        looked_ms: all that could expire up to this log time did. The scan for more starts behind it, as for
            requests.
    """

    open_count: int = 0
    ended_count: int = 0
    looked_ms: int = 0


@dataclass(frozen=True, slots=True)
class SessionRow(Row):
    """What a session was begun with; never changes, so that a part costs no copy of it.

    Attributes:
        serial: log index of its beginning.
    """

    serial: int
    branch: str
    expected_head: int | None
    parent: int | None
    description: str
    parameters: Parameters
    principal: str
    begun_at_ms: int
    lifetime_ms: int


@dataclass(frozen=True, slots=True)
class SessionBaseRow(Row):
    """What the version of a session is derived from; apart, because few have it."""

    model: str
    number: int
    version_id: bytes


@dataclass(frozen=True, slots=True)
class ProgressRow(Row):
    """How far a session is.

    Attributes:
        generation: how many parts were put.
        name_bytes: sum of the lengths of their names.
        expires_at_ms: log time after which it takes nothing more.
        look_at_ms: the time under which it stands among those that may expire; never later than
            `expires_at_ms`, and moved only when it comes, so that a part costs no move.
        ended_ms: log time of its end, 0 while it is open.
        number, version_id: the version it became.
    """

    generation: int
    name_bytes: int
    bytes_total: int
    file_count: int
    chunk_count: int
    expires_at_ms: int
    look_at_ms: int
    state: State = "open"
    reason: str = ""
    ended_ms: int = 0
    number: int = 0
    version_id: bytes = b""


@dataclass(frozen=True, slots=True)
class PartRow(Row):
    """What one writer put; the key says where."""

    manifest: bytes
    bytes_total: int
    file_count: int
    chunk_count: int
    principal: str
    at_ms: int


@dataclass(frozen=True, slots=True)
class WhereRow(Row):
    """The session that a serial belongs to."""

    model: str
    session: str
    serial: int
    ended_ms: int = field(default=0)


def session(model: str, name: str) -> bytes:
    """Key of a SessionRow."""
    return b"Sn" + model.encode() + _NUL + name.encode()


def sessions_after(model: str, name: str) -> Span:
    """All sessions of a model whose name comes after `name`; after "" come all."""
    family = b"Sn" + model.encode() + _NUL
    return family + name.encode() + (_NUL if name else b""), prefix_end(family)


def session_in(model: str, key: bytes) -> str:
    """Return the name in the key of a SessionRow."""
    return key[len(b"Sn" + model.encode() + _NUL) :].decode()


def progress(serial: int) -> bytes:
    """Key of a ProgressRow."""
    return b"Sp" + _NUMBER.pack(serial)


def base(serial: int) -> bytes:
    """Key of a SessionBaseRow."""
    return b"Sb" + _NUMBER.pack(serial)


def look_at(at_ms: int, serial: int) -> bytes:
    """Key among the open sessions."""
    return b"Sx" + _NUMBER.pack(at_ms) + _NUMBER.pack(serial)


def looks_between(after_ms: int, through_ms: int) -> Span:
    """All open sessions to look at after one log time, up to another."""
    return look_at(after_ms + 1, 0), look_at(through_ms + 1, 0)


def looks() -> Span:
    """All open sessions."""
    return look_at(0, 0), prefix_end(look_at(NUMBER_MAX, NUMBER_MAX))


def ended(serial: int, at_ms: int) -> bytes:
    """Key among the ended sessions."""
    return b"Se" + _NUMBER.pack(at_ms) + _NUMBER.pack(serial)


def all_ended() -> Span:
    """All ended sessions, in the order in which they ended."""
    return b"Se", prefix_end(b"Se")


def waste(serial: int) -> bytes:
    """Key among the sessions whose parts are to be removed."""
    return b"Sg" + _NUMBER.pack(serial)


def all_waste() -> Span:
    """All sessions whose parts are to be removed."""
    return b"Sg", prefix_end(b"Sg")


def part(serial: int, name: str, *, is_folder: bool) -> bytes:
    """Key of a PartRow."""
    return b"T" + _NUMBER.pack(serial) + name.encode() + (_SLASH if is_folder else b"")


def parts_after(serial: int, path: bytes) -> Span:
    """All parts of a session whose path comes after `path`; after b"" come all."""
    family = b"T" + _NUMBER.pack(serial)
    return family + path + (_NUL if path else b""), prefix_end(family)


def parts_below(serial: int, name: str) -> Span:
    """All parts inside the folder `name`, without itself."""
    below = b"T" + _NUMBER.pack(serial) + name.encode() + _SLASH
    return below + _NUL, prefix_end(below)


def path_in(key: bytes) -> bytes:
    """Return the path in the key of a PartRow, with the `/` of a folder."""
    return key[1 + _NUMBER_BYTES :]
