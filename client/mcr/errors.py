"""Every error a caller can meet, split by who must act.

    McrError                          code, exit status, message, hint, typed fields
    ├── UsageError                2   the call is wrong; change it
    │   ├── InvalidArgumentError
    │   ├── InvalidNameError          a model, branch, tag or channel name
    │   ├── InvalidReferenceError     does not parse as model@what
    │   ├── InvalidParameterError     a parameter that cannot be stored
    │   ├── InvalidMetricError        NaN, infinite or out of range
    │   ├── InvalidKeyError           a file that does not hold the key needed
    │   ├── UnsafePathError           absolute, or leaves the folder
    │   └── NoStoreError              nothing says where the cluster is
    ├── NotFoundError             3   the thing named does not exist
    │   ├── StoreNotFoundError        no store at that path
    │   ├── ModelNotFoundError
    │   ├── MemberNotFoundError
    │   ├── ReferenceNotFoundError
    │   ├── AmbiguousReferenceError   names more than one thing
    │   ├── PathNotFoundError         no such file in the version
    │   ├── SourceNotFoundError       no such file or folder to commit
    │   ├── HistoryGoneError          events that are no longer kept
    │   ├── MergeNotFoundError        no such merge is waiting, or a version is none
    │   ├── VersionDeletedError       in the trash, or gone for good
    │   └── SessionNotFoundError      no such upload session
    ├── ConflictError            10   somebody was there first; look again
    │   ├── HeadMovedError            the branch is not where the caller expected
    │   ├── AlreadyExistsError
    │   ├── RequestReusedError        a request id used for another request
    │   ├── VersionInUseError         a version that something needs is not deleted
    │   ├── LayoutChangedError        of a cluster, since it was looked at
    │   ├── MembersChangedError       since the chunks were looked for
    │   ├── SealOutdatedError         garbage was marked since the chunks were looked for
    │   ├── SessionEndedError         an upload session that takes nothing more
    │   ├── SessionChangedError       parts came while it was being sealed
    │   ├── SessionIncompleteError    parts that were expected are missing; names them
    │   ├── ConflictsLeftError        a merge that somebody has to decide
    │   └── PartConflictError         a part was put with other bytes
    ├── DurabilityError          11   not enough nodes for the copies asked for
    ├── LastCopyError            11   a removal would lose chunks
    ├── UnavailableError         11   no node can be reached
    │   └── DivergedError             a node whose state is wrong serves nothing
    ├── NoQuorumError            11   the nodes reached cannot decide: no majority, or no leader yet
    ├── NotAllowedError          12   a rule forbids it
    │   └── ProtectedError            the ref's protection is not met
    │       └── SignersMissingError       keys that must sign the version first
    ├── CorruptError             13   an operator must look; nothing wrong was served
    │   ├── CorruptChunkError         a chunk's bytes do not hash to its id
    │   ├── MissingChunkError         a chunk that a version needs is not held
    │   │   └── LostChunkError            with the versions and files that need it
    │   ├── CorruptStoreError         a log, index or state file is damaged
    │   ├── SignatureError            of a version: does not verify, or is not there
    │   └── ReplayDiffersError        a merge computed again gives something else
    ├── OutOfSpaceError          14   free space, then repeat
    ├── QuotaExceededError       14   of a model or a namespace
    ├── DeadlineError            15   time ran out
    ├── SourceChangedError        1   a file changed while it was read
    ├── SourceUnreadableError     1   a file that cannot be read
    ├── DestinationError          1   a file that cannot be written
    ├── StoreBusyError            1   another process has the store open
    ├── NodeBusyError             1   a node has as much to do as it may take on
    ├── StoreFormatError          1   written by a newer release
    ├── MissingExtraError         1   an optional dependency is not installed
    └── FailedError               1   anything else, with its reason

Raised by the client, decided anywhere: a node answers with the code and the fields, and `from_fields`
builds the same error again.
"""

from collections.abc import Mapping
from dataclasses import fields

