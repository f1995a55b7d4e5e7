"""Commands about rebalancing, which brings chunks to where placement has them."""

from mcr.cli.options import command, command_group, with_session
from mcr.cli.session import Session
from mcr.cli.upkeep import NODE_OPTION, NOW_OPTION, tell_asked, tell_status

REBALANCE = "rebalance"


@command_group(REBALANCE)
def rebalance() -> None:
    """Bring chunks to where placement has them.

    The nodes do it by themselves a minute after members, sites or capacities changed; so a new node fills up.
    """


@command(
    "status",
    examples="""
    mcr rebalance status
    mcr rebalance status --json | jq .counts.bytes_moved
    """,
)
@NODE_OPTION
@with_session
def status(session: Session, /, node: str) -> None:
    """Say how it does, one line a node."""
    tell_status(session, REBALANCE, node)


@command("start", examples="\n    mcr rebalance start\n    mcr rebalance start --now\n    ")
@NOW_OPTION
@NODE_OPTION
@with_session
def start(session: Session, /, now: bool, node: str) -> None:
    """Begin now, whether or not something changed. Ends a pause. Does not wait for the end."""
    with session.connect() as client:
        started = client.start_worker(REBALANCE, member=node, at_full_speed=now)
        tell_asked(session, "started", REBALANCE, started)


@command("pause", examples="\n    mcr rebalance pause\n    ")
@NODE_OPTION
@with_session
def pause(session: Session, /, node: str) -> None:
    """Move nothing more, until it is started again or the node restarts."""
    with session.connect() as client:
        tell_asked(session, "paused", REBALANCE, client.pause_worker(REBALANCE, member=node))


for _command in (status, start, pause):
    rebalance.add_command(_command)
