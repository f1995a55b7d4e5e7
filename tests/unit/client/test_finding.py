"""Conditions on versions: how they are written, and what fits them."""

import fnmatch
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcr import _wire_finding
from mcr.errors import InvalidArgumentError
from mcr.finding import (
    CONDITIONS_MAX,
    Comparison,
    Condition,
    Conditions,
    fits_pattern,
    leaves_at,
    parse_metric_condition,
    parse_parameter_condition,
    parsed_conditions,
)
from mcr.model import Parameters, ParameterValue
from mcr.v1 import versions_pb2 as pb

COMPARISONS = st.sampled_from(Comparison)
SCALARS = st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text()


@pytest.mark.parametrize(
    ("text", "condition"),
    [
        ("loss<0.5", Condition("loss", Comparison.LESS, 0.5)),
        ("loss <= 1e-3", Condition("loss", Comparison.LESS_OR_EQUAL, 1e-3)),
        ("eval/auc>=.9", Condition("eval/auc", Comparison.GREATER_OR_EQUAL, 0.9)),
        ("loss==2", Condition("loss", Comparison.EQUAL, 2.0)),
        ("loss!=-inf", Condition("loss", Comparison.NOT_EQUAL, -math.inf)),
    ],
)
def test_a_metric_condition_is_a_name_a_comparison_and_a_number(text: str, condition: Condition) -> None:
    assert parse_metric_condition(text) == condition


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("key=1e-4", 1e-4),
        ("key=3", 3),
        ("key=true", True),
        ("key=null", None),
        ('key="3"', "3"),
        ("key=adamw", "adamw"),
        ("key=a=b", "a=b"),
        ("key=NaN", "NaN"),
        ("key=[1, 2]", "[1, 2]"),
        ("key=", ""),
    ],
)
def test_a_parameters_value_is_a_json_scalar_or_else_text(text: str, value: ParameterValue) -> None:
    found = parse_parameter_condition(text).value
    assert (type(found), found) == (type(value), value)


@pytest.mark.parametrize("text", ["loss", "<0.5", "loss<", "loss<much", "", "loss=!3", "=", " <1"])
def test_what_is_no_metric_condition_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgumentError):
        parse_metric_condition(text)


@pytest.mark.parametrize(
    "text", ["name<adam", "on>true", "x>=null", "lr=18446744073709551617", "k=" + "x" * 5000]
)
def test_what_has_no_order_or_is_too_large_is_no_parameter_condition(text: str) -> None:
    with pytest.raises(InvalidArgumentError):
        parse_parameter_condition(text)


@given(st.floats(), st.floats())
def test_numbers_compare_as_floats_do_but_nan_equals_nan(a: float, b: float) -> None:
    fitting = {comparison for comparison in Comparison if Condition("x", comparison, b).fits(a)}
    expected = {
        Comparison.EQUAL: a == b or (math.isnan(a) and math.isnan(b)),
        Comparison.LESS: a < b,
        Comparison.LESS_OR_EQUAL: a <= b,
        Comparison.GREATER: a > b,
        Comparison.GREATER_OR_EQUAL: a >= b,
    }
    expected[Comparison.NOT_EQUAL] = not expected[Comparison.EQUAL]
    assert fitting == {comparison for comparison, holds in expected.items() if holds}


@given(SCALARS, SCALARS)
def test_equal_and_not_equal_are_each_others_opposite(a: ParameterValue, b: ParameterValue) -> None:
    assert Condition("x", Comparison.EQUAL, b).fits(a) != Condition("x", Comparison.NOT_EQUAL, b).fits(a)
    assert Condition("x", Comparison.EQUAL, a).fits(a)


def test_one_is_a_number_whole_or_not_and_true_is_none() -> None:
    equals_one = Condition("x", Comparison.EQUAL, 1)
    assert equals_one.fits(1.0)
    assert not equals_one.fits(True)
    assert not equals_one.fits("1")
    assert not Condition("x", Comparison.GREATER, 0).fits(True)


