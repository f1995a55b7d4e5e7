"""Signatures of versions: kept once a key, never lost, and what a channel demands of them."""

from dataclasses import replace
from pathlib import Path

import pytest

from mcr.model import ParameterValue, RequestId
from mcr.signatures import SIGNATURES_MAX
from mcr_node.core.state import codec, signatures
from mcr_node.core.state.commands import NumberTarget
from mcr_node.core.state.outcomes import Accepted, CountResult, RefResult
from mcr_node.core.state.signature_commands import SignVersion
from tests.support.state_signatures import KEYS, sign
from tests.support.state_trash import delete, empty
from tests.support.state_world import MODEL, StateWorld

GOLDEN = Path(__file__).parents[4] / "conformance" / "golden" / "signature_commands_1.txt"
ONE, TWO, THREE = KEYS


def world_with(count: int) -> StateWorld:
    world = StateWorld()
    world.commits(count)
    return world


def signers(world: StateWorld, number: int) -> list[bytes]:
    return [key for key, _ in signatures.signatures_of(world.view, MODEL, number)]


def test_a_signature_is_kept_with_who_handed_it_in_and_when() -> None:
    world = world_with(2)
    world.principal = "ci"

    outcome = world.apply(sign(world, 2, ONE, signature=b"s" * 64))

    assert isinstance(outcome, Accepted)
    assert outcome.result == CountResult(1)
    ((key, row),) = signatures.signatures_of(world.view, MODEL, 2)
    assert (key, row.signature, row.principal, row.index) == (ONE, b"s" * 64, "ci", outcome.index)
    assert row.at_ms > 0
    assert signers(world, 1) == []


def test_the_first_signature_by_a_key_stays_and_signing_again_changes_nothing() -> None:
    world = world_with(1)
    world.accept(sign(world, 1, TWO, signature=b"a" * 64), CountResult)
    kept = signatures.signatures_of(world.view, MODEL, 1)

    again = world.accept(sign(world, 1, TWO, signature=b"b" * 64), CountResult)

    assert again == CountResult(0)
    assert signatures.signatures_of(world.view, MODEL, 1) == kept


def test_signatures_are_listed_by_key_and_a_version_has_a_bounded_number() -> None:
    world = world_with(2)
    keys = [bytes([number]) * 32 for number in range(SIGNATURES_MAX)]
    for key in reversed(keys):
        world.accept(sign(world, 1, key), CountResult)

    code, fields = world.reject(sign(world, 1, b"\xff" * 32))

    assert (code, fields["argument"]) == ("invalid_argument", "signature")
    assert signers(world, 1) == keys
    # A key that signed before is no new one, and another version has a bound of its own.
    assert world.accept(sign(world, 1, keys[3]), CountResult) == CountResult(0)
    world.accept(sign(world, 2, b"\xff" * 32), CountResult)


@pytest.mark.parametrize(
    ("what", "code"),
    [
        ("model", "model_not_found"),
        ("number", "reference_not_found"),
        ("id", "reference_not_found"),
        ("trash", "version_deleted"),
        ("short id", "invalid_argument"),
        ("short key", "invalid_argument"),
        ("short signature", "invalid_argument"),
        ("no number", "invalid_argument"),
    ],
)
def test_what_cannot_be_signed_is_refused_and_leaves_no_trace(what: str, code: str) -> None:
    world = world_with(2)
    command = sign(world, 1, ONE)
    match what:
        case "model":
            command = replace(command, model="a/none")
        case "number":
            command = replace(command, number=3)
        case "id":
            command = replace(command, version_id=sign(world, 2, ONE).version_id)
        case "trash":
            assert isinstance(world.apply(delete(world, 1)), Accepted)
        case "short id":
            command = replace(command, version_id=bytes(31))
        case "short key":
            command = replace(command, public_key=bytes(33))
        case "short signature":
            command = replace(command, signature=bytes(63))
        case _:
            command = replace(command, number=0)

    assert world.reject(command)[0] == code


def test_signatures_stay_with_the_record_of_what_is_gone_for_good() -> None:
    world = world_with(2)
    world.accept(sign(world, 1, ONE), CountResult)

    assert isinstance(world.apply(delete(world, 1)), Accepted)
    assert isinstance(world.apply(empty(world, 1)), Accepted)

    assert signers(world, 1) == [ONE]


