"""Quotas, and the fence behind a change of the members."""

from dataclasses import replace
from pathlib import Path

import pytest

from mcr.model import RequestId
from mcr_node.core.state import codec, quotas
from mcr_node.core.state.commands import Command, NumberTarget
from mcr_node.core.state.fence import fence_of
from mcr_node.core.state.outcomes import CountResult, DeletedResult, RoundResult, SessionResult, VersionResult
from mcr_node.core.state.space_commands import CountQuota, FenceCommits, SetQuota
from tests.support import merge_commands, session_commands
from tests.support.state_space import count_quota, fence, quota_of, set_quota, used
from tests.support.state_trash import delete, delete_model, empty, mark
from tests.support.state_world import MODEL, StateWorld

GOLDEN = Path(__file__).parents[4] / "conformance" / "golden" / "space_commands_1.txt"
NAMESPACE = MODEL.partition("/")[0]


def world_of(count: int) -> StateWorld:
    world = StateWorld()
    world.commits(count)
    return world


@pytest.mark.parametrize("scope", [MODEL, NAMESPACE])
def test_a_commit_beyond_the_quota_is_refused_and_one_within_it_counts(scope: str) -> None:
    world = world_of(3)
    before = used(world.view, scope)
    world.accept(set_quota(world, scope, before + 2000), CountResult)

    world.accept(replace(world.commit(), bytes_total=1500), VersionResult)
    code, fields = world.reject(replace(world.commit(), bytes_total=501))

    assert code == "quota_exceeded"
    assert fields == {
        "scope": scope,
        "bytes_used": before + 1500,
        "bytes_asked": 501,
        "bytes_max": before + 2000,
    }
    world.accept(replace(world.commit(), bytes_total=500), VersionResult)
    assert quota_of(world.view, scope).bytes_used == before + 2000


def test_other_models_are_not_bound_by_it() -> None:
    world = world_of(1)
    world.accept(set_quota(world, MODEL, 0), CountResult)
    world.model = f"{NAMESPACE}/other"
    world.accept(world.commit(), VersionResult)
    world.model = f"{NAMESPACE}.x/other"
    world.accept(set_quota(world, NAMESPACE, 0), CountResult)
    world.accept(world.commit(), VersionResult)


def test_no_quota_prevents_a_rollback() -> None:
    world = world_of(3)
    world.accept(set_quota(world, MODEL, 0), CountResult)
    before = quota_of(world.view, MODEL).bytes_used

    world.accept(world.roll_back_branch(target=NumberTarget(1)), VersionResult)

    assert quota_of(world.view, MODEL).bytes_used == before == used(world.view, MODEL)


def test_what_is_deleted_counts_until_it_is_given_up() -> None:
    world = world_of(4)
    world.accept(set_quota(world, MODEL, 10**6), CountResult)
    whole = quota_of(world.view, MODEL).bytes_used

    world.accept(delete(world, 2), DeletedResult)
    assert quota_of(world.view, MODEL).bytes_used == whole
    world.accept(empty(world, 2), CountResult)

    assert quota_of(world.view, MODEL).bytes_used == used(world.view, MODEL) < whole


def test_a_model_that_is_given_up_is_counted_anew() -> None:
    world = world_of(4)
    world.accept(set_quota(world, NAMESPACE, 10**6), CountResult)
    world.accept(delete_model(world, keep_ms=0), DeletedResult)
    world.accept(mark(world), RoundResult)

    assert quota_of(world.view, NAMESPACE).is_counting
    assert world.accept(count_quota(world, NAMESPACE), CountResult) == CountResult(1)
    assert quota_of(world.view, NAMESPACE).bytes_used == 0


def test_what_was_there_before_is_counted_some_at_a_time_and_each_version_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(quotas, "COUNTED_PER_COMMAND", 3)
    monkeypatch.setattr(quotas, "COUNTED_PER_COMMIT", 2)
    world = world_of(5)
    world.model = f"{NAMESPACE}/another"
    world.commits(5)
    assert world.accept(set_quota(world, NAMESPACE, 10**9), CountResult).more
    for _ in range(4):
        # Before the cursor, and behind it.
        for world.model in (f"{NAMESPACE}/another", MODEL, f"{NAMESPACE}/zoo"):
            world.accept(world.commit(), VersionResult)
        world.accept(count_quota(world, NAMESPACE), CountResult)
    row = quota_of(world.view, NAMESPACE)
    assert not row.is_counting
    assert row.bytes_used == used(world.view, NAMESPACE)


