"""The nouns every other module speaks: ids, entries, versions, refs. Pure values, no behaviour that waits."""

from collections.abc import Mapping, Sequence
from dataclasses import field
from datetime import UTC, datetime
from enum import StrEnum
from typing import NewType

import blake3

from mcr.bases import BaseVersion
from mcr.values import dataclass

KIB = 1024
MIB = 1024 * KIB

ChunkId = NewType("ChunkId", bytes)
"""BLAKE3-256 of a chunk's plain bytes, 32 bytes."""
VersionId = NewType("VersionId", bytes)
"""BLAKE3-256 of a version's canonical record, 32 bytes."""
RequestId = NewType("RequestId", bytes)
"""Chosen by the caller, 1 to 64 bytes; a retry with the same id never acts twice."""
LogIndex = NewType("LogIndex", int)
"""Position in the replicated log, from 1."""

DIGEST_BYTES = 32
REQUEST_ID_BYTES_MAX = 64
# One chunk is one message between nodes: 4 MiB is the largest that stays cheap in gRPC for Python,
# 1 MiB the best compromise between upload and checkout, so tensors are cut there.
CHUNK_BYTES_MAX = 4 * MIB
BLOCK_BYTES = 1 * MIB

NAME_CHARACTERS_MAX = 96
DESCRIPTION_CHARACTERS_MAX = 64 * KIB
PARAMETERS_BYTES_MAX = 1 * MIB
PATH_BYTES_MAX = 4096
METRICS_MAX = 1000

# Buffers are read, never kept, unless a docstring says otherwise.
Buffer = bytes | bytearray | memoryview

ParameterValue = None | bool | int | float | str | Sequence["ParameterValue"] | Mapping[str, "ParameterValue"]
"""One node of the typed parameter tree of a record."""
Parameters = Mapping[str, ParameterValue]


def digest(data: Buffer) -> bytes:
    """Return the BLAKE3-256 of `data`, 32 bytes."""
    return blake3.blake3(data).digest()


@dataclass(frozen=True, slots=True)
class Chunk:
    """Bytes together with the id that names them.

    Attributes:
        id: BLAKE3 of `data`. Held true by construction: make chunks with `of`, or `mcr.transfer.verified`
            for bytes that crossed a border.
        data: 0 to CHUNK_BYTES_MAX bytes; borrowed, the owner must not change it while the chunk is in use.
        element_bytes: width of one array element (1, 2, 4 or 8) where the bytes are a tensor, else 0.
            A hint for choosing an encoding; never part of the identity.
    """

    id: ChunkId
    data: Buffer
    element_bytes: int = 0

    @staticmethod
    def of(data: Buffer, *, element_bytes: int = 0) -> "Chunk":
        """Name `data` by hashing it."""
        return Chunk(ChunkId(digest(data)), data, element_bytes)


class EntryKind(StrEnum):
    """What a manifest entry is in the file system."""

    FILE = "file"
    SYMLINK = "symlink"
    DIRECTORY = "directory"
    """Only empty folders are recorded; others follow from the paths of what they hold."""


