"""Borders: what crosses them is checked, and bad values are told by name."""

import pytest

from mcr import _wire
from mcr.errors import CorruptChunkError, InvalidParameterError
from mcr.model import ChunkId, Parameters, RefKind, digest
from mcr.transfer import Stored, verified


def test_bytes_become_a_chunk_only_under_their_own_id() -> None:
    good = verified(ChunkId(digest(b"weights")), b"weights", element_bytes=2)
    assert (good.data, good.element_bytes) == (b"weights", 2)
    with pytest.raises(CorruptChunkError) as raised:
        verified(ChunkId(digest(b"weights")), b"wrights")
    assert raised.value.chunk_id == digest(b"weights").hex()


def test_what_was_stored_adds_up() -> None:
    assert Stored(1, 10, 5) + Stored(2, 20, 6) == Stored(3, 30, 11)


def test_a_parameter_without_canonical_form_is_named() -> None:
    with pytest.raises(InvalidParameterError) as raised:
        _wire.mapping_to_wire({"fine": 1, "huge": 2**70})
    assert raised.value.key == "huge"


@pytest.mark.parametrize("data", [b"\xff", b"\x01", b"\xa1\x01\x02"])
def test_bytes_that_are_no_parameters_are_refused(data: bytes) -> None:
    with pytest.raises(InvalidParameterError):
        _wire.mapping_from_wire(data)


def test_parameters_and_kinds_come_back_as_they_went() -> None:
    tree: Parameters = {"lr": 1e-4, "layers": [1, 2], "name": "é", "flags": {"bf16": True, "note": None}}
    assert _wire.mapping_from_wire(_wire.mapping_to_wire(tree)) == tree
    assert _wire.mapping_from_wire(b"") == {}
    for kind in RefKind:
        assert _wire.kind_from_wire(_wire.kind_to_wire(kind)) is kind