def test_a_quota_that_is_cleared_leaves_no_trace_and_is_counted_anew_when_set() -> None:
    world = world_of(2)
    world.accept(set_quota(world, MODEL, 1), CountResult)
    assert world.accept(set_quota(world, MODEL, None), CountResult) == CountResult(1)
    assert world.accept(set_quota(world, MODEL, None), CountResult) == CountResult(0)
    world.accept(world.commit(), VersionResult)
    world.accept(set_quota(world, MODEL, 1), CountResult)
    assert quota_of(world.view, MODEL).bytes_used == used(world.view, MODEL)


@pytest.mark.parametrize("scope", ["", "a b", "a/b/c", "/b", "a/"])
def test_a_scope_is_a_model_or_a_namespace(scope: str) -> None:
    world = StateWorld()
    assert world.reject(set_quota(world, scope, 1))[0] == "invalid_name"
    assert world.reject(count_quota(world, scope))[0] == "invalid_name"


def test_a_commit_sealed_before_the_fence_is_refused_and_leaves_no_trace() -> None:
    world = world_of(1)
    world.accept(fence(world, 7), CountResult)

    code, fields = world.reject(replace(world.commit(), layout_epoch=6))

    assert (code, fields) == ("members_changed", {"sealed_epoch": 6, "fence_epoch": 7})
    for epoch in (7, 8, None):
        world.accept(replace(world.commit(), layout_epoch=epoch), VersionResult)


def test_the_fence_holds_for_merges_and_sessions_too() -> None:
    world = StateWorld()
    world.commits(2)
    world.commits(1, "exp")
    world.accept(session_commands.begin(world), SessionResult)
    world.accept(session_commands.put(world, "rank0"), SessionResult)
    world.accept(fence(world, 7), CountResult)
    merge = merge_commands.merge(world, 2, 3)
    seal = session_commands.seal(world, 1)

    for command in (replace(merge, layout_epoch=6), replace(seal, layout_epoch=6)):
        assert codec.decode(codec.encode(command)) == command
        assert world.reject(command)[0] == "members_changed"
    for command in (replace(merge, layout_epoch=7), replace(seal, layout_epoch=7)):
        world.accept(command, VersionResult)


def test_the_fence_never_sinks() -> None:
    world = StateWorld()
    assert world.accept(fence(world, 7), CountResult) == CountResult(1)
    assert world.accept(fence(world, 6), CountResult) == CountResult(0)
    assert fence_of(world.view) == 7


def test_a_retry_is_known_although_the_members_changed_in_between() -> None:
    world = StateWorld()
    first = replace(world.commit(), layout_epoch=3)
    made = world.accept(first, VersionResult)
    world.accept(fence(world, 7), CountResult)
    assert world.accept(replace(first, layout_epoch=9), VersionResult) == made


def golden_commands() -> dict[str, Command]:
    """One command of each kind, and of each variant that has its own form on disk."""
    request_id, principal, at_ms = RequestId(b"request-0001"), "alice", 1_763_900_000_000
    world = StateWorld(at_ms=at_ms)
    commit = replace(world.commit(content=1), request_id=request_id, at_ms=at_ms, layout_epoch=12)
    return {
        "set_quota": SetQuota(
            request_id=request_id, principal=principal, at_ms=at_ms, scope=MODEL, bytes_max=2**40
        ),
        "clear_quota": SetQuota(
            request_id=request_id, principal=principal, at_ms=at_ms, scope="vision", bytes_max=None
        ),
        "count_quota": CountQuota(request_id=request_id, principal=principal, at_ms=at_ms, scope="vision"),
        "fence_commits": FenceCommits(request_id=request_id, principal=principal, at_ms=at_ms, epoch=12),
        "commit_of_an_epoch": commit,
    }


def test_commands_of_this_format_can_be_read_for_ever() -> None:
    lines = [line.split() for line in GOLDEN.read_text().splitlines() if line and line[0] != "#"]
    assert {name: codec.decode(bytes.fromhex(data)) for name, data in lines} == golden_commands()


def test_every_command_survives_the_way_into_the_log_and_back() -> None:
    for command in golden_commands().values():
        assert codec.decode(codec.encode(command)) == command
