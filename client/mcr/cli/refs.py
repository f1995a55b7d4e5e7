"""Commands about the names of versions: branch, tag, channel, rollback."""

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import TypedDict, Unpack

import click

from mcr import signing
from mcr.cli.forms import instant, move_object, move_row, ref_object, ref_row, table, version_object
from mcr.cli.options import BRANCH, CHANNEL, TAG, WITHIN, ModelName, command, with_session, within
from mcr.cli.session import Session
from mcr.cli.times import parse_time
from mcr.errors import InvalidArgumentError, ReferenceNotFoundError
from mcr.model import ParameterValue, Ref, RefKind
from mcr.policy_rules import ALL, AUTOMATIC
from mcr.references import DEFAULT_BRANCH, check_name
from mcr.signatures import is_public_key

HISTORY_MOVES_DEFAULT = 100
PREVIOUS, LAST_GOOD = "previous", "last-good"
_LIST_RULES = ("actors", "metrics", "available", "signers")
_TWO_PERSON = "two-person"


class _ChannelOptions(TypedDict):
    target: str | None
    reason: str | None
    expect_generation: int | None
    history: bool
    limit: int | None
    at: str | None
    rules: tuple[str, ...]
    approve: bool
    withdraw: bool
    freeze: str | None
    unfreeze: bool


def _print_refs(session: Session, model: str, kind: RefKind) -> None:
    with session.connect() as client:
        found = client.model(model).refs(kind)
    for ref, line in zip(found, table(map(ref_row, found)).splitlines(), strict=True):
        session.output.data(ref_object(ref), line)
    if not found:
        session.output.talk(f"{model} has no {kind} yet")


def _print_moved(session: Session, ref: Ref, what: str) -> None:
    session.output.data(ref_object(ref), f"{ref.model}@{ref.version}")
    session.output.talk(f"{ref.kind} {ref.name} {what} {ref.version}")


@command(
    "branch",
    examples="""
    mcr branch vision/resnet50                           # list
    mcr branch vision/resnet50 experiment --at v11       # make
    mcr branch vision/resnet50 experiment --delete
    """,
)
@click.argument("model", type=ModelName())
@click.argument("name", type=BRANCH, required=False)
@click.option("--at", metavar="REF", type=WITHIN, help="Where to make it.  [default: head of main]")
@click.option("--delete", is_flag=True, help="Delete it; its versions stay.")
@click.option("--reason", metavar="TEXT", help="Why it is deleted; kept in its history.")
@with_session
def branch(
    session: Session, model: str, name: str | None, at: str | None, delete: bool, reason: str | None
) -> None:
    """List, make or delete branches.

    A branch follows the commits made on it.
    """
    _only_with("NAME", name is not None, {"--at": at is not None, "--delete": delete})
    _only_with("--delete", delete, {"--reason": reason is not None})
    if delete and at is not None:
        raise InvalidArgumentError("--at", "it does not go with --delete")
    if name is None:
        _print_refs(session, model, RefKind.BRANCH)
        return
    check_name("branch", name)
    origin = None if at is None else within(model, at)
    with session.connect() as client:
        handle = client.model(model)
        if not delete:
            _print_moved(session, handle.create_branch(name, at=origin), "is at")
            return
        handle.delete_branch(name, reason=reason or "")
    session.output.data({"model": model, "kind": "branch", "name": name, "deleted": True}, "")
    session.output.talk(f"deleted branch {name}; its versions stay")


@command(
    "tag",
    examples="""
    mcr tag vision/resnet50                      # list
    mcr tag vision/resnet50 release-1 v12
    """,
)
@click.argument("model", type=ModelName())
@click.argument("name", type=TAG, required=False)
@click.argument("reference", metavar="[REF]", type=WITHIN, required=False)
@with_session
def tag(session: Session, model: str, name: str | None, reference: str | None) -> None:
    """List tags, or name a version for ever.

    REF is the head of main by default. A tag never moves.
    """
    if name is None:
        _print_refs(session, model, RefKind.TAG)
        return
    check_name("tag", name)
    target = None if reference is None else within(model, reference)
    with session.connect() as client:
        made = client.model(model).create_tag(name, target)
    _print_moved(session, made, "names")


