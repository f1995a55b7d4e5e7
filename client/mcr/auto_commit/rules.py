"""When a version is made of what was found: pure decisions."""

from dataclasses import replace

from mcr.auto_commit.happenings import Found
from mcr.errors import InvalidArgumentError
from mcr.values import dataclass

MIN, MAX = "min", "max"


@dataclass(frozen=True, slots=True)
class Improved:
    """Only when a metric is better than in every version made so far.

    Attributes:
        goal: `min` or `max`.
    """

    metric: str
    goal: str


@dataclass(frozen=True, slots=True)
class AutoRules:
    """What must hold, all of it, for a version to be made of complete content that changed.

    Attributes:
        every_steps: at least so many steps from the last version; 0 = any.
        every_s: so many seconds since the last version; 0 = any.
        improved: None = whatever the metrics.
    """

    every_steps: int = 0
    every_s: float = 0.0
    improved: Improved | None = None


@dataclass(frozen=True, slots=True)
class Standing:
    """What was made so far.

    Attributes:
        step: of the last version; None = none, or not known.
        at_ms: when it was made; 0 = none.
        best: value of the metric of `improved`; None = none.
    """

    step: int | None = None
    at_ms: int = 0
    best: float | None = None


@dataclass(frozen=True, slots=True)
class Wait:
    """Not now; look again, since only time has to pass."""

    reason: str


@dataclass(frozen=True, slots=True)
class Skip:
    """Never, as long as the content stays."""

    reason: str


@dataclass(frozen=True, slots=True)
class Make:
    """Make a version."""


Decision = Make | Wait | Skip


def check(rules: AutoRules) -> None:
    """Check that rules make sense.

    Raises:
        InvalidArgumentError: a number is below 0, or the goal is none.
    """
    if rules.every_steps < 0 or rules.every_s < 0:
        raise InvalidArgumentError("every", "it is below 0")
    if rules.improved is not None and rules.improved.goal not in (MIN, MAX):
        raise InvalidArgumentError("improved", f"{rules.improved.goal!r} is neither {MIN} nor {MAX}")


def decide(rules: AutoRules, found: Found, standing: Standing, *, now_ms: int) -> Decision:
    """Decide whether to make a version of what was found."""
    if rules.every_steps:
        if found.step is None:
            return Skip("nothing says which step of training it is")
        # A distance: a training that began anew counts its steps from the start again.
        if standing.step is not None and abs(found.step - standing.step) < rules.every_steps:
            return Skip(f"step {found.step} is less than {rules.every_steps} from {standing.step}")
    improved = rules.improved
    if improved is not None:
        value = found.metrics.get(improved.metric)
        # NaN is better than nothing, and nothing is better than NaN: both fail here.
        if value is None or value != value:
            return Skip(f"it has no {improved.metric}")
        if standing.best is not None and not _is_better(value, standing.best, improved.goal):
            return Skip(f"{improved.metric} {value:g} is no better than {standing.best:g}")
    left_s = rules.every_s - (now_ms - standing.at_ms) / 1000
    if rules.every_s and standing.at_ms and left_s > 0:
        return Wait(f"the last version was made less than {rules.every_s:g} s ago")
    return Make()


def _is_better(value: float, than: float, goal: str) -> bool:
    return value < than if goal == MIN else value > than


def after(rules: AutoRules, found: Found, standing: Standing, *, made_at_ms: int) -> Standing:
    """Return what stands after a version was made."""
    improved = rules.improved
    value = None if improved is None else found.metrics.get(improved.metric)
    return replace(
        standing,
        step=standing.step if found.step is None else found.step,
        at_ms=max(standing.at_ms, made_at_ms),
        best=standing.best if value is None else value,
    )
