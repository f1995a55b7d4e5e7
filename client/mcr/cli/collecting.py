"""The commands about garbage collection: gc."""

import click

from mcr.cli.common import common_of
from mcr.cli.forms import count, size
from mcr.cli.options import Group, command, with_session
from mcr.cli.output import JsonObject
from mcr.cli.session import Session, session
from mcr.cli.upkeep import NODE_OPTION, NOW_OPTION, say_silent, tell_asked, tell_status
from mcr.keeping import NodeCollection

COLLECT = "gc"


@click.group(
    COLLECT,
    cls=Group,
    invoke_without_command=True,
    epilog="\b\nExamples:\n  mcr gc --dry-run\n  mcr gc --dry-run --json | jq .bytes_total\n  mcr gc start",
)
@click.option("--dry-run", is_flag=True, help="Say what would go and why, and take nothing.")
@NODE_OPTION
@click.pass_context
def collect(context: click.Context, /, dry_run: bool, node: str) -> None:
    """Forget chunks that no version needs, and give their space back.

    The nodes do it by themselves. With --dry-run, say what they would take now.
    """
    if context.invoked_subcommand is not None:
        if dry_run or node:
            raise click.UsageError("--dry-run and --node stand alone here, or behind a command")
        return
    if not dry_run:
        raise click.UsageError("no command given: status, start, pause, or --dry-run")
    with session(common_of(context), what=context.command_path) as current:
        _plan(current, node)


def _plan(session: Session, node: str) -> None:
    with session.connect() as client:
        plan = client.plan_collection(member=node)
    for each in plan.nodes:
        session.output.data(_object(each), _text(each))
    say_silent(session, plan.silent)


def _object(node: NodeCollection) -> JsonObject:
    return {
        "member": node.member,
        "chunks": node.chunks,
        "bytes_total": node.bytes_total,
        "chunks_deleted": node.chunks_deleted,
        "bytes_deleted": node.bytes_deleted,
        "chunks_waiting": node.chunks_waiting,
        "bytes_waiting": node.bytes_waiting,
        "bytes_dead": node.bytes_dead,
        "versions": list(node.versions),
    }


def _text(node: NodeCollection) -> str:
    never = node.chunks - node.chunks_deleted
    lines = [
        f"{node.member}  {count(node.chunks, 'chunk')} would go, {size(node.bytes_total)}",
        f"  of deleted versions: {count(node.chunks_deleted, 'chunk')}, {size(node.bytes_deleted)}",
        f"  of no version ever: {count(never, 'chunk')}, {size(node.bytes_total - node.bytes_deleted)}",
        f"  not yet, brought or counted on lately: {count(node.chunks_waiting, 'chunk')}, "
        f"{size(node.bytes_waiting)}",
        f"  forgotten already, back when files are rewritten: {size(node.bytes_dead)}",
    ]
    if node.versions:
        lines.append(f"  versions: {', '.join(node.versions)}")
    return "\n".join(lines)


@command(
    "status",
    examples="""
    mcr gc status
    mcr gc status --json | jq '.counts.bytes_dead'
    """,
)
@NODE_OPTION
@with_session
def collect_status(session: Session, /, node: str) -> None:
    """Say how garbage collection does, one line a node."""
    tell_status(session, COLLECT, node)


@command(
    "start",
    examples="""
    mcr gc start
    mcr gc start --now               # as fast as it can
    """,
)
@NOW_OPTION
@NODE_OPTION
@with_session
def collect_start(session: Session, /, now: bool, node: str) -> None:
    """Mark garbage now, if the last mark is old enough, and collect it.

    What was brought or counted on since the mark before the last one stays until the next one. Ends a pause.
    Does not wait for the end, but in an embedded store; see `mcr gc status`.
    """
    with session.connect() as client:
        tell_asked(session, "started", COLLECT, client.start_worker(COLLECT, member=node, at_full_speed=now))


@command(
    "pause",
    examples="""
    mcr gc pause
    mcr gc pause --node ams-1
    """,
)
@NODE_OPTION
@with_session
def collect_pause(session: Session, /, node: str) -> None:
    """Forget nothing more, until it is started again or the node restarts."""
    with session.connect() as client:
        tell_asked(session, "paused", COLLECT, client.pause_worker(COLLECT, member=node))


for _command in (collect_status, collect_start, collect_pause):
    collect.add_command(_command)
