"""Retention rules: which versions of a branch stay. Pure values, and the text in which people write them.

    last=10          the ten newest
    best=3:loss:min  the three with the smallest loss, of those that reported one; :max for the greatest
    every=100        each version whose number is a multiple of 100
    age=7d           those younger than a week
    trash=14d        what goes can be restored for so long; seven days by default

A version stays for any one reason. Whatever the rules say, what a name, a channel's way back, a receipt or a
pin needs stays too.
"""

import re
from collections.abc import Iterable
from dataclasses import replace

from mcr.errors import InvalidArgumentError
from mcr.values import dataclass

DAY_MS = 24 * 60 * 60 * 1000
TRASH_MS_DEFAULT = 7 * DAY_MS
COUNT_MAX = 1_000_000
# Ten years; longer is a slip of the keyboard.
SPAN_MS_MAX = 3653 * DAY_MS
# Each costs memory for its winners while versions are gone through.
BEST_RULES_MAX = 16
METRIC_CHARACTERS_MAX = 96
MIN, MAX = "min", "max"
_UNIT_MS = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": DAY_MS, "w": 7 * DAY_MS}
_SPAN = re.compile(r"(?:[0-9]{1,9}[smhdw])+", re.ASCII)
_PART = re.compile(r"([0-9]+)([smhdw])", re.ASCII)
_COUNT = re.compile(r"[0-9]{1,7}", re.ASCII)


@dataclass(frozen=True, slots=True)
class BestRule:
    """The best versions by one metric.

    Attributes:
        count: how many, from 1.
        metric: its name; versions that did not report it, or not a number, are none of the best.
        goal: `min` or `max`.
    """

    count: int
    metric: str
    goal: str

    def __str__(self) -> str:
        return f"best={self.count}:{self.metric}:{self.goal}"


@dataclass(frozen=True, slots=True)
class RetentionRules:
    """Why versions of a branch stay; a rule at 0 or without entries keeps nothing.

    Attributes:
        last: so many of the newest.
        best: by metrics.
        every: whose number is a multiple of it.
        age_min_ms: younger than that.
        trash_ms: for how long what goes can be restored.
    """

    last: int = 0
    best: tuple[BestRule, ...] = ()
    every: int = 0
    age_min_ms: int = 0
    trash_ms: int = TRASH_MS_DEFAULT

    @property
    def texts(self) -> tuple[str, ...]:
        """The rules as people write them."""
        found = [f"last={self.last}"] if self.last else []
        found += [str(rule) for rule in self.best]
        found += [f"every={self.every}"] if self.every else []
        found += [f"age={span_text(self.age_min_ms)}"] if self.age_min_ms else []
        return (*found, f"trash={span_text(self.trash_ms)}")


@dataclass(frozen=True, slots=True)
class BranchRules:
    """The rules of one branch.

    Attributes:
        branch: "" = of the branches that have none of their own.
        generation: counts the changes, from 1.
        actor, at_ms: of the latest change.
    """

    branch: str
    rules: RetentionRules
    generation: int
    actor: str
    at_ms: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the rules say of one version.

    Attributes:
        goes: whether it is deleted.
        reasons: why it stays, one clause each; or why it goes.
    """

    number: int
    branch: str
    goes: bool
    reasons: tuple[str, ...]


def check_rules(rules: RetentionRules) -> None:
    """Check that rules can be kept by.

    Raises:
        InvalidArgumentError: a number is out of range, or nothing would stay.
    """
    for name, value in (("last", rules.last), ("every", rules.every)):
        _check_range(name, value, 0, COUNT_MAX)
    for name, value in (("age", rules.age_min_ms), ("trash", rules.trash_ms)):
        _check_range(name, value, 0, SPAN_MS_MAX)
    if len(rules.best) > BEST_RULES_MAX:
        raise InvalidArgumentError("best", f"{len(rules.best)} rules, at most {BEST_RULES_MAX}")
    for rule in rules.best:
        _check_range("best", rule.count, 1, COUNT_MAX)
        if not 0 < len(rule.metric) <= METRIC_CHARACTERS_MAX:
            raise InvalidArgumentError("best", f"{rule.metric[:METRIC_CHARACTERS_MAX]!r} names no metric")
        if rule.goal not in (MIN, MAX):
            raise InvalidArgumentError("best", f"{rule.goal[:16]!r} is neither {MIN} nor {MAX}")
    if not (rules.last or rules.best or rules.every or rules.age_min_ms):
        # More likely a mistake than a wish; whoever means it names the versions to `mcr delete`.
        raise InvalidArgumentError("rules", "none of them keeps a version; give last, best, every or age")


def _check_range(name: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise InvalidArgumentError(name, f"{value} is not between {least} and {most}")


def parse_rules(texts: Iterable[str], argument: str = "--set") -> RetentionRules:
    """Return the rules that texts such as `last=10` spell.

    Raises:
        InvalidArgumentError: says which text is wrong, and how to write it.
    """
    rules = RetentionRules()
    met: dict[str, str] = {}
    for text in texts:
        name, _, value = text.partition("=")
        if name in met and name != "best":
            raise InvalidArgumentError(argument, f"{name} is given twice")
        met[name] = value
        match name:
            case "last":
                rules = replace(rules, last=_count(text, value, argument))
            case "every":
                rules = replace(rules, every=_count(text, value, argument))
            case "best":
                rules = replace(rules, best=(*rules.best, _best(text, value, argument)))
            case "age":
                rules = replace(rules, age_min_ms=_span_ms(text, value, argument))
            case "trash":
                rules = replace(rules, trash_ms=_span_ms(text, value, argument))
            case _:
                raise InvalidArgumentError(
                    argument, f"{text[:80]!r} is no rule; write last=10, best=3:loss:min, every=100, age=7d"
                )
    check_rules(rules)
    return rules


def _count(text: str, value: str, argument: str) -> int:
    if _COUNT.fullmatch(value) is None or not int(value):
        raise InvalidArgumentError(argument, f"{text[:80]!r} needs a number from 1")
    return int(value)


def _best(text: str, value: str, argument: str) -> BestRule:
    # A metric may have colons in its name.
    count, _, rest = value.partition(":")
    metric, _, goal = rest.rpartition(":")
    if goal not in (MIN, MAX) or not metric:
        raise InvalidArgumentError(argument, f"{text[:80]!r} is not best=COUNT:METRIC:min or :max")
    return BestRule(_count(text, count, argument), metric, goal)


def _span_ms(text: str, value: str, argument: str) -> int:
    if _SPAN.fullmatch(value) is None:
        raise InvalidArgumentError(argument, f"{text[:80]!r} needs a span such as 12h or 7d")
    return sum(int(count) * _UNIT_MS[unit] for count, unit in _PART.findall(value))


def span_text(span_ms: int) -> str:
    """Return a span as people write it: `7d`, `1d12h`."""
    parts: list[str] = []
    left = span_ms // 1000
    for unit, seconds in (("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)):
        if left >= seconds:
            parts.append(f"{left // seconds}{unit}")
            left %= seconds
    return "".join(parts) or "0s"
