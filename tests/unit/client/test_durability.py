"""What may be asked of durability, and what is refused before anything is uploaded."""

import pytest

from mcr.durability import Durability, check_possible, parse_durability
from mcr.errors import DurabilityError, InvalidArgumentError


def test_words_and_numbers_say_how_widely() -> None:
    assert parse_durability(None) is None
    assert parse_durability("site") is None
    assert parse_durability("cluster") == Durability(copies=2, sites=2)
    assert parse_durability("3") == parse_durability(3) == Durability(copies=3)


@pytest.mark.parametrize("asked", ["", "0", "-1", "257", "1e3", "all", "²", 0, -1, 1000])
def test_anything_else_is_refused(asked: str | int) -> None:
    with pytest.raises(InvalidArgumentError, match="site, cluster or a number"):
        parse_durability(asked)


def test_more_copies_than_nodes_are_refused_with_the_way_out() -> None:
    with pytest.raises(DurabilityError) as caught:
        check_possible(Durability(4), ["", "", ""])
    assert "4 copies asked for" in caught.value.message
    assert "3 nodes in all" in caught.value.message
    assert "add nodes" in caught.value.hint


def test_a_single_node_is_told_to_leave_it_out() -> None:
    with pytest.raises(DurabilityError) as caught:
        check_possible(Durability(2), [""])
    assert "leave --durability out" in caught.value.hint
    check_possible(Durability(1), [""])


def test_two_sites_are_refused_where_all_stand_in_one() -> None:
    with pytest.raises(DurabilityError) as caught:
        check_possible(Durability(2, sites=2), ["east", "east", "east"])
    assert "2 copies in 2 sites asked for" in caught.value.message
    assert "1 site: 'east'" in caught.value.message
    assert "--site" in caught.value.hint
    check_possible(Durability(2, sites=2), ["east", "west"])
