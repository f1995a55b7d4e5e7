"""Which versions go by the rules of their branches: the decision, as a function of what there is.

Laws:
    A version goes only when its branch has rules, none of them keeps it, and nothing needs it.
    The more a rule asks for (`last`, `best`, `age`), the more stays; one rule more never lets more go.
    Of a branch whose rules have `last=n`, the n newest versions stay, whatever else happens.
    What is deleted already counts for nothing: it is none of the last and none of the best.
    Of versions with equal metrics the newer is better, so the order of reports does not matter.

Versions are gone through twice, so what is kept in memory is bounded by the rules and the branches, however
many versions there are: the winners of each `best`, a count for each branch.
"""

import heapq
import math
from collections.abc import Iterable, Iterator, Mapping

from mcr.retention_rules import MIN, BestRule, RetentionRules, Verdict, span_text
from mcr.values import dataclass

RulesOfBranches = Mapping[str, RetentionRules]
"""By branch; "" = of the branches that have none of their own."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A version that is there.

    Attributes:
        created_at_ms: log time.
        metrics: the latest reported value of each, of those that rules ask for.
        uses: what needs it, one clause each.
    """

    number: int
    branch: str
    created_at_ms: int
    metrics: Mapping[str, float]
    uses: tuple[str, ...] = ()


def rules_for(rules: RulesOfBranches, branch: str) -> RetentionRules | None:
    """Return the rules that hold for a branch; None when there are none."""
    found = rules.get(branch)
    return rules.get("") if found is None else found


def metrics_asked(rules: RulesOfBranches) -> tuple[str, ...]:
    """Return the names of the metrics that decide."""
    return tuple(dict.fromkeys(rule.metric for each in rules.values() for rule in each.best))


class Decision:
    """One decision about the versions of a model: `survey` each of them, then ask for the verdict on each."""

    def __init__(self, rules: RulesOfBranches, *, now_ms: int) -> None:
        """Begin; ages are measured at the log time `now_ms`."""
        self._rules = rules
        self._now_ms = now_ms
        # (branch, rule) to a heap of (merit, number), the worst first.
        self._best: dict[tuple[str, BestRule], list[tuple[float, int]]] = {}
        self._rank: dict[str, int] = {}

    def survey(self, candidate: Candidate) -> None:
        """Take a version into account, in any order."""
        rules = rules_for(self._rules, candidate.branch)
        # Of a rule that was given twice once, or a version would take two of its places.
        for rule in () if rules is None else dict.fromkeys(rules.best):
            value = candidate.metrics.get(rule.metric)
            if value is None or math.isnan(value):
                continue
            heap = self._best.setdefault((candidate.branch, rule), [])
            heapq.heappush(heap, (-value if rule.goal == MIN else value, candidate.number))
            if len(heap) > rule.count:
                heapq.heappop(heap)

    def verdict(self, candidate: Candidate) -> Verdict:
        """Say what becomes of a version; asked from the newest to the oldest, each once."""
        rules = rules_for(self._rules, candidate.branch)
        rank = self._rank.get(candidate.branch, 0)
        self._rank[candidate.branch] = rank + 1
        reasons = [*candidate.uses]
        if rules is None:
            reasons.append("its branch has no rules")
        else:
            reasons += self._reasons(candidate, rules, rank)
        if reasons or rules is None:
            return Verdict(candidate.number, candidate.branch, False, tuple(reasons))
        return Verdict(candidate.number, candidate.branch, True, (reason_to_go(rules),))

    def _reasons(self, candidate: Candidate, rules: RetentionRules, rank: int) -> Iterator[str]:
        if rank < rules.last:
            yield f"one of the last {rules.last} of its branch"
        for rule in dict.fromkeys(rules.best):
            best = self._best.get((candidate.branch, rule), ())
            if any(number == candidate.number for _, number in best):
                yield f"one of the best {rule.count} by {rule.metric} ({rule.goal})"
        if rules.every and candidate.number % rules.every == 0:
            yield f"its number is a multiple of {rules.every}"
        if self._now_ms - candidate.created_at_ms < rules.age_min_ms:
            yield f"younger than {span_text(rules.age_min_ms)}"


def reason_to_go(rules: RetentionRules) -> str:
    """Return why a version goes, for people; kept in its deletion."""
    kept = " ".join(text for text in rules.texts if not text.startswith("trash="))
    return f"retention: not kept by {kept}"


def decide(candidates: Iterable[Candidate], rules: RulesOfBranches, *, now_ms: int) -> list[Verdict]:
    """Return the verdict on each version; `candidates` newest first."""
    found = tuple(candidates)
    decision = Decision(rules, now_ms=now_ms)
    for candidate in found:
        decision.survey(candidate)
    return [decision.verdict(candidate) for candidate in found]
