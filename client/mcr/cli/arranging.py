"""Commands about the layout of a cluster: what placement knows of its members, staged and put into force."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from mcr.cli.forms import size, table
from mcr.cli.options import command, command_group, with_session
from mcr.cli.output import JsonValue
from mcr.cli.session import Session

if TYPE_CHECKING:
    from mcr.arrangement import Layout, LayoutMember, LayoutPlan

_MILLION = 1_000_000


@command_group("layout")
def layout() -> None:
    """Show and change which members hold how much, and where they stand."""


@command(
    "show",
    examples="""
    mcr cluster layout show
    mcr cluster layout show --no-plan --json | jq .epoch
    """,
)
@click.option("--plan/--no-plan", default=True, help="Say what would move.")
@with_session
def show(session: Session, /, plan: bool) -> None:
    """Show the members as placement knows them, what is staged, and the bytes that would move.

    The plan asks the placement function about the chunks of all versions; beyond some hundred thousand, about
    an unbiased part of them.
    """
    with session.connect() as client:
        found = client.layout()
        planned = client.plan_layout() if plan and found.staged else None
    session.output.data(_record(found, planned), _text(found, planned))


@command(
    "stage",
    examples="""
    mcr cluster layout stage ams-3 --capacity 4000000000000
    mcr cluster layout stage ams-3 --site fra --leaving
    mcr cluster layout stage ams-3 --reset
    mcr cluster layout stage --reset              # forget all that is staged
    """,
)
@click.argument("name", required=False, default="")
@click.option("--capacity", type=click.IntRange(0), metavar="BYTES", help="0 = whatever its disk has.")
@click.option("--site", metavar="S", help="Where it stands.")
@click.option("--leaving/--staying", default=None, help="Drain it, or keep it.")
@click.option("--reset", is_flag=True, help="Forget what is staged for it; without NAME, for all.")
@click.option("--expect", type=click.IntRange(0), metavar="EPOCH", help="Only if the layout is still that.")
@with_session
def stage(
    session: Session,
    /,
    name: str,
    capacity: int | None,
    site: str | None,
    leaving: bool | None,
    reset: bool,
    expect: int | None,
) -> None:
    """Note what is to become of node NAME with the next layout; nothing changes before it is applied."""
    if not name and not reset:
        raise click.UsageError("name the node, or give --reset")
    with session.connect() as client:
        epoch = client.stage_layout(
            name, site=site, capacity_bytes=capacity, leaving=leaving, reset=reset, expected_epoch=expect
        )
    session.output.data({"staged": name, "epoch": epoch}, str(epoch))


@command(
    "apply",
    examples="""
    mcr cluster layout apply
    mcr cluster layout apply --expect 1234      # what mcr cluster layout show said
    """,
)
@click.option("--expect", type=click.IntRange(0), metavar="EPOCH", help="The layout that was looked at.")
@with_session
def apply(session: Session, /, expect: int | None) -> None:
    """Put all that is staged into force, in one entry of the log; the nodes then move what must move.

    Refused (exit status 10) when somebody changed the layout since it was looked at, or nothing is staged.
    """
    with session.connect() as client:
        epoch = client.apply_layout(expected_epoch=expect)
    session.output.data({"epoch": epoch}, str(epoch))


def _record(found: "Layout", plan: "LayoutPlan | None") -> dict[str, JsonValue]:
    return {
        "epoch": found.epoch,
        "members": [_member_record(member) for member in found.members],
        "staged": [_member_record(member) for member in found.staged],
        "plan": None
        if plan is None
        else {
            "chunks": plan.chunks,
            "chunks_moved": plan.chunks_moved,
            "bytes_moved": plan.bytes_moved,
            "chunks_looked_at": plan.chunks_looked_at,
            "moves": [
                {"name": move.name, "bytes_in": move.bytes_in, "bytes_out": move.bytes_out}
                for move in plan.moves
            ],
        },
    }


def _member_record(member: "LayoutMember") -> dict[str, JsonValue]:
    return {
        "name": member.name,
        "site": member.site,
        "capacity_bytes": member.capacity_bytes,
        "share": member.share,
        "leaving": member.leaving,
        "awaited": member.awaited,
        "arranged": member.arranged,
    }


def _text(found: "Layout", plan: "LayoutPlan | None") -> str:
    lines = [f"epoch {found.epoch}", table(_rows(found.members))]
    if found.staged:
        lines += ["staged:", table(_rows(found.staged))]
    if plan is not None:
        part = "" if plan.chunks_looked_at == plan.chunks else f", from {plan.chunks_looked_at} of them"
        lines.append(
            f"would copy {size(plan.bytes_moved)}: {plan.chunks_moved} of {plan.chunks} chunks{part}"
        )
        lines += [
            f"  {move.name}: {size(move.bytes_in)} in, {size(move.bytes_out)} out"
            for move in plan.moves
            if move.bytes_in or move.bytes_out
        ]
    return "\n".join(lines)


def _rows(members: "Sequence[LayoutMember]") -> list[tuple[str, ...]]:
    return [
        (
            member.name,
            member.site or "-",
            size(member.capacity_bytes) if member.capacity_bytes else "its disk",
            f"{100 * member.share:.1f} %",
            "leaving" if member.leaving else "awaited" if member.awaited else "",
        )
        for member in members
    ]


for _command in (show, stage, apply):
    layout.add_command(_command)
