"""Quotas and the fence in a `StateWorld`, random ones too, and what holds of them in every state."""

from typing import TypedDict

from hypothesis import strategies as st

from mcr.model import RequestId, VersionKind
from mcr.record import decode_record
from mcr_node.core.state import deletions, keys, space_keys
from mcr_node.core.state.fence import fence_of
from mcr_node.core.state.records import ModelRow, read
from mcr_node.core.state.space_commands import CountQuota, FenceCommits, SetQuota, SpaceCommand
from mcr_node.core.state.space_records import QuotaRow
from mcr_node.core.state.view import View
from tests.support.state_world import StateWorld


class _Envelope(TypedDict):
    request_id: RequestId
    principal: str
    at_ms: int


def _envelope(world: StateWorld) -> _Envelope:
    request_id = world.request_id()
    return _Envelope(request_id=request_id, principal=world.principal, at_ms=world.at_ms)


def set_quota(world: StateWorld, scope: str, bytes_max: int | None) -> SetQuota:
    return SetQuota(**_envelope(world), scope=scope, bytes_max=bytes_max)


def count_quota(world: StateWorld, scope: str) -> CountQuota:
    return CountQuota(**_envelope(world), scope=scope)


def fence(world: StateWorld, epoch: int) -> FenceCommits:
    return FenceCommits(**_envelope(world), epoch=epoch)


def quota_of(view: View, scope: str) -> QuotaRow:
    row = read(view, space_keys.quota(scope), QuotaRow)
    assert row is not None
    return row


_drawn = {
    "request_id": st.just(RequestId(b"to be replaced")),
    "principal": st.sampled_from(["alice", "bob"]),
    "at_ms": st.integers(1_000, 10**10),
}
_scopes = {"scope": st.sampled_from(["a", "a/one", "a/one.2"])}
space_commands: st.SearchStrategy[SpaceCommand] = st.one_of(
    # Commits of these worlds are of 0, 1, some hundred, or very many bytes.
    st.builds(SetQuota, bytes_max=st.none() | st.sampled_from([0, 500, 2**50]), **_scopes, **_drawn),
    st.builds(CountQuota, **_scopes, **_drawn),
    st.builds(FenceCommits, epoch=st.integers(0, 9), **_drawn),
)


def used(view: View, scope: str) -> int:
    """Return the bytes of all versions that count, found the long way."""
    total = 0
    for key, value in view.scan(*keys.models_after("")):
        model = keys.model_in(key)
        if scope not in (model, model.partition("/")[0]):
            continue
        for number in range(1, ModelRow.unpack(value).version_count + 1):
            data = view.get(keys.version(model, number))
            assert data is not None
            record = decode_record(data)
            found = deletions.deletion_of(view, model, number)
            is_given_up = found is not None and found.row.is_purged
            total += record.bytes_total * (record.kind is not VersionKind.ROLLBACK and not is_given_up)
    return total


def check_space(view: View) -> None:
    """Assert what holds of quotas in every state."""
    assert fence_of(view) >= 0
    for key, value in view.scan(*space_keys.quotas_after("")):
        row = QuotaRow.unpack(value)
        if not row.is_counting:
            assert row.bytes_used == used(view, space_keys.scope_in(key))
            assert (row.bytes_counted, row.cursor) == (0, b"")
