"""The command about which versions stay: retention."""

import click

from mcr.cli.forms import count, table, timestamp
from mcr.cli.options import BRANCH, ModelName, command, with_session
from mcr.cli.output import JsonObject, one_line
from mcr.cli.session import Session
from mcr.errors import InvalidArgumentError
from mcr.references import check_name
from mcr.retention_rules import BranchRules, Verdict, parse_rules

OFF = "off"
_ALL_OTHERS = "(all others)"


@command(
    "retention",
    examples="""
    mcr retention vision/resnet50                                      # the rules
    mcr retention vision/resnet50 --set last=10 --set best=3:loss:min --dry-run
    mcr retention vision/resnet50 --set last=10 --set every=100 --set age=7d --set trash=14d
    mcr retention vision/resnet50 --branch experiment --set last=2
    mcr retention vision/resnet50 --dry-run                            # each version, and why
    mcr retention vision/resnet50 --apply
    mcr retention vision/resnet50 --branch experiment --set off
    """,
)
@click.argument("model", type=ModelName())
@click.option(
    "--branch", "-b", metavar="NAME", type=BRANCH, help="Only of this branch.  [default: all without rules]"
)
@click.option(
    "--set",
    "texts",
    multiple=True,
    metavar="RULE",
    help="last=N, best=N:METRIC:min|max, every=N, age=SPAN or trash=SPAN; may be repeated. off: none.",
)
@click.option("--dry-run", is_flag=True, help="Say of each version whether it would go, and why.")
@click.option("--apply", "applies", is_flag=True, help="Put what goes into the trash now, not in a while.")
@with_session
def retention(
    session: Session, model: str, branch: str | None, texts: tuple[str, ...], dry_run: bool, applies: bool
) -> None:
    """Show or set which versions of a model stay.

    A version stays for any one of the rules of its branch; the others are put into the trash, from where they
    can be restored for a while. Whatever the rules say, a version stays that a name points at, that a channel
    may go back to, that a consumer has loaded, or that is pinned.
    """
    if branch is not None:
        check_name("branch", branch)
    if dry_run and applies:
        raise InvalidArgumentError("--apply", "it does not go with --dry-run")
    if OFF in texts and len(texts) > 1:
        raise InvalidArgumentError("--set", "off does not go with other rules")
    if branch is not None and not texts:
        raise InvalidArgumentError("--branch", "it needs --set")
    where = branch or ""
    rules = parse_rules(texts) if texts and OFF not in texts else None
    if dry_run:
        if OFF in texts:
            raise InvalidArgumentError("--dry-run", "without rules nothing goes")
        instead = None if rules is None else {where: rules}
        with session.connect() as client:
            verdicts = client.model(model).plan_retention(instead=instead)
        _print_plan(session, model, verdicts)
        return
    with session.connect() as client:
        handle = client.model(model)
        if texts:
            handle.set_retention(rules, branch=where)
        gone = handle.apply_retention() if applies else []
        found = handle.retention()
    if applies:
        for number in gone:
            session.output.data({"model": model, "version": f"v{number}", "number": number}, f"v{number}")
        session.output.talk(f"{count(len(gone), 'version')} put into the trash; see mcr trash")
        return
    rows = table(map(_rules_row, found)).splitlines()
    for each, line in zip(found, rows, strict=True):
        session.output.data(_rules_object(model, each), line)
    if not found:
        session.output.talk(f"no rules: all versions of {model} stay")


def _print_plan(session: Session, model: str, verdicts: list[Verdict]) -> None:
    rows = [
        (
            f"v{verdict.number}",
            "goes" if verdict.goes else "stays",
            one_line(verdict.branch),
            one_line("; ".join(verdict.reasons)),
        )
        for verdict in verdicts
    ]
    for verdict, line in zip(verdicts, table(rows).splitlines(), strict=True):
        session.output.data(_verdict_object(model, verdict), line)
    going = sum(verdict.goes for verdict in verdicts)
    session.output.talk(f"{count(going, 'version')} of {len(verdicts)} would go")


def _verdict_object(model: str, verdict: Verdict) -> JsonObject:
    return {
        "model": model,
        "version": f"v{verdict.number}",
        "number": verdict.number,
        "branch": verdict.branch,
        "goes": verdict.goes,
        "reasons": list(verdict.reasons),
    }


def _rules_object(model: str, found: BranchRules) -> JsonObject:
    rules = found.rules
    return {
        "model": model,
        "branch": found.branch or None,
        "rules": list(rules.texts),
        "last": rules.last,
        "best": [{"count": each.count, "metric": each.metric, "goal": each.goal} for each in rules.best],
        "every": rules.every,
        "age_min_ms": rules.age_min_ms,
        "trash_ms": rules.trash_ms,
        "generation": found.generation,
        "actor": found.actor,
        "set_at": timestamp(found.at_ms),
        "set_at_ms": found.at_ms,
    }


def _rules_row(found: BranchRules) -> tuple[str, ...]:
    return (one_line(found.branch) or _ALL_OTHERS, " ".join(found.rules.texts), one_line(found.actor))
