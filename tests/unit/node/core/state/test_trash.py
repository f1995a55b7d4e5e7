"""Deletions and the way back from them."""

from dataclasses import replace
from pathlib import Path
from typing import TypedDict

import pytest

from mcr.errors import StoreFormatError, VersionDeletedError
from mcr.model import ChunkId, RefKind, RequestId
from mcr.references import parse_reference
from mcr_node.core.state import codec, queries, trash_queries
from mcr_node.core.state.commands import Command
from mcr_node.core.state.outcomes import (
    CountResult,
    DeletedResult,
    MergeResult,
    ReceiptResult,
    RefResult,
    RoundResult,
    VersionResult,
)
from mcr_node.core.state.roots import Uses
from mcr_node.core.state.trash import DELETIONS_MAX
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
    UnpinVersion,
)
from tests.support.merge_commands import open_merge
from tests.support.state_trash import (
    DAY_MS,
    delete,
    delete_model,
    delete_name,
    empty,
    mark,
    pin,
    restore,
    roots,
    unpin,
)
from tests.support.state_world import MODEL, StateWorld

GOLDEN = Path(__file__).parents[4] / "conformance" / "golden" / "trash_commands_1.txt"


def world_of(count: int) -> StateWorld:
    world = StateWorld()
    world.commits(count)
    return world


def test_a_deleted_version_keeps_its_number_and_its_record() -> None:
    world = world_of(3)

    result = world.accept(delete(world, 1, 2), DeletedResult)
    world.commits(1)

    assert result == DeletedResult((1, 2), world.at_ms - 1000 + DAY_MS)
    versions = queries.list_versions(world.view, MODEL, before=None, limit=10)
    assert [(v.number, v.deleted_at_ms > 0) for v in versions] == [
        (4, False),
        (3, False),
        (2, True),
        (1, True),
    ]
    with pytest.raises(VersionDeletedError):
        queries.resolve(world.view, parse_reference("v1", model=MODEL))


def test_what_a_ref_names_is_not_deleted_before_it_moves() -> None:
    world = world_of(3)
    world.accept(world.create_tag("release", 1), RefResult)
    world.channel_set(2)

    head, tag, channel = (world.reject(delete(world, number)) for number in (3, 1, 2))

    assert [code for code, _ in (head, tag, channel)] == ["version_in_use"] * 3
    assert head[1]["uses"] == "branch:main is at it"
    assert tag[1]["uses"] == "tag:release is at it"
    world.accept(delete_name(world, RefKind.TAG, "release"), RefResult)
    world.accept(delete(world, 1), DeletedResult)


def test_all_or_none_of_several_versions_are_deleted() -> None:
    world = world_of(3)

    assert world.reject(delete(world, 1, 3))[0] == "version_in_use"
    assert world.accept(delete(world, 1, 2, 3, skip=True), DeletedResult).numbers == (1, 2)


def test_what_a_channel_may_go_back_to_is_kept() -> None:
    world = world_of(7)
    world.channel_set(1, 2, 3, 4, 5)

    uses = Uses(world.view, MODEL)

    assert [bool(uses.of(number)) for number in range(1, 8)] == [False, True, True, True, True, False, True]


def test_the_last_good_version_is_kept_however_far_back_it_is() -> None:
    world = world_of(9)
    world.channel_set(1, 2, 3, 4, 5, 6, 7)
    for _ in range(5):
        # Each of them is left by a rollback, and comes again by going back past it, so its mark stays.
        world.channel_back()
    world.channel_set(8)

    assert Uses(world.view, MODEL).of(1)


def test_a_rollback_passes_over_what_was_deleted() -> None:
    world = world_of(7)
    world.channel_set(1, 2, 3, 4, 5, 6)
    world.accept(delete(world, 2), DeletedResult)

    went = [world.channel_back().number for _ in range(4)]
    world.accept(world.roll_back_branch(), VersionResult)

    assert went == [5, 4, 3, 1]


def test_a_branch_goes_back_past_what_was_deleted() -> None:
    world = world_of(3)
    world.accept(delete(world, 2), DeletedResult)

    world.accept(world.roll_back_branch(), VersionResult)

    assert queries.get_version(world.view, MODEL, 4).target_number == 1


def test_nothing_new_points_at_a_deleted_version() -> None:
    world = world_of(3)
    world.accept(delete(world, 1), DeletedResult)

    refused = [
        world.reject(command)
        for command in (
            world.create_tag("release", 1),
            world.create_branch("exp", 1),
            world.set_channel(1),
            pin(world, 1),
        )
    ]

    assert {code for code, _ in refused} == {"version_deleted"}


