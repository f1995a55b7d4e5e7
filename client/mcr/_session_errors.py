"""Errors of upload sessions; `mcr.errors` is where to import them from."""

from mcr._mcr_error import ConflictError, NotFoundError
from mcr.values import dataclass


@dataclass(eq=False)
class SessionNotFoundError(NotFoundError):
    """A model has no upload session of that name, or not any more."""

    model: str
    session: str
    code = "session_not_found"
    template = "{model} has no session {session}"
    hint_template = "see: mcr session {model} list"


@dataclass(eq=False)
class SessionEndedError(ConflictError):
    """An upload session takes nothing more."""

    model: str
    session: str
    ended: str
    code = "session_ended"
    template = "session {session} of {model} {ended}"
    hint_template = "begin a new one: mcr session {model} begin"


@dataclass(eq=False)
class SessionChangedError(ConflictError):
    """Parts came while a session was being sealed."""

    model: str
    session: str
    code = "session_changed"
    template = "parts were put into session {session} of {model} while it was being sealed"
    hint_template = "seal it once all writers are done, or name the parts that it must have"


@dataclass(eq=False)
class SessionIncompleteError(ConflictError):
    """An upload session does not have just the parts that it was expected to have."""

    model: str
    session: str
    missing: str
    unexpected: str
    code = "session_incomplete"
    template = "session {session} of {model} is not as expected; missing: {missing}; unexpected: {unexpected}"
    hint_template = "it stays open: put what is missing, then seal again"


@dataclass(eq=False)
class PartConflictError(ConflictError):
    """A part of an upload session clashes with one that was put before."""

    session: str
    part: str
    reason: str
    code = "part_conflict"
    template = "part {part!r} of session {session}: {reason}"
    hint_template = "choose another name, or abort the session and begin anew"
