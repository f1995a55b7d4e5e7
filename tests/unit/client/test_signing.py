"""Keys out of files, signatures with them, and clients that do not believe the node that answers."""

import asyncio
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

import mcr
from mcr import signing
from mcr.aio import AsyncModel
from mcr.connection import Connection
from mcr.errors import InvalidKeyError, SignatureError, UsageError
from mcr.model import VersionId
from mcr.signatures import is_public_key, signed_bytes
from mcr.v1 import versions_pb2 as pb

PRIVATE = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PRIVATE_PEM = PRIVATE.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
PUBLIC_PEM = PRIVATE.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
LOCKED_PEM = PRIVATE.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x"))
EC = generate_private_key(SECP256R1())
EC_PEM = EC.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
EC_PUBLIC_PEM = EC.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
IDENTITY = VersionId(bytes(range(100, 132)))
# As `openssl genpkey -algorithm ed25519` and `openssl pkey -pubout` of OpenSSL 3.0 wrote them.
OPENSSL_PRIVATE_PEM = b"""\
-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f
-----END PRIVATE KEY-----
"""


def test_what_is_signed_is_the_context_and_the_id_and_nothing_else() -> None:
    assert signed_bytes(IDENTITY) == b"mcr version signature 1\x00" + IDENTITY

    public_key, signature = signing.sign(PRIVATE_PEM, IDENTITY)

    # By the library alone, as anybody could who reads docs/formats.md.
    Ed25519PublicKey.from_public_bytes(public_key).verify(
        signature, b"mcr version signature 1\x00" + IDENTITY
    )
    assert public_key == signing.public_key_of(PUBLIC_PEM)
    assert is_public_key(public_key.hex())
    signing.verify("a/b@v1", IDENTITY, public_key, signature)


def test_a_key_that_openssl_made_is_read_from_its_file(tmp_path: Path) -> None:
    file = tmp_path / "signer.pem"
    file.write_bytes(OPENSSL_PRIVATE_PEM)

    assert signing.sign(file, IDENTITY) == signing.sign(str(file), IDENTITY)
    assert signing.sign(file, IDENTITY) == signing.sign(PRIVATE_PEM, IDENTITY)


@pytest.mark.parametrize(
    ("pem", "words"),
    [
        (PUBLIC_PEM, "public key where the private"),
        (EC_PEM, "another kind"),
        (LOCKED_PEM, "encrypted"),
        (b"", "no private key"),
        (b"\x00\xff", "no private key"),
        (PRIVATE_PEM[:60], "no private key"),
        (PRIVATE_PEM.replace(b"MC4", b"MC5"), "no private key"),
        (b"x" * (signing.KEY_FILE_BYTES_MAX + 1), "too long"),
    ],
)
def test_a_file_that_holds_no_private_key_says_so_and_what_to_do(
    pem: bytes, words: str, tmp_path: Path
) -> None:
    file = tmp_path / "key"
    file.write_bytes(pem)

    with pytest.raises(InvalidKeyError, match=words) as refused:
        signing.sign(file, IDENTITY)

    assert isinstance(refused.value, UsageError)
    assert str(file) in refused.value.message
    assert "openssl" in refused.value.hint


@pytest.mark.parametrize(
    ("pem", "words"),
    [
        (PRIVATE_PEM, "private key where a public"),
        (LOCKED_PEM, "private key where a public"),
        (EC_PUBLIC_PEM, "another kind"),
        (b"", "no public key"),
        (PUBLIC_PEM[:50], "no public key"),
    ],
)
def test_a_file_that_holds_no_public_key_says_so_and_what_to_do(pem: bytes, words: str) -> None:
    with pytest.raises(InvalidKeyError, match=words) as refused:
        signing.public_key_of(pem)

    assert "openssl" in refused.value.hint


@pytest.mark.parametrize("name", ["none", "folder", "no\x00name"])
def test_a_file_that_cannot_be_read_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()

    with pytest.raises(InvalidKeyError, match="cannot be read"):
        signing.public_key_of(tmp_path / name)


def test_nothing_imports_the_library_before_somebody_signs() -> None:
    code = (
        "import sys, mcr.client, mcr.cli.main, mcr.cli.refs, mcr.cli.signing, mcr_node.services.versions; "
        "sys.exit('cryptography' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


class Lying:
    """A node that answers all but one question as it should."""

    def __init__(self, connection: Connection, change: str) -> None:
        self._connection = connection
        self._change = change
        self.versions = SimpleNamespace(get_version=self._get_version)

    async def _get_version(self, request: pb.GetVersionRequest) -> pb.GetVersionResponse:
        answer = await self._connection.versions.get_version(request)
        match self._change:
            case "older":
                request.reference = request.reference.replace("v2", "v1")
                answer = await self._connection.versions.get_version(request)
            case "other model":
                request.reference = request.reference.replace("a/b", "a/c")
                answer = await self._connection.versions.get_version(request)
            case "record":
                record = answer.version.record
                assert b"second" in record
                answer.version.record = record.replace(b"second", b"sekond")
            case "signature":
                answer.signatures[0].signature = bytes(64)
            case "short":
                answer.signatures[0].signature = b""
            case "key":
                answer.signatures[0].public_key = bytes(32)
            case _:
                del answer.signatures[:]
        return answer


@pytest.mark.parametrize("change", ["older", "other model", "record", "signature", "short", "key", "none"])
def test_a_node_that_answers_with_anything_else_does_not_pass(change: str, tmp_path: Path) -> None:
    async def story() -> None:
        mcr.init(tmp_path / "store")
        (tmp_path / "weights").write_bytes(b"weights")
        async with await mcr.aio.connect(tmp_path / "store") as client:
            for name, message in (("a/c", "first"), ("a/c", "second"), ("a/b", "first"), ("a/b", "second")):
                await client.model(name).commit(tmp_path / "weights", message=message)
            for ref in ("v1", "v2"):
                for name in ("a/b", "a/c"):
                    await client.model(name).sign(ref, PRIVATE_PEM)
            honest = client.model("a/b")
            lied = cast("Connection", Lying(honest._connection, change))

            assert (await honest.verify("v2", PUBLIC_PEM)).reference == "a/b@v2"
            with pytest.raises(SignatureError):
                await AsyncModel(lied, honest._executor, "a/b").verify("v2", PUBLIC_PEM)

    asyncio.run(story())
