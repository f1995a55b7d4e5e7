"""Messages of raft to bytes and back: the only file that knows both forms."""

from collections.abc import Iterable, Sequence

from mcr.errors import InvalidArgumentError
from mcr.model import DIGEST_BYTES, LogIndex
from mcr_node.core.entry import LOG_ENTRY_BYTES_MAX
from mcr_node.core.members import decode_membership
from mcr_node.core.raft.messages import (
    LOCAL_TYPES,
    NO_NODE,
    NODE_ID_MAX,
    ConfState,
    Entry,
    EntryType,
    Message,
    MessageType,
    Snapshot,
)
from mcr_node.peer.v1 import entry_pb2, raft_pb2
from mcr_node.ports import SnapshotFile, SnapshotManifest, StatePosition

CONTEXT_BYTES_MAX = 64
ENTRIES_PER_MESSAGE_MAX = 65_536
_TYPES = {int(kind): kind for kind in MessageType if kind not in LOCAL_TYPES}
_ENTRY_TYPES = {int(kind): kind for kind in EntryType}


class WireError(ValueError):
    """Bytes of a peer mean nothing; drop them. Says what is wrong."""


def encode(message: Message) -> raft_pb2.RaftMessage:
    """Return a message in the form in which it travels; addressees belong to the stream."""
    snapshot = message.snapshot
    return raft_pb2.RaftMessage(
        type=message.type,
        term=message.term,
        log_term=message.log_term,
        index=message.index,
        commit=message.commit,
        reject=message.reject,
        reject_hint=message.reject_hint,
        read_sequence=message.read_sequence,
        entries=[
            entry_pb2.Entry(index=entry.index, term=entry.term, data=entry.data, kind=entry.type)
            for entry in message.entries
        ],
        context=message.context,
        snapshot=None if snapshot is None else _snapshot_to(snapshot),
    )


def decode(message: raft_pb2.RaftMessage, *, sender: int, to: int) -> Message:
    """Return a message of a peer.

    Raises:
        WireError: a type that never travels or is unknown, or a field out of bounds.
    """
    if not NO_NODE < sender <= NODE_ID_MAX or sender == to:
        # Beyond the ids of nodes are those of the local queues, which are believed; as is this node itself.
        raise WireError(f"a message from {sender} to {to}")
    kind = _TYPES.get(message.type)
    if kind is None:
        raise WireError(f"message type {message.type}")
    if len(message.context) > CONTEXT_BYTES_MAX:
        raise WireError(f"a context of {len(message.context)} bytes")
    if len(message.entries) > ENTRIES_PER_MESSAGE_MAX:
        raise WireError(f"{len(message.entries)} entries")
    return Message(
        type=kind,
        to=to,
        sender=sender,
        term=message.term,
        log_term=message.log_term,
        index=message.index,
        commit=message.commit,
        reject=message.reject,
        reject_hint=message.reject_hint,
        read_sequence=message.read_sequence,
        entries=tuple([_entry_from(entry) for entry in message.entries]),
        context=message.context,
        snapshot=_snapshot_from(message.snapshot) if message.HasField("snapshot") else None,
    )


def _entry_from(entry: entry_pb2.Entry) -> Entry:
    kind = _ENTRY_TYPES.get(entry.kind)
    if kind is None:
        raise WireError(f"entry kind {entry.kind}")
    if len(entry.data) > LOG_ENTRY_BYTES_MAX:
        raise WireError(f"an entry of {len(entry.data)} bytes")
    return Entry(entry.term, entry.index, kind, entry.data)


def _snapshot_to(snapshot: Snapshot) -> raft_pb2.RaftSnapshot:
    conf = snapshot.conf_state
    return raft_pb2.RaftSnapshot(
        index=snapshot.index,
        term=snapshot.term,
        voters=conf.voters,
        learners=conf.learners,
        voters_outgoing=conf.voters_outgoing,
        learners_next=conf.learners_next,
        auto_leave=conf.auto_leave,
    )


def _snapshot_from(snapshot: raft_pb2.RaftSnapshot) -> Snapshot:
    conf = ConfState(
        _ids(snapshot.voters),
        _ids(snapshot.learners),
        _ids(snapshot.voters_outgoing),
        _ids(snapshot.learners_next),
        snapshot.auto_leave,
    )
    return Snapshot(snapshot.index, snapshot.term, conf)


def _ids(ids: Sequence[int]) -> tuple[int, ...]:
    found = tuple(ids)
    if found != tuple(sorted(dict.fromkeys(found))):
        raise WireError("ids of a configuration that are not in order")
    if found and not NO_NODE < found[0] <= found[-1] <= NODE_ID_MAX:
        raise WireError("ids of a configuration that are none of nodes")
    return found


def announce(
    message: Message, manifest: SnapshotManifest, *, cluster_id: bytes
) -> raft_pb2.SnapshotAnnouncement:
    """Return what goes before the bytes of a snapshot."""
    position = manifest.position
    return raft_pb2.SnapshotAnnouncement(
        cluster_id=cluster_id,
        sender=message.sender,
        to=message.to,
        message=encode(message),
        state_digest=position.state_digest,
        configuration=position.configuration,
        files=_files_to(manifest),
    )


def announced(announcement: raft_pb2.SnapshotAnnouncement) -> tuple[Message, SnapshotManifest]:
    """Return the message and the manifest of a snapshot that is about to come.

    Raises:
        WireError: it is no announcement of a snapshot.
    """
    message = decode(announcement.message, sender=announcement.sender, to=announcement.to)
    snapshot = message.snapshot
    if message.type is not MessageType.SNAPSHOT or snapshot is None or not snapshot.index:
        raise WireError("a snapshot without its message")
    if len(announcement.state_digest) != DIGEST_BYTES:
        raise WireError(f"a state digest of {len(announcement.state_digest)} bytes")
    try:
        decode_membership(announcement.configuration)
    except InvalidArgumentError as error:
        raise WireError(str(error)) from error
    position = StatePosition(
        LogIndex(snapshot.index), snapshot.term, announcement.state_digest, announcement.configuration
    )
    return message, SnapshotManifest(position, _files_from(announcement.files))


def manifest_to(manifest: SnapshotManifest) -> raft_pb2.StateManifest:
    """Return what goes before the bytes of a snapshot that was asked for."""
    position = manifest.position
    return raft_pb2.StateManifest(
        index=position.applied,
        term=position.applied_term,
        state_digest=position.state_digest,
        configuration=position.configuration,
        files=_files_to(manifest),
    )


def manifest_from(manifest: raft_pb2.StateManifest) -> SnapshotManifest:
    """Return the manifest of a snapshot that was asked for; who receives it checks what it says."""
    position = StatePosition(
        LogIndex(manifest.index), manifest.term, manifest.state_digest, manifest.configuration
    )
    return SnapshotManifest(position, _files_from(manifest.files))


def _files_to(manifest: SnapshotManifest) -> list[raft_pb2.SnapshotFile]:
    return [
        raft_pb2.SnapshotFile(name=file.name, size_bytes=file.size_bytes, digest=file.digest)
        for file in manifest.files
    ]


def _files_from(files: Iterable[raft_pb2.SnapshotFile]) -> tuple[SnapshotFile, ...]:
    return tuple(SnapshotFile(file.name, file.size_bytes, file.digest) for file in files)
