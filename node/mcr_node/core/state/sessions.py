"""Upload sessions: parts from many writers, through many nodes, become one version.

Laws:
    A part is there once: the same bytes again change nothing, other bytes are refused, and so is a name
    inside another part.
    A session becomes one version at most. Whoever seals it again, or seals it elsewhere at the same time,
    gets that version.
    The version holds the parts that were there at one log index: a part that comes while the manifest is
    being built makes the seal fail, and the manifest is built again.
    What is open has bounds: sessions, parts, bytes of their names. One that nobody puts anything into
    expires in log time, alike on every node.
    Parts of open sessions are roots (`roots`): their chunks must stay until the session ends.
    Removing what an ended session leaves behind is spread over the commands that follow, so that none of
    them takes long.
"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import assert_never

from mcr.bases import BaseVersion
from mcr.errors import (
    CorruptStoreError,
    OutOfSpaceError,
    PartConflictError,
    SessionChangedError,
    SessionEndedError,
    SessionNotFoundError,
)
from mcr.model import ChunkId, RefKind, VersionId
from mcr_node.core.state import collecting, fence, keys, lookup, session_rows, versions
from mcr_node.core.state.commands import CommitVersion
from mcr_node.core.state.keys import RefName
from mcr_node.core.state.outcomes import SessionResult, VersionResult
from mcr_node.core.state.records import PLACE, RefRow, StateRow, read
from mcr_node.core.state.session_commands import (
    AbortSession,
    BeginSession,
    PutPart,
    SealSession,
    SessionCommand,
)
from mcr_node.core.state.session_rows import (
    PartRow,
    ProgressRow,
    SessionBaseRow,
    SessionRow,
    SessionsRow,
    State,
    WhereRow,
)
from mcr_node.core.state.step import Step
from mcr_node.core.state.view import View

# One training job has one open, seldom two. With the greatest parameters each, 256 MiB of state.
OPEN_MAX = 256
# Thirty-two for each of 2,000 ranks.
PARTS_MAX = 1 << 16
NAME_BYTES_TOTAL_MAX = 16 << 20
# Ended sessions that are still known by name, so that a late writer is told what became of its session.
ENDED_MAX = 1024
ENDED_MS_MAX = 7 * 24 * 60 * 60 * 1000
# Done by one command at most, beside its own work.
LOOKS_MAX = 2
REMOVALS_MAX = 64


def carry_out(step: Step, command: SessionCommand) -> SessionResult | VersionResult:
    """Carry out a command about a session.

    Raises:
        SessionNotFoundError, SessionEndedError: there is none, or none any more.
        SessionChangedError: parts came since the manifest was built.
        PartConflictError: another part is in the way.
        OutOfSpaceError: a bound of this module.
        SealOutdatedError: garbage was marked since the chunks were found to be held.
        MembersChangedError: somebody is leaving whose copies were counted on.
        HeadMovedError, ModelNotFoundError, ReferenceNotFoundError: as for a commit.
    """
    _tidy(step)
    match command:
        case BeginSession():
            return _begin(step, command)
        case PutPart():
            return _put(step, command)
        case SealSession():
            return _seal(step, command)
        case AbortSession():
            return _abort(step, command)
        case other:
            assert_never(other)


def _begin(step: Step, command: BeginSession) -> SessionResult:
    overlay, model, name = step.overlay, command.model, command.session
    before = read(overlay, session_rows.session(model, name), SessionRow)
    if before is not None:
        progress = progress_of(overlay, before)
        state = state_at(progress, step.at_ms)
        if state == "sealed" or (state == "open" and not _is_begun_alike(overlay, before, command)):
            raise SessionEndedError(model, name, said(progress, step.at_ms))
        if state == "open":
            return SessionResult(name, before.serial, progress.generation, already=True)
        if progress.state == "open":
            _end(step, model, name, before, progress, "expired")
    counts = read(overlay, session_rows.SESSIONS, SessionsRow) or SessionsRow()
    if counts.open_count >= OPEN_MAX:
        raise OutOfSpaceError("upload sessions", f"{counts.open_count} are open, which is the most")
    if command.expected_head is not None:
        branch = RefName(model, RefKind.BRANCH, command.branch)
        versions.check_head(branch, command.expected_head, read(overlay, keys.ref(branch), RefRow))
    if command.parent is not None:
        lookup.record_bytes(overlay, model, command.parent)
    if command.base is not None:
        versions.check_base(overlay, command.base)
        overlay.put(session_rows.base(step.index), _base_row(command.base).pack())
    row = SessionRow(
        serial=step.index,
        branch=command.branch,
        expected_head=command.expected_head,
        parent=command.parent,
        description=command.description,
        parameters=command.parameters,
        principal=step.principal,
        begun_at_ms=step.at_ms,
        lifetime_ms=command.lifetime_ms,
    )
    expires_at_ms = step.at_ms + command.lifetime_ms
    overlay.put(session_rows.session(model, name), row.pack())
    overlay.put(
        session_rows.progress(row.serial), ProgressRow(0, 0, 0, 0, 0, expires_at_ms, expires_at_ms).pack()
    )
    overlay.put(session_rows.look_at(expires_at_ms, row.serial), WhereRow(model, name, row.serial).pack())
    overlay.put(session_rows.SESSIONS, replace(counts, open_count=counts.open_count + 1).pack())
    return SessionResult(name, row.serial, 0)


def _base_row(base: BaseVersion) -> SessionBaseRow:
    return SessionBaseRow(base.model, base.number, bytes.fromhex(base.id))


def base_of(view: View, serial: int) -> BaseVersion | None:
    """Return what the version of a session is derived from; None = nothing is named."""
    row = read(view, session_rows.base(serial), SessionBaseRow)
    return None if row is None else BaseVersion(row.model, row.number, row.version_id.hex())


def _is_begun_alike(view: View, row: SessionRow, command: BeginSession) -> bool:
    """Say whether a session is what somebody else would begin: all writers may, the first one does."""
    wanted = (
        command.branch,
        command.expected_head,
        command.parent,
        command.description,
        command.parameters,
        command.lifetime_ms,
        command.base,
    )
    return wanted == (
        row.branch,
        row.expected_head,
        row.parent,
        row.description,
        row.parameters,
        row.lifetime_ms,
        base_of(view, row.serial),
    )


def _put(step: Step, command: PutPart) -> SessionResult:
    overlay, name = step.overlay, command.name
    row, progress = _open(step, command.model, command.session)
    there = _check_place(step, command, row.serial)
    collecting.check_round(overlay, command.gc_round)
    fence.check_sealed(overlay, command.layout_epoch)
    longer = replace(progress, expires_at_ms=step.at_ms + row.lifetime_ms)
    if there:
        overlay.put(session_rows.progress(row.serial), longer.pack())
        return SessionResult(command.session, row.serial, progress.generation, already=True)
    name_bytes = progress.name_bytes + len(name.encode())
    if progress.generation >= PARTS_MAX or name_bytes > NAME_BYTES_TOTAL_MAX:
        reason = f"it has {progress.generation} parts with {progress.name_bytes} bytes of names"
        raise OutOfSpaceError(f"session {command.session}", reason)
    part = PartRow(
        manifest=command.manifest,
        bytes_total=command.bytes_total,
        file_count=command.file_count,
        chunk_count=command.chunk_count,
        principal=step.principal,
        at_ms=step.at_ms,
    )
    overlay.put(session_rows.part(row.serial, name, is_folder=command.is_folder), part.pack())
    now = replace(
        longer,
        generation=progress.generation + 1,
        name_bytes=name_bytes,
        bytes_total=progress.bytes_total + command.bytes_total,
        file_count=progress.file_count + command.file_count,
        chunk_count=progress.chunk_count + command.chunk_count,
    )
    overlay.put(session_rows.progress(row.serial), now.pack())
    return SessionResult(command.session, row.serial, now.generation)


def _check_place(step: Step, command: PutPart, serial: int) -> bool:
    """Say whether the part is there already; raise when another one is where it should go."""
    overlay, name = step.overlay, command.name
    for is_folder in (False, True):
        same = read(overlay, session_rows.part(serial, name, is_folder=is_folder), PartRow)
        if same is not None:
            if is_folder == command.is_folder and same.manifest == command.manifest:
                return True
            raise PartConflictError(command.session, name, f"{same.principal} put it with other content")
    folder = name
    while "/" in folder:
        folder = folder.rpartition("/")[0]
        for is_folder in (False, True):
            if overlay.get(session_rows.part(serial, folder, is_folder=is_folder)) is not None:
                raise PartConflictError(command.session, name, f"it lies inside part {folder!r}")
    for key, _ in overlay.scan(*session_rows.parts_below(serial, name)):
        inside = session_rows.path_in(key).decode()
        raise PartConflictError(command.session, name, f"part {inside!r} lies inside it")
    return False


def _seal(step: Step, command: SealSession) -> VersionResult:
    model, name = command.model, command.session
    row = lookup_session(step.overlay, model, name)
    progress = progress_of(step.overlay, row)
    if progress.state == "sealed":
        return VersionResult(progress.number, VersionId(progress.version_id))
    row, progress = _open(step, model, name)
    if progress.generation != command.generation:
        raise SessionChangedError(model, name)
    result = versions.commit(
        step,
        CommitVersion(
            request_id=command.request_id,
            principal=command.principal,
            at_ms=command.at_ms,
            model=model,
            branch=row.branch,
            expected_head=row.expected_head,
            parent=row.parent,
            description=row.description,
            parameters=row.parameters,
            manifest=command.manifest,
            bytes_total=command.bytes_total,
            file_count=command.file_count,
            chunk_count=command.chunk_count,
            metrics={},
            gc_round=command.gc_round,
            layout_epoch=command.layout_epoch,
            base=base_of(step.overlay, row.serial),
        ),
        # It was there when the session began. Its id still vouches for it, whatever was deleted meanwhile.
        check_base_is_there=False,
    )
    sealed = replace(progress, number=result.number, version_id=result.id)
    _end(step, model, name, row, sealed, "sealed")
    return result


def _abort(step: Step, command: AbortSession) -> SessionResult:
    row = lookup_session(step.overlay, command.model, command.session)
    progress = progress_of(step.overlay, row)
    if progress.state == "aborted":
        return SessionResult(command.session, row.serial, progress.generation, already=True)
    row, progress = _open(step, command.model, command.session)
    _end(step, command.model, command.session, row, replace(progress, reason=command.reason), "aborted")
    return SessionResult(command.session, row.serial, progress.generation)


def _end(step: Step, model: str, name: str, row: SessionRow, progress: ProgressRow, state: State) -> None:
    overlay = step.overlay
    now = replace(progress, state=state, ended_ms=step.at_ms)
    where = WhereRow(model, name, row.serial, step.at_ms).pack()
    overlay.put(session_rows.progress(row.serial), now.pack())
    overlay.delete(session_rows.look_at(progress.look_at_ms, row.serial))
    overlay.put(session_rows.waste(row.serial), where)
    # Several can expire with one command, so the log index alone would not tell them apart.
    overlay.put(session_rows.ended(row.serial, step.at_ms), where)
    counts = read(overlay, session_rows.SESSIONS, SessionsRow) or SessionsRow()
    counts = replace(counts, open_count=counts.open_count - 1, ended_count=counts.ended_count + 1)
    overlay.put(session_rows.SESSIONS, counts.pack())


def _tidy(step: Step) -> None:
    """Do a little of what is left to do: expire, remove parts, forget."""
    overlay = step.overlay
    counts = read(overlay, session_rows.SESSIONS, SessionsRow) or SessionsRow()
    due = overlay.scan(*session_rows.looks_between(counts.looked_ms, step.at_ms - 1))
    found = list(islice(due, LOOKS_MAX))
    for key, value in found:
        where = WhereRow.unpack(value)
        row = lookup_session(overlay, where.model, where.session)
        progress = progress_of(overlay, row)
        if state_at(progress, step.at_ms) == "expired":
            _end(step, where.model, where.session, row, progress, "expired")
            continue
        overlay.delete(key)
        overlay.put(session_rows.look_at(progress.expires_at_ms, row.serial), value)
        later = replace(progress, look_at_ms=progress.expires_at_ms)
        overlay.put(session_rows.progress(row.serial), later.pack())
    counts = read(overlay, session_rows.SESSIONS, SessionsRow) or counts
    if len(found) < LOOKS_MAX:
        counts = replace(counts, looked_ms=max(counts.looked_ms, step.at_ms - 1))
    _remove_parts(step)
    counts = _forget(step, counts)
    overlay.put(session_rows.SESSIONS, counts.pack())


def _remove_parts(step: Step) -> None:
    overlay = step.overlay
    for waste_key, value in overlay.scan(*session_rows.all_waste()):
        where = WhereRow.unpack(value)
        parts = list(islice(overlay.scan(*session_rows.parts_after(where.serial, b"")), REMOVALS_MAX))
        for key, _ in parts:
            overlay.delete(key)
        if len(parts) < REMOVALS_MAX:
            overlay.delete(waste_key)
        return


def _forget(step: Step, counts: SessionsRow) -> SessionsRow:
    overlay = step.overlay
    for key, value in list(islice(overlay.scan(*session_rows.all_ended()), LOOKS_MAX)):
        where = WhereRow.unpack(value)
        if counts.ended_count <= ENDED_MAX and where.ended_ms >= step.at_ms - ENDED_MS_MAX:
            break
        overlay.delete(key)
        overlay.delete(session_rows.progress(where.serial))
        if overlay.get(session_rows.base(where.serial)) is not None:
            overlay.delete(session_rows.base(where.serial))
        row = read(overlay, session_rows.session(where.model, where.session), SessionRow)
        if row is not None and row.serial == where.serial:
            overlay.delete(session_rows.session(where.model, where.session))
        counts = replace(counts, ended_count=counts.ended_count - 1)
    return counts


def lookup_session(view: View, model: str, name: str) -> SessionRow:
    """Return what a session was begun with.

    Raises:
        SessionNotFoundError: there is none of that name, or it ended long ago.
    """
    row = read(view, session_rows.session(model, name), SessionRow)
    if row is None:
        raise SessionNotFoundError(model, name)
    return row


def progress_of(view: View, row: SessionRow) -> ProgressRow:
    """Return how far a session is.

    Raises:
        CorruptStoreError: nothing says it.
    """
    progress = read(view, session_rows.progress(row.serial), ProgressRow)
    if progress is None:
        raise CorruptStoreError(PLACE, f"the session begun at log index {row.serial} has no progress")
    return progress


def state_at(progress: ProgressRow, at_ms: int) -> State:
    """Return what a session is at a log time: one that nobody ended yet may have expired."""
    return "expired" if progress.state == "open" and at_ms > progress.expires_at_ms else progress.state


def said(progress: ProgressRow, at_ms: int) -> str:
    """Return what became of a session, for people."""
    match state_at(progress, at_ms):
        case "open":
            return "is open already, begun with something else"
        case "sealed":
            return f"was sealed as v{progress.number}"
        case "aborted":
            return "was aborted" + (f": {progress.reason}" if progress.reason else "")
        case "expired":
            return "expired: nothing was put into it for too long"
        case other:
            assert_never(other)


def _open(step: Step, model: str, name: str) -> tuple[SessionRow, ProgressRow]:
    row = lookup_session(step.overlay, model, name)
    progress = progress_of(step.overlay, row)
    if state_at(progress, step.at_ms) != "open":
        raise SessionEndedError(model, name, said(progress, step.at_ms))
    return row, progress


def roots(view: View) -> Iterator[ChunkId]:
    """Yield the manifests of all parts of open sessions: what they name must not be collected.

    A session that expired by log time is no root any more, whether or not a command has noted that.
    """
    now_ms = (read(view, keys.STATE, StateRow) or StateRow()).last_at_ms
    for _, value in view.scan(*session_rows.looks()):
        where = WhereRow.unpack(value)
        progress = read(view, session_rows.progress(where.serial), ProgressRow)
        if progress is None or state_at(progress, now_ms) != "open":
            continue
        for _, part in view.scan(*session_rows.parts_after(where.serial, b"")):
            yield ChunkId(PartRow.unpack(part).manifest)
