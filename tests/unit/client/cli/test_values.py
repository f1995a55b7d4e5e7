"""`key=value` arguments and parameter files."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcr.canonical import INTEGER_MAX, INTEGER_MIN
from mcr.cli.values import Tree, parameters_from, parse_metrics, parse_parameter_file, parse_scalar
from mcr.errors import InvalidArgumentError, InvalidMetricError, InvalidParameterError
from mcr.model import METRICS_MAX, PARAMETERS_BYTES_MAX, ParameterValue


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("false", False),
        ("null", None),
        ("3", 3),
        ("-3", -3),
        ("1e-4", 1e-4),
        ("0.50", 0.5),
        ("1.0", 1.0),
        ('"5"', "5"),
        ('"a\\n"', "a\n"),
        ('"unfinished\\"', '"unfinished\\"'),
        ('"', '"'),
        ("", ""),
        ("adamw", "adamw"),
        ("True", "True"),
        ("nan", "nan"),
        ("NaN", "NaN"),
        ("01", "01"),
        ("+5", "+5"),
        ("1_000", "1_000"),
        ("[1,2]", "[1,2]"),
        ("a=b", "a=b"),
        ("٣", "٣"),
        (str(INTEGER_MAX), INTEGER_MAX),
        (str(INTEGER_MIN), INTEGER_MIN),
    ],
)
def test_a_value_is_the_json_scalar_it_looks_like_else_text(text: str, value: ParameterValue) -> None:
    found = parse_scalar("key", text)
    assert (type(found), found) == (type(value), value)


@pytest.mark.parametrize(
    "text", [str(INTEGER_MAX + 1), str(INTEGER_MIN - 1), "9" * 400, "9" * 5000, "1e999", "-1e400"]
)
def test_a_number_that_cannot_be_stored_is_refused(text: str) -> None:
    with pytest.raises(InvalidParameterError) as caught:
        parse_scalar("lr", text)
    assert caught.value.key == "lr"


@given(st.one_of(st.none(), st.booleans(), st.integers(INTEGER_MIN, INTEGER_MAX), st.text()))
def test_every_scalar_survives_its_json_form(value: ParameterValue) -> None:
    found = parse_scalar("key", json.dumps(value))
    assert (type(found), found) == (type(value), value)


def test_dots_nest() -> None:
    found = parameters_from(["optimizer.lr=1e-4", "optimizer.name=adamw", "seed=7", "a.b.c=x=y"])
    assert found == {"optimizer": {"lr": 1e-4, "name": "adamw"}, "seed": 7, "a": {"b": {"c": "x=y"}}}


@pytest.mark.parametrize(
    ("pairs", "error"),
    [
        (["a"], InvalidArgumentError),
        (["=1"], InvalidArgumentError),
        ([" =1"], InvalidArgumentError),
        (["a..b=1"], InvalidParameterError),
        ([".a=1"], InvalidParameterError),
        (["a.=1"], InvalidParameterError),
        (["a=1", "a=2"], InvalidParameterError),
        (["a=1", "a=1.0"], InvalidParameterError),
        (["a=1", "a=true"], InvalidParameterError),
        (["a=1", "a.b=2"], InvalidParameterError),
        (["a.b=2", "a=1"], InvalidParameterError),
        ([".".join(["a"] * 70) + "=1"], InvalidParameterError),
    ],
)
def test_arguments_that_contradict_or_make_no_tree_are_refused(
    pairs: list[str], error: type[Exception]
) -> None:
    with pytest.raises(error):
        parameters_from(pairs)


def test_the_same_value_twice_is_no_contradiction() -> None:
    assert parameters_from(["a=1", "a=1"]) == {"a": 1}


def test_arguments_go_before_the_file_and_leave_the_rest_of_it() -> None:
    document: Tree = {"optimizer": {"lr": 0.1, "name": "sgd"}, "seed": 7}

    found = parameters_from(["optimizer.lr=0.2", "note=x"], document)

    assert found == {"optimizer": {"lr": 0.2, "name": "sgd"}, "seed": 7, "note": "x"}
    assert document == {"optimizer": {"lr": 0.1, "name": "sgd"}, "seed": 7}


@pytest.mark.parametrize("pair", ["optimizer=5", "seed.x=1"])
def test_an_argument_does_not_turn_a_value_of_the_file_into_keys_or_back(pair: str) -> None:
    with pytest.raises(InvalidParameterError, match="disagree"):
        parameters_from([pair], {"optimizer": {"lr": 0.1}, "seed": 7})


def test_metrics_are_floats() -> None:
    found = parse_metrics(["loss=0.31", "acc=1", "x=-2e-3", "y=+.5"], allow_non_finite=False, argument="-m")
    assert found == {"loss": 0.31, "acc": 1.0, "x": -0.002, "y": 0.5}


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "NaN", "+Infinity"])
def test_a_metric_that_is_not_finite_needs_to_be_allowed(text: str) -> None:
    with pytest.raises(InvalidMetricError, match="not finite") as caught:
        parse_metrics([f"loss={text}"], allow_non_finite=False, argument="--metric")
    assert "--allow-non-finite" in caught.value.hint

    found = parse_metrics([f"loss={text}"], allow_non_finite=True, argument="--metric")["loss"]
    assert not math.isfinite(found)


@pytest.mark.parametrize("text", ["1e999", "-1e999", "9" * 400])
@pytest.mark.parametrize("allow", [True, False])
def test_a_metric_too_large_for_a_double_is_never_taken_for_infinity(text: str, allow: bool) -> None:
    with pytest.raises(InvalidMetricError, match="too large for a double") as caught:
        parse_metrics([f"loss={text}"], allow_non_finite=allow, argument="--metric")
    assert len(caught.value.message) < 200


@pytest.mark.parametrize("pair", ["loss", "=1", "loss=", "loss=abc", "loss=1_0", "loss=0x10", "loss=٣"])
def test_a_malformed_metric_is_a_usage_error(pair: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        parse_metrics([pair], allow_non_finite=True, argument="--metric")
    assert caught.value.exit_status == 2


def test_metrics_given_twice_must_agree_and_are_limited() -> None:
    assert parse_metrics(["a=1", "a=1.0"], allow_non_finite=False, argument="x") == {"a": 1.0}
    with pytest.raises(InvalidMetricError, match="twice"):
        parse_metrics(["a=1", "a=2"], allow_non_finite=False, argument="x")
    with pytest.raises(InvalidArgumentError, match="at most"):
        parse_metrics((f"m{i}=1" for i in range(METRICS_MAX + 1)), allow_non_finite=False, argument="x")


def test_json_and_yaml_files_give_the_same_tree() -> None:
    expected = {"optimizer": {"lr": 1e-4, "betas": [0.9, 0.999]}, "seed": 7, "note": None, "é": "ü"}
    as_json = json.dumps(expected).encode()
    as_yaml = "optimizer:\n  lr: 1e-4\n  betas: [0.9, 0.999]\nseed: 7\nnote: null\né: ü\n".encode()

    assert parse_parameter_file("a.json", as_json) == expected
    assert parse_parameter_file("a.yaml", as_yaml) == expected
    assert parse_parameter_file("A.YML", b"\xef\xbb\xbf" + as_yaml) == expected


def test_empty_yaml_gives_no_parameters_and_merge_keys_work() -> None:
    assert parse_parameter_file("a.yaml", b"") == {}
    found = parse_parameter_file("a.yaml", b"base: &b {lr: 0.1}\nrun:\n  <<: *b\n  lr: 0.2\n")
    assert found == {"base": {"lr": 0.1}, "run": {"lr": 0.2}}


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("a.json", b'{"a": 1,\n "b": }', "line 2, column 7"),
        ("a.json", b"", "line 1"),
        ("a.json", b"[1]", "a list, not keys"),
        ("a.json", b'{"a": 1, "a": 2}', "twice"),
        ("a.json", b'{"a": 1e999}', "too large"),
        ("a.json", b'{"a": ' + b"9" * 30 + b"}", "64 bits"),
        ("a.json", b'{"a":\n "\xff"}', "line 2: not UTF-8"),
        ("a.json", b'{"a":' + b"[" * 100_000, "recursion"),
        ("a.json", b'{"a":' + b"[" * 100 + b"]" * 100 + b"}", "nested deeper"),
        ("a.yaml", b"a: 1\nb: [1\nc: 2\n", "line 3"),
        ("a.yaml", b"a: 1\na: 2\n", "line 2: key 'a' is given twice"),
        ("a.yaml", b"a: 1\nb: \x07\n", "line 2"),
        ("a.yaml", b"a: 1e999\n", "line 1: '1e999' is too large"),
        ("a.yaml", b"- 1\n", "a list, not keys"),
        ("a.yaml", b"a: 2026-01-01\n", "a date cannot be stored"),
        ("a.yaml", b"a: 2026-13-01\n", "month"),
        ("a.yaml", b"a: {1: x}\n", "the key is a number"),
        ("a.yaml", b"a: " + b"9" * 30, "64 bits"),
        ("a.yaml", b"a: &a [*a]\n", "nested deeper"),
        ("a.yaml", b"a: !!python/object:os.system {}\n", "line 1: could not determine"),
    ],
)
def test_a_bad_parameter_file_is_refused_with_the_place(name: str, data: bytes, reason: str) -> None:
    with pytest.raises(InvalidParameterError, match=reason) as caught:
        parse_parameter_file(name, data)
    assert caught.value.exit_status == 2


def test_a_small_yaml_file_cannot_become_a_huge_tree() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    with pytest.raises(InvalidParameterError, match=str(PARAMETERS_BYTES_MAX)):
        parse_parameter_file("bomb.yaml", "\n".join(lines).encode())


def test_infinity_that_is_meant_is_kept_in_yaml() -> None:
    assert parse_parameter_file("a.yaml", b"a: -.inf\n") == {"a": -math.inf}


def test_only_json_and_yaml_files_are_read() -> None:
    with pytest.raises(InvalidArgumentError, match=r"\.json"):
        parse_parameter_file("a.toml", b"a = 1")
