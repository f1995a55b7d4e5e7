"""The little language of the scenarios about policies: that of `state_story`, and these.

case N                                 begin anew: versions 1 to N on main, each set as production in turn
policy NAME FIELD: VALUE, ...          set a policy, as in its YAML file but on one line
forget NAME                            delete it
settle NAME                            what the leader does at every turn: decide what is due, if anything is
why NAME                               why it did what it did, or nothing
decisions NAME                         what it decided, newest first, with the evidence
evidence KIND NAME GENERATION          what is kept with a move
where KIND NAME                        where a ref is, who moved it and why, and how it is frozen
freeze CHANNEL automatic|all|off       by whoever asks
guard CHANNEL [two-person] [available SITE,SITE] [actors A,B]
ask CHANNEL VERSION [available SITE,SITE]            set, where the proposer found the bytes at those sites
approve CHANNEL [INDEX] [available SITE,SITE]        what waits, or what was asked for at that log index
withdraw CHANNEL
report VERSION METRIC=VALUE ... [channel NAME] [generation N]
"""

from dataclasses import replace

import yaml

from mcr.model import ParameterValue, RefKind
from mcr_node.core.state import explaining, lookup, watching
from mcr_node.core.state.judging import shown
from mcr_node.core.state.keys import RefName
from tests.simulation.state_story import StateStory, _number, _options
from tests.support.state_world import MODEL, START_MS, StateWorld


class PolicyStory(StateStory):
    """One scenario's state, with policies."""

    def do_case(self, words: list[str]) -> str:
        self.world = StateWorld()
        count = int(words[0])
        self.world.commits(count)
        ref = self.world.channel_set(*range(1, count + 1))
        return f"{ref.kind}:{ref.name} at v{ref.number} generation {ref.generation}"

    def do_policy(self, words: list[str]) -> str:
        rules = yaml.safe_load("{" + " ".join(words[1:]) + "}")
        return self._apply(self.world.set_policy(words[0], rules))

    def do_forget(self, words: list[str]) -> str:
        return self._apply(self.world.delete_policy(words[0]))

    def do_report(self, words: list[str]) -> str:
        options, metrics = _options(words[1:])
        command = self.world.report(
            _number(words[0]),
            metrics,
            options.get("channel", ""),
            generation=int(options.get("generation", 0)),
        )
        return self._apply(command)

    def do_settle(self, words: list[str]) -> str:
        self.world.at_ms += 1000
        generation = watching.unsettled(self.world.view, MODEL, words[0], self.world.at_ms)
        return self._apply(self.world.settle(words[0], generation)) if generation else "nothing is due"

    def do_freeze(self, words: list[str]) -> str:
        level = "" if words[1] == "off" else words[1]
        return self._apply(self.world.freeze(level, words[0]))

    def do_guard(self, words: list[str]) -> str:
        options, _ = _options([word for word in words[1:] if word != "two-person"])
        rules: dict[str, ParameterValue] = {name: value.split(",") for name, value in options.items()}
        if "two-person" in words:
            rules["two_person"] = True
        return self._apply(self.world.protect(rules, words[0]))

    def do_ask(self, words: list[str]) -> str:
        sites = tuple(words[3].split(",")) if len(words) > 2 else ()
        return self._apply(replace(self.world.set_channel(_number(words[1]), words[0]), available=sites))

    def do_approve(self, words: list[str]) -> str:
        pending = lookup.ref_row(self.world.view, RefName(MODEL, RefKind.CHANNEL, words[0])).pending or {}
        request = int(words[1]) if words[1:2] and words[1].isdigit() else int(str(pending.get("index", 1)))
        sites = tuple(words[-1].split(",")) if "available" in words else ()
        return self._apply(self.world.approve(request, words[0], available=sites))

    def do_withdraw(self, words: list[str]) -> str:
        pending = lookup.ref_row(self.world.view, RefName(MODEL, RefKind.CHANNEL, words[0])).pending or {}
        return self._apply(self.world.approve(int(str(pending.get("index", 1))), words[0], withdraw=True))

    def do_why(self, words: list[str]) -> str:
        return "\n".join(explaining.explain(self.world.view, MODEL, words[0], at_ms=self.world.at_ms).why)

    def do_decisions(self, words: list[str]) -> str:
        state = explaining.explain(self.world.view, MODEL, words[0], at_ms=self.world.at_ms)
        lines = []
        for one in state.decisions:
            moved = f" to generation {one.new_generation}" if one.new_generation != one.generation else ""
            versions = f"v{one.number} to v{one.target_number}"
            lines.append(f"{one.outcome} generation {one.generation}{moved}, {versions}: {one.reason}")
            lines += _evidence(one.evidence)
        return "\n".join(lines) or "no decision"

    def do_evidence(self, words: list[str]) -> str:
        kind, name, generation = words
        of = RefName(MODEL, RefKind(kind), name)
        row = lookup.move_row(self.world.view, of, int(generation))
        return "\n".join(_evidence(row.evidence or {})) or "none"

    def do_where(self, words: list[str]) -> str:
        row = lookup.ref_row(self.world.view, RefName(MODEL, RefKind(words[0]), words[1]))
        frozen = f" frozen ({row.frozen['level']} by {row.frozen['actor']})" if row.frozen else ""
        because = f" because {row.reason}" if row.reason else ""
        return f"v{row.number} generation {row.generation} by {row.actor}{because}{frozen}"


def _evidence(evidence: object) -> list[str]:
    assert isinstance(evidence, dict)
    lines = []
    for sample in evidence.get("samples", ()):
        seconds = (sample["at_ms"] - START_MS) // 1000
        value = shown(sample["value"])
        lines.append(
            f"  report {sample['index']} at {seconds} s by {sample['principal']}: {value}: {sample['why']}"
        )
    if "reference" in evidence:
        reference = evidence["reference"]
        lines.append(f"  compared with v{reference['number']}: {shown(reference['value'])}")
    if "missing_since_ms" in evidence:
        lines.append(f"  nothing since {(evidence['missing_since_ms'] - START_MS) // 1000} s")
    return lines
