"""Messages that nobody honest sends, by the law that each breaks; and wild ones, which may be honest."""

import random
from collections.abc import Callable
from dataclasses import replace

from mcr_node.core.raft.messages import (
    LOCAL_TYPES,
    NODE_ID_MAX,
    RESPONSE_TYPES,
    TERMLESS_TYPES,
    ConfState,
    Entry,
    EntryType,
    Message,
    MessageType,
    Snapshot,
)
from mcr_node.core.raft.validation import CONF_IDS_MAX, INDEX_MAX, TERM_MAX, TERM_STEP_MAX
from tests.hostile.target import CONF, FORMER, LEARNER, STRANGER, VOTERS, Target

NUMBER_MAX = (1 << 64) - 1
TRAVELLING = [kind for kind in MessageType if kind not in LOCAL_TYPES]
OF_A_TERM = [kind for kind in TRAVELLING if kind not in TERMLESS_TYPES]
OF_A_LEADER = [MessageType.APPEND, MessageType.HEARTBEAT, MessageType.SNAPSHOT, MessageType.TIMEOUT_NOW]
Make = Callable[[random.Random, Target], Message]


def number(chance: random.Random) -> int:
    """Return a number at which something might break: small, near a power of two, or anything."""
    match chance.randrange(4):
        case 0:
            return chance.randrange(40)
        case 1:
            return min(NUMBER_MAX, max(0, (1 << chance.randrange(65)) + chance.randrange(-2, 3)))
        case 2:
            return NUMBER_MAX - chance.randrange(3)
        case _:
            return chance.randrange(1 << 64)


def anybody(chance: random.Random, target: Target) -> int:
    """Return somebody else: a voter, a learner, a former member or a stranger."""
    return chance.choice([one for one in (*VOTERS, LEARNER, FORMER, STRANGER) if one != target.node_id])


def entries(chance: random.Random, first: int) -> tuple[Entry, ...]:
    """Return entries, mostly in order from `first`."""
    index, term, made = first, chance.randrange(10), []
    for _ in range(chance.randrange(5)):
        made.append(Entry(term, index, chance.choice(list(EntryType)), chance.randbytes(chance.randrange(9))))
        index += 1 if chance.randrange(8) else chance.randrange(-2, 5)
        term += chance.randrange(-1, 3) if chance.randrange(3) else 0
    return tuple(replace(one, index=_in_range(one.index), term=_in_range(one.term)) for one in made)


def _in_range(value: int) -> int:
    return min(NUMBER_MAX, max(0, value))


def conf(chance: random.Random) -> ConfState:
    """Return a configuration, mostly none."""
    some = [*VOTERS, LEARNER, FORMER, STRANGER, 0, NODE_ID_MAX + 1]

    def ids() -> tuple[int, ...]:
        return tuple(chance.choices(some, k=chance.randrange(4)))

    return CONF if chance.randrange(3) == 0 else ConfState(ids(), ids(), ids(), ids(), chance.random() < 0.3)


def wild(chance: random.Random, target: Target) -> Message:
    """Return any message at all from another node, in which most fields mean something now and then."""
    raft = target.raft
    near = [raft.term, raft.term, raft.term + 1, max(1, raft.term - 1), 0, number(chance)]
    index = chance.choice([raft.log.committed, raft.log.last_index, chance.randrange(40), number(chance)])
    known = raft.log.term(index)
    log_term = known if known is not None and chance.random() < 0.7 else number(chance)
    snapshot = None
    if chance.randrange(4) == 0:
        snapshot = Snapshot(chance.choice([index, number(chance)]), log_term, conf(chance))
    return Message(
        chance.choice(list(MessageType)),
        target.node_id,
        anybody(chance, target),
        chance.choice(near),
        log_term,
        index,
        chance.choice([raft.log.committed, index, number(chance)]),
        number(chance),
        chance.random() < 0.5,
        number(chance),
        chance.choice([raft.read_sequence, number(chance)]),
        entries(chance, index + 1),
        snapshot,
        chance.choice([b"", b"CampaignTransfer", chance.randbytes(8)]),
    )


# ---- one function for each law; whatever it returns breaks that law, whoever sends it ----


def _local_kind(chance: random.Random, target: Target) -> Message:
    return replace(wild(chance, target), type=chance.choice(sorted(LOCAL_TYPES)))