@dataclass(frozen=True, slots=True)
class ChunkRef:
    """One chunk of a file, in file order."""

    id: ChunkId
    length_bytes: int


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor found in a file.

    Attributes:
        name: as the format gives it; unique within the file.
        dtype: upper-case safetensors name where one exists (`F32`, `BF16`, `I64`), else the format's own.
        shape: extents, outermost first; empty for a scalar.
        offset_bytes, length_bytes: where its bytes lie in the file.
        digest: BLAKE3 over the concatenated ids of the tensor's own blocks (fixed blocks counted from the
            tensor's start), so it depends on the tensor's bytes only, not on the container.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset_bytes: int
    length_bytes: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One path of a version.

    Attributes:
        path: relative, `/`-separated, NFC is not applied: the bytes the file system gave, as UTF-8.
        kind: file, symlink or (empty) directory.
        size_bytes: length of the file; 0 for other kinds.
        executable: whether the owner may execute it (checked out as 0755, else 0644).
        blake3, sha256: of the whole file's bytes, 32 bytes each; empty for other kinds.
        target: where a symlink points, relative and inside the version; else "".
        format: how the file was cut: `safetensors`, `npy`, `npz`, `pt`, `gguf`, `onnx`, or `bytes`.
        chunk_count, tensor_count: how many of each the file has.
        chunks_root, tensors_root: root node of the file's chunk list and tensor list; None when empty.
    """

    path: str
    kind: EntryKind
    size_bytes: int = 0
    executable: bool = False
    blake3: bytes = b""
    sha256: bytes = b""
    target: str = ""
    format: str = "bytes"
    chunk_count: int = 0
    tensor_count: int = 0
    chunks_root: ChunkId | None = None
    tensors_root: ChunkId | None = None


class VersionKind(StrEnum):
    """How a version came to be."""

    COMMIT = "commit"
    ROLLBACK = "rollback"
    MERGE = "merge"


class RefKind(StrEnum):
    """The three kinds of names that point at a version."""

    BRANCH = "branch"
    TAG = "tag"
    CHANNEL = "channel"


def datetime_of(at_ms: int) -> datetime:
    """Return `at_ms` (milliseconds since 1970, UTC) as an aware datetime."""
    return datetime.fromtimestamp(at_ms / 1000, UTC)


@dataclass(frozen=True, slots=True)
class Ref:
    """A name that points at a version, as it stands at one log index.

    Attributes:
        generation: counts the moves of this name, from 1; what a fleet compares.
        number: the version it points at; version_id: its id, 64 hexadecimal characters.
        actor, reason, moved_at_ms: of the latest move.
        protection: rules a move must meet; empty when unprotected.
        frozen: `level` (`automatic` or `all`), `actor`, `reason` and `at_ms`; None when it is not frozen.
        pending: `number`, `actor`, `reason`, `at_ms` and `index` of a move that waits for approval.
    """

    model: str
    kind: RefKind
    name: str
    number: int
    version_id: str
    generation: int
    actor: str
    reason: str
    moved_at_ms: int
    protection: Mapping[str, ParameterValue] = field(default_factory=dict)
    frozen: Parameters | None = None
    pending: Parameters | None = None

    @property
    def version(self) -> str:
        """The version pointed at, as `v12`."""
        return f"v{self.number}"


@dataclass(frozen=True, slots=True)
class RefMove:
    """One entry of a ref's history.

    Attributes:
        number: the version pointed at since this move; 0 when the move deleted the name.
        version_id: its id, 64 hexadecimal characters; "" after a deletion.
        verb: `create`, `commit`, `merge`, `set`, `rollback` or `delete`.
        log_index: where the move stands in the log.
        evidence: what a policy decided it on, or who asked for it and who approved; None for any other move.
    """

    generation: int
    number: int
    version_id: str
    verb: str
    actor: str
    reason: str
    at_ms: int
    log_index: LogIndex
    evidence: Parameters | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a ref, in the order of the log.

    Attributes:
        model, kind, name: the ref.
        version: the version that was made for the move; None when the ref moved to one that existed.
    """

    model: str
    kind: RefKind
    name: str
    move: RefMove
    version: "Version | None" = None

    @property
    def log_index(self) -> LogIndex:
        """Where it stands in the log; a watch that begins after it goes on without a gap."""
        return self.move.log_index


@dataclass(frozen=True, slots=True)
class MetricReport:
    """Metrics that somebody reported for a version, later than its record."""

    number: int
    values: Mapping[str, float]
    channel: str
    principal: str
    at_ms: int


@dataclass(frozen=True, slots=True)
class Version:
    """A Model Change Record, and what stands beside it.

    Attributes:
        id, parent_ids: 64 hexadecimal characters each.
        parents: numbers of the parents.
        files: entries of the manifest in path order; None where the manifest was not read (`log`).
        metrics: the latest reported value of each metric; None where reports were not read.
        refs: names that point here, as `branch:main`; None where they were not read.
        target_number: for a rollback, the version whose content it restored, else 0.
        deleted_at_ms: when it was deleted, 0 when it was not; is_purged: for good, its bytes are gone or go.
        merge_document: for a merge, the digest of the document that says how it was computed; else empty.
        base: what it was derived from, if its record names something.
    """

    model: str
    number: int
    id: str
    created_at_ms: int
    creator: str
    description: str
    parameters: Parameters
    branch: str
    kind: VersionKind
    parents: tuple[int, ...]
    parent_ids: tuple[str, ...]
    target_number: int
    manifest: ChunkId
    bytes_total: int
    file_count: int
    chunk_count: int
    files: tuple[FileEntry, ...] | None = None
    metrics: Mapping[str, float] | None = None
    refs: tuple[str, ...] | None = None
    deleted_at_ms: int = 0
    is_purged: bool = False
    merge_document: bytes = b""
    base: BaseVersion | None = None

    @property
    def name(self) -> str:
        """The version's number as users write it, `v12`."""
        return f"v{self.number}"

    @property
    def reference(self) -> str:
        """The full reference, `vision/resnet50@v12`."""
        return f"{self.model}@v{self.number}"

    @property
    def created_at(self) -> datetime:
        """When the leader proposed it, in UTC."""
        return datetime_of(self.created_at_ms)


