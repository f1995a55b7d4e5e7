"""The command that keeps a folder at a channel: follow."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypedDict, Unpack

import click

from mcr.cli import settings
from mcr.cli.ending import until_sigterm
from mcr.cli.forms import instant, size
from mcr.cli.hooks import run_hook
from mcr.cli.options import REFERENCE, command, with_session
from mcr.cli.output import JsonObject, Output
from mcr.cli.session import Session
from mcr.cli.times import parse_span
from mcr.errors import InvalidArgumentError, InvalidReferenceError
from mcr.following.happenings import KEEP_DEFAULT, FollowEvent, FollowStep, Loading, Switch
from mcr.references import Selector, parse_reference

# Loading a model of some hundred gigabytes into a fleet's memory takes minutes.
HOOK_TIME_DEFAULT = "10m"
_TALK = {
    FollowStep.FETCHING: "fetching {version}",
    FollowStep.FETCHED: "fetched {version}: wrote {size}, every file verified",
    FollowStep.SWITCHED: "switched to {version}",
    FollowStep.LOADED: "{version} is in use ({seconds:.2f} s after the move)",
    FollowStep.ACKNOWLEDGED: "",
    FollowStep.FAILED: "{version} failed to load: {reason}",
    FollowStep.BACK: "back at {version}",
    FollowStep.WAITING: "waiting: {reason}",
    FollowStep.GONE: "the channel was deleted; nothing changes here",
}


class _Options(TypedDict):
    hook: str | None
    hook_time: str
    keep: int
    once: bool
    retry: bool
    consumer: str | None
    rank: int
    no_ack: bool
    switch: str


@command(
    "follow",
    examples="""
    mcr follow vision/resnet50@channel:production /srv/model --exec 'systemctl reload serving'
    mcr follow vision/resnet50@channel:production /srv/model --once
    mcr follow vision/resnet50@channel:canary /srv/canary --keep 3 --json
    mcr follow vision/resnet50@channel:production /srv/model --exec 'curl -fsS -d "$MCR_PATH" :8000/load'
    """,
)
@click.argument("reference", metavar="MODEL@channel:NAME", type=REFERENCE)
@click.argument("destination", metavar="DEST", type=click.Path(path_type=Path))
@click.option("--exec", "hook", metavar="CMD", help="Run by the shell after each switch; see below.")
@click.option(
    "--exec-timeout",
    "hook_time",
    default=HOOK_TIME_DEFAULT,
    show_default=True,
    metavar="SPAN",
    help="A CMD that takes longer is ended, and has failed.",
)
@click.option(
    "--keep",
    type=click.IntRange(min=1),
    default=KEEP_DEFAULT,
    show_default=True,
    metavar="N",
    help="Versions kept on this disk, the one in use included; 2 makes a rollback a switch.",
)
@click.option(
    "--switch",
    type=click.Choice([str(each) for each in Switch]),
    default=str(Switch.SYMLINK),
    show_default=True,
    help="DEST is a link; or, for programs that follow none, a folder that is exchanged.",
)
@click.option("--once", is_flag=True, help="End when the present version is in use.")
@click.option("--retry", is_flag=True, help="Try a move that failed to load before once more.")
@click.option("--consumer", metavar="NAME", help="Who gives the receipts.  [default: host and path of DEST]")
@click.option(
    "--rank", type=click.IntRange(min=0), default=0, metavar="R", help="Which process of it.  [default: 0]"
)
@click.option("--no-ack", is_flag=True, help="Give no receipts.")
@with_session
def follow(session: Session, reference: str, destination: Path, **given: Unpack[_Options]) -> None:
    """Keep DEST at a channel: fetch, verify, switch, run CMD, give a receipt.

    DEST is one whole version at any moment. It is a link to a folder under .DEST.mcr beside it, and becomes
    another version in one step; a program that opens several files resolves it once (realpath).

    CMD finds in its environment MCR_MODEL, MCR_CHANNEL, MCR_GENERATION, MCR_VERSION (v12), MCR_VERSION_ID,
    MCR_DEST, MCR_PATH (the folder of this very version), MCR_FORMER_VERSION, MCR_VERB (set, rollback),
    MCR_REASON and MCR_BACK. When it fails, DEST goes back to the version before, CMD runs once more for that
    one with MCR_BACK=1, and this move of the channel is not tried again.

    Prints the reference of each version that came into use; with --json, every step. Ends with status 0 by
    SIGTERM; killed at any moment, the same command goes on.
    """
    model, channel = parse_channel(reference)
    limit = _span(given["hook_time"])
    if given["consumer"] == "":
        raise InvalidArgumentError("--consumer", "it is empty; --no-ack gives no receipts")
    environment = settings.surroundings().environment

    async def load(loading: Loading) -> None:
        if given["hook"] is not None:
            await run_hook(
                given["hook"], {**environment, **hook_variables(loading)}, timeout_s=limit.total_seconds()
            )

    with until_sigterm(), session.connect(endless=not given["once"]) as client:
        client.model(model).follow(
            channel,
            destination,
            load=load,
            told=lambda event: _print(session.output, event),
            keep=given["keep"],
            switch=given["switch"],
            once=given["once"],
            retry=given["retry"],
            consumer="" if given["no_ack"] else given["consumer"],
            rank=given["rank"],
        )


def parse_channel(text: str) -> tuple[str, str]:
    """Return model and name of `MODEL@channel:NAME`.

    Raises:
        InvalidReferenceError, InvalidNameError: it is something else.
    """
    found = parse_reference(text)
    if found.selector is not Selector.CHANNEL:
        raise InvalidReferenceError(text, "only a channel is followed: MODEL@channel:NAME")
    return found.model, found.name


def _span(text: str) -> timedelta:
    found = parse_span(text)
    if found is None or not found:
        raise InvalidArgumentError("--exec-timeout", f"{text!r} is no span such as 90s or 10m")
    return found


def hook_variables(loading: Loading) -> dict[str, str]:
    """Return what a command is told in its environment."""
    return {
        "MCR_MODEL": loading.model,
        "MCR_CHANNEL": loading.channel,
        "MCR_GENERATION": str(loading.generation),
        "MCR_VERSION": loading.version,
        "MCR_VERSION_ID": loading.version_id,
        "MCR_DEST": str(loading.destination),
        "MCR_PATH": str(loading.path),
        "MCR_FORMER_VERSION": f"v{loading.former_number}" if loading.former_number else "",
        "MCR_VERB": loading.verb,
        # Text of others; a NUL would end it, and Python refuses one.
        "MCR_REASON": loading.reason.replace("\0", ""),
        "MCR_BACK": "1" if loading.back else "",
    }


def event_object(event: FollowEvent, at: datetime) -> JsonObject:
    """Return a step as JSON."""
    return {
        "event": event.step,
        "model": event.model,
        "channel": event.channel,
        "generation": event.generation,
        "version": event.version,
        "id": event.version_id,
        "path": None if event.path is None else str(event.path),
        "seconds": round(event.seconds, 4),
        "bytes_written": event.bytes_written,
        "reason": event.reason,
        "at": instant(at),
    }


def _print(output: Output, event: FollowEvent) -> None:
    is_result = event.step is FollowStep.LOADED
    output.data(event_object(event, datetime.now(UTC)), f"{event.model}@{event.version}" if is_result else "")
    # Whoever reads along does so now, not when a buffer is full.
    output.flush()
    said = _TALK[event.step].format(
        version=event.version or "nothing",
        size=size(event.bytes_written),
        seconds=event.seconds,
        reason=event.reason,
    )
    if said:
        output.talk(f"{event.channel}: {said}")
