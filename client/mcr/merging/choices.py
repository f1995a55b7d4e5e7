"""What can be decided about a conflict, as text, and rules that decide conflicts by their names.

    ours | theirs | base                    what that side has, be it nothing
    mean | weighted:W | slerp:T | ties:D    computed; tensors only (`mcr.tensors.merging`)
    value:JSON                              parameters only
    given:N:PATH                            the file PATH of version N, or its tensor of the same name, or its
                                            only one: what `--resolve NAME=FILE` becomes, since all content
                                            stands in versions

Names: a file's is its path, a tensor's `PATH:TENSOR`, a parameter's `parameter:dotted.key`, and what stands
around the tensors of a file (metadata, other members) is `PATH:__container__`.
"""

import json
from collections.abc import Mapping, Sequence
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import cast

from mcr.errors import InvalidArgumentError
from mcr.model import ParameterValue
from mcr.tensors.merging import Strategy, obstacle, parse_strategy
from mcr.values import dataclass

CONTAINER = "__container__"
PARAMETER_PREFIX = "parameter:"
RULES_MAX = 256
PATTERN_CHARACTERS_MAX = 1024
_GIVEN, _VALUE = "given:", "value:"
# Forms that only say where something stands; what a user writes instead of them is the path of a file.
_FORMS = "ours, theirs, base, mean, weighted:W, slerp:T, ties:D, value:JSON or the path of a file"

Form = tuple[str, tuple[int, ...]]
"""Element type and shape of a tensor."""


class ConflictKind(StrEnum):
    """What both sides changed."""

    FILE = "file"
    TENSOR = "tensor"
    PARAMETER = "parameter"
    CONTAINER = "container"


@dataclass(frozen=True, slots=True)
class Given:
    """A file of a version, chosen to take the place of what is in conflict."""

    number: int
    path: str


@dataclass(frozen=True, slots=True)
class Value:
    """A value, chosen for a parameter."""

    value: ParameterValue


Choice = Strategy | Given | Value


def parse_choice(text: str) -> Choice | None:
    """Return the choice that `text` is; None when it has no form of one, so that it may be a path.

    Raises:
        InvalidArgumentError: it begins as one and is none.
    """
    if text.startswith(_GIVEN):
        number, colon, path = text.removeprefix(_GIVEN).partition(":")
        if not (number.isascii() and number.isdigit() and colon and path) or int(number) == 0:
            raise InvalidArgumentError("choice", f"{text[:80]!r} is not given:N:PATH")
        return Given(int(number), path)
    if text.startswith(_VALUE):
        try:
            return Value(cast("ParameterValue", json.loads(text.removeprefix(_VALUE))))
        except ValueError as error:
            raise InvalidArgumentError("choice", f"{text[:80]!r} is not value: and JSON") from error
    return parse_strategy(text)


def known_choice(text: str) -> Choice:
    """Return the choice that `text` is.

    Raises:
        InvalidArgumentError: it is none.
    """
    choice = parse_choice(text)
    if choice is None:
        raise InvalidArgumentError("choice", f"{text[:80]!r} is not {_FORMS}")
    return choice


def choice_text(choice: Choice) -> str:
    """Return a choice as `parse_choice` reads it."""
    match choice:
        case Given(number, path):
            return f"{_GIVEN}{number}:{path}"
        case Value(value):
            return f"{_VALUE}{json.dumps(value, allow_nan=False)}"
        case Strategy():
            return str(choice)


@dataclass(frozen=True, slots=True)
class Rule:
    """Conflicts whose names fit a pattern are decided by a strategy.

    Attributes:
        pattern: `*` and `?` stand for anything, `[a-c]` for a set. It fits a whole name, or of a tensor or a
            parameter the part after the colon.
    """

    pattern: str
    strategy: Strategy

    def fits(self, kind: ConflictKind, name: str) -> bool:
        """Tell whether this rule decides a conflict of that name.

        What is computed is for tensors, so such rules pass over everything else.
        """
        if not self.strategy.takes_side and kind is not ConflictKind.TENSOR:
            return False
        short = name.rpartition("\x00")[2]
        return fnmatchcase(name.replace("\x00", ":"), self.pattern) or fnmatchcase(short, self.pattern)


