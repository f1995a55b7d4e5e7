"""The commands about what stays and what goes: delete, trash, pin, unpin."""

from collections.abc import Iterable

import click

from mcr.cli.forms import count, moment, size, table, timestamp
from mcr.cli.options import REFERENCE, ModelName, command, command_group, split_reference, with_session
from mcr.cli.output import JsonObject, one_line
from mcr.cli.session import Session
from mcr.cli.times import parse_span
from mcr.errors import InvalidArgumentError
from mcr.keeping import Deleted, TrashItem
from mcr.references import Reference, Selector, check_model, is_id_prefix, parse_reference

_reason = click.option("--reason", default="", metavar="TEXT", help="Why; kept in the history.")
_keep = click.option(
    "--keep-for",
    metavar="SPAN",
    help="How long it can be restored, such as 2h or 30d.  [default: what the node was told, a week]",
)


@command(
    "delete",
    examples="""
    mcr delete vision/resnet50@v3 vision/resnet50@v5 --reason "diverged"
    mcr delete vision/resnet50@tag:release-1           # a tag, channel: or branch: likewise
    mcr delete vision/resnet50 --all --keep-for 30d    # the model, with all its names
    """,
)
@click.argument("references", metavar="REF...", type=REFERENCE, nargs=-1, required=True)
@click.option("--all", "everything", is_flag=True, help="The whole model: its names, then its versions.")
@_reason
@_keep
@with_session
def delete(
    session: Session, references: tuple[str, ...], everything: bool, reason: str, keep_for: str | None
) -> None:
    """Delete versions, a tag, a channel, a branch, or a whole model.

    A deleted version keeps its number and its record; its bytes go when its time in the trash is over. What a
    branch, tag or channel is at, what a channel may go back to, what is pinned or loaded somewhere is not
    deleted (exit status 10).
    """
    keep_s = None if keep_for is None else _seconds(keep_for)
    if everything:
        _delete_model(session, references, reason, keep_s)
        return
    parsed = [_named(text) for text in references]
    if names := [one for one in parsed if one.selector in (Selector.BRANCH, Selector.TAG, Selector.CHANNEL)]:
        if len(parsed) > 1:
            raise InvalidArgumentError("REF", f"{names[0]} is deleted by a command of its own")
        _delete_name(session, names[0], reason)
        return
    models = {one.model for one in parsed}
    if len(models) > 1:
        raise InvalidArgumentError("REF", f"they are of several models: {', '.join(sorted(models))}")
    (model,) = models
    with session.connect() as client:
        whats = [str(one).partition("@")[2] for one in parsed]
        deleted = client.model(model).delete(whats, reason=reason, keep_s=keep_s)
    _print_deleted(session, model, deleted)


def _seconds(text: str) -> float:
    span = parse_span(text)
    if span is None:
        raise InvalidArgumentError("--keep-for", f"{text!r} is no span, such as 2h or 30d")
    return span.total_seconds()


def _named(text: str) -> Reference:
    if "@" not in text:
        hint = f"name a version, as {text}@v3; with --all the whole model goes"
        raise InvalidArgumentError("REF", hint)
    reference = parse_reference(text)
    if reference.selector is Selector.ANY and not is_id_prefix(reference.name):
        what = reference.name
        raise InvalidArgumentError("REF", f"say what {what!r} is: tag:{what}, channel:{what}, branch:{what}")
    return reference


def _delete_model(session: Session, references: tuple[str, ...], reason: str, keep_s: float | None) -> None:
    if len(references) > 1:
        raise InvalidArgumentError("--all", "it takes one model")
    model = check_model(references[0])
    with session.connect() as client:
        deleted = client.model(model).delete_all(reason=reason, keep_s=keep_s)
    _print_deleted(session, model, deleted)


def _delete_name(session: Session, of: Reference, reason: str) -> None:
    with session.connect() as client:
        model = client.model(of.model)
        match of.selector:
            case Selector.TAG:
                model.delete_tag(of.name, reason=reason)
            case Selector.CHANNEL:
                model.delete_channel(of.name, reason=reason)
            case _:
                model.delete_branch(of.name, reason=reason)
    record: JsonObject = {"model": of.model, "kind": str(of.selector), "name": of.name, "deleted": True}
    session.output.data(record, "")
    session.output.talk(f"deleted {of.selector} {of.name}; the version it named stays")


def _print_deleted(session: Session, model: str, deleted: Deleted) -> None:
    record: JsonObject = {
        "model": model,
        "versions": [f"v{number}" for number in deleted.numbers],
        "until": timestamp(deleted.until_ms),
        "until_ms": deleted.until_ms,
    }
    session.output.data(record, "\n".join(f"{model}@v{number}" for number in deleted.numbers))
    session.output.talk(f"in the trash until {moment(deleted.until_ms)}; mcr trash restore brings it back")


@command_group("trash")
def trash() -> None:
    """See, restore or give up what was deleted."""


@command(
    "list",
    examples="""
    mcr trash list
    mcr trash list vision/resnet50 --json | jq -r .reference
    """,
)
@click.argument("model", type=ModelName(), required=False)
@with_session
def trash_list(session: Session, model: str | None) -> None:
    """List what is in the trash, what goes first before the rest."""
    with session.connect() as client:
        items = client.trash() if model is None else client.model(model).trash()
    for item, line in zip(items, table(map(_row, items)).splitlines(), strict=True):
        session.output.data(_object(item), line)
    if not items:
        session.output.talk("the trash is empty")


