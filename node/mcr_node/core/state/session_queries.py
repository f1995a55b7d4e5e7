"""Pure reads about upload sessions."""

from itertools import islice

from mcr.values import dataclass
from mcr_node.core.state import keys, session_rows, sessions
from mcr_node.core.state.queries import PAGE_MAX
from mcr_node.core.state.records import StateRow, read
from mcr_node.core.state.session_rows import PartRow, ProgressRow, SessionRow, State, WhereRow
from mcr_node.core.state.view import View


@dataclass(frozen=True, slots=True)
class SessionFound:
    """One session: what it was begun with, how far it is, and what that means at the present log time."""

    name: str
    row: SessionRow
    progress: ProgressRow
    state: State


@dataclass(frozen=True, slots=True)
class PartFound:
    """One part.

    Attributes:
        path: as it stands in the order of parts: with `/` at the end of a folder.
    """

    path: bytes
    row: PartRow

    @property
    def name(self) -> str:
        """Path of the file or folder in the version."""
        return self.path.decode().removesuffix("/")

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder with all below it."""
        return self.path.endswith(b"/")


@dataclass(frozen=True, slots=True)
class OpenSession:
    """A session that takes parts, and how many it has."""

    model: str
    session: str
    serial: int
    part_count: int


def open_sessions(view: View) -> list[OpenSession]:
    """Return all open sessions, of all models; `sessions.OPEN_MAX` at most."""
    now_ms = (read(view, keys.STATE, StateRow) or StateRow()).last_at_ms
    found: list[OpenSession] = []
    for _, value in view.scan(*session_rows.looks()):
        where = WhereRow.unpack(value)
        progress = read(view, session_rows.progress(where.serial), ProgressRow)
        if progress is not None and sessions.state_at(progress, now_ms) == "open":
            found.append(OpenSession(where.model, where.session, where.serial, progress.generation))
    return found


def get_session(view: View, model: str, name: str) -> SessionFound:
    """Return a session.

    Raises:
        SessionNotFoundError: there is none of that name, or it ended long ago.
    """
    return _found(view, name, sessions.lookup_session(view, model, name))


def list_sessions(view: View, model: str, *, after: str, limit: int, ended: bool) -> list[SessionFound]:
    """Return the sessions of a model by name, those after a name; ended ones where they are asked for."""
    rows = view.scan(*session_rows.sessions_after(model, after))
    found = (
        _found(view, session_rows.session_in(model, key), SessionRow.unpack(value)) for key, value in rows
    )
    return list(islice((each for each in found if ended or each.state == "open"), _page(limit)))


def list_parts(view: View, serial: int, *, after: bytes, limit: int) -> list[PartFound]:
    """Return the parts of a session by path, those after a path; b"" = from the first.

    Args:
        view: where to read.
        serial: of the session.
        after: see PartFound.path.
        limit: at most this many, and at most PAGE_MAX.
    """
    rows = islice(view.scan(*session_rows.parts_after(serial, after)), _page(limit))
    return [PartFound(session_rows.path_in(key), PartRow.unpack(value)) for key, value in rows]


def _found(view: View, name: str, row: SessionRow) -> SessionFound:
    now_ms = (read(view, keys.STATE, StateRow) or StateRow()).last_at_ms
    progress = sessions.progress_of(view, row)
    return SessionFound(name, row, progress, sessions.state_at(progress, now_ms))


def _page(limit: int) -> int:
    return max(0, min(limit, PAGE_MAX))
