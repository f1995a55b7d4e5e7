"""Protection: the rules that moves of a channel must meet.

    rule      value                             a move is refused unless
    -------   -------------------------------   ------------------------------------------------------
    actors    list of 1 to 100 principals       one of them asks
    branch    name of a branch                  the version was made on that branch
    metrics   list of 1 to 100 metric names     each was reported for the version with a finite value
    available list of 1 to 100 sites            each has all bytes of the version, which the proposer looks up
    signers   list of 1 to 100 public keys      each has signed the version (`signatures`)
    two_person true                             somebody else approves it (`channels.approve`)

Rules are a mapping so that a later release can add one; a rule that this release does not know is refused,
never ignored.
"""

import math
from collections.abc import Mapping, Sequence

from mcr.errors import InvalidArgumentError, ProtectedError, SignersMissingError
from mcr.model import ParameterValue
from mcr.record import Record
from mcr.references import check_name
from mcr.signatures import is_public_key
from mcr_node.core.state import keys, signatures
from mcr_node.core.state.keys import RefName
from mcr_node.core.state.records import MetricRow, read
from mcr_node.core.state.texts import check_principal, check_text, metric_name_fault, shown
from mcr_node.core.state.view import View

Rules = Mapping[str, ParameterValue]
RULES = ("actors", "branch", "metrics", "available", "signers", "two_person")
RULE_ITEMS_MAX = 100
SITE_CHARACTERS_MAX = 96
# Keys that a refusal names; the rest is counted, so that it fits into an answer.
SIGNERS_NAMED_MAX = 3


def check_rules(rules: Rules) -> None:
    """Check rules that somebody wants to set.

    Raises:
        InvalidArgumentError, InvalidNameError: a rule is unknown, or its value does not have its form.
    """
    for rule in sorted(rules):
        value = rules[rule]
        match rule:
            case "actors" | "metrics" | "available" | "signers":
                for item in _texts(rule, value):
                    _check_item(rule, item)
            case "branch":
                if not isinstance(value, str):
                    raise InvalidArgumentError(rule, "it is not a text")
                check_name("branch", value)
            case "two_person":
                if value is not True:
                    raise InvalidArgumentError(rule, "it is not true; leave it out where one is enough")
            case _:
                raise InvalidArgumentError("protection", f"{shown(rule)!r} is none of {', '.join(RULES)}")


def _check_item(rule: str, item: str) -> None:
    match rule:
        case "actors":
            check_principal(rule, item)
        case "metrics":
            fault = metric_name_fault(item)
            if fault:
                raise InvalidArgumentError(rule, f"the name of a metric: {fault}")
        case "signers":
            if not is_public_key(item):
                raise InvalidArgumentError(rule, f"{shown(item)!r} is no public key in hexadecimal")
        case _:
            check_text(rule, item, SITE_CHARACTERS_MAX)


def _texts(rule: str, value: ParameterValue) -> list[str]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise InvalidArgumentError(rule, "it is not a list")
    if not 1 <= len(value) <= RULE_ITEMS_MAX:
        raise InvalidArgumentError(rule, f"it has {len(value)} items, not 1 to {RULE_ITEMS_MAX}")
    texts = [item for item in value if isinstance(item, str)]
    if len(texts) < len(value):
        raise InvalidArgumentError(rule, "an item is not a text")
    return texts


def check_actor(rules: Rules, of: RefName, principal: str) -> None:
    """Check that somebody may move a channel at all.

    Raises:
        ProtectedError: it has actors, and this is none of them.
    """
    actors = rules.get("actors")
    # What is stored went through `check_rules`.
    if actors is not None and principal not in _texts("actors", actors):
        raise ProtectedError(str(of), f"{principal} is none of its actors")


def needs_two(rules: Rules) -> bool:
    """Tell whether a move must be approved by somebody else."""
    return "two_person" in rules


def sites_needed(rules: Rules) -> list[str]:
    """Return the sites that must have all bytes of a version before a channel moves to it."""
    return _texts("available", rules["available"]) if "available" in rules else []


def check_move(
    view: View,
    rules: Rules,
    of: RefName,
    record: Record,
    principal: str,
    *,
    available: Sequence[str] = (),
) -> None:
    """Check that somebody may move a channel to a version.

    Args:
        view: the state.
        rules: of the channel.
        of: the channel.
        record: of the version.
        principal: who asks.
        available: sites that have all its bytes, as far as the proposer looked.

    Raises:
        ProtectedError: names the first rule that is not met.
        SignersMissingError: that of the signers; names them.
    """
    check_actor(rules, of, principal)
    branch = rules.get("branch")
    if branch is not None and record.branch != branch:
        reason = f"it takes versions of branch {branch}; v{record.number} was made on {record.branch}"
        raise ProtectedError(str(of), reason)
    for name in _texts("metrics", rules["metrics"]) if "metrics" in rules else ():
        row = read(view, keys.metric(record.model, record.number, name), MetricRow)
        if row is None or not math.isfinite(row.value):
            state = "not reported" if row is None else f"reported as {row.value}"
            raise ProtectedError(str(of), f"metric {name} of v{record.number} is {state}")
    _check_signers(view, rules, of, record)
    for site in sites_needed(rules):
        if site not in available:
            raise ProtectedError(str(of), f"v{record.number} is not available at site {site} yet")


def _check_signers(view: View, rules: Rules, of: RefName, record: Record) -> None:
    wanted = _texts("signers", rules["signers"]) if "signers" in rules else []
    missing = signatures.missing_signers(view, record.model, record.number, wanted)
    if missing:
        named = ", ".join(missing[:SIGNERS_NAMED_MAX])
        more = len(missing) - SIGNERS_NAMED_MAX
        reason = f"v{record.number} is not signed by {named}" + (f" and {more} more" if more > 0 else "")
        raise SignersMissingError(str(of), reason, f"{record.model}@v{record.number}", len(missing))
