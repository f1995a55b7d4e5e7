"""What a merge version keeps: enough to compute it again, and who decided what.

Canonical bytes (`mcr.canonical`) of a mapping:

    format       1
    arithmetic   version of the definitions of `mcr.tensors.merging` it was computed by
    code         release of mcr that computed it
    seed         0: no strategy draws at random
    inputs       [[number, id] of base (number 0 and no id when there is none), ours, theirs]
    rules        [[pattern, strategy]] in the order in which they were asked
    asked_by     who gave the rules; "" = the creator of the version
    choices      [[name, choice, decider]], by name: what was decided by name; decider as `asked_by`
    decided      [[rule, [names]]]: what each rule decided, in the order in which it was met
    omitted      how many names are left out of `decided`, which holds no more than 256 KiB of them: they are
                 what the rules decide when the merge is computed again

While a merge waits, its document is the same, and `choices` holds what was decided before it had to wait.
What a conflict is about, `Conflict.detail`, is the mapping kind, key, base, ours, theirs, forms, reason.
"""

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any, cast

from mcr import canonical
from mcr.canonical import CanonicalError, CanonicalValue
from mcr.errors import FailedError, StoreFormatError
from mcr.merging.choices import Conflict, ConflictKind, Decision, Form, Rule
from mcr.model import KIB
from mcr.tensors.merging import ARITHMETIC, parse_strategy
from mcr.values import dataclass

FORMAT = 1
NAMES_BYTES_MAX = 256 * KIB
_PLACE = "a merge document"


@dataclass(frozen=True, slots=True)
class Input:
    """A version that was merged.

    Attributes:
        number: 0 = there was none.
        id: 64 hexadecimal characters.
    """

    number: int
    id: str


@dataclass(frozen=True, slots=True)
class NamedChoice:
    """A conflict that was decided by name.

    Attributes:
        decider: "" = whoever made the version, or opened the merge that waits.
    """

    name: str
    choice: str
    decider: str = ""


@dataclass(frozen=True, slots=True)
class Document:
    """See the module's text."""

    base: Input
    ours: Input
    theirs: Input
    rules: tuple[Rule, ...]
    choices: tuple[NamedChoice, ...] = ()
    asked_by: str = ""
    decided: tuple[tuple[int, tuple[str, ...]], ...] = ()
    omitted: int = 0
    code: str = ""
    arithmetic: int = ARITHMETIC
    seed: int = 0


def code_version() -> str:
    """Return what computes, for `code`."""
    return f"mcr {version('mcr-store')}"


def encode(document: Document) -> bytes:
    """Return the canonical bytes."""
    return canonical.encode(
        {
            "format": FORMAT,
            "arithmetic": document.arithmetic,
            "code": document.code,
            "seed": document.seed,
            "inputs": [
                [each.number, bytes.fromhex(each.id)]
                for each in (document.base, document.ours, document.theirs)
            ],
            "rules": [[rule.pattern, str(rule.strategy)] for rule in document.rules],
            "asked_by": document.asked_by,
            "choices": [[each.name, each.choice, each.decider] for each in document.choices],
            "decided": [[rule, list(names)] for rule, names in document.decided],
            "omitted": document.omitted,
        }
    )


def decode(data: bytes) -> Document:
    """Read a document.

    Raises:
        StoreFormatError: a newer release wrote it, or computes by other definitions.
        FailedError: it is none.
    """
    try:
        value = cast("dict[str, Any]", canonical.decode(data))
        if value["format"] > FORMAT:
            raise StoreFormatError(_PLACE, value["format"], FORMAT)
        if value["arithmetic"] > ARITHMETIC:
            raise StoreFormatError(_PLACE, value["arithmetic"], ARITHMETIC)
        base, ours, theirs = (Input(number, identity.hex()) for number, identity in value["inputs"])
        return Document(
            base=base,
            ours=ours,
            theirs=theirs,
            rules=tuple(_rule(pattern, strategy) for pattern, strategy in value["rules"]),
            choices=tuple(NamedChoice(*each) for each in value["choices"]),
            asked_by=value["asked_by"],
            decided=tuple((rule, tuple(names)) for rule, names in value["decided"]),
            omitted=value["omitted"],
            code=value["code"],
            arithmetic=value["arithmetic"],
            seed=value["seed"],
        )
    except (CanonicalError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise FailedError(_PLACE, f"it cannot be read: {error}") from error


def _rule(pattern: str, text: str) -> Rule:
    strategy = parse_strategy(text)
    if strategy is None:
        raise ValueError(f"a strategy {text[:80]!r}")
    return Rule(pattern, strategy)


def decided_by_rules(
    decisions: Sequence[tuple[Conflict, Decision]],
) -> tuple[tuple[tuple[int, tuple[str, ...]], ...], int]:
    """Return which names each rule decided, and how many were left out because they are too many."""
    names: dict[int, list[str]] = {}
    length_bytes = omitted = 0
    for conflict, decision in decisions:
        if decision.rule is None:
            continue
        length_bytes += len(conflict.name.encode()) + 3
        if length_bytes > NAMES_BYTES_MAX:
            omitted += 1
            continue
        names.setdefault(decision.rule, []).append(conflict.name)
    return tuple((rule, tuple(found)) for rule, found in sorted(names.items())), omitted


def encode_conflict(conflict: Conflict) -> bytes:
    """Return what a conflict is about."""
    return canonical.encode(
        {
            "kind": str(conflict.kind),
            "key": conflict.key,
            "base": conflict.base,
            "ours": conflict.ours,
            "theirs": conflict.theirs,
            "forms": [None if form is None else [form[0], list(form[1])] for form in conflict.forms],
            "reason": conflict.reason,
        }
    )


def decode_conflict(data: bytes) -> Conflict:
    """Read what `encode_conflict` gave.

    Raises:
        FailedError: it is something else.
    """
    try:
        value = cast("Mapping[str, Any]", canonical.decode(data))
        return Conflict(
            ConflictKind(value["kind"]),
            value["key"],
            value["base"],
            value["ours"],
            value["theirs"],
            tuple(_form(form) for form in value["forms"]),
            value["reason"],
        )
    except (CanonicalError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise FailedError("a conflict", f"it cannot be read: {error}") from error


def _form(value: CanonicalValue) -> Form | None:
    if value is None:
        return None
    dtype, shape = cast("tuple[str, list[int]]", value)
    return dtype, tuple(shape)
