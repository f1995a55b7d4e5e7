"""Commands about what the nodes fetch before anybody reads it."""

import click

from mcr.cli.options import command, command_group, with_session
from mcr.cli.session import Session
from mcr.cli.upkeep import tell_asked, tell_status

PREFETCH = "prefetch"
_node = click.option("--node", metavar="NAME", default="", help="Only this node.  [default: all members]")
_now = click.option("--now", is_flag=True, help="As fast as it can; not held back for other work.")


@command_group(PREFETCH)
def prefetch() -> None:
    """Bring near what channels point at, before anybody reads it.

    The nodes do it by themselves when a channel moves, for its version and the one before.
    """


@command(
    "status",
    examples="""
    mcr prefetch status
    mcr prefetch status --json | jq '.counts.bytes_fetched'
    """,
)
@_node
@with_session
def status(session: Session, /, node: str) -> None:
    """Say how prefetch does, one line a node, and what does not fit into a cache."""
    tell_status(session, PREFETCH, node)


@command(
    "start",
    examples="""
    mcr prefetch start               # all channels, now
    mcr prefetch start --now         # and as fast as it can
    """,
)
@_now
@_node
@with_session
def start(session: Session, /, now: bool, node: str) -> None:
    """Look at all channels now, and fetch what lacks. Ends a pause; does not wait for the end."""
    with session.connect() as client:
        asked = client.start_worker(PREFETCH, member=node, at_full_speed=now)
        tell_asked(session, "started", PREFETCH, asked)


@command(
    "pause",
    examples="""
    mcr prefetch pause
    mcr prefetch pause --node ams-1
    """,
)
@_node
@with_session
def pause(session: Session, /, node: str) -> None:
    """Fetch nothing more that nobody reads, until it is started again or the node restarts."""
    with session.connect() as client:
        tell_asked(session, "paused", PREFETCH, client.pause_worker(PREFETCH, member=node))


for _command in (status, start, pause):
    prefetch.add_command(_command)