def test_a_move_that_waits_for_approval_keeps_nothing_and_is_not_made_to_what_is_gone() -> None:
    world = StateWorld()
    world.commits(3)
    world.channel_set(1)
    world.accept(world.protect({"two_person": True}), RefResult)
    assert world.accept(world.set_channel(2), RefResult).waits
    request = world.index
    world.accept(delete(world, 2), DeletedResult)

    world.principal = "bob"
    assert world.reject(world.approve(request))[0] == "version_deleted"

    world.accept(restore(world, 2), CountResult)
    assert world.accept(world.approve(request), RefResult).ref.number == 2


def test_a_merge_does_not_wait_for_what_is_deleted_and_what_it_waits_for_is_kept() -> None:
    world = StateWorld()
    world.commits(4)
    world.accept(delete(world, 1, 2), DeletedResult)
    for theirs, base in ((2, 0), (3, 1)):
        assert world.reject(open_merge(world, 4, theirs, base=base))[0] == "version_deleted"

    world.accept(restore(world, 1, 2), CountResult)
    world.accept(open_merge(world, 4, 2, base=1), MergeResult)

    for number in (1, 2):
        assert world.reject(delete(world, number))[0] == "version_in_use"
    code, fields = world.reject(delete_model(world))
    assert (code, fields["uses"]) == ("version_in_use", "merge 1 waits for it (mcr conflicts)")


def test_a_pinned_version_is_not_deleted() -> None:
    world = world_of(2)
    assert world.accept(pin(world, 1, "paper"), CountResult).count == 1
    assert world.accept(pin(world, 1), CountResult).count == 0

    code, fields = world.reject(delete(world, 1))

    assert (code, fields["uses"]) == ("version_in_use", "alice pinned it: paper")
    assert [number for number, _ in trash_queries.list_pins(world.view, MODEL)] == [1]
    world.accept(unpin(world, 1), CountResult)
    world.accept(delete(world, 1), DeletedResult)


def test_what_is_in_the_trash_comes_back_until_its_time_is_over() -> None:
    world = world_of(4)
    world.accept(delete(world, 1), DeletedResult)
    world.accept(delete(world, 2, keep_ms=1000), DeletedResult)

    world.at_ms += 2000
    world.accept(mark(world), RoundResult)

    assert world.accept(restore(world, 1), CountResult).count == 1
    assert world.reject(restore(world, 2))[0] == "version_deleted"
    assert trash_queries.list_trash(world.view, "", after=b"", limit=10) == []


def test_emptying_the_trash_is_for_good() -> None:
    world = world_of(4)
    world.accept(delete(world, 1, 2, 3), DeletedResult)

    assert world.accept(empty(world, 2), CountResult).count == 1
    assert world.accept(empty(world, 2), CountResult).count == 0
    assert world.accept(empty(world, model=""), CountResult).count == 2

    assert world.reject(restore(world, 1))[0] == "version_deleted"
    assert world.reject(empty(world, 4))[0] == "invalid_argument"


def test_the_trash_is_emptied_a_bounded_number_at_a_time() -> None:
    world = world_of(DELETIONS_MAX + 3)
    numbers = tuple(range(1, DELETIONS_MAX + 3))
    world.accept(delete(world, *numbers[:200]), DeletedResult)
    world.accept(delete(world, *numbers[200:]), DeletedResult)

    first = world.accept(empty(world, model=""), CountResult)
    second = world.accept(empty(world, model=""), CountResult)

    assert (first, second) == (CountResult(DELETIONS_MAX, more=True), CountResult(2))


def test_what_was_given_up_is_a_root_for_two_marks_more() -> None:
    world = world_of(2)
    world.accept(delete(world, 1), DeletedResult)
    world.accept(empty(world, 1), CountResult)

    seen = [roots(world)]
    for _ in range(2):
        world.accept(mark(world), RoundResult)
        seen.append(roots(world))

    assert seen == [[1, 2], [1, 2], [2]]


def test_a_model_goes_as_a_whole_and_comes_back_with_its_main_branch() -> None:
    world = world_of(3)

    world.accept(delete_model(world), DeletedResult)

    assert queries.list_models(world.view, after="", limit=10) == []
    assert world.reject(world.create_tag("t", 1))[0] in ("model_not_found", "version_deleted")
    assert roots(world) == [1, 2, 3]
    world.accept(restore(world), CountResult)
    assert queries.resolve(world.view, parse_reference(MODEL)) == 3


def test_a_model_that_something_names_is_not_deleted() -> None:
    world = world_of(3)
    world.channel_set(1)
    channel = world.reject(delete_model(world))
    world.accept(delete_name(world, RefKind.CHANNEL, "production"), RefResult)
    world.accept(pin(world, 2), CountResult)
    pinned = world.reject(delete_model(world))

    assert [channel[1]["uses"], pinned[1]["uses"]] == ["channel:production is at it", "alice pinned it"]


