"""The log: versions of a model, all, those of one history, or those that meet conditions."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TypedDict, Unpack

import click

from mcr.cli.forms import log_row, number, table, version_object
from mcr.cli.graph import Graph
from mcr.cli.options import REFERENCE, command, split_reference, with_session
from mcr.cli.output import one_line, to_json
from mcr.cli.session import Session
from mcr.cli.times import parse_time
from mcr.errors import InvalidArgumentError
from mcr.finding import Condition, leaves_at, parse_metric_condition, parse_parameter_condition
from mcr.model import Version
from mcr.references import parse_reference

LOG_VERSIONS_DEFAULT = 20
# What is fetched, and laid out in columns, at once.
PAGE_VERSIONS = 1000


class _Filters(TypedDict):
    metrics: tuple[str, ...]
    params: tuple[str, ...]
    since: str | None
    until: str | None
    creator: str
    tags: tuple[str, ...]


@command(
    "log",
    examples="""
    mcr log vision/resnet50                    # all versions of the model
    mcr log vision/resnet50@experiment -n 5    # where this one came from
    mcr log vision/resnet50 --graph
    mcr log vision/resnet50 --metric 'loss<0.5' --param lr=1e-4 --since 7d
    mcr log vision/resnet50@experiment --creator 'ci-*' --tag 'release-*' --json
    """,
)
@click.argument("reference", metavar="MODEL[@REF]", type=REFERENCE)
@click.option(
    "-n",
    "limit",
    type=click.IntRange(min=0),
    default=LOG_VERSIONS_DEFAULT,
    show_default=True,
    metavar="N",
    help="At most N versions; 0 for all.",
)
@click.option("--graph", is_flag=True, help="Draw which version came from which.")
@click.option(
    "--metric",
    "metrics",
    multiple=True,
    metavar="CONDITION",
    help="Only where the latest value fits: 'loss<0.5'; one of = != < <= > >=.",
)
@click.option(
    "--param",
    "-p",
    "params",
    multiple=True,
    metavar="CONDITION",
    help="Only where the parameter fits: lr=1e-4, 'batch>=64', optimizer.name=adamw.",
)
@click.option("--since", metavar="TIME", help="Only versions made then or later: ISO 8601, or a span: 7d.")
@click.option("--until", metavar="TIME", help="Only versions made then or earlier.")
@click.option("--creator", metavar="PATTERN", default="", help="Only versions of whom the pattern fits.")
@click.option(
    "--tag", "tags", multiple=True, metavar="PATTERN", help="Only versions with a tag that fits: 'release-*'."
)
@with_session
def log(session: Session, reference: str, limit: int, graph: bool, **given: Unpack[_Filters]) -> None:
    """List versions, newest first.

    All of a model; or, with @REF, one version and those it came from. Conditions leave out versions that do
    not meet all of them; any but --creator, --since and --until may be repeated.
    """
    parsed = parse_reference(reference)
    ref = split_reference(reference)[1] if "@" in reference else None
    if any(given.values()):
        if graph:
            raise InvalidArgumentError("--graph", "it draws whole histories; leave the conditions out")
        _find(session, parsed.model, ref, limit, given)
        return
    drawing = Graph() if graph else None
    shown, before, more = 0, 0, False
    with session.connect() as client:
        model = client.model(parsed.model)
        while True:
            wanted = PAGE_VERSIONS if limit == 0 else min(limit - shown, PAGE_VERSIONS)
            # One more than is shown, to know whether there is more.
            page = model.log(ref=ref, limit=wanted + 1, before=before)
            more = len(page) > wanted
            page = page[:wanted]
            _print_page(session, page, drawing)
            shown += len(page)
            if not more or not page or shown == limit:
                break
            before = page[-1].number
    if more:
        session.output.talk(f"older versions are not shown; see more with: -n {2 * limit}")


def _find(session: Session, name: str, ref: str | None, limit: int, given: _Filters) -> None:
    now = datetime.now(UTC)
    since, until = given["since"], given["until"]
    metrics = [parse_metric_condition(text, argument="--metric") for text in given["metrics"]]
    params = [parse_parameter_condition(text, argument="--param") for text in given["params"]]
    with session.connect() as client:
        found = client.model(name).find(
            metrics=metrics,
            params=params,
            since=None if since is None else parse_time(since, now=now, argument="--since"),
            until=None if until is None else parse_time(until, now=now, argument="--until"),
            creator=given["creator"],
            tags=given["tags"],
            ref=ref,
            # One more than is shown, to know whether there is more.
            limit=None if limit == 0 else limit + 1,
        )
    shown = found if limit == 0 else found[:limit]
    rows = ((*log_row(version), _asked_for(version, metrics, params)) for version in shown)
    for version, line in zip(shown, table(rows).splitlines(), strict=True):
        session.output.data(version_object(version), line)
    if len(found) > len(shown):
        session.output.talk(f"older versions fit too; see more with: -n {2 * limit}")
    elif not found:
        session.output.talk("no version meets these conditions")


def _asked_for(version: Version, metrics: Sequence[Condition], params: Sequence[Condition]) -> str:
    """Return the values that were asked about, each once."""
    reported = version.metrics or {}
    words = [f"{one_line(each.name)}={number(reported[each.name])}" for each in metrics]
    for each in params:
        words += [
            f"{one_line(each.name)}={to_json(value)}" for value in leaves_at(version.parameters, each.name)
        ]
    return "  ".join(dict.fromkeys(words))


def _print_page(session: Session, page: list[Version], drawing: Graph | None) -> None:
    if session.output.json:
        for version in page:
            session.output.data(version_object(version), "")
        return
    lines = table(map(log_row, page)).splitlines()
    for version, line in zip(page, lines, strict=True):
        if drawing is not None:
            above, star, below = drawing.rows(version.number, version.parents)
            session.output.data({}, "\n".join([*above, f"{star}  {line}", *below]))
        else:
            session.output.data({}, line)