from mcr._corrupt_errors import CorruptChunkError as CorruptChunkError
from mcr._corrupt_errors import CorruptStoreError as CorruptStoreError
from mcr._corrupt_errors import LostChunkError as LostChunkError
from mcr._corrupt_errors import MissingChunkError as MissingChunkError
from mcr._mcr_error import ConflictError as ConflictError
from mcr._mcr_error import CorruptError as CorruptError
from mcr._mcr_error import FieldValue as FieldValue
from mcr._mcr_error import McrError as McrError
from mcr._mcr_error import NotAllowedError as NotAllowedError
from mcr._mcr_error import NotFoundError as NotFoundError
from mcr._mcr_error import UsageError as UsageError
from mcr._merge_errors import ConflictsLeftError as ConflictsLeftError
from mcr._merge_errors import MergeNotFoundError as MergeNotFoundError
from mcr._merge_errors import ReplayDiffersError as ReplayDiffersError
from mcr._protection_errors import InvalidKeyError as InvalidKeyError
from mcr._protection_errors import ProtectedError as ProtectedError
from mcr._protection_errors import SignatureError as SignatureError
from mcr._protection_errors import SignersMissingError as SignersMissingError
from mcr._session_errors import PartConflictError as PartConflictError
from mcr._session_errors import SessionChangedError as SessionChangedError
from mcr._session_errors import SessionEndedError as SessionEndedError
from mcr._session_errors import SessionIncompleteError as SessionIncompleteError
from mcr._session_errors import SessionNotFoundError as SessionNotFoundError
from mcr._space_errors import LastCopyError as LastCopyError
from mcr._space_errors import LayoutChangedError as LayoutChangedError
from mcr._space_errors import MembersChangedError as MembersChangedError
from mcr._space_errors import QuotaExceededError as QuotaExceededError
from mcr._trash_errors import SealOutdatedError as SealOutdatedError
from mcr._trash_errors import VersionDeletedError as VersionDeletedError
from mcr._trash_errors import VersionInUseError as VersionInUseError
from mcr.values import dataclass


@dataclass(eq=False)
class InvalidArgumentError(UsageError):
    """An argument is out of range or does not fit the others."""

    argument: str
    reason: str
    code = "invalid_argument"
    template = "{argument}: {reason}"


@dataclass(eq=False)
class InvalidNameError(UsageError):
    """A name breaks the rules of `mcr.references`."""

    kind: str
    name: str
    reason: str
    code = "invalid_name"
    template = "{name!r} is not a valid {kind} name: {reason}"
    hint_template = "use 1 to 96 characters of a-z A-Z 0-9 . _ - and start with a letter or digit"


@dataclass(eq=False)
class InvalidReferenceError(UsageError):
    """A text does not parse as a reference."""

    text: str
    reason: str
    code = "invalid_reference"
    template = "{text!r} is not a reference: {reason}"
    hint_template = "write namespace/name@what, where what is v12, an id, a branch, a tag or a channel"


@dataclass(eq=False)
class InvalidParameterError(UsageError):
    """A parameter cannot be stored."""

    key: str
    reason: str
    code = "invalid_parameter"
    template = "parameter {key!r}: {reason}"


@dataclass(eq=False)
class InvalidMetricError(UsageError):
    """A metric value cannot be stored, or only when asked for."""

    key: str
    value: str
    reason: str
    code = "invalid_metric"
    template = "metric {key!r} = {value}: {reason}"
    hint_template = "to record that a metric was not finite, pass --allow-non-finite (allow_non_finite=True)"


@dataclass(eq=False)
class UnsafePathError(UsageError):
    """A path is absolute or leaves the folder it belongs in."""

    path: str
    reason: str
    code = "unsafe_path"
    template = "{path!r}: {reason}"
    hint_template = "a version holds relative paths inside one folder only"