def test_a_retry_is_known_and_another_signature_under_its_id_is_not_it() -> None:
    world = world_with(1)
    command = sign(world, 1, ONE)
    first = world.accept(command, CountResult)

    assert world.accept(command, CountResult) == first
    assert world.reject(replace(command, public_key=TWO))[0] == "request_reused"


RULE: dict[str, ParameterValue] = {"signers": [ONE.hex(), TWO.hex()]}


@pytest.mark.parametrize(
    ("signed_by", "missing"),
    [
        ((), (ONE, TWO)),
        ((ONE,), (TWO,)),
        ((THREE, TWO), (ONE,)),
        ((ONE, TWO), ()),
        ((THREE, TWO, ONE), ()),
    ],
)
def test_a_channel_takes_only_versions_that_all_its_signers_signed(
    signed_by: tuple[bytes, ...], missing: tuple[bytes, ...]
) -> None:
    world = world_with(2)
    world.channel_set(1)
    world.accept(world.protect(RULE), RefResult)
    for key in signed_by:
        world.accept(sign(world, 2, key), CountResult)

    if missing:
        code, fields = world.reject(world.set_channel(2))
        assert code == "signers_missing"
        assert fields == {
            "ref": "channel:production",
            "reason": f"v2 is not signed by {', '.join(key.hex() for key in missing)}",
            "version": f"{MODEL}@v2",
            "missing": len(missing),
        }
    else:
        assert world.channel_set(2).number == 2


def test_of_many_missing_signers_a_refusal_names_some() -> None:
    world = world_with(2)
    world.channel_set(1)
    world.accept(world.protect({"signers": [bytes([n]).hex() * 32 for n in range(100)]}), RefResult)

    _, fields = world.reject(world.set_channel(2))

    assert str(fields["reason"]).endswith(f"{'02' * 32} and 97 more")
    assert fields["missing"] == 100


def test_a_signature_of_one_version_is_none_of_another() -> None:
    world = world_with(3)
    world.channel_set(1)
    world.accept(world.protect({"signers": [ONE.hex()]}), RefResult)
    world.accept(sign(world, 2, ONE), CountResult)

    assert world.reject(world.set_channel(3))[0] == "signers_missing"


def test_signers_do_not_stand_in_the_way_back_to_what_ran_before() -> None:
    world = world_with(4)
    world.channel_set(1, 2, 3)
    world.accept(world.protect(RULE), RefResult)

    assert world.channel_back().number == 2
    assert world.channel_back(1).number == 1
    # But a version that never ran here has to be signed, or a rollback would be a way around it.
    assert world.reject(world.roll_back_channel(NumberTarget(4)))[0] == "signers_missing"


def test_a_move_that_waits_is_held_to_the_signers_again_when_it_is_approved() -> None:
    world = world_with(2)
    world.channel_set(1)
    world.accept(world.protect({"two_person": True}), RefResult)
    asked = world.accept(world.set_channel(2), RefResult)
    assert asked.ref.pending is not None
    request = asked.ref.pending["index"]
    assert isinstance(request, int)
    world.accept(world.protect({"two_person": True, "signers": [ONE.hex()]}), RefResult)

    refused = world.reject(replace(world.approve(request), principal="bob"))
    world.accept(sign(world, 2, ONE), CountResult)
    moved = world.accept(replace(world.approve(request), principal="bob"), RefResult)

    assert refused[0] == "signers_missing"
    assert moved.ref.number == 2


def golden_commands() -> dict[str, SignVersion]:
    return {
        "sign_version": SignVersion(
            request_id=RequestId(b"request-0001"),
            principal="alice",
            at_ms=1_763_900_000_000,
            model="vision/resnet50",
            number=12,
            version_id=bytes(range(32)),
            public_key=bytes(range(32, 64)),
            signature=bytes(range(64, 128)),
        )
    }


def stored() -> dict[str, bytes]:
    lines = [line for line in GOLDEN.read_text().splitlines() if line and not line.startswith("#")]
    return {name: bytes.fromhex(data) for name, data in (line.split() for line in lines)}


def test_bytes_of_every_release_are_read_as_what_they_meant() -> None:
    assert {name: codec.decode(data) for name, data in stored().items()} == golden_commands()


def test_a_command_survives_its_bytes() -> None:
    for command in golden_commands().values():
        assert codec.decode(codec.encode(command)) == command
