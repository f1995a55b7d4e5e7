"""Bytes of a membership change inside a log entry: deterministic, versioned, bounded.

Layout, big-endian, nothing after the end:

    u8 version (1 or 2)
    version 1:  u8 type, u64 node id, u32 length, context
    version 2:  u8 transition, u16 count, count x (u8 type, u64 node id), u32 length, context

An entry of type CONF_CHANGE_V2 with no data at all is the change that leaves a joint configuration; it weighs
nothing, so no size limit can stop it.
"""

import struct

from mcr_node.core.raft.errors import ConfChangeError
from mcr_node.core.raft.messages import (
    NO_NODE,
    NODE_ID_MAX,
    ConfChange,
    ConfChangeSingle,
    ConfChangeTransition,
    ConfChangeType,
    ConfChangeV2,
    Entry,
    EntryType,
)

# Far above any cluster that shares one log; bounds the memory a hostile payload can take.
CHANGES_MAX = 64
# An address, a site, a capacity and a certificate digest fit many times.
CONTEXT_BYTES_MAX = 16 * 1024

_VERSION_1 = 1
_VERSION_2 = 2
_HEAD_1 = struct.Struct(">BBQI")
_HEAD_2 = struct.Struct(">BBH")
_SINGLE = struct.Struct(">BQ")
_LENGTH = struct.Struct(">I")


def encode_conf_change(change: ConfChange | ConfChangeV2) -> bytes:
    """Return the bytes of `change`; equal values give equal bytes.

    Raises:
        ConfChangeError: more than CHANGES_MAX changes, a context above CONTEXT_BYTES_MAX, or a bad node id.
    """
    if len(change.context) > CONTEXT_BYTES_MAX:
        raise ConfChangeError(f"context of {len(change.context)} bytes exceeds {CONTEXT_BYTES_MAX}")
    match change:
        case ConfChange():
            _check_node_id(change.node_id)
            head = _HEAD_1.pack(_VERSION_1, change.type, change.node_id, len(change.context))
            return head + change.context
        case ConfChangeV2():
            if len(change.changes) > CHANGES_MAX:
                raise ConfChangeError(f"{len(change.changes)} changes exceed {CHANGES_MAX}")
            parts = [_HEAD_2.pack(_VERSION_2, change.transition, len(change.changes))]
            for single in change.changes:
                _check_node_id(single.node_id)
                parts.append(_SINGLE.pack(single.type, single.node_id))
            parts.append(_LENGTH.pack(len(change.context)))
            parts.append(change.context)
            return b"".join(parts)


def decode_conf_change(entry: Entry) -> ConfChangeV2:
    """Return the change that `entry` carries, as version 2, which says everything version 1 can.

    Raises:
        ConfChangeError: the entry is no membership change, or its bytes are none that `encode` makes. The
            same on every node, for ever, since it depends on nothing but the entry.
    """
    match entry.type:
        case EntryType.CONF_CHANGE:
            return _decode_1(entry.data)
        case EntryType.CONF_CHANGE_V2:
            return _decode_2(entry.data) if entry.data else ConfChangeV2()
        case EntryType.NORMAL:
            raise ConfChangeError(f"entry {entry.index} is no membership change")


def conf_change_entry(change: ConfChange | ConfChangeV2) -> Entry:
    """Return the entry to propose for `change`; term and index come from the leader."""
    if isinstance(change, ConfChange):
        return Entry(0, 0, EntryType.CONF_CHANGE, encode_conf_change(change))
    data = b"" if change == ConfChangeV2() else encode_conf_change(change)
    return Entry(0, 0, EntryType.CONF_CHANGE_V2, data)


def leaves_joint(change: ConfChangeV2) -> bool:
    """Say whether `change` is the one that ends a joint configuration (its context may say anything)."""
    return not change.changes and change.transition is ConfChangeTransition.AUTO


def enters_joint(change: ConfChangeV2) -> bool:
    """Say whether `change` goes through a joint configuration.

    More than one change always does, even where two simple steps would do: which ones would depends on the
    configuration below, and a rule that depends on nothing is easier to trust.
    """
    return change.transition is not ConfChangeTransition.AUTO or len(change.changes) > 1


def auto_leaves(change: ConfChangeV2) -> bool:
    """Say whether the leader ends the joint configuration by itself."""
    return change.transition is not ConfChangeTransition.JOINT_EXPLICIT


def _decode_1(data: bytes) -> ConfChangeV2:
    try:
        version, kind, node_id, length = _HEAD_1.unpack_from(data)
        change_type = ConfChangeType(kind)
    except (struct.error, ValueError) as error:
        raise ConfChangeError(f"malformed membership change: {error}") from error
    context = data[_HEAD_1.size :]
    _check_frame(version, _VERSION_1, length, context)
    _check_node_id(node_id)
    return ConfChangeV2(changes=(ConfChangeSingle(change_type, node_id),), context=context)


def _decode_2(data: bytes) -> ConfChangeV2:
    try:
        version, kind, count = _HEAD_2.unpack_from(data)
        transition = ConfChangeTransition(kind)
        if count > CHANGES_MAX:
            raise ConfChangeError(f"{count} changes exceed {CHANGES_MAX}")
        changes = []
        for position in range(count):
            single, node_id = _SINGLE.unpack_from(data, _HEAD_2.size + position * _SINGLE.size)
            _check_node_id(node_id)
            changes.append(ConfChangeSingle(ConfChangeType(single), node_id))
        end = _HEAD_2.size + count * _SINGLE.size
        (length,) = _LENGTH.unpack_from(data, end)
    except (struct.error, ValueError) as error:
        raise ConfChangeError(f"malformed membership change: {error}") from error
    context = data[end + _LENGTH.size :]
    _check_frame(version, _VERSION_2, length, context)
    return ConfChangeV2(changes=tuple(changes), transition=transition, context=context)


def _check_frame(version: int, expected_version: int, length: int, context: bytes) -> None:
    if version != expected_version:
        raise ConfChangeError(f"membership change of version {version}, expected {expected_version}")
    if length != len(context) or length > CONTEXT_BYTES_MAX:
        raise ConfChangeError(
            f"context of {len(context)} bytes, {length} announced, {CONTEXT_BYTES_MAX} allowed"
        )


def _check_node_id(node_id: int) -> None:
    if not NO_NODE < node_id <= NODE_ID_MAX:
        raise ConfChangeError(f"node id {node_id} is not in 1..{NODE_ID_MAX}")
