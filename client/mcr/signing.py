"""Ed25519 keys out of files, and signatures with them: the only file that knows the library.

The library is imported when it is needed: few commands sign, and the others need not wait for it.

Keys are made and kept with OpenSSL; nothing here makes or stores one:

    openssl genpkey -algorithm ed25519 -out signer.pem         # private, PKCS#8
    openssl pkey -in signer.pem -pubout -out signer.pub.pem    # public, SubjectPublicKeyInfo
"""

from pathlib import Path
from typing import TYPE_CHECKING

from mcr.errors import InvalidKeyError, SignatureError
from mcr.model import VersionId
from mcr.signatures import PUBLIC_KEY_BYTES, SIGNATURE_BYTES, signed_bytes

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

# The PEM of a key has some 120 bytes; a file of this length is something else.
KEY_FILE_BYTES_MAX = 64 * 1024
GIVEN = "the key given"
"""What errors name where the key came as bytes."""
_MAKE = "make a key with: openssl genpkey -algorithm ed25519 -out FILE"
_DERIVE = "get it from the private one with: openssl pkey -in PRIVATE -pubout -out FILE"

KeySource = str | Path | bytes
"""A key: the path of a file of PEM, or the PEM itself as bytes."""


def sign(key: KeySource, identity: VersionId) -> tuple[bytes, bytes]:
    """Sign the id of a version; return the public key (32 bytes) and the signature (64 bytes).

    Raises:
        InvalidKeyError: `key` is no private Ed25519 key.
    """
    private = _private(key)
    return private.public_key().public_bytes_raw(), private.sign(signed_bytes(identity))


def verify(version: str, identity: VersionId, public_key: bytes, signature: bytes) -> None:
    """Check a signature.

    Args:
        version: reference, for the error.
        identity: id of the version, computed of its record by whoever asks.
        public_key: 32 bytes.
        signature: 64 bytes.

    Raises:
        SignatureError: it is not by that key, or not of that version.
    """
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    if len(public_key) != PUBLIC_KEY_BYTES or len(signature) != SIGNATURE_BYTES:
        reason = f"a key has {PUBLIC_KEY_BYTES} bytes and a signature {SIGNATURE_BYTES}"
        raise SignatureError(version, public_key.hex()[: 2 * PUBLIC_KEY_BYTES], reason)
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, signed_bytes(identity))
    except (InvalidSignature, ValueError) as error:
        reason = "the signature does not verify: it is by another key, or of other content"
        raise SignatureError(version, public_key.hex(), reason) from error


def public_key_of(key: KeySource) -> bytes:
    """Return the 32 bytes of a public key.

    Raises:
        InvalidKeyError: `key` is no public Ed25519 key.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    path, data = _pem(key, _DERIVE)
    if b"PRIVATE KEY-----" in data:
        # Whoever verifies needs no private key, and should not have one lying about.
        raise InvalidKeyError(path, "it is a private key where a public one is needed", _DERIVE)
    try:
        found = load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InvalidKeyError(path, "it holds no public key (PEM, SubjectPublicKeyInfo)", _DERIVE) from error
    if not isinstance(found, Ed25519PublicKey):
        raise InvalidKeyError(path, "it is a key of another kind than Ed25519", _MAKE)
    return found.public_bytes_raw()


def _private(key: KeySource) -> "Ed25519PrivateKey":
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    path, data = _pem(key, _MAKE)
    if b"PUBLIC KEY-----" in data:
        raise InvalidKeyError(path, "it is a public key where the private one is needed", _MAKE)
    try:
        found = load_pem_private_key(data, password=None)
    except TypeError as error:
        remedy = "decrypt it to where only you can read: openssl pkey -in FILE -out DECRYPTED"
        raise InvalidKeyError(path, "the private key is encrypted", remedy) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InvalidKeyError(path, "it holds no private key (PEM, PKCS#8)", _MAKE) from error
    if not isinstance(found, Ed25519PrivateKey):
        raise InvalidKeyError(path, "it is a key of another kind than Ed25519", _MAKE)
    return found


def _pem(key: KeySource, remedy: str) -> tuple[str, bytes]:
    """Return what to call a key in errors, and its bytes."""
    if isinstance(key, bytes):
        return GIVEN, key
    try:
        with Path(key).open("rb") as source:
            data = source.read(KEY_FILE_BYTES_MAX + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InvalidKeyError(str(key), f"it cannot be read: {reason}", remedy) from error
    if len(data) > KEY_FILE_BYTES_MAX:
        raise InvalidKeyError(str(key), "it is too long for a key", remedy)
    return str(key), data
