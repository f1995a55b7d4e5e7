"""Signing versions and verifying that they were signed: a part of `AsyncModel`."""

from functools import partial

from mcr import _wire, signing
from mcr.blocking import decided, run_blocking
from mcr.errors import SignatureError
from mcr.model import Version, VersionId
from mcr.reading import ModelReader
from mcr.references import DEFAULT_BRANCH, Selector
from mcr.reporting import write_header
from mcr.signatures import Signature
from mcr.signing import KeySource
from mcr.v1 import versions_pb2 as pb


class SignatureCalls(ModelReader):
    """The methods of `AsyncModel` about signatures."""

    async def sign(self, ref: str, private_key: KeySource) -> Signature:
        """Sign a version, and keep the signature beside it; done already where the key signed it before.

        What is signed is the id that this client computes of the record it was given (`mcr.signatures`).

        Args:
            ref: the version.
            private_key: Ed25519, as PEM (PKCS#8): the path of a file, or the bytes. It stays here.

        Raises:
            InvalidKeyError: it is no such key; says how to make one.
            ReferenceNotFoundError, VersionDeletedError: there is no such version.
            InvalidArgumentError: the version has as many signatures as it may have.
        """
        version, _ = await self._with_signatures(ref)
        identity = _identity(version)
        public_key, signature = await run_blocking(
            self._executor, partial(signing.sign, private_key, identity)
        )
        answer = await decided(
            self._connection.versions.sign_version(
                pb.SignVersionRequest(
                    header=write_header(None),
                    model=self.name,
                    number=version.number,
                    version_id=identity,
                    public_key=public_key,
                    signature=signature,
                )
            )
        )
        return _wire.signature_from_wire(version, answer.signature)

    async def verify(self, ref: str, public_key: KeySource) -> Signature:
        """Return the signature of a version by a key, verified here: the node that answers is not believed.

        Args:
            ref: the version.
            public_key: Ed25519, as PEM (SubjectPublicKeyInfo): the path of a file, or the bytes.

        Raises:
            SignatureError: there is none by that key, or it does not verify.
            InvalidKeyError: it is no such key.
            ReferenceNotFoundError: there is no such version.
        """
        key = await run_blocking(self._executor, partial(signing.public_key_of, public_key))
        version, found = await self._with_signatures(ref)
        for each in found:
            if each.public_key == key.hex():
                check = partial(signing.verify, version.reference, _identity(version), key, each.signature)
                await run_blocking(self._executor, check)
                return each
        raise SignatureError(version.reference, key.hex(), "it has no signature by this key")

    async def signatures(self, ref: str = DEFAULT_BRANCH) -> list[Signature]:
        """List the signatures of a version by public key, as the node gives them: not verified."""
        _, found = await self._with_signatures(ref)
        return found

    async def _with_signatures(self, ref: str) -> tuple[Version, list[Signature]]:
        """Return a version, its id computed of its record, and what the node says are its signatures.

        Raises:
            SignatureError: the record is that of another version than was asked for.
        """
        reference = self._reference(ref)
        answer = await self._connection.versions.get_version(
            pb.GetVersionRequest(reference=str(reference), with_signatures=True)
        )
        version = _wire.version_from_wire(answer.version, with_metrics=False)
        is_asked_for = reference.selector is not Selector.NUMBER or version.number == reference.number
        if version.model != self.name or not is_asked_for:
            # A record that was well signed, but of something else, would verify.
            raise SignatureError(str(reference), "-", f"the node answered with {version.reference}")
        return version, [_wire.signature_from_wire(version, each) for each in answer.signatures]


def _identity(version: Version) -> VersionId:
    return VersionId(bytes.fromhex(version.id))
