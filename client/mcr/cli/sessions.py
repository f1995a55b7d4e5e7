"""Commands about upload sessions: one version from many writers."""

from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack

import click

from mcr.cli import settings
from mcr.cli.commits import NO_BRANCH, read_document
from mcr.cli.common import common_of
from mcr.cli.forms import commit_object, count, moment, size, table, timestamp
from mcr.cli.options import BRANCH, REFERENCE, WITHIN, Group, ModelName, command, with_session, within
from mcr.cli.output import JsonObject
from mcr.cli.session import Session, session
from mcr.cli.times import parse_span
from mcr.cli.values import parameters_from
from mcr.durability import parse_durability
from mcr.errors import InvalidArgumentError
from mcr.references import check_name

if TYPE_CHECKING:
    from mcr._session_wire import Part, SessionStatus

LIFETIME_DEFAULT = "24h"
# Names of parts, one a line: as many as a request may carry.
EXPECTED_BYTES_MAX = 2 * 1024 * 1024
_MODEL = "mcr.cli.sessions.model"


class _BeginOptions(TypedDict):
    message: str
    branch: str
    expect: str | None
    pairs: tuple[str, ...]
    params: Path | None
    parent: str | None
    base: str | None
    expires: str
    request_id: str | None


@click.group(
    "session",
    cls=Group,
    invoke_without_command=True,
    subcommand_metavar="COMMAND [ARGS]...",
    epilog="""\b
Examples:
  mcr session vision/resnet50 begin step-1000 -m "step 1000"
  mcr session vision/resnet50 put step-1000 rank0.safetensors     # on each of many hosts
  mcr session vision/resnet50 seal step-1000 rank{0..7}.safetensors
  mcr session vision/resnet50                                     # the open ones""",
)
@click.argument("model", type=ModelName())
@click.pass_context
def sessions(context: click.Context, /, model: str) -> None:
    """Make one version of what many processes upload, each through any node.

    One begins a session, all put their parts, one seals it. Without a command, list the open ones.
    """
    context.meta[_MODEL] = model
    if context.invoked_subcommand is None:
        with session(common_of(context), what=context.command_path) as current:
            _list(current, model, ended=False)


def _model() -> str:
    return str(click.get_current_context().meta[_MODEL])


@command(
    "begin",
    examples="""
    mcr session vision/resnet50 begin step-1000 -m "step 1000" -p lr=1e-4
    NAME=$(mcr session vision/resnet50 begin -m "step 1000")     # makes a name up
    """,
)
@click.argument("name", required=False)
@click.option("--message", "-m", required=True, metavar="TEXT", help="What the version is.")
@click.option(
    "--branch",
    "-b",
    default="main",
    show_default=True,
    metavar="NAME",
    type=BRANCH,
    help="Branch to put the version on.",
)
@click.option(
    "--expect", metavar="VERSION", help="Only if the branch is at VERSION, now and when it is sealed."
)
@click.option("-p", "pairs", multiple=True, metavar="KEY=VALUE", help="Parameter to record.")
@click.option(
    "--params", type=click.Path(path_type=Path), metavar="FILE", help="Parameters from .json or .yaml."
)
@click.option(
    "--parent", metavar="REF", type=WITHIN, help="Version it descends from.  [default: head of the branch]"
)
@click.option(
    "--base", metavar="MODEL@REF", type=REFERENCE, help="Version that it was derived from, of any model."
)
@click.option(
    "--expires",
    default=LIFETIME_DEFAULT,
    show_default=True,
    metavar="SPAN",
    help="It ends by itself when no part comes for so long.",
)
@click.option("--request-id", metavar="ID", help="Name of this request; repeated, it changes nothing.")
@with_session
def begin(session: Session, name: str | None, **given: Unpack[_BeginOptions]) -> None:
    """Open a session, or join the open one that was begun alike. Prints its name.

    So all writers may begin it, with the same options, rather than wait for one who does.
    """
    model = _model()
    parameters = parameters_from(given["pairs"], read_document(given["params"]))
    span = parse_span(given["expires"])
    if span is None:
        raise InvalidArgumentError("--expires", f"{given['expires']!r} is no span such as 30m, 24h or 7d")
    expect, parent = given["expect"], given["parent"]
    if name is not None:
        check_name("session", name)
    with session.connect() as client:
        handle = client.model(model).session(
            name,
            branch=given["branch"],
            message=given["message"],
            expect=expect if expect in (None, NO_BRANCH) else within(model, expect or ""),
            params=parameters,
            parent=None if parent is None else within(model, parent),
            base=given["base"],
            lifetime_s=span.total_seconds(),
        )
        status = handle.begin(request_id=given["request_id"])
    session.output.data(session_object(status), status.name)
    session.output.talk(f"session {status.name} of {model} is open until {moment(status.expires_at_ms)}")