def test_numbers_go_on_when_a_model_is_made_again() -> None:
    world = world_of(2)
    world.accept(delete_model(world), DeletedResult)

    made = world.accept(world.commit(), VersionResult)
    world.accept(empty(world), CountResult)

    assert made.number == 3
    assert queries.get_version(world.view, MODEL, 3).parents == ()
    assert [v.is_purged for v in queries.list_versions(world.view, MODEL, before=None, limit=9)] == [
        False,
        True,
        True,
    ]
    world.accept(delete_model(world), DeletedResult)
    world.accept(restore(world), CountResult)
    assert queries.resolve(world.view, parse_reference(MODEL)) == 3


def test_a_version_that_somebody_has_loaded_is_not_deleted() -> None:
    world = world_of(3)
    world.accept(world.acknowledge(1), ReceiptResult)

    alone, whole = world.reject(delete(world, 1)), world.reject(delete_model(world))

    assert alone[1]["uses"] == whole[1]["uses"] == "somebody has it loaded (mcr served)"


def test_what_is_loaded_out_of_the_trash_stays_there() -> None:
    world = world_of(3)
    world.accept(delete(world, 1, keep_ms=0), DeletedResult)
    world.accept(world.acknowledge(1), ReceiptResult)

    world.accept(mark(world), RoundResult)

    assert world.reject(empty(world, 1))[0] == "version_in_use"
    assert world.accept(restore(world, 1), CountResult).count == 1


def test_the_default_branch_and_a_channel_of_others_are_not_deleted() -> None:
    world = world_of(1)
    world.channel_set(1)
    world.accept(world.protect({"actors": ["bob"]}), RefResult)

    assert world.reject(delete_name(world, RefKind.BRANCH, "main"))[0] == "protected"
    assert world.reject(delete_name(world, RefKind.CHANNEL, "production"))[0] == "protected"


class Given(TypedDict):
    request_id: RequestId
    principal: str
    at_ms: int


class GivenOn(Given):
    model: str


def golden_commands() -> dict[str, Command]:
    """One command of each kind."""
    request_id, principal, at_ms = RequestId(b"request-0001"), "alice", 1_763_900_000_000
    given = Given(request_id=request_id, principal=principal, at_ms=at_ms)
    on = GivenOn(**given, model=MODEL)
    return {
        "delete_versions": DeleteVersions(
            **on, numbers=(1, 2, 300), reason="old", keep_ms=DAY_MS, skip_in_use=True
        ),
        "delete_name": DeleteName(**on, kind=RefKind.TAG, name="t1", reason="wrong"),
        "delete_model": DeleteModel(**on, reason="", keep_ms=0),
        "restore_versions": RestoreVersions(**on, numbers=(7,)),
        "restore_model": RestoreVersions(**on, numbers=()),
        "empty_trash": EmptyTrash(**given, model="", numbers=()),
        "pin_version": PinVersion(**on, number=3, reason="paper"),
        "unpin_version": UnpinVersion(**on, number=3),
        "mark_garbage": MarkGarbage(**given, after_round=0, interval_ms=3_600_000),
        "hold_upload": HoldUpload(**given, lease=b"\x01\x02", hold_ms=600_000),
        "release_upload": ReleaseUpload(**given, lease=b"\x01\x02"),
        "commit_in_a_round": replace(
            StateWorld(at_ms=at_ms).commit(content=1),
            request_id=request_id,
            at_ms=at_ms,
            manifest=ChunkId(bytes(range(32))),
            gc_round=0,
            lease=b"\x01\x02",
        ),
    }


def test_bytes_of_format_1_still_decode_to_the_same_commands() -> None:
    lines = [line.split() for line in GOLDEN.read_text().splitlines() if line and not line.startswith("#")]

    assert {name: codec.decode(bytes.fromhex(data)) for name, data in lines} == golden_commands()


def test_every_command_survives_the_way_into_the_log_and_back() -> None:
    for command in golden_commands().values():
        assert codec.decode(codec.encode(command)) == command


def test_a_field_of_a_newer_release_stops_this_one() -> None:
    data = codec.encode(golden_commands()["pin_version"])

    with pytest.raises(StoreFormatError):
        codec.decode(data + b"\xf8\x07\x01")


@pytest.mark.parametrize(
    "bad",
    [
        {"numbers": ()},
        {"numbers": (2, 1)},
        {"numbers": (1, 1)},
        {"numbers": (0,)},
        {"numbers": tuple(range(1, DELETIONS_MAX + 2))},
        {"keep_ms": -1},
        {"reason": "x" * 5000},
    ],
)
def test_a_deletion_out_of_bounds_is_refused(bad: dict[str, object]) -> None:
    world = world_of(2)

    code, fields = world.reject(replace(delete(world, 1), **bad))  # type: ignore[arg-type]

    assert (code, fields["argument"]) == ("invalid_argument", next(iter(bad)))
