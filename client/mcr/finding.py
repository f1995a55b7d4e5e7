"""Which versions somebody looks for: conditions on metrics, parameters, time, creator and tags. Pure.

    loss<0.5     optimizer.name=adamw     lr>=1e-4     quantised=true

A condition is a name, one of `=  !=  <  <=  >  >=`, and a value. The words mean the same on the command line,
in Python and on the node, because all of them read and check conditions here.

What is not there fits no condition, not even `!=`: a version whose loss nobody reported has no loss that
could differ. Numbers are compared as numbers, so `lr=1` finds 1.0; texts, true, false and null only with `=`
and `!=`, and only with their own kind. NaN equals NaN, so that `loss=nan` finds it, and is neither less nor
greater.
"""

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum

from mcr.canonical import INTEGER_MAX, INTEGER_MIN
from mcr.errors import InvalidArgumentError
from mcr.model import Parameters, ParameterValue
from mcr.values import dataclass

# A person writes a few conditions; a node tests each against every version that it looks at.
CONDITIONS_MAX = 32
# Twice the longest name of a ref, so that a name can be written with a wildcard between any two letters.
PATTERN_CHARACTERS_MAX = 256
KEY_CHARACTERS_MAX = 1024
VALUE_CHARACTERS_MAX = 4096
_SHOWN_CHARACTERS = 80
# The longer operators first: `<=` is not `<` and a value that begins with an equals sign.
_CONDITION = re.compile(r"([^<>=!]+)(<=|>=|!=|==|=|<|>)(.*)", re.DOTALL)


class Comparison(StrEnum):
    """How a value is held against that of a version."""

    EQUAL = "="
    NOT_EQUAL = "!="
    LESS = "<"
    LESS_OR_EQUAL = "<="
    GREATER = ">"
    GREATER_OR_EQUAL = ">="


@dataclass(frozen=True, slots=True)
class Condition:
    """What stands at `name` (of a parameter: dotted) is compared with `value` (of a metric: a float)."""

    name: str
    comparison: Comparison
    value: ParameterValue

    def __str__(self) -> str:
        return f"{self.name}{self.comparison}{json.dumps(self.value, ensure_ascii=False)}"

    def fits(self, value: ParameterValue) -> bool:
        """Tell whether a value that is there meets the condition."""
        match self.comparison:
            case Comparison.EQUAL:
                return _same(value, self.value)
            case Comparison.NOT_EQUAL:
                return not _same(value, self.value)
            case comparison:
                return (
                    _is_number(value) and _is_number(self.value) and _ordered(value, comparison, self.value)
                )


@dataclass(frozen=True, slots=True)
class Conditions:
    """What a version must meet, all of it.

    Attributes:
        metrics: each on the latest reported value.
        parameters: each on a leaf of the parameter tree.
        since_ms, until_ms: made in this time, both ends included; None = open.
        creator: pattern of who made it, `*` any characters and `?` any one; "" = anybody.
        tags: patterns; for each, some tag that points at the version must fit.
    """

    metrics: tuple[Condition, ...] = ()
    parameters: tuple[Condition, ...] = ()
    since_ms: int | None = None
    until_ms: int | None = None
    creator: str = ""
    tags: tuple[str, ...] = ()

    def check(self) -> "Conditions":
        """Return these conditions if a node takes them.

        Raises:
            InvalidArgumentError: too many, or too long; or an order where there is none.
        """
        for argument, conditions in (("metric", self.metrics), ("param", self.parameters)):
            _check_count(argument, conditions)
            for condition in conditions:
                _check_condition(argument, condition)
        if not all(isinstance(condition.value, float) for condition in self.metrics):
            raise InvalidArgumentError("metric", "a metric is a number; write for example loss<0.5")
        _check_count("tag", self.tags)
        for argument, pattern in (("creator", self.creator), *(("tag", tag) for tag in self.tags)):
            if len(pattern) > PATTERN_CHARACTERS_MAX:
                raise InvalidArgumentError(argument, f"longer than {PATTERN_CHARACTERS_MAX} characters")
        if "" in self.tags:
            raise InvalidArgumentError("tag", "an empty pattern fits nothing; write '*' for any tag")
        return self

    def fit_record(self, *, creator: str, parameters: Parameters, created_at_ms: int) -> bool:
        """Tell whether what never changes about a version meets these conditions."""
        if self.since_ms is not None and created_at_ms < self.since_ms:
            return False
        if self.until_ms is not None and created_at_ms > self.until_ms:
            return False
        if self.creator and not fits_pattern(self.creator, creator):
            return False
        return all(
            any(condition.fits(value) for value in leaves_at(parameters, condition.name))
            for condition in self.parameters
        )

    def fit_metrics(self, metrics: Mapping[str, float]) -> bool:
        """Tell whether what was reported meets these conditions."""
        return all(
            condition.name in metrics and condition.fits(metrics[condition.name])
            for condition in self.metrics
        )

    def fit_tags(self, tags: Sequence[str]) -> bool:
        """Tell whether the names of the tags at a version meet these conditions."""
        return all(any(fits_pattern(pattern, tag) for tag in tags) for pattern in self.tags)


def parse_metric_condition(text: str, *, argument: str = "metric") -> Condition:
    """Read a condition on a metric, such as `loss<0.5`.

    Raises:
        InvalidArgumentError: another form, or no number.
    """
    name, comparison, value = _parse(text, argument, "loss<0.5")
    try:
        return Condition(name, comparison, float(value))
    except ValueError as error:
        raise InvalidArgumentError(argument, f"{_shown(text)}: {_shown(value)} is no number") from error


