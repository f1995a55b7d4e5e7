"""Commands about upload sessions, made and drawn, and what holds of sessions in every state."""

from typing import Any

from hypothesis import strategies as st

from mcr.bases import BaseVersion
from mcr.model import ChunkId, Parameters
from mcr_node.core.state import collecting, session_rows, sessions
from mcr_node.core.state.records import read
from mcr_node.core.state.session_commands import (
    AbortSession,
    BeginSession,
    PutPart,
    SealSession,
    SessionCommand,
)
from mcr_node.core.state.session_rows import PartRow, ProgressRow, SessionRow, SessionsRow, WhereRow
from mcr_node.core.state.view import View, prefix_end
from tests.support.state_world import StateWorld

LIFETIME_MS = 3_600_000


def begin(
    world: StateWorld,
    session: str = "step",
    *,
    branch: str = "main",
    expected_head: int | None = None,
    parent: int | None = None,
    parameters: Parameters | None = None,
    lifetime_ms: int = LIFETIME_MS,
    base: BaseVersion | None = None,
) -> BeginSession:
    return BeginSession(
        request_id=world.request_id(),
        principal=world.principal,
        at_ms=world.at_ms,
        model=world.model,
        session=session,
        branch=branch,
        expected_head=expected_head,
        parent=parent,
        description="from many",
        parameters=parameters or {},
        lifetime_ms=lifetime_ms,
        base=base,
    )


def put(
    world: StateWorld, name: str, session: str = "step", *, content: int = 1, is_folder: bool = False
) -> PutPart:
    return PutPart(
        request_id=world.request_id(),
        principal=world.principal,
        at_ms=world.at_ms,
        model=world.model,
        session=session,
        name=name,
        is_folder=is_folder,
        manifest=part_manifest(content),
        bytes_total=10 * content,
        file_count=1,
        chunk_count=2,
        gc_round=collecting.round_of(world.view),
    )


def part_manifest(content: int) -> ChunkId:
    return ChunkId(content.to_bytes(32, "big"))


def seal(world: StateWorld, generation: int, session: str = "step") -> SealSession:
    return SealSession(
        request_id=world.request_id(),
        principal=world.principal,
        at_ms=world.at_ms,
        model=world.model,
        session=session,
        generation=generation,
        manifest=part_manifest(1 << 40),
        bytes_total=100,
        file_count=2,
        chunk_count=4,
        gc_round=collecting.round_of(world.view),
    )


def abort(world: StateWorld, session: str = "step", reason: str = "") -> AbortSession:
    return AbortSession(
        request_id=world.request_id(),
        principal=world.principal,
        at_ms=world.at_ms,
        model=world.model,
        session=session,
        reason=reason,
    )


_names = st.sampled_from(["rank0", "rank1", "a", "a/b", "a-b", "a/b/c"])


def drawn(envelope: dict[str, Any], branches: st.SearchStrategy[str]) -> st.SearchStrategy[SessionCommand]:
    """Draw commands about few sessions and few parts, so that they meet each other."""
    envelope = envelope | {"session": st.sampled_from(["one", "two"])}
    manifests = st.integers(1, 3).map(part_manifest)
    counts = {
        "bytes_total": st.just(5),
        "file_count": st.just(1),
        "chunk_count": st.just(1),
        "gc_round": st.integers(0, 1),
    }
    return st.one_of(
        st.builds(
            BeginSession,
            branch=branches,
            expected_head=st.none() | st.integers(0, 4),
            parent=st.none() | st.integers(1, 4),
            description=st.just(""),
            parameters=st.just({}),
            lifetime_ms=st.sampled_from([1, 60_000, 10**9]),
            **envelope,
        ),
        st.builds(PutPart, name=_names, is_folder=st.booleans(), manifest=manifests, **counts, **envelope),
        st.builds(SealSession, generation=st.integers(0, 2), manifest=manifests, **counts, **envelope),
        st.builds(AbortSession, reason=st.just(""), **envelope),
    )


def check_sessions(view: View) -> None:
    """Assert what holds of sessions in every state."""
    counts = read(view, session_rows.SESSIONS, SessionsRow) or SessionsRow()
    looks = [WhereRow.unpack(value) for _, value in view.scan(*session_rows.looks())]
    ended = [WhereRow.unpack(value) for _, value in view.scan(*session_rows.all_ended())]
    waste = {WhereRow.unpack(value).serial for _, value in view.scan(*session_rows.all_waste())}
    assert (len(looks), len(ended)) == (counts.open_count, counts.ended_count)
    assert len(looks) <= sessions.OPEN_MAX
    opened = {where.serial for where in looks}
    parts: dict[int, list[PartRow]] = {serial: [] for serial in opened | waste}
    for key, value in view.scan(b"T", prefix_end(b"T")):
        parts[int.from_bytes(key[1:9], "big")].append(PartRow.unpack(value))
    for where in looks:
        row = read(view, session_rows.session(where.model, where.session), SessionRow)
        assert row is not None
        assert row.serial == where.serial
        progress = sessions.progress_of(view, row)
        assert progress.state == "open"
        assert view.get(session_rows.look_at(progress.look_at_ms, row.serial)) is not None
        assert counts.looked_ms < progress.look_at_ms <= progress.expires_at_ms
        mine = parts[row.serial]
        assert progress.generation == len(mine)
        assert progress.bytes_total == sum(part.bytes_total for part in mine)
    for where in ended:
        past = read(view, session_rows.progress(where.serial), ProgressRow)
        assert past is not None
        assert past.state != "open"
    manifests = [part.manifest for serial in sorted(opened) for part in parts[serial]]
    assert set(sessions.roots(view)) <= set(manifests)
