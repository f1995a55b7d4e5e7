"""The layout of policies within the ordered view: family `K` of `keys`.

family  key after the family bytes             value         one for each
------  ------------------------------------   -----------   --------------------------------------------
Kp      model NUL policy                       PolicyRow     policy
Ks      model NUL policy                       WatchRow      policy that has seen something
Kh      model NUL policy NUL index             DecisionRow   decision that is remembered
Kn      model                                  PoliciesRow   model with policies
Km      model NUL policy                       MarkRow       policy that watches for missing reports
Kd      model NUL policy                       MarkRow       policy whose decision was put off
"""

import struct

from mcr_node.core.state.keys import Span
from mcr_node.core.state.view import prefix_end

_NUMBER = struct.Struct(">Q")
_NUL = b"\x00"


def _named(family: bytes, model: str, name: str) -> bytes:
    return family + model.encode() + _NUL + name.encode()


def _split(key: bytes) -> tuple[str, str]:
    model, _, name = key[2:].partition(_NUL)
    return model.decode(), name.decode()


def policy(model: str, name: str) -> bytes:
    """Key of a PolicyRow."""
    return _named(b"Kp", model, name)


def policies_after(model: str, name: str) -> Span:
    """All policies of a model whose name comes after `name`; after "" come all."""
    prefix = _named(b"Kp", model, "")
    return prefix + name.encode() + (_NUL if name else b""), prefix_end(prefix)


def policy_in(key: bytes) -> tuple[str, str]:
    """Return model and name in the key of a PolicyRow, or of a mark."""
    return _split(key)


def watch(model: str, name: str) -> bytes:
    """Key of a WatchRow."""
    return _named(b"Ks", model, name)


def decision(model: str, name: str, index: int) -> bytes:
    """Key of a DecisionRow."""
    return _named(b"Kh", model, name) + _NUL + _NUMBER.pack(index)


def decisions(model: str, name: str) -> Span:
    """All decisions of a policy, oldest first."""
    prefix = _named(b"Kh", model, name) + _NUL
    return prefix, prefix_end(prefix)


def totals(model: str) -> bytes:
    """Key of a PoliciesRow."""
    return b"Kn" + model.encode()


def missing(model: str, name: str) -> bytes:
    """Key of the mark of a policy that watches for missing reports."""
    return _named(b"Km", model, name)


def due(model: str, name: str) -> bytes:
    """Key of the mark of a policy whose decision was put off."""
    return _named(b"Kd", model, name)


def marks_after(family: bytes, key: bytes) -> Span:
    """All marks of a family (`Km`, `Kd`) after one, of all models; after b"" come all."""
    return key + _NUL if key else family, prefix_end(family)
