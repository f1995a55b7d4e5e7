"""Errors about who may move what, and who stands for it; part of `mcr.errors`, where to import them from."""

from mcr._mcr_error import CorruptError, NotAllowedError, UsageError
from mcr.values import dataclass


@dataclass(eq=False)
class ProtectedError(NotAllowedError):
    """A protected ref refuses a move."""

    ref: str
    reason: str
    code = "protected"
    template = "{ref} is protected: {reason}"


@dataclass(eq=False)
class SignersMissingError(ProtectedError):
    """Keys that a channel demands have not signed the version."""

    version: str
    missing: int
    code = "signers_missing"
    hint_template = "whoever has such a key runs: mcr sign {version} --key FILE; then repeat this"


@dataclass(eq=False)
class InvalidKeyError(UsageError):
    """A file does not hold the key that is needed."""

    path: str
    reason: str
    remedy: str
    code = "invalid_key"
    template = "{path}: {reason}"
    hint_template = "{remedy}"


@dataclass(eq=False)
class SignatureError(CorruptError):
    """A signature does not verify, or there is none by that key."""

    version: str
    public_key: str
    reason: str
    code = "signature"
    template = "{version}, key {public_key}: {reason}"
    hint_template = "mcr show {version} lists its signatures; do not use what nobody you trust has signed"
