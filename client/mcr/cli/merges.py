"""Commands about merges: merge, conflicts."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack, cast

import click

from mcr.cli import memory, settings
from mcr.cli.forms import count, size, table, timestamp, version_object
from mcr.cli.options import (
    BRANCH,
    MODEL,
    REFERENCE,
    WITHIN,
    ModelName,
    command,
    split_reference,
    with_session,
    within,
)
from mcr.cli.output import JsonObject, Tick, one_line
from mcr.cli.session import Session
from mcr.durability import parse_durability
from mcr.errors import DestinationError, InvalidArgumentError
from mcr.references import check_name

if TYPE_CHECKING:
    # For types only: the modules bring NumPy's helpers along.
    from mcr.merging.waiting import MergeOutcome, OpenConflict, WaitingMerge

Choices = dict[str, "str | Path"]
# 4096 decisions with long names.
RESOLVE_FILE_BYTES_MAX = 8 * 1024 * 1024
_RESOLVE_HELP = (
    "Decide by name: NAME=CHOICE, or a .json or .yaml file of NAME: CHOICE. CHOICE is ours, theirs, base, "
    "mean, weighted:W, slerp:T, ties:D, value:JSON (parameters) or the path of a file. May be repeated."
)


class _MergeOptions(TypedDict):
    into: str
    strategies: tuple[str, ...]
    resolutions: tuple[str, ...]
    message: str | None
    durability: str | None
    request_id: str | None
    replay: str | None


@command(
    "merge",
    examples="""
    mcr merge vision/resnet50 experiment                                  # into main
    mcr merge vision/resnet50 experiment --strategy 'classifier.*=theirs' --strategy '*=mean'
    mcr merge vision/resnet50 v14 --into release --strategy '*=ties:0.2' -m "both fine-tunes"
    mcr merge vision/resnet50 experiment --resolve choices.yaml
    mcr merge --replay vision/resnet50@v15                                # prove its bytes
    """,
)
@click.argument("model", type=MODEL, required=False)
@click.argument("source", type=WITHIN, required=False)
@click.option(
    "--into", default="main", show_default=True, metavar="BRANCH", type=BRANCH, help="Branch to merge into."
)
@click.option(
    "--strategy",
    "strategies",
    multiple=True,
    metavar="PATTERN=STRATEGY",
    help="For conflicts whose name fits: ours, theirs, base, mean, weighted:W, slerp:T (0 = ours, 1 = "
    "theirs) or ties:D (share kept). The first that fits decides. May be repeated.",
)
@click.option("--resolve", "resolutions", multiple=True, metavar="FILE|NAME=CHOICE", help=_RESOLVE_HELP)
@click.option("--message", "-m", metavar="TEXT", help="What this version is.")
@click.option("--durability", metavar="site|cluster|N", help="Copies to wait for; see commit.")
@click.option("--request-id", metavar="ID", help="Name of this request; see commit.")
@click.option(
    "--replay",
    metavar="VERSION",
    type=REFERENCE,
    help="Compute a merge again and compare; stores nothing. Goes alone.",
)
@with_session
def merge(session: Session, model: str | None, source: str | None, **given: Unpack[_MergeOptions]) -> None:
    """Merge a version into a branch, three-way.

    What only one side changed is taken. What both changed is a conflict: a file, a parameter or a single
    tensor, PATH:TENSOR. If any is left undecided nothing is published; the merge waits, see mcr conflicts,
    and the exit status is 10. Prints the reference of the new version.
    """
    memory.keep_freed()
    if given["replay"] is not None:
        if model is not None or given["strategies"] or given["resolutions"]:
            raise InvalidArgumentError("--replay", "it goes alone")
        _replay(session, given["replay"])
        return
    if model is None or source is None:
        raise InvalidArgumentError("MODEL SOURCE", "say what to merge, or --replay VERSION")
    name = ModelName().convert(model, None, None)
    check_name("branch", given["into"])
    parse_durability(given["durability"], "--durability")
    choices = read_choices(given["resolutions"])
    with session.connect() as client, session.output.bar() as tick:
        outcome = client.model(name).merge(
            within(name, source),
            into=given["into"],
            strategies=given["strategies"],
            choices=choices,
            message=given["message"],
            durability=given["durability"],
            request_id=given["request_id"],
            progress=_Counter(tick),
        )
    _print_outcome(session, outcome, given["into"])


class _Counter:
    """Adds up what was done, for a bar whose end is not known."""

    def __init__(self, tick: Tick) -> None:
        self._tick = tick
        self._done = 0

    def __call__(self, length_bytes: int) -> None:
        self._done += length_bytes
        self._tick("merge", self._done, self._done)


def _replay(session: Session, reference: str) -> None:
    name, what = split_reference(reference)
    with session.connect() as client, session.output.bar() as tick:
        version = client.model(name).replay(what, progress=_Counter(tick))
    record: JsonObject = {
        "reference": version.reference,
        "version": version.name,
        "manifest": version.manifest,
        "same": True,
    }
    session.output.data(record, version.reference)
    session.output.talk(
        f"computed again from v{version.parents[0]} and v{version.parents[1]}: the same bytes"
    )


def _print_outcome(session: Session, outcome: "MergeOutcome", into: str) -> None:
    version = outcome.version
    record = version_object(version) | {
        "made": outcome.made,
        "decided": outcome.decided,
        "bytes_sent": outcome.bytes_sent,
        "bytes_stored": outcome.bytes_stored,
        "chunks_new": outcome.chunks_new,
    }
    session.output.data(record, version.reference)
    if not outcome.made:
        session.output.talk(f"{into} has all of it already")
        return
    how = f"{count(outcome.decided, 'conflict')} decided" if outcome.decided else "no conflicts"
    session.output.talk(f"branch {into} is at {version.name}; {how}; {size(outcome.bytes_sent)} new")


class _ConflictsOptions(TypedDict):
    resolutions: tuple[str, ...]
    drop: bool
    save: Path | None
    durability: str | None


@command(
    "conflicts",
    examples="""
    mcr conflicts vision/resnet50                                          # merges that wait
    mcr conflicts vision/resnet50 3                                        # conflicts of merge 3
    mcr conflicts vision/resnet50 3 --resolve model.safetensors:head.weight=theirs
    mcr conflicts vision/resnet50 3 --resolve config.json=fixed/config.json
    mcr conflicts vision/resnet50 3 --save choices.yaml              # edit, then: --resolve choices.yaml
    mcr conflicts vision/resnet50 3 --drop
    """,
)
@click.argument("model", type=ModelName())
@click.argument("merge_id", metavar="[ID]", type=click.IntRange(min=1), required=False)
@click.option("--resolve", "resolutions", multiple=True, metavar="FILE|NAME=CHOICE", help=_RESOLVE_HELP)
@click.option("--drop", is_flag=True, help="Forget the merge and what was decided.")
@click.option(
    "--save",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write the conflicts as a .yaml file for --resolve, with what is decided.",
)
@click.option("--durability", metavar="site|cluster|N", help="Of the version; see commit.  [default: site]")
@with_session
def conflicts(session: Session, model: str, merge_id: int | None, **given: Unpack[_ConflictsOptions]) -> None:
    """List merges that wait, show their conflicts, decide them.

    Different people may decide different conflicts, whenever they like. The last decision publishes the merge
    and prints the reference of its version.
    """
    memory.keep_freed()
    actions = [bool(given["resolutions"]), given["drop"], given["save"] is not None]
    if sum(actions) > 1:
        raise InvalidArgumentError("--resolve, --drop, --save", "one at a time")
    if merge_id is None:
        if any(actions):
            raise InvalidArgumentError("ID", "say which merge; see: mcr conflicts MODEL")
        _print_waiting(session, model)
    elif given["drop"]:
        with session.connect() as client:
            client.model(model).drop_merge(merge_id)
        session.output.data({"model": model, "merge": merge_id, "dropped": True}, "")
        session.output.talk(f"merge {merge_id} of {model} is dropped")
    elif given["resolutions"]:
        _resolve(session, model, merge_id, given["resolutions"], given["durability"])
    else:
        with session.connect() as client:
            waiting = client.model(model).conflicts(merge_id)
        if given["save"] is not None:
            _save(given["save"], waiting)
            session.output.talk(f"wrote {given['save']}")
            return
        _print_conflicts(session, model, waiting)


def _resolve(
    session: Session, model: str, merge_id: int, texts: Sequence[str], durability: str | None
) -> None:
    parse_durability(durability, "--durability")
    choices = read_choices(texts)
    with session.connect() as client, session.output.bar() as tick:
        handle = client.model(model)
        into = handle.conflicts(merge_id).branch
        outcome = handle.resolve(merge_id, choices, durability=durability, progress=_Counter(tick))
        left = None if outcome is not None else handle.conflicts(merge_id)
    if outcome is not None:
        _print_outcome(session, outcome, into)
        return
    assert left is not None, "either it is published or something is left"
    session.output.data(_waiting_object(model, left), "")
    session.output.talk(f"merge {merge_id} waits: {count(left.open_count, 'conflict')} left")


def _print_waiting(session: Session, model: str) -> None:
    with session.connect() as client:
        found = client.model(model).merges()
    for each, line in zip(found, table(map(_waiting_row, found)).splitlines(), strict=True):
        session.output.data(_waiting_object(model, each), line)
    if not found:
        session.output.talk(f"no merge of {model} waits for decisions")


def _waiting_row(waiting: "WaitingMerge") -> tuple[str, ...]:
    return (
        str(waiting.merge),
        f"v{waiting.theirs} into {waiting.branch} (v{waiting.ours})",
        f"{waiting.open_count} of {count(waiting.conflict_count, 'conflict')} left",
        one_line(waiting.creator),
        timestamp(waiting.at_ms),
    )


def _waiting_object(model: str, waiting: "WaitingMerge") -> JsonObject:
    return {
        "model": model,
        "merge": waiting.merge,
        "branch": waiting.branch,
        "ours": f"v{waiting.ours}",
        "theirs": f"v{waiting.theirs}",
        "base": f"v{waiting.base}" if waiting.base else None,
        "conflicts": waiting.conflict_count,
        "open": waiting.open_count,
        "creator": waiting.creator,
        "created_at": timestamp(waiting.at_ms),
    }


def _print_conflicts(session: Session, model: str, waiting: "WaitingMerge") -> None:
    found = waiting.conflicts or ()
    for each, line in zip(found, table(map(_conflict_row, found)).splitlines(), strict=True):
        conflict = each.conflict
        record: JsonObject = {
            "model": model,
            "merge": waiting.merge,
            "name": conflict.name,
            "kind": str(conflict.kind),
            "base": conflict.base,
            "ours": conflict.ours,
            "theirs": conflict.theirs,
            "reason": conflict.reason,
            "choice": each.choice or None,
            "decider": each.decider or None,
            "decided_at": timestamp(each.at_ms) if each.choice else None,
        }
        session.output.data(record, line)
    session.output.talk(
        f"merge {waiting.merge}: v{waiting.theirs} into {waiting.branch} (v{waiting.ours}), "
        f"{count(waiting.open_count, 'conflict')} left"
    )


def _conflict_row(each: "OpenConflict") -> tuple[str, ...]:
    conflict = each.conflict
    sides = (("base", conflict.base), ("ours", conflict.ours), ("theirs", conflict.theirs))
    state = f"{one_line(each.choice)} by {one_line(each.decider)}" if each.choice else "undecided"
    return (
        one_line(conflict.name),
        *(f"{side}: {one_line(text) if text is not None else 'none'}" for side, text in sides),
        state + (f" ({one_line(conflict.reason)})" if conflict.reason and not each.choice else ""),
    )


def _save(path: Path, waiting: "WaitingMerge") -> None:
    lines = [
        f"# merge {waiting.merge}: v{waiting.theirs} into {waiting.branch} (v{waiting.ours})",
        "# ours, theirs, base, mean, weighted:W, slerp:T, ties:D, value:JSON, or the path of a file",
    ]
    for each in waiting.conflicts or ():
        line = f"{json.dumps(each.conflict.name)}: {json.dumps(each.choice or 'ours')}"
        lines.append(line if each.choice else f"# {line}")
    try:
        path.write_text("\n".join([*lines, ""]))
    except OSError as error:
        raise DestinationError(str(path), error.strerror or str(error)) from error


def read_choices(texts: Sequence[str]) -> Choices:
    """Return the choices of `--resolve` arguments, files read; later ones go before.

    Raises:
        InvalidArgumentError: one is neither a file nor NAME=CHOICE.
    """
    found: Choices = {}
    for text in texts:
        path = Path(text)
        if path.suffix.lower() in (".json", ".yaml", ".yml") and path.is_file():
            found |= _choices_of(path)
            continue
        name, choice = _named(text)
        found[name] = choice
    return found


def _named(text: str) -> tuple[str, "str | Path"]:
    from mcr.merging.choices import parse_choice

    # A name may hold equals signs, and so may a path: the first one that makes sense counts.
    at = text.find("=")
    while at > 0:
        word = text[at + 1 :]
        if word and parse_choice(word) is not None:
            return text[:at], word
        if word and Path(word).is_file():
            return text[:at], Path(word)
        at = text.find("=", at + 1)
    raise InvalidArgumentError(
        "--resolve", f"{text[:200]!r} is no .json or .yaml file, and not NAME=CHOICE (a file must exist)"
    )


def _choices_of(path: Path) -> Choices:
    from mcr.merging.choices import parse_choice

    data = settings.read_file(path, length_bytes_max=RESOLVE_FILE_BYTES_MAX)
    found: Choices = {}
    for name, value in _mapping(path, data).items():
        if isinstance(value, Mapping) and list(value) == ["value"]:
            found[name] = f"value:{json.dumps(value['value'])}"
        elif isinstance(value, str) and value:
            known = parse_choice(value) is not None
            # Beside the file that names it, so that both can be sent to somebody else.
            found[name] = value if known else path.parent / value
        else:
            raise InvalidArgumentError("--resolve", f"{path}: {name}: write a choice, or {{value: ...}}")
    return found


def _mapping(path: Path, data: bytes) -> dict[str, object]:
    from mcr.cli.yaml_text import parse_yaml

    try:
        text = data.decode()
        document = json.loads(text) if path.suffix.lower() == ".json" else parse_yaml(text)
    except ValueError as error:
        raise InvalidArgumentError("--resolve", f"{path}: {error}") from error
    if not isinstance(document, dict) or not all(isinstance(name, str) for name in document):
        raise InvalidArgumentError("--resolve", f"{path}: it holds no mapping of names to choices")
    return cast("dict[str, object]", document)