def parse_rule(text: str) -> Rule:
    """Return the rule that `PATTERN=STRATEGY` is.

    Raises:
        InvalidArgumentError: it is none.
    """
    # The last one: a name may hold an equals sign, a strategy never does.
    pattern, equals, word = text.rpartition("=")
    if not equals or not pattern or len(pattern) > PATTERN_CHARACTERS_MAX:
        raise InvalidArgumentError("strategy", f"{text[:80]!r} is not PATTERN=STRATEGY, as 'encoder.*=mean'")
    strategy = parse_strategy(word)
    if strategy is None:
        raise InvalidArgumentError(
            "strategy", f"{word[:80]!r} is not ours, theirs, base, mean, weighted:W, slerp:T or ties:D"
        )
    return Rule(pattern, strategy)


@dataclass(frozen=True, slots=True)
class Conflict:
    """What both sides changed in different ways.

    Attributes:
        name: unique in the merge; see the module's text.
        key: the name with NUL in place of the colon that joins its parts; what rules are held against.
        base, ours, theirs: the three, for people; None where a side has none.
        forms: of the tensors (base, ours, theirs), None where there is none; empty for other kinds.
        reason: why no rule decided, where one would have; else "".
    """

    kind: ConflictKind
    key: str
    base: str | None
    ours: str | None
    theirs: str | None
    forms: Sequence[Form | None] = ()
    reason: str = ""

    @property
    def name(self) -> str:
        """The name as users see and write it."""
        return self.key.replace("\x00", ":")

    def fault_of(self, choice: Choice) -> str:
        """Return why a choice cannot decide this conflict; "" when it can, as far as is known here."""
        match choice:
            case Value():
                return (
                    ""
                    if self.kind is ConflictKind.PARAMETER
                    else f"a value is for a parameter, not a {self.kind}"
                )
            case Given():
                fits = self.kind in (ConflictKind.FILE, ConflictKind.TENSOR)
                return "" if fits else f"a file is for a file or a tensor, not a {self.kind}"
            case Strategy():
                if choice.takes_side:
                    return ""
                if self.kind is not ConflictKind.TENSOR:
                    return f"{choice.method} is for tensors, not a {self.kind}"
                base, ours, theirs = self.forms
                if ours is None or theirs is None:
                    return f"{choice.method} needs the tensor on both sides"
                return obstacle(choice, ours=ours, theirs=theirs, base=base)


@dataclass(frozen=True, slots=True)
class Decision:
    """How a conflict was decided.

    Attributes:
        rule: index of the rule that did; None when its name was chosen.
    """

    choice: Choice
    rule: int | None


class Judge:
    """Decides conflicts one by one, and remembers what it decided and what it could not."""

    def __init__(self, rules: Sequence[Rule], choices: Mapping[str, Choice]) -> None:
        self._rules = tuple(rules)
        self._choices = choices
        self.decided: list[tuple[Conflict, Decision]] = []
        self.open: list[Conflict] = []

    def decide(self, conflict: Conflict) -> Choice | None:
        """Return the choice for a conflict; None when it stays open.

        A chosen name goes before rules. Of the rules the first that fits decides; where its strategy cannot
        be applied the conflict stays open rather than fall to a later rule, which nobody meant for it.

        Raises:
            InvalidArgumentError: what was chosen by name cannot be.
        """
        chosen = self._choices.get(conflict.name)
        if chosen is not None:
            fault = conflict.fault_of(chosen)
            if fault:
                raise InvalidArgumentError("conflict", f"{conflict.name}: {fault}")
            self.decided.append((conflict, Decision(chosen, None)))
            return chosen
        for place, rule in enumerate(self._rules):
            if not rule.fits(conflict.kind, conflict.key):
                continue
            fault = conflict.fault_of(rule.strategy)
            if fault:
                self._leave(conflict, f"{rule.pattern}={rule.strategy} fits, but {fault}")
                return None
            self.decided.append((conflict, Decision(rule.strategy, place)))
            return rule.strategy
        self._leave(conflict, "")
        return None

    def _leave(self, conflict: Conflict, reason: str) -> None:
        self.open.append(
            Conflict(
                conflict.kind,
                conflict.key,
                conflict.base,
                conflict.ours,
                conflict.theirs,
                conflict.forms,
                reason,
            )
        )
