"""The memory of requests: retries, reuse, forgetting."""

from dataclasses import asdict, replace

import pytest

from mcr.errors import CorruptStoreError
from mcr.model import ChunkId, LogIndex, RequestId, VersionId
from mcr_node.core.state import keys, queries, requests
from mcr_node.core.state.commands import (
    Command,
    CommitVersion,
    Envelope,
    LastGoodTarget,
    MoveChannel,
    NumberTarget,
    ProtectChannel,
    RollbackChannel,
)
from mcr_node.core.state.outcomes import (
    Accepted,
    RefResult,
    ReportResult,
    Result,
    VersionResult,
    pack_result,
    unpack_result,
)
from mcr_node.core.state.records import StateRow, read
from mcr_node.core.state.requests import DAY_MS, Window
from mcr_node.core.state.step import Step
from mcr_node.core.state.view import Overlay
from tests.support.state_world import MODEL, StateWorld


def remembered(world: StateWorld) -> list[bytes]:
    return [value for _, value in world.view.scan(*keys.request_ages_from(0))]


def test_a_retry_returns_the_first_outcome_and_changes_nothing() -> None:
    world = StateWorld()
    command = world.commit()
    first = world.apply(command)

    again = world.apply(replace(command, at_ms=command.at_ms + 5_000))

    assert isinstance(first, Accepted)
    assert again == replace(first, already_applied=True)
    assert world.changes == []
    assert [version.number for version in queries.list_versions(world.view, MODEL, before=None, limit=9)] == [
        1
    ]


def test_a_retry_of_each_kind_of_command_returns_the_same_result() -> None:
    world = StateWorld()
    world.commits(3)
    commands: list[Command] = [
        world.commit(),
        world.roll_back_branch(),
        world.create_branch("exp", 1),
        world.delete_branch("exp"),
        world.create_tag("release", 1),
        world.set_channel(1),
        world.set_channel(2),
        world.set_channel(2),
        world.roll_back_channel(),
        world.protect({"actors": ["alice"], "metrics": ["loss"]}),
        world.report(1, {"loss": 1.0}),
    ]

    first = [world.apply(command) for command in commands]
    again = [world.apply(command) for command in commands]

    for before, after in zip(first, again, strict=True):
        assert isinstance(before, Accepted)
        assert after == replace(before, already_applied=True)


def test_a_request_id_used_for_something_else_is_refused() -> None:
    world = StateWorld()
    world.commits(2)
    world.next_request = b"deploy-1"
    command = world.set_channel(1)
    world.apply(command)

    other_content = world.reject(replace(command, number=2))
    other_principal = world.reject(replace(command, principal="bob"))
    world.next_request = b"deploy-1"
    other_kind = world.reject(world.create_tag("release", 1))

    assert other_content == ("request_reused", {"request_id": "deploy-1"})
    assert other_principal == other_kind == other_content


def test_a_rejection_leaves_no_trace() -> None:
    world = StateWorld()
    world.commits(1)
    before = dict(world.view.scan(b"", b"\xff"))
    world.at_ms += DAY_MS
    command = world.commit(expected_head=9)

    world.reject(command)

    assert dict(world.view.scan(b"", b"\xff")) == before
    # Not even its request id: once the head is there, the same call succeeds.
    assert isinstance(world.apply(replace(command, expected_head=1)), Accepted)


def test_requests_are_forgotten_after_a_week_of_log_time() -> None:
    world = StateWorld()
    old = world.commit()
    world.apply(old)
    world.at_ms += 7 * DAY_MS - 1000
    world.commits(1)
    assert len(remembered(world)) == 2

    world.commits(1)

    assert remembered(world) == [b"request 2", b"request 3"]
    assert world.view.get(keys.request(old.request_id)) is None
    # A retry after that is a new request.
    result = world.accept(old, VersionResult)
    assert result.number == 4


def test_forgetting_after_a_long_pause_is_spread_over_commands() -> None:
    world = StateWorld()
    world.commits(20)
    world.at_ms += 8 * DAY_MS

    counts = []
    for _ in range(4):
        world.commits(1)
        counts.append(len(remembered(world)))
        state = read(world.view, keys.STATE, StateRow)
        assert state is not None
        assert state.request_count == counts[-1]

    assert counts == [20 + 1 - 8, 20 + 2 - 16, 3, 4]


def test_the_oldest_requests_are_forgotten_when_there_are_too_many() -> None:
    world = StateWorld()
    window = Window(length_ms=DAY_MS, count_max=3, evictions_max=2)
    state = StateRow()

    for index in range(1, 7):
        overlay = Overlay(world.view)
        step = Step(overlay, LogIndex(index), index, "alice")
        request_id = RequestId(str(index).encode())
        requests.remember(step, request_id, bytes(32), ReportResult(1, 1), state=state, window=window)
        world.view.write(overlay.changes())
        state = read(world.view, keys.STATE, StateRow) or state

    assert remembered(world) == [b"4", b"5", b"6"]
    assert (state.request_count, state.oldest_request_index) == (3, 4)