@dataclass(frozen=True, slots=True)
class CommitResult(Version):
    """The version a commit made, or that an earlier try with the same request id made, and what it took.

    Attributes:
        log_index: the log position at which it became visible.
        bytes_sent: plain bytes of new chunks handed to the store, with those that a try brought which then
            failed; bytes_stored: what they took encoded, so far as nodes answered.
        chunks_new: chunks the store did not have; chunks_total: chunks of the version's files.
        seconds: wall time of the call.
    """

    log_index: int = 0
    bytes_sent: int = 0
    bytes_stored: int = 0
    chunks_new: int = 0
    chunks_total: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class ModelSummary:
    """One line of the list of models."""

    name: str
    version_count: int
    created_at_ms: int
    updated_at_ms: int


@dataclass(frozen=True, slots=True)
class StoreStatus:
    """Totals and health of a store.

    Attributes:
        store_id, state_digest: hexadecimal.
        chunk_bytes_plain: bytes of all chunks before encoding; chunk_bytes_live: after it;
            chunk_bytes_used: size of the segment files, with what waits to be reclaimed.
        encoding: of new chunks, `raw` or `auto`.
        bytes_fetched_near: got for readers from nodes of the same site, since the node started;
            bytes_fetched_far: from nodes of other sites; bytes_given: to other nodes for theirs.
    """

    store_id: str
    store_format: int
    applied_index: int
    state_digest: str
    chunk_count: int
    chunk_bytes_plain: int
    chunk_bytes_live: int
    chunk_bytes_used: int
    chunks_quarantined: int
    bytes_free: int
    encoding: str
    log_entry_count: int
    bytes_fetched_near: int = 0
    bytes_fetched_far: int = 0
    bytes_given: int = 0


@dataclass(frozen=True, slots=True)
class ClusterMember:
    """One member of a cluster.

    Attributes:
        address: where it is reached; the folder of an embedded store.
        role: `voter` or `learner`.
        bytes_used: of its chunk files; bytes_free: what it can still take.
        leaving: it is being drained.
    """

    name: str
    address: str
    site: str
    role: str
    healthy: bool
    applied_index: int
    bytes_used: int
    bytes_free: int
    leaving: bool = False


@dataclass(frozen=True, slots=True)
class ClusterAlarm:
    """Something that a person should look at; `member` is empty when it is about the whole cluster."""

    code: str
    member: str
    message: str


@dataclass(frozen=True, slots=True)
class ClusterStatus:
    """The members of a cluster and how they do, as one node sees them.

    Attributes:
        leader: its name; "" when none is known.
    """

    leader: str
    term: int
    applied_index: int
    members: tuple[ClusterMember, ...]
    chunks_under_replicated: int
    alarms: tuple[ClusterAlarm, ...]


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """One kind of background work of one node.

    Attributes:
        member: name of the node.
        name: `repair` or `scrub`.
        state: `idle`, `running` or `paused`.
        doing: what `done` and `total` count; "" before the first step. `total` is 0 while nobody knows.
        runs: that came to their end since the node started.
        started_ms, ended_ms: of the last run, milliseconds since 1970; 0 = there was none.
        error: how the last run failed; "" when it did not.
        counts: by name, most of them since the node started.
        findings: what a person should know, one sentence each.
    """

    member: str
    name: str
    state: str
    doing: str
    done: int
    total: int
    runs: int
    started_ms: int
    ended_ms: int
    error: str
    counts: Mapping[str, int]
    findings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class WorkersReport:
    """How background work does; `silent` are the names of members that did not answer."""

    workers: tuple[WorkerStatus, ...]
    silent: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class WorkersAsked:
    """Names of the members that did what was asked, and of those that did not answer."""

    members: tuple[str, ...]
    silent: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RepairPlan:
    """What a repair started now would copy.

    Attributes:
        bytes_total: of the copies, before encoding.
        chunks_lost: that no node has which answers, so they cannot be copied.
        silent: names of members that did not answer; what they look after is not in it.
    """

    chunks: int
    bytes_total: int
    chunks_lost: int
    silent: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What a check of a store found.

    Attributes:
        chunks_checked: distinct chunks read and verified.
        chunks_damaged: ids, hexadecimal, of chunks that are damaged or gone.
        versions_affected: references of the versions that need one of them.
        problems: other findings, one sentence each.
    """

    chunks_checked: int
    chunks_damaged: tuple[str, ...]
    versions_affected: tuple[str, ...]
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StorageSummary:
    """What a version takes: chunks and bytes of its files, and how many of them are distinct."""

    chunk_count: int
    chunk_count_unique: int
    bytes_total: int
    bytes_unique: int
