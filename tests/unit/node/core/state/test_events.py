"""What happened to refs, by log index: complete, in order, bounded, and honest about what is gone."""

import pytest

from mcr.errors import HistoryGoneError
from mcr.model import LogIndex, RefKind
from mcr.record import decode_record
from mcr_node.core.state import events, keys, queries
from mcr_node.core.state.events import Window
from mcr_node.core.state.keys import RefName
from mcr_node.core.state.queries import Happening
from mcr_node.core.state.records import EventsRow, read
from mcr_node.core.state.step import Step
from mcr_node.core.state.view import Overlay
from tests.support.state_commands import check_invariants
from tests.support.state_world import MODEL, StateWorld


def told(world: StateWorld, *, after: int = 0, model: str = "", limit: int = 100) -> list[Happening]:
    return queries.happenings(world.view, model, after=after, through=world.index, limit=limit)


def test_every_move_of_every_ref_is_told_once_in_the_order_of_the_log() -> None:
    world = StateWorld()
    world.commits(2)
    world.channel_set(1, 2)
    world.reported(1, {"loss": 1})

    found = told(world)

    assert [(str(each.of), each.move.verb, each.move.number, each.move.log_index) for each in found] == [
        ("branch:main", "commit", 1, 1),
        ("branch:main", "commit", 2, 2),
        ("channel:production", "set", 1, 3),
        ("channel:production", "set", 2, 4),
    ]
    check_invariants(world.view)


def test_an_event_carries_the_version_that_was_made_and_only_that() -> None:
    world = StateWorld()
    world.commits(2)
    world.channel_set(1)

    records = [each.record for each in told(world)]

    assert [decode_record(record).number for record in records[:2]] == [1, 2]
    assert records[2] == b""


def test_a_watcher_goes_on_after_any_index_without_gap_or_repetition() -> None:
    world = StateWorld()
    world.commits(5)
    whole = told(world)
    for cut in range(world.index + 1):
        assert [*told(world)[:cut], *told(world, after=cut)] == whole
    pages = [each for start in range(0, 5, 2) for each in told(world, after=start, limit=2)]
    assert pages[:2] + pages[2:4] + pages[4:] == whole


def test_events_of_other_models_are_passed_over() -> None:
    world = StateWorld()
    world.commits(1)
    world.model = "audio/other"
    world.commits(2)

    assert [each.of.model for each in told(world, model=MODEL)] == [MODEL]
    assert [each.move.log_index for each in told(world, model="audio/other", after=2)] == [3]
    assert told(world, model="no/such") == []


def test_a_rejected_command_and_a_retry_are_no_events() -> None:
    world = StateWorld()
    command = world.commit()
    world.apply(command)
    world.apply(command)
    assert [each.move.log_index for each in told(world)] == [1]


def test_old_events_go_oldest_first_and_a_watcher_of_them_is_told_so() -> None:
    world = StateWorld()
    world.commits(6)
    overlay = Overlay(world.view)
    of = RefName(MODEL, RefKind.CHANNEL, "production")
    for index in (7, 8):
        # Each adds one and forgets up to two, so a smaller window is reached step by step.
        events.keep(Step(overlay, LogIndex(index), 0, "alice"), of, 1, window=Window(count_max=4))
    world.view.write(overlay.changes())

    kept = [keys.number_in(key) for key, _ in world.view.scan(*keys.events_after(0))]

    assert kept == [5, 6, 7, 8]
    assert read(world.view, keys.EVENTS, EventsRow) == EventsRow(count=4, gone_through=4)
    with pytest.raises(HistoryGoneError) as raised:
        told(world, after=3)
    assert (raised.value.after_index, raised.value.oldest_index) == (3, 4)
    assert [each.move.log_index for each in told(world, after=4, limit=2)] == [5, 6]


def test_a_watcher_sees_nothing_beyond_the_index_it_was_promised() -> None:
    world = StateWorld()
    world.commits(3)
    assert len(queries.happenings(world.view, "", after=0, through=2, limit=100)) == 2
