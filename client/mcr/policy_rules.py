"""What a rollback policy says: its fields, checked. Pure; clients and nodes read policies by this code.

`docs/examples/policy-loss.yaml` explains every field for those who write one; `policy.schema.json` beside
this file is the same contract for their tools (a test holds both to each other).
"""

import math
import re
from collections.abc import Callable, Mapping

from mcr.errors import InvalidArgumentError, McrError
from mcr.model import NAME_CHARACTERS_MAX, ParameterValue, RefKind
from mcr.references import check_name, parse_reference
from mcr.spans import parse_span
from mcr.values import dataclass

PREVIOUS, LAST_GOOD = "previous", "last-good"
# What `freeze` may say.
NOT_FROZEN, AUTOMATIC, ALL = "", "automatic", "all"
# Each bad report that counts is kept until the decision, as its evidence; so this bounds a row of the state.
COUNT_MAX = 100
SAMPLES_MAX = 1_000_000
PER_DAY_MAX = 100
# A policy that rolls back more often than this in a day is itself what is wrong.
PER_DAY_DEFAULT = 10
SPAN_MS_MAX = 366 * 24 * 60 * 60 * 1000
DESCRIPTION_CHARACTERS_MAX = 4096
# References inside a policy name versions of its own model; any name will do to parse them.
_SOME_MODEL = "some/model"
_SHARE = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,9})?)%", re.ASCII)
PERCENT_MAX = 100

Rules = Mapping[str, ParameterValue]


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyRules:
    """A policy that was checked. Times are in milliseconds; 0 and "" mean: no such rule.

    Attributes:
        kind, ref: the channel or branch that is rolled back.
        metric: whose reports are watched; "" = those of any, for `missing` alone.
        above, below: a report beyond is bad.
        drop: a report is bad that is worse than the reference by more than this; a share of the reference's
            value where `drop_is_relative`.
        lower_is_better: what worse means.
        baseline: value or version (a reference) that reports are compared with; None = the last good version.
        nan: a report of NaN or an infinity is bad.
        missing_ms: it is bad when none comes for so long.
        count: so many bad reports, of those in `window_ms`, lead to the rollback; 0 = only `consecutive`
            does.
        consecutive: so many bad reports in a row do.
        interval_ms: a report sooner than this after the last one that counted does not count.
        samples: before so many reports, good and bad, nothing is decided.
        cool_down_ms: after a rollback nothing more is decided for so long.
        per_day: more rollbacks than this in 24 hours are not made.
        never_past: a tag; no rollback goes to a version before it.
        target: `previous`, `last-good` or a reference.
        freeze: who moves the channel no more after a rollback: `automatic` = no policy, `all` = nobody
            forward, until it is unfrozen.
        dry_run: decide and remember, but move nothing.
    """

    kind: RefKind
    ref: str
    metric: str = ""
    above: float | None = None
    below: float | None = None
    drop: float | None = None
    drop_is_relative: bool = False
    lower_is_better: bool = False
    baseline: float | str | None = None
    nan: bool = False
    missing_ms: int = 0
    count: int = 0
    consecutive: int = 0
    window_ms: int = 0
    interval_ms: int = 0
    samples: int = 1
    cool_down_ms: int = 0
    per_day: int = PER_DAY_DEFAULT
    never_past: str = ""
    target: str = PREVIOUS
    freeze: str = NOT_FROZEN
    dry_run: bool = False

    @property
    def judges_reports(self) -> bool:
        """Tell whether a report can be bad, or only its absence."""
        return self.nan or any(limit is not None for limit in (self.above, self.below, self.drop))


FIELDS = (
    "channel",
    "branch",
    "description",
    "metric",
    "above",
    "below",
    "drop",
    "better",
    "baseline",
    "nan",
    "missing",
    "count",
    "consecutive",
    "window",
    "interval",
    "samples",
    "cool_down",
    "max_per_day",
    "never_past",
    "target",
    "freeze",
    "dry_run",
)


def parse_rules(values: Rules) -> PolicyRules:
    """Check the fields of a policy.

    Raises:
        InvalidArgumentError: names the first field that is wrong, and why.
    """
    for name in sorted(values):
        if name not in FIELDS:
            raise InvalidArgumentError(
                name[:NAME_CHARACTERS_MAX], f"no such field; known: {', '.join(FIELDS)}"
            )
    kind, ref = _ref(values)
    drop, is_relative = _drop(values)
    rules = PolicyRules(
        kind=kind,
        ref=ref,
        metric=_metric(values),
        above=_number(values, "above"),
        below=_number(values, "below"),
        drop=drop,
        drop_is_relative=is_relative,
        lower_is_better=_choice(values, "better", ("higher", "lower")) == "lower",
        baseline=_baseline(values),
        nan=_flag(values, "nan"),
        missing_ms=_span(values, "missing"),
        count=_count(values, "count", COUNT_MAX, 0 if "consecutive" in values else 1),
        consecutive=_count(values, "consecutive", COUNT_MAX, 0),
        window_ms=_span(values, "window"),
        interval_ms=_span(values, "interval"),
        samples=_count(values, "samples", SAMPLES_MAX, 1),
        cool_down_ms=_span(values, "cool_down"),
        per_day=_count(values, "max_per_day", PER_DAY_MAX, PER_DAY_DEFAULT),
        never_past=_tag(values),
        target=_target(values),
        freeze=_choice(values, "freeze", (NOT_FROZEN, AUTOMATIC, ALL)),
        dry_run=_flag(values, "dry_run"),
    )
    _text(values, "description", DESCRIPTION_CHARACTERS_MAX)
    _check_together(values, rules)
    return rules


