"""Acts of people, workers and nodes on a state and its ledger, each chosen by a few small numbers.

A number picks among what there is at that moment, so that nearly every act finds what it names, and a list
of acts that fails is shrunk to the few that matter.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from hypothesis import strategies as st

from mcr.model import ChunkId, ParameterValue, RefKind
from mcr.record import decode_record
from mcr.references import DEFAULT_BRANCH
from mcr.retention_rules import parse_rules
from mcr_node.core.state import collecting, keys, retention, retention_queries
from mcr_node.core.state.commands import (
    Command,
    LastGoodTarget,
    NumberTarget,
    PreviousTarget,
    Target,
)
from mcr_node.core.state.keys import RefName
from mcr_node.core.state.outcomes import (
    Accepted,
    MergeResult,
    Outcome,
    RefResult,
    VersionResult,
)
from mcr_node.core.state.records import RefRow, read
from mcr_node.core.state.retention_commands import RetireVersions, SetRetention
from mcr_node.core.state.retention_decision import decide
from tests.support import merge_commands, state_signatures, state_trash
from tests.support.state_ledger import MODELS, Kept, Ledger
from tests.support.state_world import StateWorld

BRANCHES: Final = ("main", "main", "exp")
CONTENTS: Final = 6
RULES: Final = (("last=1", "trash=0s"), ("last=2", "trash=1d"), ("every=3", "trash=0s"))
SIGNER: Final = state_signatures.KEYS[0]
KEEPS_MS: Final = (0, 0, state_trash.DAY_MS)


@dataclass(frozen=True, slots=True)
class Act:
    """Something that is done: `one`, `two` and `flag` choose to what."""

    verb: str
    one: int
    two: int
    flag: bool


@dataclass
class Everybody:
    """All who act on one state, and what they have in mind.

    Attributes:
        sealed: a content that was found to be held, and in which round.
        decided: deletions that were decided, and not asked for yet.
        done: what was accepted, for those who ask again.
    """

    world: StateWorld = field(default_factory=lambda: StateWorld(model=MODELS[0]))
    ledger: Ledger = field(default_factory=Ledger)
    sealed: tuple[int, int] = (0, 0)
    decided: list[RetireVersions] = field(default_factory=list)
    waiting: int = 0
    done: list[Command] = field(default_factory=list)

    def act(self, act: Act) -> None:
        """Do one thing, and note it in the ledger when it took effect."""
        ACTS[act.verb](self, act)

    @property
    def model(self) -> str:
        return self.world.model

    @property
    def count(self) -> int:
        return len(self.ledger.versions[self.model])

    def number(self, chosen: int) -> int:
        """Choose a version of the model, the newest first; 1 when there is none."""
        return max(1, self.count - chosen % max(1, self.count))

    def ref(self, kind: RefKind, name: str) -> RefName:
        return RefName(self.model, kind, name)

    def apply(self, command: Command) -> Outcome:
        outcome = self.world.apply(command)
        if isinstance(outcome, Accepted):
            self.done.append(command)
        return outcome

    # Versions

    def upload(self, act: Act) -> None:
        """Bring a content, or find that it is held: from now on it counts as young."""
        content, present = act.one % CONTENTS, collecting.round_of(self.world.view)
        self.ledger.disk[content] = present
        self.sealed = (content, present)

    def commit(self, act: Act) -> None:
        content, sealed_round = self.sealed
        branch = BRANCHES[act.one % len(BRANCHES)]
        head = self.ledger.at(self.ref(RefKind.BRANCH, branch))
        start = head or self.ledger.at(self.ref(RefKind.BRANCH, DEFAULT_BRANCH))
        command = replace(
            self.world.commit(branch),
            manifest=ChunkId(content.to_bytes(32, "big")),
            gc_round=sealed_round,
            expected_head=head if act.flag else None,
        )
        outcome = self.apply(command)
        is_held = content in self.ledger.disk and sealed_round == collecting.round_of(self.world.view)
        assert isinstance(outcome, Accepted) == is_held, "a commit counts on what may be collected"
        if is_held:
            kept = Kept(content, (start,) if start else ())
            self.ledger.made(self.model, branch, "commit", kept)

    def merge(self, act: Act) -> None:
        """Merge a version into a branch, at once or as what ends a merge that waits."""
        branch = BRANCHES[act.one % len(BRANCHES)]
        ours, theirs = self.ledger.at(self.ref(RefKind.BRANCH, branch)), self.number(act.two)
        waiting = self.waiting if act.flag else 0
        if (self.model, waiting) in self.ledger.waiting:
            ours, theirs, _ = self.ledger.waiting[self.model, waiting]
        content, sealed_round = self.sealed
        if not ours or content not in self.ledger.disk:
            return
        made = merge_commands.merge(self.world, ours, theirs, branch, merge=waiting)
        command = replace(made, manifest=ChunkId(content.to_bytes(32, "big")), gc_round=sealed_round)
        if isinstance(self.apply(command), Accepted):
            self.ledger.made(self.model, branch, "merge", Kept(content, (ours, theirs)))
            self.ledger.waiting.pop((self.model, waiting), None)

    def open_merge(self, act: Act) -> None:
        branch = BRANCHES[act.one % len(BRANCHES)]
        ours = max(1, self.ledger.at(self.ref(RefKind.BRANCH, branch)))
        theirs, base = self.number(act.two), self.number(act.one)
        outcome = self.apply(merge_commands.open_merge(self.world, ours, theirs, branch, base=base))
        if isinstance(outcome, Accepted) and isinstance(outcome.result, MergeResult):
            self.waiting = outcome.result.merge
            self.ledger.waiting[self.model, self.waiting] = (ours, theirs, base)

    def resolve(self, act: Act) -> None:
        if act.flag:
            self.apply(merge_commands.resolve(self.world, max(1, self.waiting), {"w": "ours"}))
        elif isinstance(self.apply(merge_commands.drop(self.world, max(1, self.waiting))), Accepted):
            del self.ledger.waiting[self.model, max(1, self.waiting)]

    def roll_back_branch(self, act: Act) -> None:
        branch = BRANCHES[act.one % len(BRANCHES)]
        head = self.ledger.at(self.ref(RefKind.BRANCH, branch))
        outcome = self.apply(self.world.roll_back_branch(branch, self._target(act)))
        if not (isinstance(outcome, Accepted) and isinstance(outcome.result, VersionResult)):
            return
        made = self.world.view.get(keys.version(self.model, outcome.result.number))
        assert made is not None
        # Which version it went back to is its own choice; that it brings the very content of it is not.
        target = decode_record(made).target_number
        content = self.ledger.versions[self.model][target - 1].content
        self.ledger.made(self.model, branch, "rollback", Kept(content, (head,)))

    def _target(self, act: Act) -> Target:
        targets = (PreviousTarget(), LastGoodTarget(), NumberTarget(self.number(act.two)))
        return targets[act.two % len(targets)]

    # Names

    def create(self, act: Act) -> None:
        number = self.number(act.two)
        if act.flag:
            of = self.ref(RefKind.TAG, f"t{act.one % 2}")
            outcome = self.apply(self.world.create_tag(of.name, number))
        else:
            of = self.ref(RefKind.BRANCH, "exp")
            outcome = self.apply(self.world.create_branch(of.name, number))
        if isinstance(outcome, Accepted):
            self.ledger.moved(of, "create", number)

    def delete_name(self, act: Act) -> None:
        kinds = (
            (RefKind.BRANCH, "exp"),
            (RefKind.TAG, "t0"),
            (RefKind.CHANNEL, "production"),
            (RefKind.BRANCH, "main"),
        )
        of = self.ref(*kinds[act.one % len(kinds)])
        if isinstance(self.apply(state_trash.delete_name(self.world, of.kind, of.name)), Accepted):
            self.ledger.moved(of, "delete", 0)

    def set_channel(self, act: Act) -> None:
        number, of = self.number(act.two), self.ref(RefKind.CHANNEL, "production")
        outcome = self.apply(self.world.set_channel(number))
        if isinstance(outcome, Accepted) and isinstance(outcome.result, RefResult):
            if outcome.result.already:
                assert self.ledger.at(of) == number
            elif not outcome.result.waits:
                self.ledger.moved(of, "set", number)
            self._check_signed(number)

    def protect(self, act: Act) -> None:
        rules: dict[str, ParameterValue] = {"two_person": True} if act.flag else {}
        if act.one % 3 == 0:
            rules["signers"] = [SIGNER.hex()]
        self.apply(self.world.protect(rules))

    def sign(self, act: Act) -> None:
        number = self.number(act.two)
        key = SIGNER if act.flag else state_signatures.KEYS[1 + act.one % 2]
        outcome = self.apply(state_signatures.sign(self.world, number, key))
        if isinstance(outcome, Accepted):
            self.ledger.signed.setdefault((self.model, number), set()).add(key)

    def _check_signed(self, number: int) -> None:
        """A channel went forward: by its rules, it may have."""
        row = read(self.world.view, keys.ref(self.ref(RefKind.CHANNEL, "production")), RefRow)
        assert row is not None
        if "signers" in row.protection:
            assert SIGNER in self.ledger.signed.get((self.model, number), ()), "nobody signed it"

    def approve(self, act: Act) -> None:
        """Let somebody else approve what waits, if it waits."""
        of = self.ref(RefKind.CHANNEL, "production")
        row = read(self.world.view, keys.ref(of), RefRow)
        if row is not None and row.pending is not None:
            request, number = row.pending["index"], row.pending["number"]
            assert isinstance(request, int)
            assert isinstance(number, int)
            command = replace(self.world.approve(request, withdraw=act.flag), principal="bob")
            if isinstance(self.apply(command), Accepted) and not act.flag:
                self.ledger.moved(of, "set", number)
                self._check_signed(number)

    def roll_back_channel(self, act: Act) -> None:
        of, target = self.ref(RefKind.CHANNEL, "production"), self._target(act)
        outcome = self.apply(self.world.roll_back_channel(target))
        if isinstance(outcome, Accepted) and isinstance(outcome.result, RefResult):
            number = outcome.result.ref.number
            was_there = number in [at for _, at in self.ledger.moves[of]]
            assert was_there or target == NumberTarget(number)
            if not was_there:
                self._check_signed(number)
            self.ledger.moved(of, "rollback", number)

    # What needs a version

    def acknowledge(self, act: Act) -> None:
        number, consumer = self.number(act.two), f"gpu-{act.one % 2}"
        state = "loaded" if act.flag else ("failed", "gone")[act.one % 2]
        if isinstance(self.apply(self.world.acknowledge(number, consumer, state)), Accepted):
            was_given_up = (self.model, number) in self.ledger.given_up
            if state == "loaded":
                self.ledger.loaded[self.model, consumer] = (number, was_given_up)
            elif state == "gone":
                self.ledger.loaded.pop((self.model, consumer), None)

    def pin(self, act: Act) -> None:
        number = self.number(act.two)
        if act.flag:
            if isinstance(self.apply(state_trash.pin(self.world, number)), Accepted):
                self.ledger.pins.add((self.model, number))
        elif isinstance(self.apply(state_trash.unpin(self.world, number)), Accepted):
            self.ledger.pins.discard((self.model, number))

    # Deletions

    def delete(self, act: Act) -> None:
        numbers = sorted({self.number(act.one), self.number(act.two)})
        keep_ms = KEEPS_MS[act.one % len(KEEPS_MS)]
        self.apply(state_trash.delete(self.world, *numbers, keep_ms=keep_ms, skip=act.flag))

    def restore(self, act: Act) -> None:
        self.apply(state_trash.restore(self.world, self.number(act.two)))

    def delete_model(self, act: Act) -> None:
        main = self.ref(RefKind.BRANCH, DEFAULT_BRANCH)
        head = self.ledger.at(main)
        keep_ms = KEEPS_MS[act.one % len(KEEPS_MS)]
        if isinstance(self.apply(state_trash.delete_model(self.world, keep_ms=keep_ms)), Accepted):
            self.ledger.removed[self.model].append(head)
            if head:
                self.ledger.moved(main, "delete", 0)

    def restore_model(self, act: Act) -> None:
        main = self.ref(RefKind.BRANCH, DEFAULT_BRANCH)
        outcome = self.apply(state_trash.restore(self.world))
        if isinstance(outcome, Accepted):
            head = self.ledger.removed[self.model].pop()
            if head and not self.ledger.at(main):
                self.ledger.moved(main, "restore", head)

    def empty(self, act: Act) -> None:
        numbers = (self.number(act.two),) if act.flag else ()
        self.apply(state_trash.empty(self.world, *numbers, model=self.model if act.one % 2 else None))

    def empty_all(self, act: Act) -> None:
        self.apply(state_trash.empty(self.world, model=""))

    def set_retention(self, act: Act) -> None:
        rules = parse_rules(RULES[act.one % len(RULES)])
        self.apply(
            SetRetention(
                request_id=self.world.request_id(),
                principal="alice",
                at_ms=self.world.at_ms,
                model=self.model,
                branch="",
                last=rules.last,
                best=(),
                every=rules.every,
                age_min_ms=0,
                trash_ms=rules.trash_ms,
                is_none=False,
            )
        )

    def decide(self, act: Act) -> None:
        """Decide what goes by the rules; it is asked for later, when other things may need it."""
        view = self.world.view
        if not self.count or self.ledger.removed[self.model]:
            return
        found = retention.rules_of_model(view, self.model)
        rules = {each.branch: each.rules for each in found}
        candidates, _ = retention_queries.candidates(
            view, self.model, before=0, limit=1000, metrics=(), with_uses=act.flag
        )
        verdicts = decide(candidates, rules, now_ms=self.world.at_ms)
        numbers = tuple(sorted(verdict.number for verdict in verdicts if verdict.goes))
        if numbers:
            self.decided.append(
                RetireVersions(
                    request_id=self.world.request_id(),
                    principal="retention",
                    at_ms=self.world.at_ms,
                    model=self.model,
                    branch="",
                    generation=found[0].generation,
                    numbers=numbers,
                )
            )

    def retire(self, act: Act) -> None:
        if self.decided:
            decided = self.decided.pop()
            self.apply(replace(decided, at_ms=max(decided.at_ms, self.world.at_ms)))

    # Nodes, time, and those who ask again

    def mark(self, act: Act) -> None:
        if isinstance(self.apply(state_trash.mark(self.world)), Accepted):
            self.ledger.saw_mark(self.world.view)

    def sweep(self, act: Act) -> None:
        self.ledger.swept()

    def hold(self, act: Act) -> None:
        if act.flag:
            self.apply(state_trash.hold(self.world))
        else:
            self.apply(state_trash.release(self.world))

    def wait(self, act: Act) -> None:
        self.world.at_ms += state_trash.DAY_MS * (1 + act.one % 3)

    def turn(self, act: Act) -> None:
        """Go on with the other model; contents are shared."""
        self.world.model = MODELS[act.one % len(MODELS)]

    def again(self, act: Act) -> None:
        if self.done:
            command = self.done[-1 - act.one % min(4, len(self.done))]
            outcome = self.world.apply(command)
            assert isinstance(outcome, Accepted)
            assert outcome.already_applied


ACTS: Final[dict[str, Callable[[Everybody, Act], None]]] = {
    name: getattr(Everybody, name)
    for name in (
        "upload", "commit", "merge", "open_merge", "resolve", "roll_back_branch", "create", "delete_name",
        "set_channel", "protect", "approve", "roll_back_channel", "acknowledge", "pin", "delete", "restore",
        "delete_model", "restore_model", "empty", "empty_all", "set_retention", "decide", "retire", "mark",
        "sweep", "hold", "wait", "turn", "again", "sign",
    )
}  # fmt: skip
# What happens more often: there must be versions before something can happen to them.
_OFTEN = (
    "upload",
    "commit",
    "commit",
    "commit",
    "set_channel",
    "delete",
    "mark",
    "sweep",
    "retire",
    "decide",
    "approve",
)
CHOICES: Final = 12
_numbers = st.integers(0, CHOICES - 1)
VERBS: Final = (*ACTS, *_OFTEN)
_acts = st.builds(Act, st.sampled_from(VERBS), _numbers, _numbers, st.booleans())
START: Final = (
    Act("upload", 1, 0, True),
    Act("commit", 0, 0, True),
    Act("upload", 2, 0, True),
    Act("commit", 0, 0, False),
    Act("commit", 2, 0, False),
    Act("set_retention", 0, 0, True),
    Act("set_channel", 0, 0, True),
    Act("protect", 0, 0, True),
)
sequences: st.SearchStrategy[Sequence[Act]] = st.lists(_acts, min_size=20, max_size=60)
"""What is done after `START`."""


def run(acts: Sequence[Act]) -> Everybody:
    """Do all of it, and check the laws after each."""
    everybody = Everybody()
    for act in (*START, *acts):
        everybody.act(act)
        everybody.ledger.check(everybody.world.view)
    return everybody