@command(
    "channel",
    examples="""
    mcr channel vision/resnet50                                        # list
    mcr channel vision/resnet50 production --set v12 --reason "eval passed"
    mcr channel vision/resnet50 production --at 2h                     # where it was two hours ago
    mcr channel vision/resnet50 production --history
    mcr channel vision/resnet50 production --protect branch=main --protect metrics=loss,acc
    mcr channel vision/resnet50 production --protect signers=ci.pub.pem,lead.pub.pem
    mcr channel vision/resnet50 production --protect off
    mcr channel vision/resnet50 production --approve                   # of a channel with two-person
    mcr channel vision/resnet50 production --freeze all --reason "audit"
    """,
)
@click.argument("model", type=ModelName())
@click.argument("name", type=CHANNEL, required=False)
@click.option(
    "--set", "target", metavar="REF", type=WITHIN, help="Point it at a version; made when it is new."
)
@click.option("--reason", metavar="TEXT", help="Why it moves; kept in its history.")
@click.option(
    "--expect-generation",
    type=click.IntRange(min=0),
    metavar="N",
    help="Move it only from its Nth place; 0: only if it is new.",
)
@click.option("--history", is_flag=True, help="List its moves, newest first.")
@click.option("-n", "limit", type=click.IntRange(min=1), metavar="N", help="At most N moves.  [default: 100]")
@click.option("--at", metavar="TIME", help="Where it was then: ISO 8601 with zone, or 2h for two hours ago.")
@click.option(
    "--protect",
    "rules",
    multiple=True,
    metavar="RULE",
    help="Rule for moves: actors=A,B, branch=NAME, metrics=A,B, available=SITE,SITE (all bytes are there), "
    "signers=FILE,FILE (public keys that must have signed it; see mcr sign) or "
    "two-person (somebody else approves); may be repeated. off: none.",
)
@click.option("--approve", is_flag=True, help="Let the move happen that somebody else asked for.")
@click.option("--withdraw", is_flag=True, help="Drop the move that waits for approval.")
@click.option(
    "--freeze",
    type=click.Choice([AUTOMATIC, ALL]),
    help="automatic: no policy moves it. all: nor does anybody move it forward.",
)
@click.option("--unfreeze", is_flag=True, help="End a freeze, also that of a policy.")
@with_session
def channel(session: Session, model: str, name: str | None, **given: Unpack[_ChannelOptions]) -> None:
    """List, show, move or protect channels.

    A channel says what a fleet should be running.
    """
    target, at, rules = given["target"], given["at"], given["rules"]
    reason, generation, limit = given["reason"], given["expect_generation"], given["limit"]
    actions = {
        "--set": target is not None,
        "--history": given["history"],
        "--at": at is not None,
        "--protect": bool(rules),
        "--approve": given["approve"],
        "--withdraw": given["withdraw"],
        "--freeze": given["freeze"] is not None,
        "--unfreeze": given["unfreeze"],
    }
    _at_most_one(actions)
    _only_with("NAME", name is not None, actions)
    _only_with("--set", target is not None, {"--expect-generation": generation is not None})
    takes_reason = target is not None or given["freeze"] is not None or given["unfreeze"]
    _only_with("--set, --freeze or --unfreeze", takes_reason, {"--reason": reason is not None})
    _only_with("--history", given["history"], {"-n": limit is not None})
    if name is None:
        _print_refs(session, model, RefKind.CHANNEL)
        return
    check_name("channel", name)
    if target is not None:
        where = within(model, target)
        with session.connect() as client:
            handle = client.model(model).channel(name)
            moved = handle.set(where, reason=reason or "", expected_generation=generation)
        _print_set(session, moved)
    elif given["history"]:
        _print_history(session, model, name, limit or HISTORY_MOVES_DEFAULT)
    elif at is not None:
        _print_past(session, model, name, parse_time(at, now=datetime.now(UTC)))
    elif actions["--approve"] or actions["--withdraw"] or actions["--freeze"] or actions["--unfreeze"]:
        _guard(session, model, name, given)
    else:
        _show_channel(session, model, name, rules)


def _print_set(session: Session, ref: Ref) -> None:
    if ref.pending is None:
        _print_moved(session, ref, "is at")
        return
    session.output.data(ref_object(ref), f"{ref.model}@{ref.version}")
    asked = f"v{ref.pending['number']}"
    session.output.talk(
        f"channel {ref.name} stays at {ref.version}: {asked} waits until somebody else says "
        f"mcr channel {ref.model} {ref.name} --approve"
    )


def _guard(session: Session, model: str, name: str, given: _ChannelOptions) -> None:
    """Approve or drop what waits, freeze or unfreeze."""
    reason = given["reason"] or ""
    with session.connect() as client:
        handle = client.model(model).channel(name)
        if given["approve"]:
            ref, what = handle.approve(), "is at"
        elif given["withdraw"]:
            ref, what = handle.withdraw(), "has no waiting move any more, and is at"
        elif given["freeze"] is not None:
            ref, what = handle.freeze(given["freeze"], reason=reason), f"is frozen ({given['freeze']}) at"
        else:
            ref, what = handle.unfreeze(reason=reason), "is not frozen, and is at"
    _print_moved(session, ref, what)


def _show_channel(session: Session, model: str, name: str, rules: tuple[str, ...]) -> None:
    parsed = parse_rules(rules)
    with session.connect() as client:
        handle = client.model(model).channel(name)
        ref = handle.protect(parsed) if rules else handle.get()
    session.output.data(ref_object(ref), table([ref_row(ref)]))
    if rules:
        session.output.talk(f"channel {name} is {'protected' if parsed else 'no longer protected'}")