def parse_parameter_condition(text: str, *, argument: str = "param") -> Condition:
    """Read a condition on a parameter, such as `lr=1e-4`; values as for `mcr commit -p`.

    Raises:
        InvalidArgumentError: another form; or an order of what is no number.
    """
    name, comparison, value = _parse(text, argument, "lr=1e-4 or optimizer.name=adamw")
    condition = Condition(name, comparison, _scalar(value))
    _check_condition(argument, condition)
    return condition


def leaves_at(parameters: Parameters, key: str) -> Iterator[ParameterValue]:
    """Yield what stands at a dotted key. A name that holds dots itself makes several places possible."""
    if key in parameters:
        found = parameters[key]
        if not isinstance(found, Mapping):
            yield found
    at = key.find(".")
    while at >= 0:
        below = parameters.get(key[:at])
        if isinstance(below, Mapping):
            yield from leaves_at(below, key[at + 1 :])
        at = key.find(".", at + 1)


def fits_pattern(pattern: str, name: str) -> bool:
    """Tell whether a name fits a pattern of characters, `*` and `?`.

    Goes back to the last `*` only, which is enough, so no pattern takes more than its length times that of
    the name; a regular expression made of it might take for ever.
    """
    at = seen = 0
    star = resume = -1
    while seen < len(name):
        if at < len(pattern) and pattern[at] == "*":
            star, resume = at, seen
            at += 1
        elif at < len(pattern) and pattern[at] in ("?", name[seen]):
            at += 1
            seen += 1
        elif star >= 0:
            resume += 1
            at, seen = star + 1, resume
        else:
            return False
    return not pattern[at:].strip("*")


def _parse(text: str, argument: str, example: str) -> tuple[str, Comparison, str]:
    found = _CONDITION.fullmatch(text)
    name = found[1].strip() if found is not None else ""
    if found is None or not name:
        raise InvalidArgumentError(
            argument, f"{_shown(text)} is no condition; write for example {example} (= != < <= > >=)"
        )
    operator = "=" if found[2] == "==" else found[2]
    return name, Comparison(operator), found[3].strip()


def _scalar(text: str) -> ParameterValue:
    """Return the JSON scalar that a text is, else the text itself."""
    try:
        value: object = json.loads(text, parse_constant=str)
    except (ValueError, RecursionError):
        return text
    return value if value is None or isinstance(value, bool | int | float | str) else text


def _check_count(argument: str, given: Sequence[object]) -> None:
    if len(given) > CONDITIONS_MAX:
        raise InvalidArgumentError(argument, f"{len(given)} given, at most {CONDITIONS_MAX} allowed")


def _check_condition(argument: str, condition: Condition) -> None:
    if not 0 < len(condition.name) <= KEY_CHARACTERS_MAX:
        raise InvalidArgumentError(argument, f"a name has 1 to {KEY_CHARACTERS_MAX} characters")
    value = condition.value
    if isinstance(value, str) and len(value) > VALUE_CHARACTERS_MAX:
        raise InvalidArgumentError(argument, f"a value has at most {VALUE_CHARACTERS_MAX} characters")
    if isinstance(value, int) and not INTEGER_MIN <= value <= INTEGER_MAX:
        raise InvalidArgumentError(argument, f"{condition.name}: the integer needs more than 64 bits")
    if value is not None and not isinstance(value, bool | int | float | str):
        raise InvalidArgumentError(argument, f"{condition.name}: only single values can be compared")
    is_order = condition.comparison not in (Comparison.EQUAL, Comparison.NOT_EQUAL)
    if is_order and not _is_number(value):
        raise InvalidArgumentError(
            argument, f"{_shown(str(condition))}: only numbers are less or greater; use = or !="
        )


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "…")


def _is_number(value: ParameterValue) -> bool:
    # bool is an int to Python, but true is no number to whoever writes a parameter.
    return isinstance(value, int | float) and not isinstance(value, bool)


def _same(a: ParameterValue, b: ParameterValue) -> bool:
    if isinstance(a, float) and isinstance(b, float) and math.isnan(a) and math.isnan(b):
        return True
    if _is_number(a) and _is_number(b):
        return a == b
    return type(a) is type(b) and a == b


def _ordered(a: ParameterValue, comparison: Comparison, b: ParameterValue) -> bool:
    if not (_is_number(a) and _is_number(b)):
        return False
    assert isinstance(a, int | float)
    assert isinstance(b, int | float)
    if a == b:
        return comparison in (Comparison.LESS_OR_EQUAL, Comparison.GREATER_OR_EQUAL)
    # Written out for both, because NaN is neither less nor greater.
    if comparison in (Comparison.LESS, Comparison.LESS_OR_EQUAL):
        return a < b
    return a > b


def parsed_conditions(
    *,
    metrics: Iterable[str | Condition],
    params: Mapping[str, ParameterValue] | Iterable[str | Condition],
) -> tuple[tuple[Condition, ...], tuple[Condition, ...]]:
    """Return conditions on metrics and on parameters as Python callers write them.

    Args:
        metrics: `"loss<0.5"`, or conditions.
        params: `{"lr": 1e-4}`, which means equal; or `"lr>=1e-4"`, or conditions.
    """
    if isinstance(params, Mapping):
        parameters = [Condition(name, Comparison.EQUAL, value) for name, value in params.items()]
    else:
        parameters = [parse_parameter_condition(each) if isinstance(each, str) else each for each in params]
    return (
        tuple(parse_metric_condition(each) if isinstance(each, str) else each for each in metrics),
        tuple(parameters),
    )
