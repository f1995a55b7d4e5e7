"""The command that commits by itself: watch."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TypedDict, Unpack

import click

from mcr.auto_commit.flow import QUIET_S_DEFAULT
from mcr.auto_commit.happenings import AutoEvent
from mcr.auto_commit.rules import AutoRules, Improved
from mcr.cli import settings
from mcr.cli.ending import until_sigterm
from mcr.cli.forms import commit_object, commit_summary, instant, version_object
from mcr.cli.options import ModelName, command, with_session
from mcr.cli.output import JsonObject, Output
from mcr.cli.session import Session
from mcr.cli.times import parse_span
from mcr.cli.values import Tree, parameters_from, parse_parameter_file
from mcr.durability import parse_durability
from mcr.errors import InvalidArgumentError
from mcr.model import PARAMETERS_BYTES_MAX


class _Options(TypedDict):
    each: str
    branch: str
    message: str
    every: tuple[str, ...]
    improved: str | None
    metrics_file: str
    pairs: tuple[str, ...]
    params: Path | None
    keep: int | None
    durability: str | None
    quiet_for: str
    memory: Path | None
    once: bool


@command(
    "watch",
    examples="""
    mcr watch out/ vision/resnet50 --each 'checkpoint-*' --keep 3
    mcr watch out/ vision/resnet50 --each 'checkpoint-*' --every 1000 --metrics trainer_state.json
    mcr watch ckpt/ vision/resnet50 --when-changed --every 30m
    mcr watch ckpt/ vision/resnet50 --metrics metrics.json --when-improved loss:min
    """,
)
@click.argument("path", type=click.Path(path_type=Path))
@click.argument("model", type=ModelName())
@click.option(
    "--each", default="", metavar="GLOB", help="Each folder or file in PATH that fits is a version."
)
@click.option(
    "--branch", "-b", default="main", show_default=True, metavar="NAME", help="Branch to commit to."
)
@click.option("--message", "-m", default="", metavar="TEXT", help="Of each version.  [default: its name]")
@click.option(
    "--every",
    multiple=True,
    metavar="N|SPAN",
    help="At least N steps of training, or so long (30m), after the last version; may be given twice.",
)
@click.option("--when-changed", is_flag=True, help="Whenever the content changed: what happens anyway.")
@click.option(
    "--when-improved",
    "improved",
    metavar="METRIC:min|max",
    help="Only what is better than every version so far; needs --metrics.",
)
@click.option(
    "--metrics",
    "metrics_file",
    default="",
    metavar="FILE",
    help="JSON, or JSON lines, in PATH or in each folder: metrics to report, and the step.",
)
@click.option("-p", "pairs", multiple=True, metavar="KEY=VALUE", help="Parameter to record, as of commit.")
@click.option(
    "--params", type=click.Path(path_type=Path), metavar="FILE", help="Parameters of .json or .yaml."
)
@click.option(
    "--keep",
    type=click.IntRange(min=1),
    default=None,
    metavar="N",
    help="With --each: remove from PATH all but the N newest that were committed.",
)
@click.option("--durability", metavar="site|cluster|N", help="Copies to wait for, as of commit.")
@click.option(
    "--quiet-for",
    "quiet_for",
    default=f"{QUIET_S_DEFAULT:g}s",
    show_default=True,
    metavar="SPAN",
    help="For how long nobody may have written.",
)
@click.option(
    "--memory",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Where it is remembered what was committed.  [default: .NAME.mcr-watch.json beside PATH]",
)
@click.option("--once", is_flag=True, help="Commit what is complete now, and end.")
@with_session
def watch(session: Session, path: Path, model: str, when_changed: bool, **given: Unpack[_Options]) -> None:
    """Commit PATH by itself, whenever it is complete and changed.

    Complete is what nobody writes any more, and what says so itself where its format can: safetensors files
    and zip archives their length, an index the shards that belong to it. Files such as *.tmp are left out.

    Prints the reference of each version. Ends with status 0 by SIGTERM. Killed at any moment, the same
    command goes on and commits nothing twice.
    """
    # What --when-changed asks for happens in any case: the same content is never committed twice in a row.
    del when_changed
    rules = parse_rules(given["every"], given["improved"])
    if rules.improved is not None and not given["metrics_file"]:
        raise InvalidArgumentError("--when-improved", "it needs --metrics")
    keep = given["keep"]
    if keep is not None and not given["each"]:
        raise InvalidArgumentError("--keep", "it needs --each")
    parse_durability(given["durability"], "--durability")
    quiet = parse_span(given["quiet_for"])
    if quiet is None:
        raise InvalidArgumentError("--quiet-for", f"{given['quiet_for']!r} is no span such as 5s")
    with until_sigterm(), session.connect(endless=not given["once"]) as client:
        client.model(model).auto_commit(
            path,
            each=given["each"],
            branch=given["branch"],
            message=given["message"],
            params=parameters_from(given["pairs"], _document(given["params"])),
            metrics_file=given["metrics_file"],
            rules=rules,
            told=lambda event: _print(session.output, event),
            keep=keep or 0,
            durability=given["durability"],
            quiet_s=quiet.total_seconds(),
            memory=given["memory"],
            once=given["once"],
        )


def parse_rules(every: tuple[str, ...], improved: str | None) -> AutoRules:
    """Return the rules that `--every` and `--when-improved` spell.

    Raises:
        InvalidArgumentError: one of them has another form, or steps or a span are given twice.
    """
    steps, seconds = 0, 0.0
    for text in every:
        span = parse_span(text)
        is_again = bool(seconds) if span is not None else bool(steps)
        if is_again or (span is None and not (text.isascii() and text.isdigit() and int(text))):
            raise InvalidArgumentError("--every", f"{text!r} is not one number of steps, or one span as 30m")
        if span is not None:
            seconds = span.total_seconds()
        else:
            steps = int(text)
    if improved is None:
        return AutoRules(steps, seconds)
    metric, _, goal = improved.rpartition(":")
    if not metric or goal not in ("min", "max"):
        raise InvalidArgumentError("--when-improved", f"{improved!r} is not METRIC:min or METRIC:max")
    return AutoRules(steps, seconds, Improved(metric, goal))


def _document(path: Path | None) -> Tree:
    if path is None:
        return {}
    # As for commit: JSON and YAML spell things out longer than the record does.
    data = settings.read_file(path, length_bytes_max=4 * PARAMETERS_BYTES_MAX)
    return parse_parameter_file(str(path), data)


def event_object(event: AutoEvent, at: datetime) -> JsonObject:
    """Return a step as JSON; of a commit with all that `mcr commit` prints."""
    record: JsonObject = {
        "event": event.step,
        "model": event.model,
        "name": event.name,
        "reason": event.reason,
        "at": instant(at),
    }
    if event.result is not None:
        return {**commit_object(event.result), **record}
    return record if event.version is None else {**version_object(event.version), **record}


def _print(output: Output, event: AutoEvent) -> None:
    record = event_object(event, datetime.now(UTC))
    output.data(record, "" if event.version is None else event.version.reference)
    # Whoever reads along does so now, not when a buffer is full.
    output.flush()
    name = f"{event.name}: " if event.name else ""
    if event.result is not None:
        output.talk(f"{name}{commit_summary(event.result)}")
    elif event.version is not None:
        output.talk(f"{name}it is at the head of {event.version.branch} already")
    else:
        output.talk(f"{name}{event.step}" + (f": {event.reason}" if event.reason else ""))
