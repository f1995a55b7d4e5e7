"""The command about rollback policies: policy."""

from importlib.resources import files
from pathlib import Path
from typing import TypedDict, Unpack, cast

import click

from mcr.cli.forms import moment, table, timestamp
from mcr.cli.options import ModelName, command, with_session
from mcr.cli.output import JsonObject, JsonValue, one_line, to_json
from mcr.cli.session import Session
from mcr.cli.yaml_text import key_lines, parse_yaml
from mcr.errors import InvalidArgumentError, SourceUnreadableError
from mcr.model import Parameters
from mcr.policy import Policy, PolicyDecision, PolicyState
from mcr.policy_rules import parse_rules
from mcr.references import check_name

# A policy has a dozen short fields; a file beyond this is another one.
FILE_BYTES_MAX = 64 * 1024
WHY_DECISIONS_MAX = 10
_OUTCOMES = {"rolled_back": "rolled back", "would_roll_back": "would roll back", "held": "held back"}


class _Options(TypedDict):
    file: Path | None
    dry_run: bool
    delete: bool
    why: bool
    schema: bool


@command(
    "policy",
    examples="""
    mcr policy vision/resnet50                                       # list
    mcr policy vision/resnet50 loss-guard --set policy-loss.yaml
    mcr policy vision/resnet50 loss-guard --set policy-loss.yaml --dry-run
    mcr policy vision/resnet50 loss-guard --why                      # what it did, or why nothing
    mcr policy vision/resnet50 loss-guard --delete
    mcr policy vision/resnet50 --schema > policy.schema.json
    """,
)
@click.argument("model", type=ModelName())
@click.argument("name", required=False)
@click.option(
    "--set",
    "file",
    type=click.Path(path_type=Path, exists=False),
    metavar="FILE.yaml",
    help="Set it, or replace it.",
)
@click.option("--dry-run", is_flag=True, help="With --set: it decides and says so, but moves nothing.")
@click.option("--delete", is_flag=True, help="Delete it; what it moved keeps the evidence.")
@click.option("--why", is_flag=True, help="Say what it decided, on what evidence, or why nothing.")
@click.option("--schema", is_flag=True, help="Print the JSON schema of policy files.")
@with_session
def policy(session: Session, model: str, name: str | None, **given: Unpack[_Options]) -> None:
    """List, show, set, explain or delete rollback policies.

    A policy watches the metrics that are reported of a channel or branch, and rolls it back. An example with
    every field explained: docs/examples/policy-loss.yaml.
    """
    if given["schema"]:
        session.output.data({"schema": schema_text()}, schema_text())
        return
    _check_options(name, given)
    if name is None:
        _print_list(session, model)
        return
    check_name("policy", name)
    if given["file"] is not None:
        rules = read_policy(given["file"])
        if given["dry_run"]:
            rules = {**rules, "dry_run": True}
        with session.connect() as client:
            client.model(model).set_policy(name, rules)
        session.output.data({"model": model, "policy": name, "rules": cast("JsonValue", rules)}, "")
        session.output.talk(f"policy {name} is set" + (" as a dry run" if rules.get("dry_run") else ""))
        return
    if given["delete"]:
        with session.connect() as client:
            client.model(model).delete_policy(name)
        session.output.data({"model": model, "policy": name, "deleted": True}, "")
        session.output.talk(f"deleted policy {name}")
        return
    with session.connect() as client:
        state = client.model(model).policy(name, decisions=WHY_DECISIONS_MAX if given["why"] else 0)
    session.output.data(_state_object(state), _state_text(state, with_why=given["why"]))


def _check_options(name: str | None, given: _Options) -> None:
    asked = {"--set": given["file"] is not None, "--delete": given["delete"], "--why": given["why"]}
    named = [option for option, is_given in asked.items() if is_given]
    if len(named) > 1:
        raise InvalidArgumentError(named[1], f"it does not go with {named[0]}")
    if named and name is None:
        raise InvalidArgumentError(named[0], "it needs NAME")
    if given["dry_run"] and given["file"] is None:
        raise InvalidArgumentError("--dry-run", "it needs --set")


def schema_text() -> str:
    """Return the JSON schema of policy files, which is a part of the distribution."""
    return files("mcr").joinpath("policy.schema.json").read_text().rstrip()