@dataclass(eq=False)
class NoStoreError(UsageError):
    """Neither a flag, nor the environment, nor a file says where the cluster is."""

    directory: str
    code = "no_store"
    template = "no store given, and no .mcr in {directory} or a folder above it"
    hint_template = (
        "make one with: mcr init .mcr, or give --cluster or MCR_CLUSTER: a PATH, or host:port of nodes"
    )


@dataclass(eq=False)
class StoreNotFoundError(NotFoundError):
    """There is no store at a path."""

    path: str
    code = "store_not_found"
    template = "no store at {path}"
    hint_template = "make one with: mcr init {path}"


@dataclass(eq=False)
class ModelNotFoundError(NotFoundError):
    """A model has no version yet."""

    model: str
    code = "model_not_found"
    template = "no model {model}"
    hint_template = "list the models with: mcr ls"


@dataclass(eq=False)
class MemberNotFoundError(NotFoundError):
    """The cluster has no member of that name."""

    name: str
    code = "member_not_found"
    template = "the cluster has no member {name}"
    hint_template = "see: mcr cluster members"


@dataclass(eq=False)
class ReferenceNotFoundError(NotFoundError):
    """A reference names nothing."""

    model: str
    reference: str
    reason: str
    code = "reference_not_found"
    template = "{model}@{reference}: {reason}"
    hint_template = "see: mcr log {model}; mcr branch {model}; mcr tag {model}; mcr channel {model}"


@dataclass(eq=False)
class AmbiguousReferenceError(NotFoundError):
    """A reference names more than one thing."""

    model: str
    reference: str
    candidates: str
    code = "ambiguous_reference"
    template = "{model}@{reference} is ambiguous: {candidates}"
    hint_template = "write more of the id, or put branch:, tag: or channel: in front"


@dataclass(eq=False)
class PathNotFoundError(NotFoundError):
    """A version has no such file."""

    reference: str
    path: str
    code = "path_not_found"
    template = "{reference} has no {path!r}"
    hint_template = "list its files with: mcr ls {reference}"


@dataclass(eq=False)
class SourceNotFoundError(NotFoundError):
    """The file or folder to commit does not exist."""

    path: str
    code = "source_not_found"
    template = "no file or folder {path!r}"


@dataclass(eq=False)
class HistoryGoneError(NotFoundError):
    """Events from so far back are no longer kept."""

    after_index: int
    oldest_index: int
    code = "history_gone"
    template = "events after log index {after_index} are gone; those after {oldest_index} are kept"
    hint_template = "list versions and refs anew, then follow from the log index of that answer"


@dataclass(eq=False)
class HeadMovedError(ConflictError):
    """A branch or channel is not where the caller expected it."""

    expected: str
    actual: str
    ref: str = "branch"
    code = "head_moved"
    template = "{ref} is at {actual}, not at {expected}"
    hint_template = "look at what changed, then repeat with --expect {actual}"


@dataclass(eq=False)
class AlreadyExistsError(ConflictError):
    """A name or store that is to be made exists."""

    kind: str
    name: str
    at: str = ""
    code = "already_exists"
    template = "{kind} {name} exists already {at}"

    @property
    def message(self) -> str:
        """What exists, and where it points if known."""
        return super().message.rstrip()


@dataclass(eq=False)
class RequestReusedError(ConflictError):
    """A request id came again with another content."""

    request_id: str
    code = "request_reused"
    template = "request id {request_id} was already used for another request"
    hint_template = "choose a new --request-id; repeat one only to retry the very same call"


@dataclass(eq=False)
class DurabilityError(McrError):
    """Copies cannot be where they were asked for, now or at all; no version was made."""

    wanted: str
    available: int
    reason: str
    remedy: str
    code = "durability"
    exit_status = 11
    template = "{wanted} asked for, nodes that can hold them: {available}; {reason}"
    hint_template = "{remedy}"


@dataclass(eq=False)
class UnavailableError(McrError):
    """No node answers."""

    addresses: str
    reason: str
    code = "unavailable"
    exit_status = 11
    template = "no node can be reached at {addresses}: {reason}"
    hint_template = "check the addresses, that a node runs there (mcr node start), and the network between"


