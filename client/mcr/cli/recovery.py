"""The command for the day on which the majority of a cluster is gone for good."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mcr.cli.options import command, with_session
from mcr.cli.session import Session
from mcr.errors import InvalidArgumentError

if TYPE_CHECKING:
    from mcr._embedded import Survivor


@command(
    "recover",
    examples="""
    mcr cluster recover --data /srv/mcr          # says what will be lost, and asks for the node's name
    mcr cluster recover --data /srv/mcr --yes    # then: mcr node start --name ams-3 --data /srv/mcr
    """,
)
@click.option(
    "--data", type=click.Path(path_type=Path), metavar="DIR", required=True, help="Folder of a stopped node."
)
@click.option("--yes", is_flag=True, help="Do it; without it the node's name is asked for, on a terminal.")
@with_session
def recover(session: Session, /, data: Path, yes: bool) -> None:
    """Make a NEW cluster of what one stopped node holds, when most voters are gone for good.

    Not for voters that are merely down: start those instead. What the others acknowledged and this node never
    got is lost. The new cluster has this node as its only voter, under a new id, so that no node of the old
    one can take part in it; they join anew, with empty folders. Log and state of the old cluster are kept in
    DIR/before-recovery; chunks stay where they are.
    """
    # Imported late: it brings the node's code along.
    from mcr import _embedded

    def confirm(survivor: "Survivor") -> None:
        for line in _told(survivor):
            session.output.talk(line)
        if yes:
            return
        if not sys.stdin.isatty():
            raise InvalidArgumentError("--yes", "this cannot be undone by a command; give the flag to do it")
        typed = click.prompt(f"type {survivor.name} to make the new cluster", default="", err=True)
        if typed != survivor.name:
            raise InvalidArgumentError("name", "it is not that of the node; nothing was changed")

    survivor = _embedded.recover_cluster(data, confirm)
    session.output.data(
        {
            "name": survivor.name,
            "old_cluster_id": survivor.cluster_id.hex(),
            "cluster_id": survivor.new_cluster_id.hex(),
            "applied_index": survivor.last,
            "entries_taken_for_committed": survivor.last - survivor.committed,
            "dropped": list(survivor.dropped),
            "model_count": survivor.model_count,
            "kept": str(survivor.kept),
        },
        survivor.new_cluster_id.hex(),
    )
    start = f"mcr node start --name {survivor.name} --data {data}"
    session.output.talk(f"{data} is a new cluster of one voter; start it with: {start}")
    session.output.talk("then run mcr doctor: content that only the dropped nodes held is gone")


def _told(survivor: "Survivor") -> list[str]:
    """Say what will be lost, and what not."""
    last, uncertain = survivor.last, survivor.last - survivor.committed
    lines = [
        f"{survivor.name} holds the log up to index {last}, and {survivor.model_count} models",
        f"LOST: whatever the other nodes acknowledged after index {last}; how much, nobody here knows",
        f"DROPPED: {', '.join(survivor.dropped) or 'no other member'}; never start them with their data",
        f"the old cluster {survivor.cluster_id.hex()} ends here; its log and state go to {survivor.kept}",
    ]
    if not survivor.was_voter:
        lines.append("it had no vote, so it may lack more than a voter would")
    if uncertain:
        lines.append(f"{uncertain} entries at its end may never have been committed; they are kept")
    return lines
