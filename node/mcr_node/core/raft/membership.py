"""From one configuration to the next (thesis §4.1, §4.3). Pure functions of configurations.

A *simple* change moves at most one voter, so any two majorities before and after overlap. A *joint* change
moves any number: while joint, every decision needs both majorities, then a second change drops the old half.

A voter of the outgoing half that shall become a learner cannot be both at once (its vote still counts): it
waits in `learners_next` and becomes a learner on leaving.
"""

from collections.abc import Sequence
from dataclasses import replace

from mcr.values import dataclass
from mcr_node.core.raft.conf_codec import auto_leaves, enters_joint, leaves_joint
from mcr_node.core.raft.errors import ConfChangeError
from mcr_node.core.raft.messages import (
    NO_NODE,
    ConfChangeSingle,
    ConfChangeType,
    ConfChangeV2,
    ConfState,
)


@dataclass(frozen=True, slots=True)
class Changed:
    """A new configuration.

    Attributes:
        config: the one in force from now on.
        fresh: members that were removed and added again by this one change: what was known of their logs is
            void, for it may be another machine under the id.
    """

    config: ConfState
    fresh: tuple[int, ...] = ()


def change(config: ConfState, request: ConfChangeV2) -> Changed:
    """Return the configuration after `request`.

    Raises:
        ConfChangeError: `request` cannot follow `config`; the same answer on every node.
    """
    if leaves_joint(request):
        return leave_joint(config)
    if enters_joint(request):
        return enter_joint(config, request.changes, auto_leave=auto_leaves(request))
    return simple(config, request.changes)


def simple(config: ConfState, changes: Sequence[ConfChangeSingle]) -> Changed:
    """Change at most one voter (thesis §4.1), and any number of learners.

    Raises:
        ConfChangeError: joint, no voter left, or more than one voter changed.
    """
    if config.voters_outgoing:
        raise ConfChangeError("can't apply simple config change in joint config")
    changed = _apply(config, changes)
    before, after = config.voters, changed.config.voters
    moved = [voter for voter in before if voter not in after] + [
        voter for voter in after if voter not in before
    ]
    if len(moved) > 1:
        raise ConfChangeError("more than one voter changed without entering joint config")
    return changed


def enter_joint(config: ConfState, changes: Sequence[ConfChangeSingle], *, auto_leave: bool) -> Changed:
    """Keep today's voters as the outgoing half, change the incoming one (thesis §4.3).

    Raises:
        ConfChangeError: joint already, or no voters before or after.
    """
    if config.voters_outgoing:
        raise ConfChangeError("config is already joint")
    if not config.voters:
        raise ConfChangeError("can't make a zero-voter config joint")
    changed = _apply(replace(config, voters_outgoing=config.voters), changes)
    return replace(changed, config=replace(changed.config, auto_leave=auto_leave))


def leave_joint(config: ConfState) -> Changed:
    """Drop the outgoing half; learners-to-be become learners.

    Raises:
        ConfChangeError: not joint.
    """
    if not config.voters_outgoing:
        raise ConfChangeError("can't leave a non-joint config")
    learners = tuple(sorted((*config.learners, *config.learners_next)))
    return Changed(ConfState(voters=config.voters, learners=learners))


def check_config(config: ConfState) -> None:
    """Assert what every configuration satisfies; for those that come from disk or a snapshot.

    Raises:
        ConfChangeError: says which rule it breaks.
    """
    for name in ("voters", "learners", "voters_outgoing", "learners_next"):
        ids = getattr(config, name)
        if list(ids) != sorted(dict.fromkeys(ids)):
            raise ConfChangeError(f"{name} {ids} are not sorted and unique")
    for learner in config.learners:
        if learner in config.voters or learner in config.voters_outgoing:
            raise ConfChangeError(f"node {learner} is learner and voter")
    for learner in config.learners_next:
        if learner not in config.voters_outgoing or learner in config.voters:
            raise ConfChangeError(f"node {learner} waits to be a learner but is no outgoing voter")
    if not config.voters_outgoing and config.auto_leave:
        raise ConfChangeError("auto leave without a joint configuration")
    if config.voters_outgoing and not config.voters:
        raise ConfChangeError("a joint configuration without incoming voters")


def _apply(config: ConfState, changes: Sequence[ConfChangeSingle]) -> Changed:
    # Dicts as ordered sets: they keep ids unique and iterate alike in every process.
    voters = dict.fromkeys(config.voters)
    learners = dict.fromkeys(config.learners)
    learners_next = dict.fromkeys(config.learners_next)
    removed: dict[int, None] = {}
    fresh: dict[int, None] = {}
    for single in changes:
        node_id = single.node_id
        if node_id == NO_NODE:
            # Nobody can join or leave under it; `conf_codec` refuses it before it gets into a log.
            continue
        known = node_id in voters or node_id in learners or node_id in config.voters_outgoing
        match single.type:
            case ConfChangeType.UPDATE_NODE:
                continue
            case ConfChangeType.ADD_NODE:
                voters[node_id] = None
                learners.pop(node_id, None)
                learners_next.pop(node_id, None)
            case ConfChangeType.ADD_LEARNER:
                if node_id in learners:
                    continue
                voters.pop(node_id, None)
                (learners_next if node_id in config.voters_outgoing else learners)[node_id] = None
            case ConfChangeType.REMOVE_NODE:
                voters.pop(node_id, None)
                learners.pop(node_id, None)
                learners_next.pop(node_id, None)
                if known and node_id not in config.voters_outgoing:
                    removed[node_id] = None
                continue
        if node_id in removed:
            fresh[node_id] = None
    if not voters:
        raise ConfChangeError("removed all voters")
    after = replace(
        config,
        voters=tuple(sorted(voters)),
        learners=tuple(sorted(learners)),
        learners_next=tuple(sorted(learners_next)),
    )
    return Changed(after, tuple(fresh))
