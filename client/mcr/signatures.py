"""Signatures of versions: what is signed, and what is kept of it.

    signed bytes = "mcr version signature 1", a zero byte, the id of the version (32 bytes)
    signature    = Ed25519 (RFC 8032) of these bytes, 64 bytes

The id is the digest of the canonical record, which holds model, number, parents and the root of the manifest
(`mcr.record`), so a signature vouches for all bytes of the version and for all history behind it. The text in
front keeps a signature that was made for another purpose from being taken for one of a version.

What computes and verifies them is `mcr.signing`; this module is what everybody may know.
"""

import re

from mcr.model import VersionId
from mcr.values import dataclass

PUBLIC_KEY_BYTES = 32
SIGNATURE_BYTES = 64
# People and pipelines that stand for one version: few enough to be shown at once.
SIGNATURES_MAX = 64
_CONTEXT = b"mcr version signature 1\x00"
_PUBLIC_KEY = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Signature:
    """That the holder of a key stands for a version.

    Attributes:
        model, number, version_id: the version; the id has 64 hexadecimal characters.
        public_key: Ed25519 public key, 64 hexadecimal characters.
        signature: 64 bytes over `signed_bytes` of the version's id.
        principal: who handed it in.
        at_ms: when, log time.
        log_index: of the command that did.
    """

    model: str
    number: int
    version_id: str
    public_key: str
    signature: bytes
    principal: str
    at_ms: int
    log_index: int

    @property
    def reference(self) -> str:
        """The full reference of the version, `vision/resnet50@v12`."""
        return f"{self.model}@v{self.number}"


def signed_bytes(identity: VersionId) -> bytes:
    """Return the bytes that a signature of a version is made over."""
    return _CONTEXT + identity


def is_public_key(text: str) -> bool:
    """Tell whether a text is a public key as it is shown: 64 lower-case hexadecimal characters."""
    return _PUBLIC_KEY.fullmatch(text) is not None