def _name(item: TrashItem) -> str:
    return item.model if item.whole_model else f"{item.model}@v{item.number}"


def _object(item: TrashItem) -> JsonObject:
    return {
        "reference": _name(item),
        "model": item.model,
        "version": None if item.whole_model else f"v{item.number}",
        "actor": item.actor,
        "reason": item.reason,
        "deleted_at": timestamp(item.deleted_at_ms),
        "until": timestamp(item.until_ms),
        "bytes_total": None if item.whole_model else item.bytes_total,
    }


def _row(item: TrashItem) -> tuple[str, ...]:
    what = f"{count(item.number, 'version')}" if item.whole_model else size(item.bytes_total)
    return (
        _name(item),
        what,
        f"until {moment(item.until_ms)}",
        one_line(item.actor),
        one_line(item.reason),
    )


@command(
    "restore",
    examples="""
    mcr trash restore vision/resnet50@v3 vision/resnet50@v5
    mcr trash restore vision/resnet50                    # a model that was deleted as a whole
    """,
)
@click.argument("references", metavar="REF...", type=REFERENCE, nargs=-1, required=True)
@with_session
def trash_restore(session: Session, references: tuple[str, ...]) -> None:
    """Bring versions, or whole models, back."""
    with session.connect() as client:
        for model, numbers in _by_model(references):
            restored = client.model(model).restore(numbers)
            names = [f"{model}@v{number}" for number in numbers] or [model]
            session.output.data({"restored": names, "count": restored}, "\n".join(names))


@command(
    "empty",
    examples="""
    mcr trash empty vision/resnet50@v3
    mcr trash empty vision/resnet50
    mcr trash empty --everything
    """,
)
@click.argument("references", metavar="[REF...]", type=REFERENCE, nargs=-1)
@click.option("--everything", is_flag=True, help="All that is in the trash, of all models.")
@with_session
def trash_empty(session: Session, references: tuple[str, ...], everything: bool) -> None:
    """Give up what is in the trash, for good.

    Its bytes go with the garbage; see `mcr gc status`.
    """
    if everything == bool(references):
        raise InvalidArgumentError("REF", "name models or versions, or give --everything")
    with session.connect() as client:
        purged = client.empty_trash() if everything else 0
        for model, numbers in _by_model(references):
            purged += client.model(model).empty_trash(numbers)
    session.output.data({"purged": purged}, "")
    session.output.talk(f"gave up {purged}")


def _by_model(references: Iterable[str]) -> list[tuple[str, list[int]]]:
    """Return models with the numbers of their versions that are named; none = the whole model."""
    found: dict[str, list[int]] = {}
    whole: list[str] = []
    for text in references:
        if "@" not in text:
            whole.append(check_model(text))
            continue
        reference = parse_reference(text)
        if reference.selector is not Selector.NUMBER:
            raise InvalidArgumentError("REF", f"{text!r} does not name a version by its number, as v3")
        found.setdefault(reference.model, []).append(reference.number)
    return [*found.items(), *((model, []) for model in whole)]


@command(
    "pin",
    examples="""
    mcr pin vision/resnet50@v12 --reason "in the paper"
    mcr pin vision/resnet50                          # list
    """,
)
@click.argument("reference", metavar="REF|MODEL", type=REFERENCE)
@_reason
@with_session
def pin(session: Session, reference: str, reason: str) -> None:
    """Keep a version from being deleted, or list the pins of a model."""
    if "@" not in reference:
        _print_pins(session, check_model(reference))
        return
    model, what = split_reference(reference)
    with session.connect() as client:
        handle = client.model(model)
        version = handle.show(what).name
        is_new = handle.pin(version, reason=reason)
    session.output.data({"reference": f"{model}@{version}", "already": not is_new}, f"{model}@{version}")
    session.output.talk("pinned" if is_new else "it was pinned before; its reason stays")


def _print_pins(session: Session, model: str) -> None:
    with session.connect() as client:
        pins = client.model(model).pins()
    rows = [
        (f"{model}@v{pin.number}", moment(pin.at_ms), one_line(pin.actor), one_line(pin.reason))
        for pin in pins
    ]
    for pin, line in zip(pins, table(rows).splitlines(), strict=True):
        record: JsonObject = {
            "reference": f"{model}@v{pin.number}",
            "actor": pin.actor,
            "reason": pin.reason,
            "pinned_at": timestamp(pin.at_ms),
        }
        session.output.data(record, line)
    if not pins:
        session.output.talk(f"{model} has no pinned version")


@command("unpin", examples="mcr unpin vision/resnet50@v12")
@click.argument("reference", metavar="REF", type=REFERENCE)
@with_session
def unpin(session: Session, reference: str) -> None:
    """Take the pin of a version away."""
    model, what = split_reference(reference)
    with session.connect() as client:
        was_pinned = client.model(model).unpin(what)
    session.output.data({"reference": reference, "already": not was_pinned}, "")
    session.output.talk("no longer pinned" if was_pinned else "it was not pinned")


for _command in (trash_list, trash_restore, trash_empty):
    trash.add_command(_command)