def _term_of_no_kind(chance: random.Random, target: Target) -> Message:
    message = wild(chance, target)
    kind = chance.choice(TRAVELLING)
    return replace(message, type=kind, term=1 + number(chance) // 2 if kind in TERMLESS_TYPES else 0)


def _log_ahead_of_its_term(chance: random.Random, target: Target) -> Message:
    term = min(NUMBER_MAX - 1, max(1, number(chance)))
    ahead = min(NUMBER_MAX, term + 1 + number(chance) // 4)
    return replace(wild(chance, target), type=chance.choice(OF_A_TERM), term=term, log_term=ahead)


def _log_that_leaps(chance: random.Random, target: Target) -> Message:
    log, term = target.raft.log, target.raft.term
    first = Entry(log.last_term, log.last_index + 1)
    wrong = chance.choice(
        [
            (replace(first, index=first.index + 1 + number(chance) // 2),),
            (replace(first, index=0),),
            (replace(first, term=term + 1 + number(chance) // 2),),
            (first, replace(first, index=first.index + 2)),
            (first, replace(first, index=first.index + 1, term=first.term - 1)),
            (first, first),
        ]
    )
    leader = target.raft.leader or 2
    return Message(
        MessageType.APPEND, target.node_id, leader, term, log.last_term, log.last_index, 0, entries=wrong
    )


def _answer_of_no_member(chance: random.Random, target: Target) -> Message:
    sender = chance.choice([FORMER, STRANGER])
    kind = chance.choice(sorted(RESPONSE_TYPES))
    return replace(
        wild(chance, target), type=kind, sender=sender, term=target.raft.term + chance.randrange(2)
    )


def _commit_beyond_what_was_acknowledged(chance: random.Random, target: Target) -> Message:
    last = target.raft.log.last_index
    commit = min(NUMBER_MAX, last + 1 + number(chance) // 2)
    sender = target.raft.leader if chance.random() < 0.7 and not target.replica.is_leader else 2
    return Message(
        MessageType.HEARTBEAT,
        target.node_id,
        sender or 2,
        target.raft.term + chance.randrange(3),
        commit=commit,
    )


def _against_what_is_committed(chance: random.Random, target: Target) -> Message:
    log, term = target.raft.log, target.raft.term
    index = chance.randrange(log.first_index(), log.committed + 1)
    other = (log.term(index) or 0) + chance.choice([-1, 1])
    sender, later = target.raft.leader or 2, term + chance.randrange(1, 3)
    if target.replica.is_leader:
        sender = 3
    match chance.randrange(3):
        case 0:
            extra = entries(chance, 0)[:0]
            return Message(
                MessageType.APPEND, target.node_id, sender, later, other, index, index, entries=extra
            )
        case 1:
            before = index - 1
            entry = Entry(max(other, log.term(before) or 0), index, data=b"forged")
            if entry.term == log.term(index):
                entry = replace(entry, term=entry.term + 1)
            return Message(
                MessageType.APPEND, target.node_id, sender, later, 0, before, index, entries=(entry,)
            )
        case _:
            told = Snapshot(index, other, CONF)
            return Message(MessageType.SNAPSHOT, target.node_id, sender, later, snapshot=told)


def _second_leader(chance: random.Random, target: Target) -> Message:
    leader = target.raft.leader
    if leader not in (*VOTERS, LEARNER):
        # Nobody leads, or a stranger says that it does: a member is believed.
        return _local_kind(chance, target)
    others = [one for one in (*VOTERS, LEARNER, FORMER, STRANGER) if one not in (leader, target.node_id)]
    message = wild(chance, target)
    return replace(
        message, type=chance.choice(OF_A_LEADER), sender=chance.choice(others), term=target.raft.term
    )


def _snapshot_of_nothing(chance: random.Random, target: Target) -> Message:
    term, last = target.raft.term + 1, target.raft.log.last_index
    crowd = tuple(range(1, CONF_IDS_MAX + 2))
    told = chance.choice(
        [
            None,
            Snapshot(0, 1, CONF),
            Snapshot(INDEX_MAX + 1 + number(chance) // 4, term, CONF),
            Snapshot(last + 5, term + 1 + number(chance) // 2, CONF),
            Snapshot(last + 5, term, ConfState(voters=(1, 1, 4))),
            Snapshot(last + 5, term, ConfState(voters=(3, 1, 4))),
            Snapshot(last + 5, term, ConfState(voters=(0, 1, 4))),
            Snapshot(last + 5, term, ConfState(voters=(1, 4, NODE_ID_MAX + 1))),
            Snapshot(last + 5, term, ConfState(voters=(1, 4), learners=(4,))),
            Snapshot(last + 5, term, ConfState(voters=(1, 4), learners_next=(4,))),
            Snapshot(last + 5, term, ConfState(voters=(1, 4), auto_leave=True)),
            Snapshot(last + 5, term, ConfState(voters_outgoing=(1, 4))),
            Snapshot(last + 5, term, ConfState(voters=crowd)),
        ]
    )
    return Message(MessageType.SNAPSHOT, target.node_id, 2 if target.node_id != 2 else 3, term, snapshot=told)


def _term_out_of_reach(chance: random.Random, target: Target) -> Message:
    message = replace(wild(chance, target), type=chance.choice(OF_A_TERM))
    if chance.random() < 0.5:
        return replace(message, term=TERM_MAX + 1 + number(chance) // 2)
    # Of a stranger not even a step is believed.
    term = min(TERM_MAX, target.raft.term + TERM_STEP_MAX + 1 + number(chance) // 4)
    return replace(message, sender=chance.choice([FORMER, STRANGER]), term=term)


def _under_its_own_name(chance: random.Random, target: Target) -> Message:
    kind = chance.choice([*OF_A_LEADER, MessageType.VOTE, MessageType.PRE_VOTE, MessageType.HEARTBEAT_RESP])
    return replace(wild(chance, target), type=kind, sender=target.node_id, term=target.raft.term + 1)


def _order_of_no_leader(chance: random.Random, target: Target) -> Message:
    later = chance.random() < 0.5
    nobodies = [one for one in (FORMER, STRANGER) if one != target.raft.leader]
    sender = anybody(chance, target) if later else chance.choice(nobodies)
    term = target.raft.term + (1 + number(chance) // 2 if later else 0)
    return Message(MessageType.TIMEOUT_NOW, target.node_id, sender, min(term, NUMBER_MAX))


def _commands_as_a_message(chance: random.Random, target: Target) -> Message:
    return replace(wild(chance, target), type=MessageType.PROPOSE, term=0, entries=(Entry(0, 0, data=b"x"),))


LAWS: dict[str, Make] = {
    make.__name__.strip("_").replace("_", " "): make
    for make in (
        _local_kind,
        _term_of_no_kind,
        _log_ahead_of_its_term,
        _log_that_leaps,
        _answer_of_no_member,
        _commit_beyond_what_was_acknowledged,
        _against_what_is_committed,
        _second_leader,
        _snapshot_of_nothing,
        _term_out_of_reach,
        _under_its_own_name,
        _order_of_no_leader,
        _commands_as_a_message,
    )
}
