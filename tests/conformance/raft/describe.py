"""The core's values in the exact words of the scenario files."""

import json

from mcr_node.core.raft.conf_codec import decode_conf_change
from mcr_node.core.raft.messages import (
    APPEND_QUEUE,
    APPLY_QUEUE,
    EMPTY_HARD_STATE,
    ConfChangeSingle,
    ConfChangeType,
    ConfState,
    Entry,
    EntryType,
    HardState,
    Message,
    MessageType,
    Snapshot,
)
from mcr_node.core.raft.node import Ready
from mcr_node.core.raft.raft import Role
from mcr_node.core.raft.tracker import Progress, ProgressState

_ROLES = {
    Role.FOLLOWER: "StateFollower",
    Role.PRE_CANDIDATE: "StatePreCandidate",
    Role.CANDIDATE: "StateCandidate",
    Role.LEADER: "StateLeader",
}
_PROGRESS = {
    ProgressState.PROBE: "StateProbe",
    ProgressState.REPLICATE: "StateReplicate",
    ProgressState.SNAPSHOT: "StateSnapshot",
}
_ENTRIES = {
    EntryType.NORMAL: "EntryNormal",
    EntryType.CONF_CHANGE: "EntryConfChange",
    EntryType.CONF_CHANGE_V2: "EntryConfChangeV2",
}
# Where the words are not our names in camel case.
_SHORT = {
    MessageType.APPEND: "MsgApp",
    MessageType.APPEND_RESP: "MsgAppResp",
    MessageType.SNAPSHOT: "MsgSnap",
    MessageType.PROPOSE: "MsgProp",
}
_CHANGES = {
    ConfChangeType.ADD_NODE: "v",
    ConfChangeType.REMOVE_NODE: "r",
    ConfChangeType.ADD_LEARNER: "l",
    ConfChangeType.UPDATE_NODE: "u",
}
_CHANGES_BY_LETTER = {letter: kind for kind, letter in _CHANGES.items()}
_QUEUES = {APPEND_QUEUE: "AppendThread", APPLY_QUEUE: "ApplyThread"}


def parse_changes(text: str) -> tuple[ConfChangeSingle, ...]:
    """Read `v1 l2 r3 u4`."""
    return tuple(ConfChangeSingle(_CHANGES_BY_LETTER[word[0]], int(word[1:])) for word in text.split())


def describe_role(role: Role) -> str:
    return _ROLES[role]


def describe_entry(entry: Entry) -> str:
    if entry.type is EntryType.NORMAL:
        # The data of all files is text for which JSON quotes as Go does.
        content = json.dumps(entry.data.decode(), ensure_ascii=False)
    else:
        changes = decode_conf_change(entry).changes
        content = " ".join(f"{_CHANGES[single.type]}{single.node_id}" for single in changes)
    return f"{entry.term}/{entry.index} {_ENTRIES[entry.type]} {content}".rstrip()


def describe_snapshot(snapshot: Snapshot) -> str:
    config = snapshot.conf_state
    return (
        f"Index:{snapshot.index} Term:{snapshot.term} ConfState:Voters:{_ids(config.voters)}"
        f" VotersOutgoing:{_ids(config.voters_outgoing)} Learners:{_ids(config.learners)}"
        f" LearnersNext:{_ids(config.learners_next)} AutoLeave:{str(config.auto_leave).lower()}"
    )


def describe_message(message: Message) -> str:
    kind = _SHORT.get(message.type) or "Msg" + message.type.name.title().replace("_", "")
    parts = [
        f"{_node(message.sender)}->{_node(message.to)} {kind}"
        f" Term:{message.term} Log:{message.log_term}/{message.index}"
    ]
    if message.reject:
        parts.append(f"Rejected (Hint: {message.reject_hint})")
    if message.commit:
        parts.append(f"Commit:{message.commit}")
    if message.vote:
        parts.append(f"Vote:{message.vote}")
    entries = [describe_entry(entry) for entry in message.entries]
    if len(entries) == 1:
        parts.append(f"Entries:[{entries[0]}]")
    elif entries:
        parts.append("Entries:[\n" + "\n".join(f"  {entry}" for entry in entries) + "\n]")
    text = " ".join(parts)
    if message.snapshot is not None:
        text += f"\n  Snapshot: {describe_snapshot(message.snapshot)}"
    if message.responses:
        responses = "\n".join(indent(describe_message(response)) for response in message.responses)
        text += f" Responses:[\n{responses}\n]"
    return text


def describe_hard_state(hard_state: HardState) -> str:
    vote = f" Vote:{hard_state.vote}" if hard_state.vote else ""
    return f"Term:{hard_state.term}{vote} Commit:{hard_state.commit}"


def describe_ready(ready: Ready) -> str:
    lines = []
    if ready.soft_state is not None:
        lines.append(f"Lead:{ready.soft_state.leader} State:{_ROLES[ready.soft_state.role]}")
    if ready.hard_state is not None and ready.hard_state != EMPTY_HARD_STATE:
        lines.append(f"HardState {describe_hard_state(ready.hard_state)}")
    if ready.read_states:
        states = " ".join(f"{{{state.index} {_ids(tuple(state.token))}}}" for state in ready.read_states)
        lines.append(f"ReadStates [{states}]")
    if ready.entries:
        lines.extend(["Entries:", *map(describe_entry, ready.entries)])
    if ready.snapshot is not None:
        lines.append(f"Snapshot {describe_snapshot(ready.snapshot)}")
    if ready.committed_entries:
        lines.extend(["CommittedEntries:", *map(describe_entry, ready.committed_entries)])
    if ready.messages:
        lines.extend(["Messages:", *map(describe_message, ready.messages)])
    if not lines:
        return "<empty Ready>"
    return "\n".join([f"Ready MustSync={str(ready.must_sync).lower()}:", *lines])


def describe_progress(progress: Progress) -> str:
    parts = [f"{_PROGRESS[progress.state]} match={progress.match} next={progress.next}"]
    if progress.is_learner:
        parts.append("learner")
    if progress.paused:
        parts.append("paused")
    if progress.pending_snapshot:
        parts.append(f"pendingSnap={progress.pending_snapshot}")
    if not progress.recently_active:
        parts.append("inactive")
    if progress.inflights:
        full = "[full]" if progress.inflights.full else ""
        parts.append(f"inflight={len(progress.inflights)}{full}")
    return " ".join(parts)


def describe_config(config: ConfState) -> str:
    text = f"voters=({_spaced(config.voters)})"
    if config.voters_outgoing:
        text += f"&&({_spaced(config.voters_outgoing)})"
    if config.learners:
        text += f" learners=({_spaced(config.learners)})"
    if config.learners_next:
        text += f" learners_next=({_spaced(config.learners_next)})"
    return text + (" autoleave" if config.auto_leave else "")


def indent(text: str) -> str:
    """Return `text` two columns further in."""
    return "\n".join(f"  {line}" for line in text.splitlines())


def _node(node_id: int) -> str:
    return _QUEUES.get(node_id, str(node_id))


def _spaced(ids: tuple[int, ...]) -> str:
    return " ".join(map(str, ids))


def _ids(ids: tuple[int, ...]) -> str:
    return f"[{_spaced(ids)}]"
