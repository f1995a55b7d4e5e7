"""Laws of `core.state.receipts` and `.served`: what is loaded where, now and then, within bounds."""

from dataclasses import replace

import pytest

from mcr.errors import ModelNotFoundError
from mcr.model import LogIndex
from mcr.serving import Serving
from mcr_node.core.state import receipts, served
from mcr_node.core.state.outcomes import ReceiptResult
from mcr_node.core.state.receipts import Window
from mcr_node.core.state.step import Step
from mcr_node.core.state.view import Overlay
from tests.support.state_world import MODEL, StateWorld


@pytest.fixture
def world() -> StateWorld:
    world = StateWorld()
    world.commits(3)
    world.channel_set(1, 2)
    return world


def loaded(world: StateWorld, at_ms: int | None = None) -> list[str]:
    page = served.served(world.view, MODEL, at_ms=at_ms)
    return [_said(serving) for serving in page.servings]


def _said(serving: Serving) -> str:
    via = f" by {serving.channel} {serving.generation}" if serving.channel else ""
    return f"{serving.consumer}/{serving.rank} v{serving.number}{via}"


def test_a_receipt_says_which_version_channel_and_generation(world: StateWorld) -> None:
    result = world.accept(world.acknowledge(2, channel="production"), ReceiptResult)

    assert result == ReceiptResult(2, "production", 2)
    assert loaded(world) == ["gpu-1/0 v2 by production 2"]


def test_a_receipt_of_a_generation_at_another_version_is_refused(world: StateWorld) -> None:
    _, fields = world.reject(world.acknowledge(1, channel="production", generation=2))

    assert fields["reason"] == "channel:production was at v2 at generation 2, not at v1"
    assert world.reject(world.acknowledge(2, channel="production", generation=3))[0] == "invalid_argument"
    assert world.reject(world.acknowledge(3, channel="production"))[0] == "invalid_argument"
    assert world.reject(world.acknowledge(9))[0] == "reference_not_found"


def test_a_late_receipt_of_an_earlier_generation_is_noted_as_such(world: StateWorld) -> None:
    world.accept(world.acknowledge(1, channel="production"), ReceiptResult)

    assert loaded(world) == ["gpu-1/0 v1 by production 1"]


def test_what_failed_to_load_leaves_what_was_loaded(world: StateWorld) -> None:
    world.accept(world.acknowledge(1), ReceiptResult)
    world.accept(world.acknowledge(2, state="failed"), ReceiptResult)

    page = served.served(world.view, MODEL, at_ms=None)

    assert [_said(serving) for serving in page.servings] == ["gpu-1/0 v1"]
    assert (page.servings[0].last.state, page.servings[0].last.number) == ("failed", 2)
    assert list(receipts.versions_in_use(world.view, MODEL)) == [1]


def test_a_version_is_in_use_while_anybody_has_it_loaded(world: StateWorld) -> None:
    for consumer, rank in (("a", 0), ("a", 1), ("b", 0)):
        world.accept(world.acknowledge(1, consumer, rank=rank), ReceiptResult)
    world.accept(world.acknowledge(2, "a", rank=1), ReceiptResult)
    assert list(receipts.versions_in_use(world.view, MODEL)) == [1, 2]

    world.accept(world.acknowledge(1, "a", "gone"), ReceiptResult)
    world.accept(world.acknowledge(1, "b", "gone"), ReceiptResult)

    assert list(receipts.versions_in_use(world.view, MODEL)) == [2]
    assert not receipts.is_in_use(world.view, MODEL, 1)
    assert receipts.is_in_use(world.view, MODEL, 2)
    assert loaded(world) == ["a/0 v0", "a/1 v2", "b/0 v0"]


def test_what_was_loaded_at_a_time_is_answered_as_of_then(world: StateWorld) -> None:
    before_ms = world.at_ms
    world.accept(world.acknowledge(1, "a"), ReceiptResult)
    first_ms = world.at_ms
    world.accept(world.acknowledge(2, "a"), ReceiptResult)
    world.accept(world.acknowledge(3, "b"), ReceiptResult)

    assert loaded(world, before_ms) == []
    assert loaded(world, first_ms) == ["a/0 v1"]
    assert loaded(world, world.at_ms) == ["a/0 v2", "b/0 v3"]


