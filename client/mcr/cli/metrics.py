"""The command about metrics: report."""

import click

from mcr.cli.commits import find_version
from mcr.cli.forms import count, report_object, report_row, table
from mcr.cli.options import REFERENCE, command, split_reference, with_session
from mcr.cli.output import JsonObject
from mcr.cli.session import Session
from mcr.cli.values import parse_metrics
from mcr.errors import InvalidArgumentError
from mcr.references import check_name

HISTORY_REPORTS_MAX = 1000


@command(
    "report",
    examples="""
    mcr report vision/resnet50@v12 acc=0.91 loss=0.31
    mcr report vision/resnet50@channel:production p99_ms=41 --channel production
    mcr report vision/resnet50@v12 --history
    """,
)
@click.argument("reference", metavar="REF", type=REFERENCE)
@click.argument("values", nargs=-1, metavar="KEY=VALUE...")
@click.option("--channel", default="", metavar="NAME", help="The channel whose fleet measured this.")
@click.option(
    "--generation",
    type=click.IntRange(min=1),
    metavar="N",
    help="Of the channel, when this was measured; a late report is then known as such.",
)
@click.option(
    "--allow-non-finite", is_flag=True, help="Accept nan and inf also where no policy watches for them."
)
@click.option("--history", is_flag=True, help="List what was reported, newest first.")
@with_session
def report(
    session: Session,
    reference: str,
    values: tuple[str, ...],
    channel: str,
    generation: int | None,
    allow_non_finite: bool,
    history: bool,
) -> None:
    """Report metrics of a version.

    Policies decide on them at once; what they decided is said.
    """
    name, what = split_reference(reference)
    if history:
        if values or channel or generation or allow_non_finite:
            raise InvalidArgumentError("--history", "it goes alone")
        with session.connect() as client:
            reports = client.model(name).metrics(what, limit=HISTORY_REPORTS_MAX)
        for item, line in zip(reports, table(map(report_row, reports)).splitlines(), strict=True):
            session.output.data(report_object(name, item), line)
        return
    if not values:
        raise InvalidArgumentError("KEY=VALUE", "give at least one metric, or --history")
    # Whether nan is taken, the cluster knows: where a policy watches for it.
    metrics = parse_metrics(values, allow_non_finite=True, argument="KEY=VALUE")
    if channel:
        check_name("channel", channel)
    if generation is not None and not channel:
        raise InvalidArgumentError("--generation", "it needs --channel")
    with session.connect() as client:
        model = client.model(name)
        version = find_version(model, what)
        decision = model.report(
            version.name,
            metrics,
            channel=channel,
            generation=generation or 0,
            allow_non_finite=allow_non_finite,
        )
    record: JsonObject = {
        "reference": version.reference,
        "version": version.name,
        "metrics": metrics,
        "channel": channel,
        "decision": decision or None,
    }
    session.output.data(record, "")
    session.output.talk(f"reported {count(len(metrics), 'metric')} of {version.reference}")
    if decision:
        session.output.talk(decision)
