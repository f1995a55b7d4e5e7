"""The running digest of the state: equal on all nodes that applied the same log, or one of them is wrong."""

from collections.abc import Sequence

import blake3

from mcr import canonical
from mcr.model import DIGEST_BYTES, LogIndex

DIGEST_START = bytes(DIGEST_BYTES)
_CONTEXT = b"mcr state digest 1\x00"


def next_digest(previous: bytes, index: LogIndex, changes: Sequence[tuple[bytes, bytes | None]]) -> bytes:
    """Return the digest after the changes of one log entry; a chain, so it vouches for all entries before.

    Args:
        previous: digest after entry `index - 1`, DIGEST_START before the first.
        index: log index of the entry.
        changes: as `apply` gives them, in key order; empty for a rejected command.
    """
    assert len(previous) == DIGEST_BYTES
    return blake3.blake3(_CONTEXT + canonical.encode_ordered([previous, index, changes])).digest()
