"""Commands about a cluster as a whole: status, members, who leads."""

from typing import TYPE_CHECKING

import click

from mcr.cli.arranging import layout
from mcr.cli.forms import size
from mcr.cli.layout import drain, show
from mcr.cli.options import command, command_group, with_session
from mcr.cli.output import JsonValue
from mcr.cli.recovery import recover
from mcr.cli.session import Session

if TYPE_CHECKING:
    from mcr.model import ClusterMember


@command_group("cluster")
def cluster() -> None:
    """Look at a cluster, and change who its members are."""


@command(
    "status",
    examples="""
    mcr cluster status
    mcr cluster status --json | jq .leader
    """,
)
@with_session
def status(session: Session) -> None:
    """Say how the cluster does: leader, members, alarms.

    What it says is as one node sees it, the nearest one. An embedded store is a cluster of one.
    """
    with session.connect() as client:
        found = client.cluster_status()
    record: dict[str, JsonValue] = {
        "leader": found.leader,
        "term": found.term,
        "applied_index": found.applied_index,
        "members": [_record(member) for member in found.members],
        "chunks_under_replicated": found.chunks_under_replicated,
        "alarms": [
            {"code": alarm.code, "member": alarm.member, "message": alarm.message} for alarm in found.alarms
        ],
    }
    lines = [
        f"leader {found.leader or 'unknown'}, term {found.term}, applied to index {found.applied_index}",
        *(_line(member) for member in found.members),
        f"chunks with too few copies: {found.chunks_under_replicated}",
        *(f"alarm {alarm.code} {alarm.member}: {alarm.message}" for alarm in found.alarms),
    ]
    session.output.data(record, "\n".join(lines))


@command(
    "members",
    examples="""
    mcr cluster members
    mcr cluster members --json | jq -r 'select(.healthy | not) | .name'
    """,
)
@with_session
def members(session: Session) -> None:
    """List the members, one a line."""
    with session.connect() as client:
        found = client.cluster_status()
    for member in found.members:
        session.output.data(_record(member), _line(member))


@command(
    "add",
    examples="""
    mcr cluster add ams-4 --address ams-4:7101 --site ams
    mcr node start --name ams-4 --data /srv/mcr --listen ams-4:7101 --join ams-1:7101     # there, later
    """,
)
@click.argument("name")
@click.option("--address", metavar="HOST:PORT", required=True, help="Where it will listen.")
@click.option("--site", metavar="S", default="", help="The site it will stand at, for good.")
@with_session
def add(session: Session, /, name: str, address: str, site: str) -> None:
    """Keep a place for node NAME, which is started later, with --join.

    Nobody else can take its name or address then, and it stands at this site. Not needed before a node joins:
    one of a new name is taken in as well.
    """
    with session.connect() as client:
        client.add_member(name, address, site=site)
    session.output.data({"added": name, "address": address, "site": site}, name)


@command(
    "replace",
    examples="""
    mcr cluster replace ams-3 ams-4
    mcr cluster replace ams-3 ams-4 --wait 600      # it has much to catch up with
    """,
)
@click.argument("old")
@click.argument("new")
@click.option(
    "--wait", "wait_s", type=click.FloatRange(0, 86400), default=60.0, help="For NEW, seconds.  [default: 60]"
)
@with_session
def replace(session: Session, /, old: str, new: str, wait_s: float) -> None:
    """Remove node OLD once node NEW, which has joined, is a voter that has caught up.

    What only OLD held is copied first. If NEW is not ready in time, OLD stays, and the same command goes on.
    """
    with session.connect() as client:
        client.replace_member(old, new, patience_s=wait_s)
    session.output.data({"removed": old, "replaced_by": new}, old)


@command(
    "remove",
    examples="""
    mcr cluster remove ams-3
    mcr cluster remove ams-3 --force      # it is gone for good, or does not answer
    """,
)
@click.argument("name")
@click.option("--force", is_flag=True, help="Also when it cannot hand over what it holds.")
@click.option("--accept-loss", is_flag=True, help="With --force: also when chunks are lost with it.")
@with_session
def remove(session: Session, /, name: str, force: bool, accept_loss: bool) -> None:
    """Remove node NAME from the cluster, also one that does not answer.

    It is drained first (see mcr cluster drain), but for --force. Interrupted, the same command goes on; to
    let it stay after all, mcr cluster drain --cancel. With --force it goes at once, and what it held is
    copied from the others afterwards; refused (exit status 11) when they lack some of it.

    Stop its process afterwards; its folder may then be deleted, and cannot join again. The last voter cannot
    be removed.
    """
    if accept_loss and not force:
        raise click.UsageError("--accept-loss goes with --force")
    with session.connect() as client, session.output.bar(unit=" chunks") as tick:
        client.remove_member(name, force=force, accept_loss=accept_loss, progress=lambda at: show(tick, at))
    session.output.data({"removed": name}, name)


@command(
    "promote",
    examples="""
    mcr cluster promote ams-3
    """,
)
@click.argument("name")
@with_session
def promote(session: Session, /, name: str) -> None:
    """Give node NAME, a learner, a vote now.

    Nodes that join get theirs by themselves, once they have caught up.
    """
    with session.connect() as client:
        client.promote_member(name)
    session.output.data({"promoted": name}, name)


@command(
    "transfer-leader",
    examples="""
    mcr cluster transfer-leader            # to the voter that lacks least
    mcr cluster transfer-leader ams-2 --json
    """,
)
@click.argument("name", required=False, default="")
@with_session
def transfer_leader(session: Session, /, name: str) -> None:
    """Let node NAME lead, or any other voter: before the leader's machine is taken down.

    Prints the name of the leader then.
    """
    with session.connect() as client:
        leader = client.transfer_leadership(name)
    session.output.data({"leader": leader}, leader)


def _record(member: "ClusterMember") -> dict[str, JsonValue]:
    return {
        "name": member.name,
        "address": member.address,
        "site": member.site,
        "role": member.role,
        "healthy": member.healthy,
        "applied_index": member.applied_index,
        "bytes_used": member.bytes_used,
        "bytes_free": member.bytes_free,
        "leaving": member.leaving,
    }


def _line(member: "ClusterMember") -> str:
    health = "healthy" if member.healthy else "NOT HEALTHY"
    if member.leaving:
        health += ", leaving"
    site = f" at {member.site}" if member.site else ""
    return (
        f"{member.name}{site}  {member.address}  {member.role}  {health}  index {member.applied_index}  "
        f"{size(member.bytes_used)} used, {size(member.bytes_free)} free"
    )


cluster.add_command(status)
cluster.add_command(members)
cluster.add_command(add)
cluster.add_command(replace)
cluster.add_command(remove)
cluster.add_command(promote)
cluster.add_command(transfer_leader)
cluster.add_command(drain)
cluster.add_command(layout)
cluster.add_command(recover)
