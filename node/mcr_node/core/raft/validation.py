"""What a peer says that cannot be so: refused before anything is touched.

Three kinds of nonsense, and nothing beyond them:

- **Malformed**: it contradicts itself, whoever says it.
- **A stranger's**: only a member could mean it, and the sender is none. Requests of strangers are no
  nonsense: a node that lags does not know its newest members, and must follow and elect them all the same
  (thesis §4.1).
- **Contradicted by what is certain here**: what is committed stays (§3.6, leader completeness), a term has
  one leader (§3.4), and what this node acknowledged was durable first (§3.8).

What a correct member could have sent is no nonsense either, however little it helps: a vote request of the
next term deposes a leader. That the sender is who it says is for the transport to prove.

Messages of older terms are let through to where they are ignored: what they claim may have been true then.

Terms are believed in steps. Near the end of the number range one message would be the last word for ever,
since nobody could begin a later term. A bound alone would let two messages tear a cluster apart: nodes that
are further from each other than the bound refuse each other's word. So of a member that is far ahead only a
step is believed; it says it again, and each step needs a message.
"""

from mcr_node.core.raft.errors import (
    ConfChangeError,
    InvalidMessageError,
    LocalMessageError,
    UnknownPeerError,
)
from mcr_node.core.raft.membership import check_config
from mcr_node.core.raft.messages import (
    LOCAL_TYPES,
    NO_NODE,
    NODE_ID_MAX,
    RESPONSE_TYPES,
    TERMLESS_TYPES,
    Message,
    MessageType,
    Snapshot,
)
from mcr_node.core.raft.raft import Raft

# An election a second for 136 years: whoever is so far ahead did not get there by elections.
TERM_STEP_MAX = 1 << 32
# No term is greater: as many steps away as there are seconds in 34 years.
TERM_MAX = 1 << 62
# Half of the number range, so that no sum of indexes leaves it; no log gets there.
INDEX_MAX = (1 << 63) - 1
# Ids in one configuration; far above what a group of voters is good for.
CONF_IDS_MAX = 1024

# Only the leader of a term says these in it.
_OF_ITS_LEADER = frozenset(
    {MessageType.APPEND, MessageType.HEARTBEAT, MessageType.SNAPSHOT, MessageType.TIMEOUT_NOW}
)
# What reaches a node under its own name: its promises, once they are durable, and what others passed on.
_OF_ONESELF = frozenset(
    {
        MessageType.PROPOSE,
        MessageType.READ_INDEX,
        MessageType.TRANSFER_LEADER,
        MessageType.APPEND_RESP,
        MessageType.VOTE_RESP,
        MessageType.PRE_VOTE_RESP,
    }
)


# What may bring news of a term that is far ahead: a leader's word, and answers. Not a vote request, which a
# node that hears a leader ignores (thesis §4.2.3).
_BRINGS_NEWS = frozenset(
    {
        MessageType.APPEND,
        MessageType.HEARTBEAT,
        MessageType.APPEND_RESP,
        MessageType.HEARTBEAT_RESP,
        MessageType.VOTE_RESP,
        MessageType.PRE_VOTE_RESP,
    }
)


def admit(raft: Raft, message: Message) -> Message:
    """Return what is to be believed of a message: all of it, or a step towards its term.

    Raises:
        InvalidMessageError: nothing of it, and why; also LocalMessageError, UnknownPeerError.
    """
    _check_shape(message)
    _check_sender(raft, message)
    if message.term > raft.term + TERM_STEP_MAX:
        return _step_towards(raft, message)
    if message.term >= raft.term and message.type in _OF_ITS_LEADER:
        _check_leader(raft, message)
    return message


def _step_towards(raft: Raft, message: Message) -> Message:
    # Who knows no members yet takes anybody for one.
    is_member = message.sender in raft.tracker.progress or not raft.tracker.progress
    if not is_member or message.type not in _BRINGS_NEWS:
        raise InvalidMessageError(f"term {message.term}, and this is term {raft.term}")
    # An answer that says nothing but its term.
    return Message(MessageType.HEARTBEAT_RESP, message.to, message.sender, raft.term + TERM_STEP_MAX)


