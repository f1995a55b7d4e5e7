"""Commands as bytes of the log."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from google.protobuf.message import Message

from mcr.bases import BaseVersion
from mcr.errors import CorruptStoreError, InvalidArgumentError, InvalidParameterError, StoreFormatError
from mcr.model import (
    DESCRIPTION_CHARACTERS_MAX,
    METRICS_MAX,
    PARAMETERS_BYTES_MAX,
    ChunkId,
    LogIndex,
    RequestId,
)
from mcr_node.core.entry import LOG_ENTRY_BYTES_MAX
from mcr_node.core.state import codec
from mcr_node.core.state.commands import (
    CheckDigest,
    Command,
    CommitVersion,
    CreateBranch,
    CreateTag,
    DeleteBranch,
    LastGoodTarget,
    MoveChannel,
    NumberTarget,
    PreviousTarget,
    ProtectChannel,
    ReportMany,
    ReportMetrics,
    RollbackBranch,
    RollbackChannel,
)
from mcr_node.core.state.outcomes import Accepted
from mcr_node.core.state.texts import METRIC_NAME_CHARACTERS_MAX
from mcr_node.format.v1 import command_pb2 as pb
from tests.support.state_world import StateWorld

GOLDEN = Path(__file__).parents[4] / "conformance" / "golden" / "commands_1.txt"
ID = RequestId(b"request-0001")
AT_MS = 1_763_900_000_000


def golden_commands() -> dict[str, Command]:
    """One command of each kind, and of each variant that has its own form on disk."""
    manifest = ChunkId(bytes(range(32)))
    model, who = "vision/resnet50", "alice"
    return {
        "commit": CommitVersion(
            request_id=ID,
            principal=who,
            at_ms=AT_MS,
            model=model,
            branch="main",
            expected_head=11,
            parent=9,
            description="epoch 3, größer",
            parameters={"lr": 1e-4, "layers": [1, 2, 3], "amp": True, "note": None, "tag": {"a": "b"}},
            manifest=manifest,
            bytes_total=123456789012,
            file_count=3,
            chunk_count=117741,
            metrics={"loss": 0.25, "accuracy": 0.875},
        ),
        "commit_least": CommitVersion(
            request_id=ID,
            principal=who,
            at_ms=AT_MS,
            model=model,
            branch="main",
            expected_head=None,
            parent=None,
            description="",
            parameters={},
            manifest=manifest,
            bytes_total=0,
            file_count=0,
            chunk_count=0,
            metrics={},
        ),
        "commit_to_new_branch": CommitVersion(
            request_id=ID,
            principal=who,
            at_ms=AT_MS,
            model=model,
            branch="exp",
            expected_head=0,
            parent=None,
            description="",
            parameters={},
            manifest=manifest,
            bytes_total=0,
            file_count=0,
            chunk_count=0,
            metrics={"norm": float("inf")},
            allow_non_finite=True,
        ),
        "commit_with_base": CommitVersion(
            request_id=ID,
            principal=who,
            at_ms=AT_MS,
            model=model,
            branch="main",
            expected_head=None,
            parent=None,
            description="",
            parameters={},
            manifest=manifest,
            bytes_total=0,
            file_count=0,
            chunk_count=0,
            metrics={},
            base=BaseVersion("llm/base", 3, "ab" * 32),
        ),
        "rollback_branch": RollbackBranch(
            request_id=ID,
            principal=who,
            at_ms=AT_MS,
            model=model,
            branch="main",
            target=PreviousTarget(),
            reason="loss up",
            description="back",
        ),
        "create_branch": CreateBranch(
            request_id=ID, principal=who, at_ms=AT_MS, model=model, name="exp", number=12
        ),
        "delete_branch": DeleteBranch(
            request_id=ID, principal=who, at_ms=AT_MS, model=model, name="exp", reason="merged"
        ),
        "create_tag": CreateTag(
            request_id=ID, principal=who, at_ms=AT_MS, model=model, name="release-1", number=12
        ),
        "move_channel": MoveChannel(
            request_id=ID,
            principal=who,
            at_ms=AT_MS,
            model=model,
            channel="production",
            number=12,
            expected_generation=0,
            reason="eval passed",
        ),
        "move_channel_from_anywhere": MoveChannel(
            request_id=ID,
            principal=who,
            at_ms=AT_MS,
            model=model,
            channel="production",
            number=12,
            expected_generation=None,
            reason="",
        ),
        "rollback_channel_last_good": RollbackChannel(
            request_id=ID,
            principal=who,
            at_ms=AT_MS,
            model=model,
            channel="production",
            target=LastGoodTarget(),
            reason="p99",
        ),
        "rollback_channel_number": RollbackChannel(
            request_id=ID,
            principal=who,
            at_ms=AT_MS,
            model=model,
            channel="production",
            target=NumberTarget(41),
            reason="",
        ),
        "protect_channel": ProtectChannel(
            request_id=ID,
            principal=who,
            at_ms=AT_MS,
            model=model,
            channel="production",
            protection={"actors": ["ci"], "branch": "main", "metrics": ["loss"]},
        ),
        "report_metrics": ReportMetrics(
            request_id=ID,
            principal=who,
            at_ms=AT_MS,
            model=model,
            number=12,
            values={"eval/loss": 0.5},
            channel="production",
            allow_non_finite=True,
        ),
        "report_many": ReportMany(
            request_id=ID,
            principal=who,
            at_ms=AT_MS,
            reports=tuple(
                ReportMetrics(
                    request_id=RequestId(b"report-%d" % number),
                    principal=who,
                    at_ms=AT_MS,
                    model=model,
                    number=number,
                    values={"loss": number / 2},
                    channel=channel,
                    allow_non_finite=False,
                    generation=generation,
                )
                for number, channel, generation in ((12, "", 0), (13, "production", 7))
            ),
        ),
        "check_digest": CheckDigest(
            request_id=ID, principal=who, at_ms=AT_MS, index=LogIndex(3000), digest=bytes(range(32))
        ),
    }


def stored() -> dict[str, bytes]:
    lines = [line.split() for line in GOLDEN.read_text().splitlines() if line and not line.startswith("#")]
    return {name: bytes.fromhex(data) for name, data in lines}


def test_bytes_of_format_1_still_decode_to_the_same_commands() -> None:
    assert {name: codec.decode(data) for name, data in stored().items()} == golden_commands()


def test_every_command_survives_the_way_into_the_log_and_back() -> None:
    for command in golden_commands().values():
        assert codec.decode(codec.encode(command)) == command


def test_a_bad_command_is_refused_before_it_costs_an_entry() -> None:
    world = StateWorld()

    with pytest.raises(InvalidParameterError):
        codec.encode(world.commit(parameters={"lr": float("nan")}))
    with pytest.raises(InvalidArgumentError):
        codec.encode(world.set_channel(-1))


def test_the_largest_command_fits_in_a_log_entry() -> None:
    world = StateWorld()
    wide = "\U0001f9ea"
    names = [f"{number:04}" + wide * (METRIC_NAME_CHARACTERS_MAX - 4) for number in range(METRICS_MAX)]
    largest = world.commit(
        description=wide * DESCRIPTION_CHARACTERS_MAX,
        parameters={"text": "x" * (PARAMETERS_BYTES_MAX - 16)},
        metrics=dict.fromkeys(names, 1.0),
    )

    assert len(codec.encode(largest)) <= LOG_ENTRY_BYTES_MAX


def command_with_a_newer_kind() -> bytes:
    # Field 99 of the envelope, a message: what a newer release would add to the oneof.
    return pb.Command(format=1, request_id=ID).SerializeToString() + b"\x9a\x06\x02\x08\x01"


def command_with_a_newer_field() -> bytes:
    tag = pb.Command(format=1, request_id=ID)
    tag.create_tag.ParseFromString(pb.CreateTag(model="a/b").SerializeToString() + b"\x98\x06\x01")
    return tag.SerializeToString()


def command_with_a_newer_target() -> bytes:
    back = pb.Command(format=1, request_id=ID)
    back.rollback_channel.target.ParseFromString(b"\x98\x06\x01")
    return back.SerializeToString()


def command_of_a_newer_format() -> bytes:
    newer = pb.Command()
    newer.ParseFromString(stored()["create_tag"])
    newer.format = 2
    return newer.SerializeToString()


@pytest.mark.parametrize(
    "newer",
    [
        command_with_a_newer_kind,
        command_with_a_newer_field,
        command_with_a_newer_target,
        command_of_a_newer_format,
    ],
)
def test_a_command_of_a_newer_release_stops_the_node(newer: Callable[[], bytes]) -> None:
    with pytest.raises(StoreFormatError):
        codec.decode(newer())


def damaged(**fields: Message) -> bytes:
    command = pb.Command(format=1)
    for name, value in fields.items():
        getattr(command, name).CopyFrom(value)
        getattr(command, name).SetInParent()
    return command.SerializeToString()


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xff",
        b"",
        damaged(),
        damaged(rollback_channel=pb.RollbackChannel()),
        damaged(commit_version=pb.CommitVersion(parameters=b"")),
        damaged(protect_channel=pb.ProtectChannel(protection=b"\x01")),
        damaged(report_metrics=pb.ReportMetrics(metrics=[pb.Metric(name="a"), pb.Metric(name="a")])),
    ],
)
def test_bytes_that_are_no_command_are_damage(data: bytes) -> None:
    with pytest.raises(CorruptStoreError):
        codec.decode(data)


def test_a_retry_that_came_through_the_log_is_still_the_same_request() -> None:
    world = StateWorld()
    command = world.commit(parameters={"b": (1, 2), "a": 0.5}, metrics={"loss": 1})
    first = world.apply(codec.decode(codec.encode(command)))
    assert isinstance(first, Accepted)

    again = world.apply(codec.decode(codec.encode(replace(command, at_ms=command.at_ms + 1))))

    assert again == replace(first, already_applied=True)