def _check_together(values: Rules, rules: PolicyRules) -> None:
    """Check what no field can tell alone."""
    if not rules.judges_reports and not rules.missing_ms:
        raise InvalidArgumentError(
            "policy", "it watches for nothing: give above, below, drop, nan or missing"
        )
    if rules.judges_reports and not rules.metric:
        raise InvalidArgumentError("metric", "it is needed, but for a policy of missing reports alone")
    for name in ("baseline", "better"):
        if name in values and rules.drop is None:
            raise InvalidArgumentError(name, "it needs drop")
    if "window" in values and not rules.count:
        raise InvalidArgumentError("window", "it bounds count, which is not given")
    for name in ("count", "consecutive", "interval", "samples"):
        if name in values and not rules.judges_reports:
            raise InvalidArgumentError(name, "it is about bad reports: give above, below, drop or nan")
    if rules.freeze and rules.kind is not RefKind.CHANNEL:
        raise InvalidArgumentError("freeze", "only channels can be frozen")
    if rules.above is not None and rules.below is not None and rules.above < rules.below:
        raise InvalidArgumentError("above", "it is less than below, so every report would be bad")


def _ref(values: Rules) -> tuple[RefKind, str]:
    given = [kind for kind in (RefKind.CHANNEL, RefKind.BRANCH) if str(kind) in values]
    if len(given) != 1:
        raise InvalidArgumentError("policy", "it names one channel or one branch")
    name = values[str(given[0])]
    if not isinstance(name, str):
        raise InvalidArgumentError(str(given[0]), "it is not a name")
    return given[0], _checked(str(given[0]), name, lambda: check_name(str(given[0]), name))


def _checked(field: str, value: str, check: Callable[[], object]) -> str:
    try:
        check()
    except McrError as error:
        raise InvalidArgumentError(field, error.message) from error
    return value


def _text(values: Rules, field: str, characters_max: int) -> str:
    value = values.get(field, "")
    if not isinstance(value, str):
        raise InvalidArgumentError(field, "it is not a text")
    if len(value) > characters_max:
        raise InvalidArgumentError(field, f"it has {len(value)} characters, at most {characters_max}")
    return value


def _metric(values: Rules) -> str:
    if "metric" not in values:
        return ""
    name = _text(values, "metric", NAME_CHARACTERS_MAX)
    if not name or not name.isprintable():
        raise InvalidArgumentError("metric", "it is empty or has a character that cannot be shown")
    return name


def _number(values: Rules, field: str) -> float | None:
    if field not in values:
        return None
    value = values[field]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidArgumentError(field, "it is not a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise InvalidArgumentError(field, "it is not a finite number")
    return number


def _drop(values: Rules) -> tuple[float | None, bool]:
    text = values.get("drop")
    if isinstance(text, str):
        share = _SHARE.fullmatch(text)
        if share is None or float(share[1]) > PERCENT_MAX:
            raise InvalidArgumentError("drop", "it is neither a number nor a share such as 5%")
        return float(share[1]) / PERCENT_MAX, True
    drop = _number(values, "drop")
    if drop is not None and drop < 0:
        raise InvalidArgumentError("drop", "it is less than 0; better: lower says that a rise is worse")
    return drop, False


def _baseline(values: Rules) -> float | str | None:
    value = values.get("baseline")
    if isinstance(value, str):
        return _reference("baseline", value)
    return _number(values, "baseline")


def _flag(values: Rules, field: str) -> bool:
    value = values.get(field, False)
    if not isinstance(value, bool):
        raise InvalidArgumentError(field, "it is neither true nor false")
    return value


def _count(values: Rules, field: str, maximum: int, default: int) -> int:
    value = values.get(field, default)
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidArgumentError(field, "it is not a whole number")
    if field in values and not 1 <= value <= maximum:
        raise InvalidArgumentError(field, f"{value} is not between 1 and {maximum}")
    return value


def _span(values: Rules, field: str) -> int:
    if field not in values:
        return 0
    value = values[field]
    span = parse_span(value) if isinstance(value, str) else None
    if span is None:
        raise InvalidArgumentError(field, "it is no span of time such as 30s, 10m or 1h30m")
    # In whole numbers: a float of seconds would not be the same on every machine for ever.
    length_ms = (span.days * 86_400 + span.seconds) * 1000 + span.microseconds // 1000
    if not 1 <= length_ms <= SPAN_MS_MAX:
        raise InvalidArgumentError(field, "it is not between 1 millisecond and a year")
    return length_ms


def _choice(values: Rules, field: str, choices: tuple[str, ...]) -> str:
    value = values.get(field, choices[0])
    if not isinstance(value, str) or value not in choices or (field in values and not value):
        named = " or ".join(choice for choice in choices if choice)
        raise InvalidArgumentError(field, f"it is not {named}")
    return value


def _tag(values: Rules) -> str:
    if "never_past" not in values:
        return ""
    name = _text(values, "never_past", NAME_CHARACTERS_MAX)
    return _checked("never_past", name, lambda: check_name("tag", name))


def _target(values: Rules) -> str:
    value = values.get("target", PREVIOUS)
    if not isinstance(value, str):
        raise InvalidArgumentError("target", "it is not previous, last-good or a reference")
    return value if value in (PREVIOUS, LAST_GOOD) else _reference("target", value)


def _reference(field: str, text: str) -> str:
    return _checked(field, text, lambda: parse_reference(text, model=_SOME_MODEL))