def test_the_search_for_the_oldest_request_does_not_start_among_the_forgotten() -> None:
    world = StateWorld()
    world.commits(2)
    world.at_ms += 8 * DAY_MS
    world.commits(1)

    state = read(world.view, keys.STATE, StateRow)

    assert state is not None
    assert state.oldest_request_index == 3


def test_a_request_that_is_missing_is_damage_and_not_a_rejection() -> None:
    world = StateWorld()
    world.commits(1)
    world.view.write([(keys.request(RequestId(b"request 1")), None)])
    # Old requests are looked at only when there may be something to forget.
    world.at_ms += 8 * DAY_MS

    with pytest.raises(CorruptStoreError):
        world.apply(world.commit())


def test_the_fingerprint_leaves_out_the_time_and_the_id_and_tells_everything_else_apart() -> None:
    world = StateWorld()
    command = world.roll_back_channel()
    same = replace(command, request_id=RequestId(b"other"), at_ms=0)
    others = [
        replace(command, target=LastGoodTarget()),
        replace(command, target=NumberTarget(1)),
        replace(command, target=NumberTarget(2)),
        replace(command, reason="x"),
        replace(command, channel="canary"),
        replace(command, principal="bob"),
    ]

    prints = {requests.fingerprint(each) for each in others}

    assert requests.fingerprint(same) == requests.fingerprint(command)
    assert len(prints | {requests.fingerprint(command)}) == len(others) + 1


ENVELOPE = Envelope(request_id=RequestId(b"r"), principal="alice", at_ms=1)
FINGERPRINTS: list[tuple[Command, str]] = [
    (
        CommitVersion(
            **asdict(ENVELOPE),
            model="a/b",
            branch="main",
            expected_head=0,
            parent=None,
            description="x",
            parameters={"lr": 0.5, "layers": [1, {"b": 1, "a": None}]},
            manifest=ChunkId(b"m" * 32),
            bytes_total=10,
            file_count=1,
            chunk_count=2,
            metrics={"loss": 1.5, "acc": float("nan")},
            allow_non_finite=True,
        ),
        "5ef11096977fe89e6946e5647fc1caa08e4ac9c4f3c1b6b9f742fb992006e9ea",
    ),
    (
        RollbackChannel(
            **asdict(ENVELOPE), model="a/b", channel="production", target=LastGoodTarget(), reason="bad"
        ),
        "3541edb79e7cd48b7d515584c36205756ab95bde2be79f05dab0db3ccea7debb",
    ),
    (
        ProtectChannel(
            **asdict(ENVELOPE),
            model="a/b",
            channel="production",
            protection={"branch": "main", "actors": ["bob"]},
        ),
        "15b05e95796b6eed7bfd7fa31d1749f528eadbcef402f0adb36be2a75ba5f41f",
    ),
    (
        MoveChannel(
            **asdict(ENVELOPE),
            model="a/b",
            channel="production",
            number=3,
            expected_generation=None,
            reason="",
        ),
        "61611981031fe38925324b89a10a0960b743bc401ced5107d7cbf679d7f12e08",
    ),
]


@pytest.mark.parametrize(("command", "expected"), FINGERPRINTS)
def test_a_fingerprint_never_changes_for_it_is_compared_across_releases(
    command: Command, expected: str
) -> None:
    assert requests.fingerprint(command).hex() == expected


def test_a_field_at_its_default_is_not_in_the_fingerprint() -> None:
    world = StateWorld()
    command = world.commit()

    assert requests.fingerprint(command) == requests.fingerprint(replace(command, allow_non_finite=False))
    assert requests.fingerprint(command) != requests.fingerprint(replace(command, allow_non_finite=True))


def test_a_none_is_not_a_zero_in_the_fingerprint() -> None:
    world = StateWorld()
    command: MoveChannel = world.set_channel(1)

    assert requests.fingerprint(command) != requests.fingerprint(replace(command, expected_generation=0))


@pytest.mark.parametrize(
    ("request_id", "shown"), [(b"job-17", "job-17"), (b"\x00\xff", "00ff"), (b"\xc3\xa4", "c3a4")]
)
def test_a_request_id_is_shown_as_its_chooser_knows_it(request_id: bytes, shown: str) -> None:
    assert requests.shown_id(RequestId(request_id)) == shown


def test_results_come_back_as_they_went_in() -> None:
    world = StateWorld()
    world.commits(1)
    ref = world.channel_set(1)
    version = queries.get_version(world.view, MODEL, 1)
    results: list[Result] = [
        VersionResult(1, VersionId(bytes.fromhex(version.id))),
        RefResult(ref, already=True),
        ReportResult(1, 2),
    ]

    assert [unpack_result(pack_result(result)) for result in results] == results


@pytest.mark.parametrize("packed", [{}, {"type": "other"}, {"type": "version"}, {"type": "ref", "ref": {}}])
def test_a_result_that_is_damaged_is_not_taken_for_one(packed: dict[str, str]) -> None:
    with pytest.raises(CorruptStoreError):
        unpack_result(packed)
