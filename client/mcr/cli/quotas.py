"""The command about quotas."""

from typing import TYPE_CHECKING

import click

from mcr.cli.forms import size, timestamp
from mcr.cli.options import command, with_session
from mcr.cli.output import JsonValue
from mcr.cli.session import Session

if TYPE_CHECKING:
    from mcr.arrangement import Quota


@command(
    "quota",
    examples="""
    mcr quota                                     # all of them
    mcr quota vision --set 2000000000000          # all models of a namespace together
    mcr quota vision/resnet50 --set 500000000000
    mcr quota vision/resnet50 --clear
    """,
)
@click.argument("scope", metavar="MODEL|NAMESPACE", required=False, default="")
@click.option(
    "--set", "bytes_max", type=click.IntRange(0), metavar="BYTES", help="The versions' bytes at most."
)
@click.option("--clear", is_flag=True, help="No bound any more.")
@with_session
def quota(session: Session, /, scope: str, bytes_max: int | None, clear: bool) -> None:
    """Show, set or clear how many bytes the versions of a model or a namespace may have.

    The sizes of the files count, whatever is shared between versions or compressed; rollbacks count nothing,
    and what is deleted counts until it is given up for good. A commit that does not fit is refused (exit
    status 14).
    """
    is_change = clear or bytes_max is not None
    if is_change and not scope:
        raise click.UsageError("name the model or the namespace")
    if clear and bytes_max is not None:
        raise click.UsageError("either --set or --clear")
    with session.connect() as client:
        if is_change:
            made = client.set_quota(scope, bytes_max)
            found = [] if made is None else [made]
        else:
            found = client.quotas(scope)
    for one in found:
        session.output.data(_record(one), _text(one))
    if not found:
        session.output.talk(f"{scope} has no quota" if scope else "there are no quotas")


def _record(quota: "Quota") -> dict[str, JsonValue]:
    return {
        "scope": quota.scope,
        "bytes_max": quota.bytes_max,
        "bytes_used": quota.bytes_used,
        "counting": quota.is_counting,
        "set_by": quota.set_by,
        "set_at": timestamp(quota.set_at_ms),
    }


def _text(quota: "Quota") -> str:
    more = ", still counting" if quota.is_counting else ""
    return f"{quota.scope}  {size(quota.bytes_used)} of {size(quota.bytes_max)}{more}"