def _check_shape(message: Message) -> None:
    kind = message.type
    if kind in LOCAL_TYPES:
        raise LocalMessageError(f"{kind.name} from node {message.sender}")
    if (message.term == 0) is not (kind in TERMLESS_TYPES):
        # Term 0 marks what is local; from outside it would pass every comparison of terms.
        raise InvalidMessageError(f"{kind.name} of term {message.term}")
    if message.term > TERM_MAX:
        raise InvalidMessageError(f"{kind.name} of term {message.term}, which nobody reaches")
    if message.log_term > message.term:
        raise InvalidMessageError(f"{kind.name} of term {message.term} speaks of term {message.log_term}")
    if kind is MessageType.APPEND:
        index = message.index
        term = message.log_term
        for entry in message.entries:
            index += 1
            if entry.index != index or not term <= entry.term <= message.term:
                raise InvalidMessageError(
                    f"entry {entry.term}/{entry.index} does not follow {term}/{index - 1}"
                )
            term = entry.term
    elif kind is MessageType.PROPOSE and not message.entries:
        raise InvalidMessageError("a proposal of nothing")
    elif kind is MessageType.SNAPSHOT:
        _check_snapshot(message.term, message.snapshot)


def _check_snapshot(term: int, snapshot: Snapshot | None) -> None:
    if snapshot is None or not snapshot.index:
        raise InvalidMessageError("a snapshot message without a snapshot")
    if snapshot.index > INDEX_MAX or snapshot.term > term:
        raise InvalidMessageError(f"a snapshot of {snapshot.term}/{snapshot.index} in term {term}")
    config = snapshot.conf_state
    ids = (*config.voters, *config.learners, *config.voters_outgoing, *config.learners_next)
    if len(ids) > CONF_IDS_MAX or not all(NO_NODE < node_id <= NODE_ID_MAX for node_id in ids):
        raise InvalidMessageError(f"a snapshot of no configuration: {len(ids)} ids, or one of no node")
    try:
        check_config(config)
    except ConfChangeError as error:
        raise InvalidMessageError(f"a snapshot of no configuration: {error}") from error


def _check_sender(raft: Raft, message: Message) -> None:
    kind, sender = message.type, message.sender
    if sender == raft.node_id:
        # Its own answers come late, too: it may have been removed while its disk was at work.
        if kind not in _OF_ONESELF:
            raise InvalidMessageError(f"{kind.name} under this node's own name")
    elif kind in RESPONSE_TYPES and sender not in raft.tracker.progress:
        raise UnknownPeerError(f"{kind.name} from node {sender}, which is no member")


def _check_leader(raft: Raft, message: Message) -> None:
    """Check what only a leader says, of this term or a later one."""
    kind, sender, log = message.type, message.sender, raft.log
    if message.term == raft.term and raft.leader not in (NO_NODE, sender) and not _displaces(raft, sender):
        raise InvalidMessageError(f"{kind.name} from node {sender}, but {raft.leader} leads term {raft.term}")
    if kind is MessageType.HEARTBEAT:
        if message.commit > log.last_index:
            # It names what this node acknowledged, never more.
            raise InvalidMessageError(f"commit {message.commit}, but the log ends at {log.last_index}")
    elif kind is MessageType.APPEND:
        # Steady traffic begins after what is committed, so this costs it one comparison.
        if message.index <= log.committed:
            _check_committed(raft, message.index, message.log_term)
            for entry in message.entries:
                if entry.index > log.committed:
                    break
                _check_committed(raft, entry.index, entry.term)
    elif message.snapshot is not None:
        _check_committed(raft, message.snapshot.index, message.snapshot.term)
    elif message.term > raft.term:
        # TIMEOUT_NOW goes to who has acknowledged the leader's whole log, and so was durably in its term.
        raise InvalidMessageError(f"{kind.name} of term {message.term} from node {sender}")
    elif sender != raft.leader and sender not in raft.tracker.progress:
        # Honest only from a leader that was added by entries which this node has, but since it started does
        # not know to be committed. It cannot be told from a stranger; a transfer refused costs its deadline.
        raise UnknownPeerError(f"{kind.name} from node {sender}, which is no member that this node knows of")


def _displaces(raft: Raft, sender: int) -> bool:
    # Else a stranger who speaks first in a term would keep its leader away from this node.
    members = raft.tracker.progress
    return raft.leader != raft.node_id and raft.leader not in members and sender in members


def _check_committed(raft: Raft, index: int, term: int) -> None:
    if index > raft.log.committed:
        return
    ours = raft.log.term(index)
    if ours is not None and ours != term:
        raise InvalidMessageError(f"entry {term}/{index}, but {ours}/{index} is committed")
