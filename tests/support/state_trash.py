"""Deletions, pins and rounds in a `StateWorld`, random ones too, and what holds of them in every state."""

from typing import TypedDict

from hypothesis import strategies as st

from mcr.model import RefKind, RequestId
from mcr_node.core.state import deletions, keys, trash_keys, trash_queries
from mcr_node.core.state.collecting import collecting_row
from mcr_node.core.state.records import ModelRow
from mcr_node.core.state.roots import Uses
from mcr_node.core.state.trash_commands import (
    DeleteModel,
    DeleteName,
    DeleteVersions,
    EmptyTrash,
    HoldUpload,
    MarkGarbage,
    PinVersion,
    ReleaseUpload,
    RestoreVersions,
    TrashCommand,
    UnpinVersion,
)
from mcr_node.core.state.trash_records import LeaseRow, TrashRow
from mcr_node.core.state.view import View, prefix_end
from tests.support.state_world import StateWorld

DAY_MS = 86_400_000


class _Envelope(TypedDict):
    request_id: RequestId
    principal: str
    at_ms: int


def _envelope(world: StateWorld) -> _Envelope:
    request_id = world.request_id()
    return _Envelope(request_id=request_id, principal=world.principal, at_ms=world.at_ms)


def delete(world: StateWorld, *numbers: int, keep_ms: int = DAY_MS, skip: bool = False) -> DeleteVersions:
    return DeleteVersions(
        **_envelope(world),
        model=world.model,
        numbers=numbers,
        reason="old",
        keep_ms=keep_ms,
        skip_in_use=skip,
    )


def delete_name(world: StateWorld, kind: RefKind, name: str) -> DeleteName:
    return DeleteName(**_envelope(world), model=world.model, kind=kind, name=name, reason="")


def delete_model(world: StateWorld, *, keep_ms: int = DAY_MS) -> DeleteModel:
    return DeleteModel(**_envelope(world), model=world.model, reason="", keep_ms=keep_ms)


def restore(world: StateWorld, *numbers: int) -> RestoreVersions:
    return RestoreVersions(**_envelope(world), model=world.model, numbers=numbers)


def empty(world: StateWorld, *numbers: int, model: str | None = None) -> EmptyTrash:
    return EmptyTrash(**_envelope(world), model=world.model if model is None else model, numbers=numbers)


def pin(world: StateWorld, number: int, reason: str = "") -> PinVersion:
    return PinVersion(**_envelope(world), model=world.model, number=number, reason=reason)


def unpin(world: StateWorld, number: int) -> UnpinVersion:
    return UnpinVersion(**_envelope(world), model=world.model, number=number)


def mark(world: StateWorld, *, after: int | None = None, interval_ms: int = 0) -> MarkGarbage:
    present = collecting_row(world.view).round if after is None else after
    return MarkGarbage(**_envelope(world), after_round=present, interval_ms=interval_ms)


def hold(world: StateWorld, lease: bytes = b"upload", hold_ms: int = DAY_MS) -> HoldUpload:
    return HoldUpload(**_envelope(world), lease=lease, hold_ms=hold_ms)


def release(world: StateWorld, lease: bytes = b"upload") -> ReleaseUpload:
    return ReleaseUpload(**_envelope(world), lease=lease)


def roots(world: StateWorld) -> list[int]:
    """Numbers of the model's versions whose bytes are kept."""
    found = trash_queries.contents(world.view, world.model, before=None, limit=1000)
    return [content.number for content in reversed(found) if content.is_root]


# Random ones

_drawn = {
    "request_id": st.just(RequestId(b"to be replaced")),
    "principal": st.sampled_from(["alice", "bob", "ci"]),
    "at_ms": st.integers(1_000, 10**10),
}
_model = {"model": st.sampled_from(["a/one"] * 7 + ["a/one.2"])}
_keeps = st.sampled_from([0, 1, 10**6, DAY_MS])
_some = st.lists(st.integers(1, 6), min_size=1, max_size=4, unique=True).map(
    lambda drawn: tuple(sorted(drawn))
)
_none_or_some = st.just(()) | _some
trash_commands: st.SearchStrategy[TrashCommand] = st.one_of(
    st.builds(
        DeleteVersions,
        numbers=_some,
        reason=st.just(""),
        keep_ms=_keeps,
        skip_in_use=st.booleans(),
        **_drawn,
        **_model,
    ),
    st.builds(
        DeleteName,
        kind=st.sampled_from(list(RefKind)),
        name=st.sampled_from(["main", "exp", "production", "t1"]),
        reason=st.just(""),
        **_drawn,
        **_model,
    ),
    st.builds(DeleteModel, reason=st.just(""), keep_ms=_keeps, **_drawn, **_model),
    st.builds(RestoreVersions, numbers=_none_or_some, **_drawn, **_model),
    st.builds(EmptyTrash, numbers=_none_or_some, **_drawn, **_model),
    st.builds(EmptyTrash, numbers=st.just(()), model=st.just(""), **_drawn),
    st.builds(PinVersion, number=st.integers(1, 6), reason=st.just(""), **_drawn, **_model),
    st.builds(UnpinVersion, number=st.integers(1, 6), **_drawn, **_model),
    st.builds(MarkGarbage, after_round=st.integers(0, 3), interval_ms=st.just(0), **_drawn),
    st.builds(
        HoldUpload, lease=st.sampled_from([b"one", b"two"]), hold_ms=st.sampled_from([1, 10**6]), **_drawn
    ),
    st.builds(ReleaseUpload, lease=st.sampled_from([b"one", b"two"]), **_drawn),
)


def check_trash(view: View) -> None:
    """Assert what holds of deletions in every state."""
    ages = [trash_keys.trashed_in(key) for key, _ in _rows(view, b"Da")]
    kept = []
    for key, value in [*_rows(view, b"Dv"), *_rows(view, b"Dm")]:
        row = TrashRow.unpack(value)
        model, number = key[2:-9].decode(), trash_keys.number_in(key)
        of = trash_keys.Trashed(model, number, key.startswith(b"Dm"))
        if not row.is_purged:
            kept.append(of)
            assert view.get(trash_keys.trash_age(of, row.until_ms)) is not None
    assert len(ages) == len(kept)
    leases = _rows(view, b"L")
    row_of_all = collecting_row(view)
    assert row_of_all.lease_count == len(leases)
    assert all(LeaseRow.unpack(value).round <= row_of_all.round for _, value in leases)
    for key, value in view.scan(*keys.models_after("")):
        model = keys.model_in(key)
        uses = Uses(view, model)
        for number in range(1, ModelRow.unpack(value).version_count + 1):
            if [use for use in uses.of(number) if "loaded" not in use]:
                assert deletions.deletion_of(view, model, number) is None, "what is needed is there"


def _rows(view: View, prefix: bytes) -> list[tuple[bytes, bytes]]:
    return list(view.scan(prefix, prefix_end(prefix)))
