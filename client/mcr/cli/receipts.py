"""The commands about receipts: ack, served."""

from datetime import UTC, datetime

import click

from mcr.cli.forms import ID_CHARACTERS_SHOWN, instant, moment, table, timestamp
from mcr.cli.options import REFERENCE, ModelName, command, split_reference, with_session
from mcr.cli.output import JsonObject, one_line
from mcr.cli.session import Session
from mcr.cli.times import parse_time
from mcr.errors import InvalidArgumentError
from mcr.receipts import FAILED, GONE, LOADED
from mcr.references import check_name
from mcr.serving import Receipt, Serving

RECEIPTS_MAX = 1000


@command(
    "ack",
    examples="""
    mcr ack vision/resnet50@channel:production --consumer gpu-7
    mcr ack vision/resnet50@v12 --consumer job-31 --rank 5 --state failed
    mcr ack vision/resnet50@v12 --consumer gpu-7 --state gone      # it ends
    """,
)
@click.argument("reference", metavar="REF", type=REFERENCE)
@click.option("--consumer", required=True, metavar="NAME", help="Who: a host, a pod, a job.")
@click.option(
    "--rank", type=click.IntRange(min=0), default=0, metavar="R", help="Which process of it.  [default: 0]"
)
@click.option(
    "--state",
    type=click.Choice([LOADED, FAILED, GONE]),
    default=LOADED,
    show_default=True,
    help="failed: it could not be loaded, what was before stays; gone: the consumer ends.",
)
@click.option("--channel", default="", metavar="NAME", help="The channel that told it to load the version.")
@click.option(
    "--generation",
    type=click.IntRange(min=1),
    metavar="N",
    help="At which the channel was there.  [default: the latest such]",
)
@with_session
def ack(
    session: Session,
    reference: str,
    consumer: str,
    rank: int,
    state: str,
    channel: str,
    generation: int | None,
) -> None:
    """Say what a consumer has loaded: a receipt.

    A version that somebody has loaded is not collected as garbage. To say the same again is a sign of life.
    """
    name, what = split_reference(reference)
    if channel:
        check_name("channel", channel)
    if generation is not None and not channel and not what.startswith("channel:"):
        raise InvalidArgumentError("--generation", "it needs --channel")
    with session.connect() as client:
        model = client.model(name)
        at = model.acknowledge(
            what, consumer, rank=rank, state=state, channel=channel, generation=generation or 0
        )
    record: JsonObject = {
        "model": name,
        "reference": reference,
        "consumer": consumer,
        "rank": rank,
        "state": state,
        "generation": at or None,
    }
    session.output.data(record, "")
    session.output.talk(f"noted: {_who(consumer, rank)} {state} {reference}")


@command(
    "served",
    examples="""
    mcr served vision/resnet50                        # what is loaded where, now
    mcr served vision/resnet50 --at 2026-11-23T10:00:00Z
    mcr served vision/resnet50 --consumer gpu-7       # all its receipts, newest first
    """,
)
@click.argument("model", type=ModelName())
@click.option(
    "--at", metavar="TIME", help="What was loaded then: ISO 8601 with zone, or 2h for two hours ago."
)
@click.option("--consumer", metavar="NAME", help="List the receipts of this one.")
@with_session
def served(session: Session, model: str, at: str | None, consumer: str | None) -> None:
    """Say what is loaded where, by the receipts of the consumers."""
    if consumer is not None:
        if at is not None:
            raise InvalidArgumentError("--at", "it does not go with --consumer")
        with session.connect() as client:
            receipts = client.model(model).receipts(consumer, limit=RECEIPTS_MAX)
        for receipt, line in zip(receipts, table(map(_receipt_row, receipts)).splitlines(), strict=True):
            session.output.data(_receipt_object(model, receipt), line)
        if not receipts:
            session.output.talk(f"{consumer} gave no receipt of {model}")
        return
    time = None if at is None else parse_time(at, now=datetime.now(UTC))
    with session.connect() as client:
        found = client.model(model).served(at=time)
    for serving, line in zip(
        found.servings, table(map(_serving_row, found.servings)).splitlines(), strict=True
    ):
        record = _serving_object(model, serving)
        session.output.data(record if time is None else record | {"at": instant(time)}, line)
    if not found.servings:
        session.output.talk(f"no receipt of {model}" + ("" if time is None else " then"))
    if not found.complete:
        session.output.talk("receipts of that time are no longer all remembered; there may have been more")


def _who(consumer: str, rank: int) -> str:
    return f"{consumer} rank {rank}" if rank else consumer


def _serving_object(model: str, serving: Serving) -> dict[str, str | int | None]:
    loaded = bool(serving.number)
    return {
        "model": model,
        "consumer": serving.consumer,
        "rank": serving.rank,
        "version": f"v{serving.number}" if loaded else None,
        "number": serving.number,
        "id": serving.version_id or None,
        "channel": serving.channel or None,
        "generation": serving.generation or None,
        "since": timestamp(serving.since_ms) if loaded else None,
        "since_ms": serving.since_ms if loaded else None,
        "heard": timestamp(serving.heard_ms),
        "heard_ms": serving.heard_ms,
        "last_state": serving.last.state,
        "last_version": f"v{serving.last.number}",
        "principal": serving.last.principal,
    }


def _serving_row(serving: Serving) -> tuple[str, ...]:
    last = serving.last
    note = "" if last.state == LOADED else f"{last.state} v{last.number}"
    return (
        one_line(serving.consumer),
        str(serving.rank),
        f"v{serving.number}" if serving.number else "-",
        serving.version_id[:ID_CHARACTERS_SHOWN] or "-",
        f"{one_line(serving.channel)} #{serving.generation}" if serving.channel else "-",
        moment(serving.since_ms) if serving.number else "-",
        note,
    )


def _receipt_object(model: str, receipt: Receipt) -> JsonObject:
    return {
        "model": model,
        "consumer": receipt.consumer,
        "rank": receipt.rank,
        "state": receipt.state,
        "version": f"v{receipt.number}",
        "number": receipt.number,
        "id": receipt.version_id,
        "channel": receipt.channel or None,
        "generation": receipt.generation or None,
        "principal": receipt.principal,
        "said_at": timestamp(receipt.at_ms),
        "said_at_ms": receipt.at_ms,
        "log_index": receipt.log_index,
    }


def _receipt_row(receipt: Receipt) -> tuple[str, ...]:
    return (
        moment(receipt.at_ms),
        _who(one_line(receipt.consumer), receipt.rank),
        receipt.state,
        f"v{receipt.number}",
        f"{one_line(receipt.channel)} #{receipt.generation}" if receipt.channel else "-",
        one_line(receipt.principal),
    )
