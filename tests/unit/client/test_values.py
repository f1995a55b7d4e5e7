"""Values are what dataclasses of the standard library are, frozen or not, with slots or without."""

import copy
import dataclasses
import inspect
import pickle
from dataclasses import FrozenInstanceError, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcr.errors import McrError
from mcr.values import _MADE, dataclass


@dataclass(frozen=True, slots=True)
class Ours:
    """A value of ours."""

    one: int
    two: str = "x"
    three: list[int] = field(default_factory=list, compare=False)
    hidden: int = field(default=3, repr=False)


@dataclasses.dataclass(frozen=True, slots=True)
class Standard:
    """The same, of the standard library."""

    one: int
    two: str = "x"
    three: list[int] = field(default_factory=list, compare=False)
    hidden: int = field(default=3, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    wide: int
    high: int = 2

    def __post_init__(self) -> None:
        if self.high < 0:
            raise ValueError("high")


@dataclass(frozen=True, slots=True)
class Empty:
    pass


@dataclass(frozen=True, slots=True)
class Single:
    only: int


@dataclass(frozen=True, slots=True)
class Below(Single):
    more: int = 0


@dataclass(frozen=True, slots=True)
class Loud:
    a: int

    def __repr__(self) -> str:
        return "loud"

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 7


class Kinds:
    """One class in each form that is used, made by one of the two."""

    def __init__(self, make: Any) -> None:  # noqa: ANN401
        @make(slots=True)
        class Counter:
            name: str
            seen: list[int] = field(default_factory=list)
            count: int = field(default=0, init=False)
            memory: dict[str, int] = field(default_factory=dict, init=False, compare=False)

        @make(slots=True, eq=False)
        class Identity:
            name: str
            size: int = 4

        @make(frozen=True, slots=True, eq=False)
        class FrozenIdentity:
            name: str

        @make(eq=False)
        class BrokenError(Exception):
            name: str
            size: int = 4

            def __post_init__(self) -> None:
                super().__init__(f"{self.name} {self.size}")

        @make(eq=False)
        class LowerError(BrokenError):
            more: str = "m"

        self.all: tuple[Any, ...] = (Counter, Identity, FrozenIdentity, BrokenError, LowerError)


OURS, STANDARDS = Kinds(dataclass), Kinds(dataclasses.dataclass)
PAIRS = list(zip(OURS.all, STANDARDS.all, strict=True))

values = st.tuples(st.integers(), st.text(max_size=3), st.lists(st.integers(), max_size=2), st.integers())


@given(values, values)
def test_compares_hashes_and_shows_as_the_standard_one(
    a: tuple[int, str, list[int], int], b: tuple[int, str, list[int], int]
) -> None:
    ours, others = (Ours(*a), Ours(*b)), (Standard(*a), Standard(*b))
    assert (ours[0] == ours[1]) == (others[0] == others[1])
    assert (hash(ours[0]) == hash(ours[1])) == (hash(others[0]) == hash(others[1]))
    assert repr(ours[0]).replace("Ours", "Standard") == repr(others[0])
    assert dataclasses.asdict(ours[0]) == dataclasses.asdict(others[0])
    assert ours[0] != object()


def test_takes_the_same_arguments_and_refuses_the_same() -> None:
    assert Ours(1) == Ours(one=1, two="x", three=[5])
    assert Ours(1).three is not Ours(1).three
    none: tuple[Any, ...] = ()
    for wrong in (none, (1, "x", [], 3, 4)):
        with pytest.raises(TypeError):
            Ours(*wrong)
        with pytest.raises(TypeError):
            Standard(*wrong)
    with pytest.raises(TypeError):
        Named(1)  # type: ignore[call-arg]
    assert Named(wide=1) == Named(high=2, wide=1)
    assert list(inspect.signature(Ours).parameters) == list(inspect.signature(Standard).parameters)


def test_what_a_value_checks_when_it_is_made_is_checked() -> None:
    with pytest.raises(ValueError, match="high"):
        Named(wide=1, high=-1)
    with pytest.raises(ValueError, match="high"):
        dataclasses.replace(Named(wide=1), high=-1)


@pytest.mark.parametrize("value", [Ours(1, "y", [2]), Named(wide=4), Empty(), Single(3), Below(1, 2)])
def test_survives_copying_pickling_and_replacing(value: Any) -> None:  # noqa: ANN401
    assert pickle.loads(pickle.dumps(value)) == value
    assert copy.copy(value) == value == copy.deepcopy(value)
    assert dataclasses.replace(value) == value
    assert hash(pickle.loads(pickle.dumps(value))) == hash(value)


def test_does_not_change() -> None:
    value = Ours(1)
    with pytest.raises(FrozenInstanceError):
        value.one = 2  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        del value.one
    with pytest.raises((FrozenInstanceError, AttributeError)):
        value.other = 2  # type: ignore[attr-defined]
    assert not hasattr(value, "__dict__")


def test_matches_by_position_and_keeps_what_a_class_says_itself() -> None:
    match Ours(5, "z"):
        case Ours(one, two):
            assert (one, two) == (5, "z")
    assert repr(Loud(1)) == "loud"
    assert Loud(1) == Loud(2)
    assert hash(Loud(1)) == 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Enveloped(Named):
    deep: list[int] = field(default_factory=list)
    name: str


@dataclass(frozen=True, slots=True)
class Lower(Single):
    more: int = 1

    def __post_init__(self) -> None:
        if self.more > 9:
            raise ValueError("more")


def test_a_value_may_stand_below_another() -> None:
    assert Lower(1) == Lower(1, 1) != Lower(2, 1)
    assert Lower(1) != Single(1)
    assert Single(1) != Lower(1)
    assert hash(Lower(1)) == hash(Lower(1, 1))
    assert repr(Lower(1)) == "Lower(only=1, more=1)"
    one = Enveloped(wide=1, name="a")
    assert [each.name for each in dataclasses.fields(one)] == ["wide", "high", "deep", "name"]
    assert one == dataclasses.replace(Enveloped(wide=2, name="a"), wide=1)
    assert one.deep is not Enveloped(wide=1, name="a").deep
    assert isinstance(one, Named)
    assert not hasattr(one, "__dict__")
    assert "only" not in Lower.__slots__
    for value in (one, Lower(3)):
        assert pickle.loads(pickle.dumps(value)) == value == copy.deepcopy(value)
        with pytest.raises(FrozenInstanceError):
            value.wide = 2  # type: ignore[union-attr,misc]
    with pytest.raises(ValueError, match="high"):
        Enveloped(wide=1, high=-1, name="a")
    with pytest.raises(ValueError, match="more"):
        Lower(1, 10)
    with pytest.raises(TypeError):
        Enveloped(wide=1)  # type: ignore[call-arg]


@pytest.mark.parametrize(("ours", "standard"), PAIRS, ids=lambda made: made.__name__)
def test_what_can_change_or_is_itself_alone_behaves_as_the_standard_one(
    ours: Any,  # noqa: ANN401
    standard: Any,  # noqa: ANN401
) -> None:
    one, other = ours("a"), standard("a")
    assert (one == ours("a"), one == one) == (other == standard("a"), other == other)
    assert repr(one) == repr(other)
    assert str(one) == str(other)
    assert dataclasses.asdict(one) == dataclasses.asdict(other)
    assert (ours.__hash__ is None, hasattr(one, "__dict__")) == (
        standard.__hash__ is None,
        hasattr(other, "__dict__"),
    )
    for each, made in ((one, ours), (other, standard)):
        if made in (OURS.all[2], STANDARDS.all[2]):
            with pytest.raises(FrozenInstanceError):
                each.name = "b"
        else:
            each.name = "b"
            assert each.name == "b" != made("a").name
    assert list(inspect.signature(ours).parameters) == list(inspect.signature(standard).parameters)


def test_a_counter_starts_with_what_is_its_own() -> None:
    counter = OURS.all[0]
    one, other = counter("a"), counter("a", seen=[])
    one.memory["x"], one.count = 1, 3
    assert (other.memory, other.count, other.seen) == ({}, 0, [])
    assert one != other
    other.count = 3
    assert one == other, "what is not compared does not count"
    with pytest.raises(TypeError):
        counter("a", count=3)


def test_errors_below_others_say_all_their_fields() -> None:
    failure = OURS.all[4]
    raised = failure("a", 5, more="n")
    assert (str(raised), raised.args) == ("a 5", ("a 5",))
    assert [each.name for each in dataclasses.fields(raised)] == ["name", "size", "more"]
    assert isinstance(raised, OURS.all[3])


def test_below_a_class_that_only_inherits_from_one_nothing_is_compiled_either() -> None:
    # Most errors stand below `NotFoundError`, `UsageError` and the like, which add no fields.
    below = [*McrError.__subclasses__()]
    for each in below:
        below += each.__subclasses__()
    defined = {
        each for each in below if each.__module__.startswith("mcr.") and "__dataclass_fields__" in vars(each)
    }
    assert len(defined) > 30
    assert defined <= _MADE