class DivergedError(UnavailableError):
    """A node found its state to be another than the other nodes', and serves nothing until it has theirs."""

    code = "diverged"
    template = "{addresses} is out of service: {reason}"
    hint_template = "use another node; this one fetches the state anew by itself"


@dataclass(eq=False)
class NoQuorumError(McrError):
    """A node was reached, but the cluster cannot decide now. Whether a write takes effect is unknown."""

    reason: str
    code = "no_quorum"
    exit_status = 11
    template = "the cluster cannot decide: {reason}"
    hint_template = "see mcr cluster status; a write may be repeated with the same request id"


@dataclass(eq=False)
class OutOfSpaceError(McrError):
    """The disk is full; nothing that was acknowledged is affected."""

    path: str
    reason: str
    code = "out_of_space"
    exit_status = 14
    template = "no space left for {path}: {reason}"
    hint_template = "free space, then run the same command again; it goes on where it stopped"


@dataclass(eq=False)
class DeadlineError(McrError):
    """A call did not finish in time."""

    seconds: str
    what: str
    code = "deadline"
    exit_status = 15
    template = "{what} did not finish within {seconds} s"
    hint_template = "run the same command again with a longer --timeout; it goes on where it stopped"


@dataclass(eq=False)
class FailedError(McrError):
    """Something else went wrong."""

    what: str
    reason: str
    code = "failed"
    template = "{what}: {reason}"


@dataclass(eq=False)
class SourceChangedError(McrError):
    """A file changed while it was being committed."""

    path: str
    reason: str
    code = "source_changed"
    template = "{path} changed while it was read: {reason}"
    hint_template = "wait until it is complete, then commit again; nothing was committed"


@dataclass(eq=False)
class SourceUnreadableError(McrError):
    """A file to commit cannot be read."""

    path: str
    reason: str
    code = "source_unreadable"
    template = "cannot read {path}: {reason}"


@dataclass(eq=False)
class DestinationError(McrError):
    """A checkout cannot write where it should."""

    path: str
    reason: str
    code = "destination"
    template = "cannot write {path}: {reason}"


@dataclass(eq=False)
class StoreBusyError(McrError):
    """Another process has the embedded store open."""

    path: str
    process_id: int
    code = "store_busy"
    template = "{path} is in use by process {process_id}"
    hint_template = "wait for it, or let it wait for you with --timeout SECONDS"


@dataclass(eq=False)
class NodeBusyError(McrError):
    """A node refuses more work than its limits allow; it takes it again when others are done."""

    what: str
    limit: int
    code = "node_busy"
    template = "the node has its limit of {limit} {what} under way"
    hint_template = "repeat, or give the addresses of more nodes"


@dataclass(eq=False)
class StoreFormatError(McrError):
    """A store was written by a newer release."""

    path: str
    found: int
    supported: int
    code = "store_format"
    template = "{path} has store format {found}; this release reads up to {supported}"
    hint_template = "upgrade mcr: pip install --upgrade 'mcr-store[node]'"


@dataclass(eq=False)
class MissingExtraError(McrError):
    """An optional dependency is not installed."""

    what: str
    extra: str
    code = "missing_extra"
    template = "{what} needs the extra '{extra}'"
    hint_template = "pip install 'mcr-store[{extra}]'"


def _by_code(base: type[McrError]) -> dict[str, type[McrError]]:
    found = {base.code: base} if "code" in vars(base) else {}
    for child in base.__subclasses__():
        found |= _by_code(child)
    return found


def from_fields(code: str, values: Mapping[str, FieldValue]) -> McrError:
    """Build the error a node described; one of a newer node becomes FailedError, which shows the message."""
    cls = _by_code(McrError).get(code)
    if cls is None or cls is McrError:
        return FailedError(what=code, reason=str(values.get("reason", dict(values))))
    known = {f.name for f in fields(cls)}
    return cls(**{name: value for name, value in values.items() if name in known})