def test_saying_the_same_again_is_a_sign_of_life_and_no_entry(world: StateWorld) -> None:
    world.accept(world.acknowledge(1), ReceiptResult)
    since_ms = world.at_ms
    world.accept(world.acknowledge(1), ReceiptResult)

    [serving] = served.served(world.view, MODEL, at_ms=None).servings
    assert (serving.since_ms, serving.heard_ms) == (since_ms, world.at_ms)
    assert len(served.receipts_of(world.view, MODEL, "gpu-1", limit=10)) == 1


def test_receipts_of_a_consumer_are_listed_newest_first_over_its_ranks(world: StateWorld) -> None:
    world.accept(world.acknowledge(1, rank=1), ReceiptResult)
    world.accept(world.acknowledge(1, rank=0), ReceiptResult)
    world.accept(world.acknowledge(2, rank=1), ReceiptResult)
    world.accept(world.acknowledge(2, "gpu-10"), ReceiptResult)

    found = served.receipts_of(world.view, MODEL, "gpu-1", limit=10)

    assert [(receipt.rank, receipt.number) for receipt in found] == [(1, 2), (0, 1), (1, 1)]


def _note(world: StateWorld, window: Window, number: int, consumer: str) -> None:
    command = world.acknowledge(number, consumer)
    world.index += 1
    overlay = Overlay(world.view)
    step = Step(overlay, LogIndex(world.index), command.at_ms, command.principal)
    receipts.acknowledge(step, command, window=window)
    world.view.write(overlay.changes())


def test_old_receipts_are_forgotten_and_that_is_known(world: StateWorld) -> None:
    window = Window(receipts_max=2)
    times = []
    for number in (1, 2, 3):
        _note(world, window, number, "a")
        times.append(world.at_ms)

    page = served.served(world.view, MODEL, at_ms=times[0])
    assert (page.servings, page.is_complete) == ([], False)
    page = served.served(world.view, MODEL, at_ms=times[1])
    assert ([_said(serving) for serving in page.servings], page.is_complete) == (["a/0 v2"], True)


def test_of_too_many_consumers_the_longest_silent_is_forgotten_whole(world: StateWorld) -> None:
    window = Window(consumers_max=2)
    _note(world, window, 1, "a")
    _note(world, window, 2, "b")
    _note(world, window, 1, "a")  # a sign of life: now b is silent for longer
    then_ms = world.at_ms
    _note(world, window, 3, "c")

    assert loaded(world) == ["a/0 v1", "c/0 v3"]
    assert list(receipts.versions_in_use(world.view, MODEL)) == [1, 3]
    assert not served.served(world.view, MODEL, at_ms=then_ms - 1000).is_complete
    assert served.receipts_of(world.view, MODEL, "b", limit=10) == []


def test_pages_go_on_where_the_last_one_ended(world: StateWorld) -> None:
    for consumer in ("a", "a.b", "b"):
        for rank in (0, 300):
            world.accept(world.acknowledge(1, consumer, rank=rank), ReceiptResult)

    found, after = [], ("", 0)
    while True:
        page = served.served(world.view, MODEL, at_ms=None, after=after, limit=4)
        found += [(serving.consumer, serving.rank) for serving in page.servings]
        if not page.next_consumer:
            break
        after = (page.next_consumer, page.next_rank)

    assert found == [(consumer, rank) for consumer in ("a", "a.b", "b") for rank in (0, 300)]


def test_a_receipt_is_checked_before_it_costs_an_entry(world: StateWorld) -> None:
    good = world.acknowledge(1)
    for bad in (
        replace(good, consumer=""),
        replace(good, consumer="a\x00b"),
        replace(good, consumer="a" * 257),
        replace(good, state="maybe"),
        replace(good, rank=2**32),
        replace(good, generation=1),
    ):
        assert world.reject(bad)[0] == "invalid_argument"


def test_a_model_that_does_not_exist_is_told(world: StateWorld) -> None:
    with pytest.raises(ModelNotFoundError):
        served.served(world.view, "no/model", at_ms=None)
