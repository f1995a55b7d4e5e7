"""Commands about the background work of a cluster: repair and scrub."""

from typing import TYPE_CHECKING

import click

from mcr.cli.common import common_of
from mcr.cli.forms import moment, size, timestamp
from mcr.cli.options import Group, command, command_group, with_session
from mcr.cli.output import JsonValue
from mcr.cli.session import Session, session

if TYPE_CHECKING:
    from mcr.model import WorkersAsked, WorkerStatus

REPAIR, SCRUB = "repair", "scrub"
NODE_OPTION = click.option(
    "--node", metavar="NAME", default="", help="Only this node.  [default: all members]"
)
NOW_OPTION = click.option("--now", is_flag=True, help="As fast as it can; not held back for other work.")


@click.group(
    REPAIR,
    cls=Group,
    invoke_without_command=True,
    epilog="\b\nExamples:\n  mcr repair --dry-run\n  mcr repair --dry-run --json | jq .bytes_total",
)
@click.option("--dry-run", is_flag=True, help="Say what would be copied, and copy nothing.")
@NODE_OPTION
@click.pass_context
def repair(context: click.Context, /, dry_run: bool, node: str) -> None:
    """Restore copies of chunks that are gone, with a node or a disk.

    The nodes do it by themselves. With --dry-run, say what they would copy now.
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
        plan = client.plan_repair(member=node)
    record: dict[str, JsonValue] = {
        "chunks": plan.chunks,
        "bytes_total": plan.bytes_total,
        "chunks_lost": plan.chunks_lost,
        "silent": list(plan.silent),
    }
    text = f"{plan.chunks} chunks to copy, {size(plan.bytes_total)}; {plan.chunks_lost} lost"
    session.output.data(record, text)
    say_silent(session, plan.silent)


@command_group(SCRUB)
def scrub() -> None:
    """Read all chunks of the nodes, and heal what is damaged.

    The nodes do it by themselves, each once a week.
    """


@command(
    "status",
    examples="""
    mcr repair status
    mcr repair status --json | jq -r 'select(.state != "idle") | .member'
    """,
)
@NODE_OPTION
@with_session
def repair_status(session: Session, /, node: str) -> None:
    """Say how repair does, one line a node."""
    tell_status(session, REPAIR, node)


@command(
    "start",
    examples="""
    mcr repair start                 # a node is gone for good: do not wait whether it comes back
    mcr repair start --now           # and as fast as it can
    """,
)
@NOW_OPTION
@NODE_OPTION
@with_session
def repair_start(session: Session, /, now: bool, node: str) -> None:
    """Look for missing copies now, and restore them.

    Nodes that do not answer now are taken to be gone: what they hold is copied anew. Ends a pause. Does not
    wait for the end; see `mcr repair status`.
    """
    with session.connect() as client:
        tell_asked(session, "started", REPAIR, client.start_worker(REPAIR, member=node, at_full_speed=now))


@command(
    "pause",
    examples="""
    mcr repair pause
    mcr repair pause --node ams-1
    """,
)
@NODE_OPTION
@with_session
def repair_pause(session: Session, /, node: str) -> None:
    """Copy nothing more, until it is started again or the node restarts."""
    with session.connect() as client:
        tell_asked(session, "paused", REPAIR, client.pause_worker(REPAIR, member=node))


@command(
    "status",
    examples="""
    mcr scrub status
    mcr scrub status --json | jq '.counts.chunks_damaged'
    """,
)
@NODE_OPTION
@with_session
def scrub_status(session: Session, /, node: str) -> None:
    """Say how scrub does, one line a node."""
    tell_status(session, SCRUB, node)


@command(
    "start",
    examples="""
    mcr scrub start --node ams-1     # a disk is suspected
    mcr scrub start --now            # all of them, as fast as they can
    """,
)
@NOW_OPTION
@NODE_OPTION
@with_session
def scrub_start(session: Session, /, now: bool, node: str) -> None:
    """Read all chunks now, from the first on, rather than when it is due.

    Ends a pause: a run that was paused goes on where it was. Does not wait for the end; see `mcr scrub
    status`.
    """
    with session.connect() as client:
        tell_asked(session, "started", SCRUB, client.start_worker(SCRUB, member=node, at_full_speed=now))


@command(
    "pause",
    examples="""
    mcr scrub pause
    mcr scrub pause --node ams-1
    """,
)
@NODE_OPTION
@with_session
def scrub_pause(session: Session, /, node: str) -> None:
    """Read nothing more, until it is started again or the node restarts."""
    with session.connect() as client:
        tell_asked(session, "paused", SCRUB, client.pause_worker(SCRUB, member=node))


def tell_status(session: Session, name: str, node: str) -> None:
    """Print how one kind of work does."""
    with session.connect() as client:
        found = client.workers(name, member=node)
    for worker in found.workers:
        session.output.data(_record(worker), _text(worker))
    say_silent(session, found.silent)


def _record(worker: "WorkerStatus") -> dict[str, JsonValue]:
    return {
        "member": worker.member,
        "worker": worker.name,
        "state": worker.state,
        "doing": worker.doing,
        "done": worker.done,
        "total": worker.total,
        "runs": worker.runs,
        "started_at": timestamp(worker.started_ms) if worker.started_ms else None,
        "ended_at": timestamp(worker.ended_ms) if worker.ended_ms else None,
        "error": worker.error,
        "counts": dict(worker.counts),
        "findings": list(worker.findings),
    }


def _text(worker: "WorkerStatus") -> str:
    parts = [f"{worker.member}  {worker.state}"]
    if worker.doing:
        parts.append(f"{worker.done} of {worker.total} {worker.doing}")
    if worker.ended_ms >= worker.started_ms > 0:
        parts.append(f"last run ended {moment(worker.ended_ms)}")
    parts += [f"{name.replace('_', ' ')} {value}" for name, value in worker.counts.items()]
    lines = ["  ".join(parts), *(f"  {sentence}" for sentence in worker.findings)]
    if worker.error and worker.error not in worker.findings:
        lines.append(f"  the last run failed: {worker.error}")
    return "\n".join(lines)


def tell_asked(session: Session, done: str, name: str, asked: "WorkersAsked") -> None:
    """Print who did what was asked."""
    record: dict[str, JsonValue] = {
        done: name,
        "members": list(asked.members),
        "silent": list(asked.silent),
    }
    session.output.data(record, "\n".join(asked.members))
    say_silent(session, asked.silent)


def say_silent(session: Session, silent: tuple[str, ...]) -> None:
    """Say who did not answer."""
    if silent:
        session.output.talk(f"no answer from {', '.join(silent)}")


for _command in (repair_status, repair_start, repair_pause):
    repair.add_command(_command)
for _command in (scrub_status, scrub_start, scrub_pause):
    scrub.add_command(_command)
