"""Keys of quotas and of the fence: a part of the layout that `keys` shows."""

from mcr_node.core.state.keys import Span
from mcr_node.core.state.view import prefix_end

FENCE = b"N"
_QUOTA, _VERSION = b"U", b"v"
_NUL, _SLASH = b"\x00", b"/"


def quota(scope: str) -> bytes:
    """Key of a QuotaRow."""
    return _QUOTA + scope.encode()


def quotas_after(scope: str) -> Span:
    """All quotas whose scope comes after `scope`; after "" come all."""
    return _QUOTA + scope.encode() + (_NUL if scope else b""), prefix_end(_QUOTA)


def scope_in(key: bytes) -> str:
    """Return the scope in the key of a QuotaRow."""
    return key[len(_QUOTA) :].decode()


def versions_in(scope: str, cursor: bytes) -> Span:
    """All versions of a model or a namespace behind a key; behind an empty one come all."""
    prefix = _VERSION + scope.encode() + (_NUL if "/" in scope else _SLASH)
    return cursor + _NUL if cursor else prefix, prefix_end(prefix)
