"""Others are asked what they hold while there is a chance that they do."""

from mcr._remote.elsewhere import ASK_EVERY, NEW_PARTS_MIN, PAUSE_S, Elsewhere

PART = [b"a", b"b"]


def of_new(elsewhere: Elsewhere, parts: int) -> list[bool]:
    """Upload parts of which nobody has anything; return which of them asked all nodes."""
    asked = []
    for _ in range(parts):
        asked.append(elsewhere.is_asked(1.0))
        elsewhere.answered(PART, PART)
    return asked


def test_of_new_parts_the_first_ask_all_and_then_one_in_some() -> None:
    asked = of_new(Elsewhere(), NEW_PARTS_MIN + 3 * ASK_EVERY)
    assert asked[:NEW_PARTS_MIN] == [True] * NEW_PARTS_MIN
    assert sum(asked[NEW_PARTS_MIN:]) == 3


def test_one_chunk_that_was_held_anywhere_brings_the_questions_back() -> None:
    elsewhere = Elsewhere()
    of_new(elsewhere, 2 * NEW_PARTS_MIN)
    elsewhere.answered(PART, PART[:1])
    assert of_new(elsewhere, NEW_PARTS_MIN) == [True] * NEW_PARTS_MIN


def test_a_pause_or_a_failure_brings_them_back_too() -> None:
    elsewhere = Elsewhere()
    of_new(elsewhere, 2 * NEW_PARTS_MIN)
    assert not elsewhere.is_asked(1.0)
    assert elsewhere.is_asked(1.0 + PAUSE_S + 0.1)
    of_new(elsewhere, 2 * NEW_PARTS_MIN)
    elsewhere.reset()
    assert elsewhere.is_asked(1.0)
