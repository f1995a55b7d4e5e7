"""The nouns of consensus: entries, hard state, snapshots, configurations, messages.

Plain values, made once and never changed afterwards. `Message` and `Entry` cross three borders (network,
log, state machine), so nothing in them belongs to one node's memory. `Message` is slotted but not frozen: a
frozen dataclass of fifteen fields takes twice as long to build, and the core builds eight for each proposal.

Numbers in enums are wire and disk numbers: they are never reused.
"""

import enum

from mcr.values import dataclass

# Node ids are 1 .. NODE_ID_MAX; 0 means "nobody" (no leader, no vote, no transfer target).
NO_NODE = 0
NODE_ID_MAX = (1 << 64) - 3
# Addressees that are no nodes: the two ordered local queues of asynchronous mode (see `node.py`).
APPEND_QUEUE = (1 << 64) - 1
APPLY_QUEUE = (1 << 64) - 2

# What an entry costs beyond its payload: a term, an index, a type, a length and their tags fit in it.
# Only limits are counted with it, so that a flood of empty entries is bounded too.
ENTRY_OVERHEAD_BYTES = 24


class EntryType(enum.IntEnum):
    """What an entry's `data` is."""

    NORMAL = 0  # a command for the state machine; empty data: a new leader's first entry
    CONF_CHANGE = 1  # a `ConfChange`, see `conf_codec`
    CONF_CHANGE_V2 = 2  # a `ConfChangeV2`; empty data: leave the joint configuration


class MessageType(enum.IntEnum):
    """Every input of the core, and every output but the entries themselves.

    Local kinds never come from the network: `RawNode.step` refuses them.
    """

    # From this node's surroundings to itself.
    HUP = 0  # start an election
    BEAT = 1  # leader: send heartbeats now
    CHECK_QUORUM = 2  # leader: was a quorum heard of lately?
    UNREACHABLE = 3  # the transport lost a message to `sender`
    SNAP_STATUS = 4  # the transport finished (or, `reject`, failed) a snapshot to `sender`
    STORAGE_APPEND = 5  # to APPEND_QUEUE: make durable, then release `responses`
    STORAGE_APPEND_RESP = 6
    STORAGE_APPLY = 7  # to APPLY_QUEUE: apply, then release `responses`
    STORAGE_APPLY_RESP = 8
    FORGET_LEADER = 9  # follower: let others' pre-votes through, keep the timeout

    # Between nodes.
    PROPOSE = 16
    APPEND = 17
    APPEND_RESP = 18
    VOTE = 19
    VOTE_RESP = 20
    PRE_VOTE = 21
    PRE_VOTE_RESP = 22
    SNAPSHOT = 23
    HEARTBEAT = 24
    HEARTBEAT_RESP = 25
    TRANSFER_LEADER = 26  # to the leader; `sender` is the one who shall lead
    TIMEOUT_NOW = 27  # from a leader: campaign at once
    READ_INDEX = 28
    READ_INDEX_RESP = 29


@dataclass(frozen=True, slots=True)
class Entry:
    """One record of the replicated log."""

    term: int
    index: int
    type: EntryType = EntryType.NORMAL
    data: bytes = b""


@dataclass(frozen=True, slots=True)
class HardState:
    """What must be durable before any message of the same `Ready` leaves (thesis, figure 3.1).

    One record, written at once: two writes and a crash between them give a second vote in a term.
    """

    term: int = 0
    vote: int = NO_NODE
    commit: int = 0