def test_what_is_absent_fits_no_condition() -> None:
    unequal = Conditions(
        metrics=(parse_metric_condition("loss!=1"),), parameters=(parse_parameter_condition("lr!=1"),)
    )
    assert not unequal.fit_metrics({"auc": 1.0})
    assert unequal.fit_metrics({"loss": 2.0})
    assert not unequal.fit_record(creator="ann", parameters={"rate": 2}, created_at_ms=0)
    assert unequal.fit_record(creator="ann", parameters={"lr": 2}, created_at_ms=0)


def test_a_dotted_key_reaches_names_that_hold_dots_too() -> None:
    tree: Parameters = {"a": {"b": {"c": 1}, "b.c": 2}, "a.b": {"c": 3}, "a.b.c": 4, "a.b.c.d": 5}
    assert sorted(map(str, leaves_at(tree, "a.b.c"))) == ["1", "2", "3", "4"]
    assert list(leaves_at(tree, "a.b")) == []
    assert list(leaves_at(tree, "")) == []


@given(st.text("ab*?", max_size=12), st.text("ab", max_size=12))
def test_patterns_fit_as_those_of_shells_do(pattern: str, name: str) -> None:
    assert fits_pattern(pattern, name) == fnmatch.fnmatchcase(name, pattern)


def test_times_are_included_at_both_ends() -> None:
    conditions = Conditions(since_ms=10, until_ms=20)
    fitting = [
        at for at in (9, 10, 20, 21) if conditions.fit_record(creator="", parameters={}, created_at_ms=at)
    ]
    assert fitting == [10, 20]


def test_each_tag_pattern_needs_a_tag_that_fits() -> None:
    conditions = Conditions(tags=("v*", "*-lts"))
    assert conditions.fit_tags(["v1", "old-lts"])
    assert conditions.fit_tags(["v1-lts"])
    assert not conditions.fit_tags(["v1"])


@given(
    st.lists(st.tuples(st.text(min_size=1, max_size=9), COMPARISONS, st.floats(allow_nan=False)), max_size=4),
    st.lists(st.tuples(st.text(min_size=1, max_size=9), SCALARS), max_size=4),
    st.none() | st.integers(0, 2**53),
    st.text(max_size=9),
    st.lists(st.text(min_size=1, max_size=9), max_size=3),
)
def test_conditions_survive_the_wire(
    metrics: list[tuple[str, Comparison, float]],
    parameters: list[tuple[str, ParameterValue]],
    since_ms: int | None,
    creator: str,
    tags: list[str],
) -> None:
    conditions = Conditions(
        metrics=tuple(Condition(*each) for each in metrics),
        parameters=tuple(Condition(name, Comparison.NOT_EQUAL, value) for name, value in parameters),
        since_ms=since_ms,
        creator=creator,
        tags=tuple(tags),
    ).check()
    data = _wire_finding.conditions_to_wire(conditions).SerializeToString()
    assert _wire_finding.conditions_from_wire(pb.VersionConditions.FromString(data)) == conditions


def test_a_node_refuses_what_a_client_would_not_send() -> None:
    unset = pb.VersionConditions(metrics=[pb.MetricCondition(name="loss", value=1.0)])
    no_value = pb.VersionConditions(
        parameters=[pb.ParameterCondition(key="lr", comparison=pb.COMPARISON_EQUAL, value=b"")]
    )
    many = pb.VersionConditions(tags=["x"] * (CONDITIONS_MAX + 1))
    empty = pb.VersionConditions(tags=[""])
    long = pb.VersionConditions(creator="x" * 1000)
    for message in (unset, no_value, many, empty, long):
        with pytest.raises(InvalidArgumentError):
            _wire_finding.conditions_from_wire(message)


def test_python_callers_write_texts_mappings_or_conditions() -> None:
    loss = parse_metric_condition("loss<1")
    assert parsed_conditions(metrics=["loss<1", loss], params={"lr": 1e-4}) == (
        (loss, loss),
        (Condition("lr", Comparison.EQUAL, 1e-4),),
    )
    assert parsed_conditions(metrics=(), params=["lr>=1e-4"])[1] == (
        Condition("lr", Comparison.GREATER_OR_EQUAL, 1e-4),
    )
