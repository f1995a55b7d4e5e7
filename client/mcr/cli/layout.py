"""Commands about who of a cluster's members holds what: draining."""

from typing import TYPE_CHECKING

import click

from mcr.cli.options import command, with_session
from mcr.cli.output import JsonValue, Tick
from mcr.cli.session import Session

if TYPE_CHECKING:
    from mcr.arrangement import DrainProgress


@command(
    "drain",
    examples="""
    mcr cluster drain ams-3
    mcr cluster drain ams-3 --no-wait && mcr cluster drain ams-3 --status --json
    mcr cluster drain ams-3 --cancel
    """,
)
@click.argument("name")
@click.option("--cancel", is_flag=True, help="Let it stay after all; what was copied stays copied.")
@click.option("--status", "only_look", is_flag=True, help="Say how far it is; change nothing.")
@click.option("--wait/--no-wait", default=True, help="Wait until nothing depends on it.  [default: wait]")
@with_session
def drain(session: Session, /, name: str, cancel: bool, only_look: bool, wait: bool) -> None:
    """Let node NAME hand over all that it holds, and lead no more; it stays a member.

    It gets no new chunks, and what only its copies keep safe is copied to the others. Done when every chunk
    of every version was counted on those who stay. The nodes do it by themselves: interrupted, the same
    command waits again. Afterwards NAME can be removed, or switched off.
    """
    if cancel and only_look:
        raise click.UsageError("--cancel and --status stand alone")
    with session.connect() as client:
        if cancel:
            client.cancel_drain(name)
        found = client.drain_progress(name)
        if not (cancel or only_look):
            with session.output.bar(unit=" chunks") as tick:
                found = client.drain_member(name, wait=wait, progress=lambda at: show(tick, at))
    session.output.data(_record(name, found), _text(name, found))


def show(tick: Tick, at: "DrainProgress") -> None:
    """Move a progress bar to where a drain is."""
    tick(at.waits_for, at.chunks_copied, at.chunks_copied + at.chunks_left)


def _record(name: str, found: "DrainProgress") -> dict[str, JsonValue]:
    return {
        "member": name,
        "leaving": found.is_leaving,
        "drained": found.is_drained,
        "chunks_left": found.chunks_left,
        "waits_for": found.waits_for,
    }


def _text(name: str, found: "DrainProgress") -> str:
    if not found.is_leaving:
        return f"{name} stays"
    return f"{name} is drained" if found.is_drained else f"{name} is leaving: {found.waits_for}"
