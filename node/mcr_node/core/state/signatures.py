"""Signatures of versions: checked, kept, found, written and read; a part of `apply` and `codec`.

Laws:
    A version has at most one signature by a key, the first; and SIGNATURES_MAX in all.
    Signatures are only added. They stay with the record of a version that was deleted, as its metrics do.
    Nothing here verifies one: applying knows no cryptography, since a library of another release that judges
    a border case otherwise would part the nodes. Whoever proposes the command has verified it, and whoever
    relies on a signature verifies it again.
"""

from collections.abc import Iterable
from itertools import islice

from mcr.errors import InvalidArgumentError, ReferenceNotFoundError
from mcr.model import DIGEST_BYTES, RequestId
from mcr.record import version_id
from mcr.signatures import PUBLIC_KEY_BYTES, SIGNATURE_BYTES, SIGNATURES_MAX
from mcr_node.core.state import deletions, keys, lookup
from mcr_node.core.state.outcomes import CountResult
from mcr_node.core.state.records import SignatureRow
from mcr_node.core.state.signature_commands import SignVersion
from mcr_node.core.state.step import Step
from mcr_node.core.state.texts import check_number
from mcr_node.core.state.view import View
from mcr_node.format.v1 import command_pb2 as pb
from mcr_node.format.v1 import signature_commands_pb2


def check(command: SignVersion) -> None:
    """Check a command's own content.

    Raises:
        InvalidArgumentError: says what and why.
    """
    check_number("number", command.number, 1)
    for argument, data, length in (
        ("version_id", command.version_id, DIGEST_BYTES),
        ("public_key", command.public_key, PUBLIC_KEY_BYTES),
        ("signature", command.signature, SIGNATURE_BYTES),
    ):
        if len(data) != length:
            raise InvalidArgumentError(argument, f"it has {len(data)} bytes, not {length}")


def sign(step: Step, command: SignVersion) -> CountResult:
    """Keep a signature; one by the same key that is there stays as it is.

    Raises:
        ModelNotFoundError, ReferenceNotFoundError: there is no such version, or it has another id.
        VersionDeletedError: it was deleted.
        InvalidArgumentError: it has as many signatures as it may have.
    """
    overlay, model, number = step.overlay, command.model, command.number
    check_identity(overlay, model, number, command.version_id)
    deletions.check_there(overlay, model, number)
    key = keys.signature(model, number, command.public_key)
    if overlay.get(key) is not None:
        return CountResult(0)
    if len(list(islice(overlay.scan(*keys.signatures(model, number)), SIGNATURES_MAX))) == SIGNATURES_MAX:
        raise InvalidArgumentError("signature", f"v{number} has {SIGNATURES_MAX} already, at most that many")
    row = SignatureRow(
        signature=command.signature, principal=step.principal, at_ms=step.at_ms, index=step.index
    )
    overlay.put(key, row.pack())
    return CountResult(1)


def check_identity(view: View, model: str, number: int, identity: bytes) -> None:
    """Check that a version has an id.

    Raises:
        ModelNotFoundError, ReferenceNotFoundError: there is no such version, or it has another one.
    """
    if version_id(lookup.record_bytes(view, model, number)) != identity:
        raise ReferenceNotFoundError(model, f"v{number}", "the version of that number has another id")


def signatures_of(view: View, model: str, number: int) -> list[tuple[bytes, SignatureRow]]:
    """Return the signatures of a version with their public keys, in the order of the keys."""
    return [
        (keys.signature_in(model, key), SignatureRow.unpack(value))
        for key, value in view.scan(*keys.signatures(model, number))
    ]


def missing_signers(view: View, model: str, number: int, public_keys: Iterable[str]) -> list[str]:
    """Return those keys, in hexadecimal, that have not signed a version."""
    return [
        each for each in public_keys if view.get(keys.signature(model, number, bytes.fromhex(each))) is None
    ]


def to_wire(command: SignVersion, message: pb.Command) -> None:
    """Write the content of a command."""
    message.sign_version.CopyFrom(
        signature_commands_pb2.SignVersion(
            model=command.model,
            number=command.number,
            version_id=command.version_id,
            public_key=command.public_key,
            signature=command.signature,
        )
    )


def from_wire(message: pb.Command) -> SignVersion:
    """Read a command whose content is `sign_version`."""
    found = message.sign_version
    return SignVersion(
        request_id=RequestId(message.request_id),
        principal=message.principal,
        at_ms=message.at_ms,
        model=found.model,
        number=found.number,
        version_id=found.version_id,
        public_key=found.public_key,
        signature=found.signature,
    )