def read_policy(path: Path) -> Parameters:
    """Read a policy's file.

    Raises:
        SourceUnreadableError: it cannot be read.
        InvalidArgumentError: it is no policy; names the line.
    """
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise SourceUnreadableError(str(path), error.strerror or str(error)) from error
    if len(data) > FILE_BYTES_MAX:
        raise InvalidArgumentError(str(path), f"it is longer than {FILE_BYTES_MAX} bytes")
    try:
        text = data.decode()
        value = parse_yaml(text)
    except UnicodeDecodeError as error:
        raise InvalidArgumentError(str(path), "it is not UTF-8") from error
    except ValueError as error:
        raise InvalidArgumentError(str(path), str(error)) from error
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise InvalidArgumentError(str(path), "line 1: it is no mapping of fields")
    try:
        parse_rules(value)
    except InvalidArgumentError as error:
        line = key_lines(text).get(error.argument, 1)
        raise InvalidArgumentError(f"{path}: line {line}: {error.argument}", error.reason) from error
    return value


def _print_list(session: Session, model: str) -> None:
    with session.connect() as client:
        found = client.model(model).policies()
    for one, line in zip(found, table(map(_row, found)).splitlines(), strict=True):
        session.output.data(_object(one), line)
    if not found:
        session.output.talk(f"{model} has no policy yet")


def _object(one: Policy) -> dict[str, JsonValue]:
    return {
        "model": one.model,
        "policy": one.name,
        "rules": cast("JsonValue", one.rules),
        "revision": one.revision,
        "set_by": one.set_by,
        "set_at": timestamp(one.set_at_ms),
        "set_at_ms": one.set_at_ms,
    }


def _row(one: Policy) -> tuple[str, ...]:
    rules = dict(one.rules)
    rules.pop("description", None)
    watched = next(f"{kind}:{rules.pop(kind)}" for kind in ("channel", "branch") if kind in rules)
    said = ", ".join(f"{field}: {value}" for field, value in rules.items())
    return (one.name, one_line(watched), one_line(said))


def _state_object(state: PolicyState) -> JsonObject:
    return _object(state.policy) | {
        "kind": state.kind,
        "ref": state.ref,
        "generation": state.generation or None,
        "version": f"v{state.number}" if state.number else None,
        "samples": state.sample_count,
        "bad": state.bad_count,
        "bad_in_a_row": state.streak,
        "why": list(state.why),
        "decisions": [_decision_object(decision) for decision in state.decisions],
    }


def _decision_object(decision: PolicyDecision) -> JsonObject:
    return {
        "outcome": decision.outcome,
        "version": f"v{decision.number}",
        "generation": decision.generation,
        "new_generation": decision.new_generation,
        "target": f"v{decision.target_number}" if decision.target_number else None,
        "reason": decision.reason,
        "evidence": cast("JsonValue", decision.evidence),
        "decided_at": timestamp(decision.at_ms),
        "decided_at_ms": decision.at_ms,
        "log_index": decision.log_index,
    }


def _state_text(state: PolicyState, *, with_why: bool) -> str:
    lines = [f"{field}: {_shown(value)}" for field, value in state.policy.rules.items()]
    if not with_why:
        return "\n".join(lines)
    lines = [f"- {sentence}" for sentence in state.why]
    for decision in state.decisions:
        target = f" to v{decision.target_number}" if decision.target_number else ""
        moved = f"{_OUTCOMES.get(decision.outcome, decision.outcome)} from v{decision.number}{target}"
        lines += ["", f"{moment(decision.at_ms)}  {moved}: {one_line(decision.reason)}"]
        lines += _evidence_lines(decision)
    return "\n".join(lines)


def _evidence_lines(decision: PolicyDecision) -> list[str]:
    samples = decision.evidence.get("samples")
    lines: list[str] = []
    for sample in samples if isinstance(samples, list) else ():
        said = cast("dict[str, JsonValue]", sample)
        at = moment(cast("int", said["at_ms"]))
        who, why = one_line(str(said["principal"])), one_line(str(said["why"]))
        lines.append(f"  {at}  {_shown(said['value'])} by {who}: {why}")
    return lines


def _shown(value: object) -> str:
    return one_line(value) if isinstance(value, str) else to_json(cast("JsonValue", value))
