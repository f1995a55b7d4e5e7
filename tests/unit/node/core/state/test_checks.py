"""What a command may hold, whatever the state is."""

from dataclasses import replace
from typing import Any

import pytest

from mcr.bases import BaseVersion
from mcr.model import (
    DESCRIPTION_CHARACTERS_MAX,
    METRICS_MAX,
    PARAMETERS_BYTES_MAX,
    ChunkId,
    Parameters,
    ParameterValue,
    RequestId,
)
from mcr_node.core.state.commands import (
    Acknowledge,
    ApproveMove,
    Change,
    Command,
    CommitVersion,
    CreateBranch,
    CreateTag,
    DeleteBranch,
    DeletePolicy,
    FreezeChannel,
    MoveChannel,
    NumberTarget,
    ProtectChannel,
    ReportMetrics,
    RollbackBranch,
    RollbackChannel,
    SetPolicy,
    Settle,
    SignVersion,
    SpaceCommand,
    TrashCommand,
)
from mcr_node.core.state.keys import NUMBER_MAX
from mcr_node.core.state.merge_commands import CommitMerge, DropMerge, OpenMerge, ResolveConflicts
from mcr_node.core.state.outcomes import VersionResult
from mcr_node.core.state.session_commands import AbortSession, BeginSession, PutPart, SealSession
from mcr_node.core.state.texts import AT_MS_MAX, PRINCIPAL_CHARACTERS_MAX, REASON_CHARACTERS_MAX
from tests.support import merge_commands, session_commands
from tests.support.state_signatures import sign
from tests.support.state_world import StateWorld


def every_command(world: StateWorld) -> list[Change]:
    return [
        world.commit(),
        world.roll_back_branch(),
        world.create_branch("exp", 1),
        world.delete_branch("exp"),
        world.create_tag("release", 1),
        world.set_channel(1),
        world.roll_back_channel(),
        world.protect({}),
        world.report(1, {"loss": 1}),
        merge_commands.merge(world, 1, 2),
        merge_commands.open_merge(world, 1, 2),
        merge_commands.resolve(world, 1, {"w": "ours"}),
        merge_commands.drop(world, 1),
        session_commands.begin(world),
        session_commands.put(world, "rank0"),
        session_commands.seal(world, 1),
        session_commands.abort(world),
        world.acknowledge(1),
        world.set_policy("loss", {"channel": "production", "metric": "loss", "above": 2.0}),
        world.delete_policy("loss"),
        world.freeze("all"),
        world.approve(1),
        world.settle("loss", 1),
        sign(world, 1, bytes(32)),
    ]


def test_every_command_is_refused_with_a_bad_envelope_or_model() -> None:
    world = StateWorld()
    for command in every_command(world):
        bad: list[tuple[Command, str]] = [
            (replace(command, request_id=RequestId(b"")), "request_id"),
            (replace(command, request_id=RequestId(b"x" * 65)), "request_id"),
            (replace(command, principal=""), "principal"),
            (replace(command, principal="x" * (PRINCIPAL_CHARACTERS_MAX + 1)), "principal"),
            (replace(command, principal="\ud800"), "principal"),
            (replace(command, at_ms=-1), "at_ms"),
            (replace(command, at_ms=AT_MS_MAX + 1), "at_ms"),
        ]
        for each, argument in bad:
            code, fields = world.reject(each)
            assert (code, fields["argument"]) == ("invalid_argument", argument)
        assert not isinstance(command, TrashCommand | SpaceCommand)
        assert world.reject(replace(command, model="resnet50"))[0] == "invalid_name"


def test_every_command_is_refused_with_a_bad_name() -> None:
    world = StateWorld()
    for command in every_command(world):
        match command:
            case CommitVersion() | RollbackBranch() | CommitMerge() | OpenMerge():
                bad: Change = replace(command, branch="v1")
            case CreateBranch() | DeleteBranch() | CreateTag():
                bad = replace(command, name="a b")
            case MoveChannel() | RollbackChannel() | ProtectChannel():
                bad = replace(command, channel="")
            case ResolveConflicts() | DropMerge():
                bad = replace(command, model="no slash")
            case BeginSession() | PutPart() | SealSession() | AbortSession():
                bad = replace(command, session=".")
            case ReportMetrics() | Acknowledge() | FreezeChannel() | ApproveMove():
                bad = replace(command, channel="\x00")
            case SetPolicy() | DeletePolicy():
                bad = replace(command, name="\x00")
            case Settle():
                bad = replace(command, policy="\x00")
            case SignVersion():
                bad = replace(command, model="a/")
            case _:
                raise AssertionError(command)
        assert world.reject(bad)[0] == "invalid_name"


