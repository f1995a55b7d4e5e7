"""What a policy may say: by the code that reads it, and by the schema that is published, which agree."""

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mcr.cli.policies import read_policy
from mcr.errors import InvalidArgumentError, SourceUnreadableError
from mcr.model import RefKind
from mcr.policy_rules import FIELDS, PolicyRules, parse_rules

EXAMPLE = Path(__file__).parents[3] / "docs" / "examples" / "policy-loss.yaml"
SCHEMA = json.loads(files("mcr").joinpath("policy.schema.json").read_text())
VALIDATOR = jsonschema.Draft7Validator(SCHEMA)

_names = st.sampled_from(["production", "main", "v1", "a b", "", "x" * 97, "f" * 64])
_numbers = st.sampled_from([0, 2, 2.0, 0.02, -1, 1e300, True, "2"])
_counts = st.sampled_from([0, 1, 3, 100, 101, 2.5, True, "3"])
_spans = st.sampled_from(["10m", "1h30m", "1.5d", "10", "m", "", 600])
_flags = st.sampled_from([True, False, "yes", 1])
_references = st.sampled_from(
    ["previous", "last-good", "v3", "tag:stable", "tag:v3", "a b", "", "thing:x", 4]
)
_values: dict[str, st.SearchStrategy[Any]] = {
    "channel": _names,
    "branch": _names,
    "description": st.sampled_from(["", "why", 3]),
    "metric": st.sampled_from(["loss", "eval/loss", "", "x" * 97, 3]),
    "above": _numbers,
    "below": st.sampled_from([-5, "1", None]),
    "drop": st.sampled_from([0.02, 0, -1, "5%", "100%", "101%", "5", "0.5%", "x%", True]),
    "better": st.sampled_from(["higher", "lower", "", "best", None]),
    "baseline": st.sampled_from([0.9, "v3", "tag:stable", "a b", True]),
    "nan": _flags,
    "missing": _spans,
    "count": _counts,
    "consecutive": _counts,
    "window": _spans,
    "interval": _spans,
    "samples": _counts,
    "cool_down": _spans,
    "max_per_day": _counts,
    "never_past": _names,
    "target": _references,
    "freeze": st.sampled_from(["automatic", "all", "", "never"]),
    "dry_run": _flags,
    "abuv": st.just(2),
}
_valid = st.sampled_from(
    [
        {"channel": "production", "metric": "loss", "above": 2.0},
        {"branch": "main", "metric": "loss", "drop": 0.1},
        {"channel": "production", "missing": "10m"},
        {"channel": "production", "metric": "loss", "nan": True},
        {},
    ]
)
_changes = st.dictionaries(st.sampled_from(sorted(_values)), st.none(), max_size=3).flatmap(
    lambda chosen: st.fixed_dictionaries({name: _values[name] for name in chosen})
)


def accepted(values: dict[str, Any]) -> bool:
    try:
        parse_rules(values)
    except InvalidArgumentError:
        return False
    return True


@given(_valid, _changes)
def test_code_and_schema_take_the_same_policies(base: dict[str, Any], change: dict[str, Any]) -> None:
    values = base | change

    assert accepted(values) == VALIDATOR.is_valid(values), values


def test_the_schema_is_a_schema_and_knows_every_field() -> None:
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    assert tuple(SCHEMA["properties"]) == FIELDS


def test_the_example_is_valid_and_explains_every_field() -> None:
    text = EXAMPLE.read_text()
    rules = parse_rules(read_policy(EXAMPLE))

    assert (rules.kind, rules.ref, rules.metric, rules.above) == (RefKind.CHANNEL, "production", "loss", 2.0)
    assert [field for field in FIELDS if f"\n{field}: " not in text and f"\n# {field}: " not in text] == []


def test_every_field_that_the_example_shows_commented_out_is_right() -> None:
    shown = [line.removeprefix("# ") for line in EXAMPLE.read_text().splitlines() if line.startswith("# ")]
    fields = [line for line in shown if line.partition(":")[0] in FIELDS]
    base: dict[str, Any] = {"channel": "production", "metric": "loss", "above": 2.0, "drop": 0.1}
    for line in fields:
        [(name, value)] = yaml.safe_load(line).items()
        values = {key: one for key, one in base.items() if not (key == "channel" and name == "branch")}
        parse_rules(values | {name: value})
    assert len(fields) > len(FIELDS) // 2


def test_what_is_not_said_has_the_defaults_that_the_schema_names() -> None:
    rules = parse_rules({"channel": "production", "metric": "loss", "above": 2})

    assert rules == PolicyRules(kind=RefKind.CHANNEL, ref="production", metric="loss", above=2.0, count=1)
    defaults = {name: one["default"] for name, one in SCHEMA["properties"].items() if "default" in one}
    assert (defaults["count"], defaults["samples"], defaults["max_per_day"], defaults["target"]) == (
        rules.count,
        rules.samples,
        rules.per_day,
        rules.target,
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("channel: production\nmetric: loss\nabove: much\n", "line 3: above: it is not a number"),
        ("channel: production\n# a comment\n\nmissing: soon\n", "line 4: missing: it is no span"),
        ("channel: production\nchannel: canary\n", "line 2: key 'channel' is given twice"),
        ("channel: [production\n", "line 2: expected"),
        ("- channel\n", "line 1: it is no mapping"),
        ("metric: loss\nabove: 2\n", "line 1: policy: it names one channel or one branch"),
        ("channel: production\nmetric: loss\nabove: .nan\n", "line 3: above: it is not a finite number"),
    ],
)
def test_a_file_that_is_no_policy_is_refused_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(text)

    with pytest.raises(InvalidArgumentError) as error:
        read_policy(path)

    assert f"{path}: {said}" in error.value.message


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(SourceUnreadableError):
        read_policy(tmp_path / "none.yaml")