@command(
    "put",
    examples="""
    mcr session vision/resnet50 put step-1000 rank0.safetensors
    mcr session vision/resnet50 put step-1000 out/ --as optimizer/rank0
    """,
)
@click.argument("name", metavar="SESSION")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--as", "part", metavar="NAME", help="Its path in the version.  [default: name of PATH]")
@click.option("--request-id", metavar="ID", help="Name of this request; repeated, it changes nothing.")
@with_session
def put(session: Session, name: str, path: Path, part: str | None, request_id: str | None) -> None:
    """Upload the file or folder PATH and add it to a session. Prints its path in the version.

    Interrupted, the same command goes on where it stopped. The same bytes again change nothing; other bytes
    at the same place are a conflict.
    """
    where = path.resolve().name if part is None else part.rstrip("/")
    with session.connect() as client, session.output.bar() as tick:
        done = (
            client.model(_model())
            .session(name)
            .put(
                where,
                path,
                request_id=request_id,
                progress=lambda at: tick(at.phase, at.bytes_done, at.bytes_total),
            )
        )
    session.output.data(part_object(name, done), done.name)
    if done.already:
        session.output.talk(f"{done.name} was there already, the same")
    else:
        session.output.talk(
            f"{done.name}: {count(done.file_count, 'file')}, {size(done.bytes_total)}, "
            f"{size(done.bytes_sent)} sent"
        )


@command(
    "seal",
    examples="""
    mcr session vision/resnet50 seal step-1000 rank{0..7}.safetensors
    mcr session vision/resnet50 seal step-1000 --expected ranks.txt --wait 600
    mcr session vision/resnet50 seal step-1000               # whatever is there
    """,
)
@click.argument("name", metavar="SESSION")
@click.argument("parts", nargs=-1, metavar="[PART]...")
@click.option(
    "--expected",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Names of parts from a file, one a line.",
)
@click.option("--wait", type=float, default=0.0, metavar="SECONDS", help="Wait that long for missing parts.")
@click.option(
    "--durability",
    metavar="site|cluster|N",
    help="Copies to wait for: two, in two sites, or N.  [default: site]",
)
@click.option(
    "--request-id", metavar="ID", help="Name of this request; repeated, it returns the version it made."
)
@with_session
def seal(
    session: Session,
    name: str,
    parts: tuple[str, ...],
    expected: Path | None,
    wait: float,
    durability: str | None,
    request_id: str | None,
) -> None:
    """Make one version of all parts of a session. Prints its reference.

    With PARTs, only if the session has exactly these: what is missing is named. Sealed again, it prints the
    same version.
    """
    parse_durability(durability, "--durability")
    names = list(parts)
    if expected is not None:
        lines = settings.read_file(expected, length_bytes_max=EXPECTED_BYTES_MAX).decode("utf-8", "replace")
        names += [line.strip() for line in lines.splitlines() if line.strip()]
    with session.connect() as client:
        result = (
            client.model(_model())
            .session(name)
            .seal(
                expected=[each.rstrip("/") for each in names],
                wait_s=wait,
                durability=durability,
                request_id=request_id,
            )
        )
    session.output.data(commit_object(result), result.reference)
    session.output.talk(
        f"session {name} is {result.reference}: {count(result.file_count, 'file')}, "
        f"{size(result.bytes_total)}"
    )