@pytest.mark.parametrize(
    "values",
    [
        {"expected_head": -1},
        {"expected_head": NUMBER_MAX + 1},
        {"parent": 0},
        {"parent": NUMBER_MAX + 1},
        {"description": "x" * (DESCRIPTION_CHARACTERS_MAX + 1)},
        {"description": "\ud800"},
        {"manifest": ChunkId(b"short")},
        {"base": BaseVersion("a/b", 0, "ab" * 32)},
        {"base": BaseVersion("a/b", 1, "ab" * 31)},
        {"base": BaseVersion("a/b", 1, "AB" * 32)},
        {"bytes_total": -1},
        {"file_count": -1},
        {"chunk_count": 2**64},
        {"metrics": {f"m{number}": 1.0 for number in range(METRICS_MAX + 1)}},
    ],
)
def test_a_commit_out_of_bounds_is_refused(values: dict[str, Any]) -> None:
    world = StateWorld()

    code, fields = world.reject(replace(world.commit(), **values))

    assert (code, fields["argument"]) == ("invalid_argument", next(iter(values)))


def test_references_to_versions_must_be_numbers_of_versions() -> None:
    world = StateWorld()
    world.commits(1)
    world.channel_set(1)
    for number in (0, -1, NUMBER_MAX + 1):
        for command in (
            world.create_branch("exp", number),
            world.create_tag("release", number),
            world.set_channel(number),
            world.roll_back_channel(NumberTarget(number)),
            world.roll_back_branch(target=NumberTarget(number)),
            world.report(number, {"loss": 1}),
            world.set_channel(1, expected=-1),
        ):
            assert world.reject(command)[0] == "invalid_argument"


def test_texts_of_all_commands_are_bounded() -> None:
    world = StateWorld()
    long = "x" * (REASON_CHARACTERS_MAX + 1)
    for command in (
        world.roll_back_branch(reason=long),
        world.roll_back_branch(description="x" * (DESCRIPTION_CHARACTERS_MAX + 1)),
        world.delete_branch("exp", long),
        world.set_channel(1, reason=long),
        world.roll_back_channel(reason=long),
    ):
        assert world.reject(command)[0] == "invalid_argument"


@pytest.mark.parametrize(
    ("parameters", "key"),
    [
        ({"lr": float("nan")}, "lr"),
        ({"optimizer": {"betas": [0.9, float("inf")]}}, "optimizer.betas.1"),
        ({"seed": 2**64}, "seed"),
        ({"seed": {"low": -(2**63) - 1}}, "seed.low"),
        ({"name": "\ud800"}, "name"),
        ({"\ud800": float("nan")}, "\\ud800"),
        ({"blob": b"raw"}, "blob"),
        ({"when": object()}, "when"),
        ({"\ud800": 1}, ""),
        ({"keys": {1: 2}}, ""),
        ({"text": "x" * PARAMETERS_BYTES_MAX}, ""),
    ],
)
def test_a_parameter_that_cannot_be_stored_is_named(parameters: Parameters, key: str) -> None:
    world = StateWorld()

    code, fields = world.reject(world.commit(parameters=parameters))

    assert (code, fields["key"]) == ("invalid_parameter", key)


def test_parameters_may_not_nest_for_ever() -> None:
    world = StateWorld()
    endless: list[ParameterValue] = []
    endless.append(endless)
    deep: ParameterValue = 1
    for _ in range(60):
        deep = [deep]

    world.accept(world.commit(parameters={"deep": deep}), VersionResult)
    code, fields = world.reject(world.commit(parameters={"endless": endless}))

    assert code == "invalid_parameter"
    assert "nested deeper" in str(fields["reason"])


@pytest.mark.parametrize("name", ["", "x" * 97, "\x00", "a\nb", "\ud800"])
def test_a_metric_name_that_cannot_be_shown_is_refused(name: str) -> None:
    world = StateWorld()
    world.commits(1)

    code, fields = world.reject(world.report(1, {name: 1.0}))

    assert code == "invalid_metric"
    str(fields["key"]).encode()


def test_a_number_beyond_the_largest_float_is_no_metric() -> None:
    world = StateWorld()
    world.commits(1)

    assert world.reject(world.report(1, {"loss": 10**400}))[0] == "invalid_metric"


def test_an_empty_report_is_refused() -> None:
    world = StateWorld()
    world.commits(1)

    assert world.reject(world.report(1, {}))[1]["argument"] == "values"
    assert (
        world.reject(world.report(1, {f"m{number}": 1.0 for number in range(METRICS_MAX + 1)}))[0]
        == "invalid_argument"
    )