@dataclass(frozen=True, slots=True)
class ConfState:
    """A membership configuration; `voters_outgoing` is empty unless joint (thesis §4.3).

    All tuples are sorted and hold no id twice, so that equal configurations are equal values.
    """

    voters: tuple[int, ...] = ()
    learners: tuple[int, ...] = ()
    voters_outgoing: tuple[int, ...] = ()
    learners_next: tuple[int, ...] = ()
    auto_leave: bool = False


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state machine at one index, in place of the log up to there (thesis §5.1).

    `data` is opaque to the core; a small descriptor of files streamed apart is what it is meant for.
    Index 0 means "no snapshot".
    """

    index: int = 0
    term: int = 0
    conf_state: ConfState = ConfState()
    data: bytes = b""


class ConfChangeType(enum.IntEnum):
    """What to do with one node."""

    ADD_NODE = 0  # as a voter; promotes a learner
    REMOVE_NODE = 1
    UPDATE_NODE = 2  # no change of votes; `context` carries news about the node
    ADD_LEARNER = 3  # demotes a voter


class ConfChangeTransition(enum.IntEnum):
    """How to pass from one configuration to the next (thesis §4.3)."""

    AUTO = 0  # simple if at most one voter changes, else joint with automatic leave
    JOINT_IMPLICIT = 1  # joint; the leader proposes the leave once the joint entry is applied
    JOINT_EXPLICIT = 2  # joint until somebody proposes an empty `ConfChangeV2`


@dataclass(frozen=True, slots=True)
class ConfChangeSingle:
    """One step of a membership change."""

    type: ConfChangeType
    node_id: int


@dataclass(frozen=True, slots=True)
class ConfChange:
    """Version 1: one node at a time, never joint.

    `context` is opaque here; a node's address, site and capacity ride along in it to the state machine.
    """

    type: ConfChangeType
    node_id: int
    context: bytes = b""


@dataclass(frozen=True, slots=True)
class ConfChangeV2:
    """Version 2: any number of nodes; no changes at all means "leave the joint configuration"."""

    changes: tuple[ConfChangeSingle, ...] = ()
    transition: ConfChangeTransition = ConfChangeTransition.AUTO
    context: bytes = b""


@dataclass(slots=True)
class Message:
    """One message; which fields mean something depends on `type`. Never changed once made.

    Beyond `type`, `to`, `sender` and `term` (0 for PROPOSE and READ_INDEX, which outlive terms):

    - APPEND: `entries` follow (`log_term`, `index`); `commit`.
    - APPEND_RESP: `index` is the last that matches; or with `reject` the one refused, and the hint
      (`log_term`, `reject_hint`) is the last place where the logs can agree.
    - VOTE, PRE_VOTE: (`log_term`, `index`) is the candidate's last entry; `context` may be CAMPAIGN_TRANSFER.
    - VOTE_RESP, PRE_VOTE_RESP: `reject`. A grant carries the *request's* term, a rejection the local one
      and the last entry known to be committed as (`log_term`, `commit`).
    - HEARTBEAT: `commit`; `read_sequence`, the newest read round, which HEARTBEAT_RESP echoes.
    - READ_INDEX, READ_INDEX_RESP: `context` is the caller's token; the answer is in `index`.
    - SNAPSHOT: `snapshot`. PROPOSE: `entries` without term and index.
    - STORAGE_APPEND: `term`, `vote`, `commit` are the hard state (all 0: unchanged); `entries`, `snapshot`,
      `responses`. STORAGE_APPEND_RESP: (`log_term`, `index`) and `snapshot` are durable.
    - STORAGE_APPLY, STORAGE_APPLY_RESP: `entries`, `responses`.
    """

    type: MessageType
    to: int = NO_NODE
    sender: int = NO_NODE
    term: int = 0
    log_term: int = 0
    index: int = 0
    commit: int = 0
    vote: int = NO_NODE
    reject: bool = False
    reject_hint: int = 0
    read_sequence: int = 0
    entries: tuple[Entry, ...] = ()
    snapshot: Snapshot | None = None
    context: bytes = b""
    responses: tuple["Message", ...] = ()


# `context` of a vote request: the old leader asked for it, so its being alive is no reason to refuse (thesis
# §4.2.3, last paragraph).
CAMPAIGN_TRANSFER = b"CampaignTransfer"

EMPTY_HARD_STATE = HardState()

# Only ever asked for membership, never iterated over: the order of a set is not the same in every process.
LOCAL_TYPES = frozenset(kind for kind in MessageType if kind < MessageType.PROPOSE)
# They outlive terms: whoever leads when they arrive may take them. All others speak for one term.
TERMLESS_TYPES = frozenset({MessageType.PROPOSE, MessageType.READ_INDEX})
RESPONSE_TYPES = frozenset(
    {
        MessageType.APPEND_RESP,
        MessageType.VOTE_RESP,
        MessageType.PRE_VOTE_RESP,
        MessageType.HEARTBEAT_RESP,
        MessageType.READ_INDEX_RESP,
    }
)


def entry_bytes(entry: Entry) -> int:
    """Return what `entry` counts against limits on messages and batches."""
    return len(entry.data) + ENTRY_OVERHEAD_BYTES


def is_conf_change(entry: Entry) -> bool:
    """Say whether `entry` changes the membership."""
    return entry.type is not EntryType.NORMAL