@command("abort", examples="""mcr session vision/resnet50 abort step-1000 --reason "loss is nan" """)
@click.argument("name", metavar="SESSION")
@click.option("--reason", default="", metavar="TEXT", help="Why; kept while the session is known.")
@with_session
def abort(session: Session, name: str, reason: str) -> None:
    """End a session without a version; what was uploaded for it becomes garbage."""
    with session.connect() as client:
        client.model(_model()).session(name).abort(reason=reason)
    session.output.data({"model": _model(), "session": name, "state": "aborted", "reason": reason}, "")
    session.output.talk(f"session {name} was aborted")


@command(
    "list",
    examples="""
    mcr session vision/resnet50 list
    mcr session vision/resnet50 list --ended --json | jq -r 'select(.state == "expired") | .session'
    """,
)
@click.option("--ended", is_flag=True, help="Also those that ended, for a week or so.")
@with_session
def list_sessions(session: Session, ended: bool) -> None:
    """List the sessions of the model."""
    _list(session, _model(), ended=ended)


@command("show", examples="mcr session vision/resnet50 show step-1000")
@click.argument("name", metavar="SESSION")
@with_session
def show(session: Session, name: str) -> None:
    """Show a session and the parts that were put into it."""
    with session.connect() as client:
        handle = client.model(_model()).session(name)
        status, parts = handle.status(), handle.parts()
    record = session_object(status) | {"parts": [part_object(name, part) for part in parts]}
    rows = [(part.name + "/" * part.is_folder, size(part.bytes_total), part.principal) for part in parts]
    session.output.data(record, "\n".join([_line(status), table(rows)]).strip())


def _list(session: Session, model: str, *, ended: bool) -> None:
    with session.connect() as client:
        found = client.model(model).sessions(ended=ended)
    for status in found:
        session.output.data(session_object(status), _line(status))
    if not found:
        session.output.talk(f"{model} has no {'' if ended else 'open '}session")


def _line(status: "SessionStatus") -> str:
    version = f" as v{status.number}" if status.number else ""
    until = f", until {moment(status.expires_at_ms)}" if status.state == "open" else ""
    return (
        f"{status.name}  {status.state}{version}{until}  {count(status.part_count, 'part')}, "
        f"{size(status.bytes_total)}  {status.branch}  {status.description}"
    ).rstrip()


def session_object(status: "SessionStatus") -> dict[str, str | int | None]:
    """Return a session as JSON."""
    return {
        "model": status.model,
        "session": status.name,
        "state": status.state,
        "branch": status.branch,
        "description": status.description,
        "creator": status.creator,
        "begun_at": timestamp(status.begun_at_ms),
        "expires_at": timestamp(status.expires_at_ms),
        "ended_at": timestamp(status.ended_at_ms) if status.ended_at_ms else None,
        "part_count": status.part_count,
        "file_count": status.file_count,
        "bytes_total": status.bytes_total,
        "version": f"v{status.number}" if status.number else None,
        "reason": status.reason,
    }


def part_object(name: str, part: "Part") -> JsonObject:
    """Return a part as JSON."""
    return {
        "session": name,
        "part": part.name,
        "is_folder": part.is_folder,
        "file_count": part.file_count,
        "bytes_total": part.bytes_total,
        "principal": part.principal,
        "put_at": timestamp(part.at_ms),
        "bytes_sent": part.bytes_sent,
        "chunks_new": part.chunks_new,
        "already": part.already,
    }


for _command in (begin, put, seal, abort, list_sessions, show):
    sessions.add_command(_command)
