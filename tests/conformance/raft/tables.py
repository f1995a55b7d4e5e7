"""The pure functions: quorums, and changes of configuration."""

from mcr_node.core.raft.config import UNLIMITED
from mcr_node.core.raft.errors import ConfChangeError
from mcr_node.core.raft.membership import Changed, enter_joint, leave_joint, simple
from mcr_node.core.raft.messages import ConfState
from mcr_node.core.raft.quorum import (
    INDEX_INFINITE,
    VoteResult,
    joint_index,
    joint_vote,
    majority_index,
    majority_vote,
)
from mcr_node.core.raft.tracker import Tracker
from tests.conformance.raft.datadriven import Directive
from tests.conformance.raft.describe import describe_config, describe_progress, parse_changes

_VOTES = {VoteResult.PENDING: "VotePending", VoteResult.LOST: "VoteLost", VoteResult.WON: "VoteWon"}


class Quorums:
    """`committed` and `vote`."""

    COMMANDS = ("committed", "vote")

    def run(self, directive: Directive) -> str:
        """Return what the command prints, and assert what must not depend on how it is asked."""
        voters = _voters(directive, "cfg")
        outgoing = _voters(directive, "cfgj")
        members = tuple(dict.fromkeys((*voters, *outgoing)))
        if directive.command == "vote":
            answers = zip(members, directive.values("votes"), strict=False)
            votes = {member: answer == "y" for member, answer in answers if answer != "_"}
            result = joint_vote(voters, outgoing, votes)
            assert joint_vote(outgoing, voters, votes) is result
            if not outgoing:
                assert majority_vote(voters, votes) is result
                assert joint_vote(voters, voters, votes) is result
            return _VOTES[result]
        acks = zip(members, directive.values("idx"), strict=False)
        reached = {member: int(index) for member, index in acks if index != "_"}
        index = joint_index(voters, outgoing, reached)
        assert joint_index(outgoing, voters, reached) == index
        if not outgoing:
            assert majority_index([reached.get(voter, 0) for voter in voters]) == index
            assert joint_index(voters, voters, reached) == index
        return _table(tuple(sorted(members)), reached) + ("∞" if index == INDEX_INFINITE else str(index))


class Changes:
    """`simple`, `enter-joint` and `leave-joint` on one configuration that starts empty."""

    COMMANDS = ("simple", "enter-joint", "leave-joint")

    def __init__(self) -> None:
        self.tracker = Tracker(10, UNLIMITED)
        # As if each command were an entry of the log: new members are probed from there.
        self.last_index = 0

    def run(self, directive: Directive) -> str:
        """Return what the command prints."""
        try:
            changed = self._change(directive)
        except ConfChangeError as error:
            return str(error)
        finally:
            self.last_index += 1
        self.tracker.switch(changed.config, 0, self.last_index - 1, changed.fresh)
        members = [
            f"{member}: {describe_progress(progress)}" for member, progress in self.tracker.progress.items()
        ]
        return "\n".join([describe_config(changed.config), *members])

    def _change(self, directive: Directive) -> Changed:
        config: ConfState = self.tracker.config
        changes = parse_changes(directive.input)
        match directive.command:
            case "simple":
                return simple(config, changes)
            case "enter-joint":
                auto_leave = directive.value("autoleave", "false") == "true"
                return enter_joint(config, changes, auto_leave=auto_leave)
            case _:
                return leave_joint(config)


def _voters(directive: Directive, key: str) -> tuple[int, ...]:
    return tuple(int(value) for value in directive.values(key) if value != "zero")


def _table(members: tuple[int, ...], reached: dict[int, int]) -> str:
    if not members:
        return "<empty majority quorum>"
    width = len(members)
    lines = [" " * width + "    idx"]
    for member in members:
        index = reached.get(member, 0)
        # The bar's length is how many have reached less.
        behind = sum(reached.get(other, 0) < index for other in members)
        bar = "x" * behind + ">" if member in reached else "?"
        lines.append(f"{bar:<{width + 1}} {index:5d}    (id={member})")
    return "\n".join(lines) + "\n"
