"""Signatures in a `StateWorld`, random ones too, and what holds of them in every state."""

from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st

from mcr.record import version_id
from mcr.signatures import SIGNATURE_BYTES, SIGNATURES_MAX
from mcr_node.core.state import keys
from mcr_node.core.state.records import ModelRow, SignatureRow, read
from mcr_node.core.state.signature_commands import SignVersion
from mcr_node.core.state.view import View, prefix_end
from tests.support.state_world import StateWorld

KEYS = tuple(bytes([number]) * 32 for number in (0x11, 0x00, 0xFF))


def sign(
    world: StateWorld, number: int, key: bytes, *, identity: bytes = b"", signature: bytes = b""
) -> SignVersion:
    """Sign a version; by its id, unless another is given. The state does not look at the signature."""
    record = world.view.get(keys.version(world.model, number))
    return SignVersion(
        request_id=world.request_id(),
        principal=world.principal,
        at_ms=world.at_ms,
        model=world.model,
        number=number,
        version_id=identity or (bytes(32) if record is None else version_id(record)),
        public_key=key,
        signature=signature or bytes(SIGNATURE_BYTES),
    )


def signature_commands(envelope: Mapping[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[SignVersion]:
    """Draw commands most of which are refused: the ids of versions are not known where they are drawn."""
    return st.builds(
        SignVersion,
        number=st.integers(0, 6),
        version_id=st.binary(min_size=31, max_size=32),
        public_key=st.sampled_from(KEYS),
        signature=st.binary(min_size=64, max_size=65),
        **envelope,
    )


def signed_in(view: View) -> dict[tuple[str, int], set[bytes]]:
    """Return which keys signed which versions, all models together."""
    found: dict[tuple[str, int], set[bytes]] = {}
    for key, value in view.scan(b"g", prefix_end(b"g")):
        SignatureRow.unpack(value)
        model, _, rest = key[1:].partition(b"\x00")
        of = (model.decode(), int.from_bytes(rest[:8], "big"))
        found.setdefault(of, set()).add(rest[8:])
    return found


def check_signatures(view: View) -> None:
    """Only versions that were made have signatures, and not too many."""
    for (model, number), signers in signed_in(view).items():
        row = read(view, keys.model(model), ModelRow)
        assert row is not None
        assert 0 < number <= row.version_count
        assert len(signers) <= SIGNATURES_MAX
