"""The layout of receipts within the ordered view: families `B` and `C` of `keys`.

    family  key after the family byte(s)           value         one for each
    ------  ------------------------------------   -----------   -----------------------------------
    Bc      model NUL consumer NUL rank            ConsumerRow   consumer that is remembered
    Bh      model NUL consumer NUL rank index      ReceiptRow    receipt that is remembered
    Ba      model NUL index                        AgeRow        consumer, by when it was last heard
    Bn      model                                  ReceiptsRow   model that has had receipts
    C       model NUL number                       UseRow        version that somebody has loaded

A rank is 8 bytes, big-endian, as numbers and log indexes are. The name of a consumer cannot hold NUL.
"""

import struct

from mcr_node.core.state.keys import Span
from mcr_node.core.state.view import prefix_end

_NUMBER = struct.Struct(">Q")
_NUL = b"\x00"


def _of_model(family: bytes, model: str) -> bytes:
    return family + model.encode() + _NUL


def _of_consumer(family: bytes, model: str, name: str, rank: int) -> bytes:
    return _of_model(family, model) + name.encode() + _NUL + _NUMBER.pack(rank)


def consumer(model: str, name: str, rank: int) -> bytes:
    """Key of a ConsumerRow."""
    return _of_consumer(b"Bc", model, name, rank)


def consumers_after(model: str, name: str, rank: int) -> Span:
    """All consumers of a model after one, by name and rank; after "" come all."""
    family = _of_model(b"Bc", model)
    return (consumer(model, name, rank) + _NUL if name else family), prefix_end(family)


def consumers_named(model: str, name: str) -> Span:
    """All ranks of one consumer."""
    prefix = _of_model(b"Bc", model) + name.encode() + _NUL
    return prefix, prefix_end(prefix)


def consumer_in(model: str, key: bytes) -> tuple[str, int]:
    """Return the name and the rank in the key of a ConsumerRow."""
    (rank,) = _NUMBER.unpack(key[-_NUMBER.size :])
    return key[len(_of_model(b"Bc", model)) : -_NUMBER.size - 1].decode(), int(rank)


def receipt(model: str, name: str, rank: int, index: int) -> bytes:
    """Key of a ReceiptRow."""
    return _of_consumer(b"Bh", model, name, rank) + _NUMBER.pack(index)


def receipts(model: str, name: str, rank: int) -> Span:
    """All receipts of a consumer, oldest first."""
    prefix = _of_consumer(b"Bh", model, name, rank)
    return prefix, prefix_end(prefix)


def age(model: str, index: int) -> bytes:
    """Key of an AgeRow."""
    return _of_model(b"Ba", model) + _NUMBER.pack(index)


def ages(model: str) -> Span:
    """All consumers of a model, those that were silent the longest first."""
    prefix = _of_model(b"Ba", model)
    return prefix, prefix_end(prefix)


def totals(model: str) -> bytes:
    """Key of a ReceiptsRow."""
    return b"Bn" + model.encode()


def use(model: str, number: int) -> bytes:
    """Key of a UseRow."""
    return _of_model(b"C", model) + _NUMBER.pack(number)


def uses(model: str) -> Span:
    """All versions of a model that somebody has loaded."""
    prefix = _of_model(b"C", model)
    return prefix, prefix_end(prefix)