def _print_history(session: Session, model: str, name: str, limit: int) -> None:
    with session.connect() as client:
        moves = client.model(model).channel(name).history(limit=limit)
    for move, line in zip(moves, table(map(move_row, moves)).splitlines(), strict=True):
        session.output.data(move_object(model, RefKind.CHANNEL, name, move), line)


def _print_past(session: Session, model: str, name: str, at: datetime) -> None:
    with session.connect() as client:
        move = client.model(model).channel(name).at(at)
    if move is None or not move.number:
        raise ReferenceNotFoundError(model, f"channel:{name}", f"it pointed nowhere at {instant(at)}")
    session.output.data(
        dict(move_object(model, RefKind.CHANNEL, name, move)) | {"at": instant(at)}, table([move_row(move)])
    )


def parse_rules(texts: Iterable[str]) -> dict[str, ParameterValue]:
    """Return the protection that `--protect` arguments ask for; empty for `off`.

    Raises:
        InvalidArgumentError: an unknown rule, one without a value, one given twice, or `off` beside others.
        InvalidKeyError: a file of a signer holds no public key.
    """
    found: dict[str, ParameterValue] = {}
    given = list(texts)
    if "off" in given:
        if len(given) > 1:
            raise InvalidArgumentError("--protect", "off does not go with other rules")
        return found
    for text in given:
        if text == _TWO_PERSON:
            found["two_person"] = True
            continue
        rule, equals, value = text.partition("=")
        if not equals or rule not in (*_LIST_RULES, "branch"):
            forms = "actors=A,B or branch=NAME or metrics=A,B or available=SITE,SITE or signers=FILE,FILE "
            forms += "or two-person or off"
            raise InvalidArgumentError("--protect", f"{text!r} is not {forms}")
        if rule in found:
            raise InvalidArgumentError("--protect", f"{rule} is given twice; separate names by commas")
        if rule == "branch":
            found[rule] = check_name("branch", value)
            continue
        names = [part.strip() for part in value.split(",")]
        if not all(names):
            raise InvalidArgumentError("--protect", f"{text!r} has an empty name")
        found[rule] = _public_keys(names) if rule == "signers" else names
    return found


def _public_keys(names: Iterable[str]) -> list[str]:
    """Return public keys in hexadecimal; each was given as a file, or in hexadecimal as it is shown."""
    return [name if is_public_key(name) else signing.public_key_of(Path(name)).hex() for name in names]


@command(
    "rollback",
    examples="""
    mcr rollback vision/resnet50 --channel production --reason "p99 up"
    mcr rollback vision/resnet50 --channel production --to last-good
    mcr rollback vision/resnet50 --branch main --to v11
    """,
)
@click.argument("model", type=ModelName())
@click.option("--channel", "channel_name", metavar="NAME", type=CHANNEL, help="Move this channel back.")
@click.option(
    "--branch", "branch_name", metavar="NAME", type=BRANCH, help="Restore on this branch.  [default: main]"
)
@click.option(
    "--to",
    default=PREVIOUS,
    show_default=True,
    metavar="REF|previous|last-good",
    type=WITHIN,
    help="Where to; last-good (channels only) is the nearest earlier one that was never rolled back from.",
)
@click.option("--reason", default="", metavar="TEXT", help="Why; kept in the history.")
@with_session
def rollback(
    session: Session, model: str, channel_name: str | None, branch_name: str | None, to: str, reason: str
) -> None:
    """Go back to an earlier version.

    A channel moves back. A branch gets a new version with the content of the earlier one. Nothing is lost.
    Prints the reference of the version now in force.
    """
    _at_most_one({"--channel": channel_name is not None, "--branch": branch_name is not None})
    if channel_name is None and to == LAST_GOOD:
        raise InvalidArgumentError("--to", "last-good is known for channels only; add --channel NAME")
    target = to if to in (PREVIOUS, LAST_GOOD) else within(model, to)
    if channel_name is not None:
        check_name("channel", channel_name)
        with session.connect() as client:
            ref = client.model(model).channel(channel_name).rollback(to=target, reason=reason)
        _print_moved(session, ref, "is back at")
        return
    name = check_name("branch", branch_name if branch_name is not None else DEFAULT_BRANCH)
    with session.connect() as client:
        version = client.model(model).rollback(branch=name, to=target, reason=reason)
    session.output.data(version_object(version), version.reference)
    session.output.talk(f"branch {name} is at {version.name}, with the content of v{version.target_number}")


def _at_most_one(given: dict[str, bool]) -> None:
    named = [option for option, is_given in given.items() if is_given]
    if len(named) > 1:
        raise InvalidArgumentError(named[1], f"it does not go with {named[0]}")


def _only_with(needed: str, is_there: bool, given: dict[str, bool]) -> None:
    for option, is_given in given.items():
        if is_given and not is_there:
            raise InvalidArgumentError(option, f"it needs {needed}")
