"""Laws of `apply` over random command sequences."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from hypothesis import given, settings

from mcr.model import LogIndex, ParameterValue, RefKind
from mcr_node.core.state import queries
from mcr_node.core.state.apply import apply
from mcr_node.core.state.commands import Command, LastGoodTarget
from mcr_node.core.state.memory import MemoryView
from mcr_node.core.state.outcomes import Accepted, Rejected, ReportsResult
from tests.support.state_commands import at_time, check_invariants, sequences
from tests.support.state_world import MODEL, StateWorld

# A fixed story that uses sets of names, nested parameters and many metrics; prints the digest.
STORY = """
from tests.support.state_world import StateWorld
world = StateWorld()
names = {"loss", "accuracy", "norm", "perplexity", "f1"}
parameters = {name: {"value": 1.5, name: [1, 2]} for name in names}
world.apply(world.commit(parameters=parameters, metrics={name: 0.5 for name in names}))
world.commits(2)
world.channel_set(1, 2)
world.apply(world.protect({"actors": ["alice", "bob"], "metrics": sorted(names)}))
world.apply(world.report(2, {name: 1.0 for name in names}))
world.channel_back()
print(world.digest.hex())
"""


@given(sequences)
@settings(max_examples=50)
def test_every_state_keeps_the_invariants(commands: Sequence[Command]) -> None:
    world = StateWorld()
    for command in commands:
        world.apply(command)

    check_invariants(world.view)


@given(sequences)
@settings(max_examples=20)
def test_a_rejection_changes_nothing_and_a_retry_returns_the_first_outcome(
    commands: Sequence[Command],
) -> None:
    world = StateWorld()
    for command in commands:
        outcome = world.apply(command)
        if isinstance(outcome, Rejected):
            assert world.changes == []
            assert outcome.error().message
            continue
        changes = world.changes
        assert changes == ([] if outcome.already_applied else sorted(changes))
        # A retry is another proposal: another time, another place in the log.
        again = world.apply(at_time(command, command.at_ms + 1))
        if isinstance(outcome.result, ReportsResult):
            assert isinstance(again, Accepted)
            assert isinstance(again.result, ReportsResult)
            # What had no turn before, behind a decision, may have it now.
            for before, after in zip(outcome.result.outcomes, again.result.outcomes, strict=False):
                assert isinstance(before, Rejected) or after == replace(before, already_applied=True)
            continue
        assert again == replace(outcome, already_applied=True)
        assert world.changes == []


@given(sequences)
@settings(max_examples=20)
def test_applying_does_not_write_to_the_view(commands: Sequence[Command]) -> None:
    world = StateWorld()
    for command in commands:
        before = list(world.view.scan(b"", b"\xff"))
        first = apply(world.view, LogIndex(world.index + 1), command)
        assert list(world.view.scan(b"", b"\xff")) == before
        assert first[1] == apply(world.view, LogIndex(world.index + 1), command)[1]
        world.apply(command)


def test_the_digest_does_not_depend_on_the_order_in_which_mappings_were_made() -> None:
    digests = set()
    for order in (1, -1):
        world = StateWorld()
        pairs: list[tuple[str, ParameterValue]] = [("b", 1), ("a", {"d": 1, "c": 2})]
        parameters = dict(pairs[::order])
        metrics = dict([("loss", 1.0), ("accuracy", 2.0)][::order])
        assert isinstance(world.apply(world.commit(parameters=parameters, metrics=metrics)), Accepted)
        digests.add(world.digest)

    assert len(digests) == 1


def test_the_digest_does_not_depend_on_the_hash_seed() -> None:
    digests = [
        subprocess.run(
            [sys.executable, "-c", STORY],
            env=os.environ | {"PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
            timeout=60,
        ).stdout
        for seed in ("1", "2")
    ]

    assert digests[0] == digests[1]
    assert len(digests[0].strip()) == 64


class CountingView(MemoryView):
    """Counts the rows that are read."""

    def __init__(self) -> None:
        super().__init__()
        self.rows_read = 0

    def get(self, key: bytes) -> bytes | None:
        self.rows_read += 1
        return super().get(key)

    def scan(self, start: bytes, end: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        for row in super().scan(start, end, reverse=reverse):
            self.rows_read += 1
            yield row


def rows_read_after(versions: int) -> dict[str, int]:
    """Return how many rows each command and question reads in a model with so many versions and moves."""
    view = CountingView()
    world = StateWorld(view=view)
    for number in range(1, versions + 1):
        world.commits(1)
        world.channel_set(number)
        world.reported(number, {"loss": 1.0})
    steps: dict[str, Callable[[], object]] = {
        "commit": lambda: world.apply(world.commit()),
        "rollback of a branch": lambda: world.apply(world.roll_back_branch()),
        "set": lambda: world.apply(world.set_channel(1)),
        "rollback of a channel": lambda: world.apply(world.roll_back_channel()),
        "rollback to the last good": lambda: world.apply(world.roll_back_channel(LastGoodTarget())),
        "rollback to a number": lambda: world.apply(world.roll_back_channel(2)),
        "report": lambda: world.apply(world.report(3, {"loss": 1.0})),
        "branch": lambda: world.apply(world.create_branch("exp", 2)),
        "log": lambda: queries.list_versions(view, MODEL, before=None, limit=5),
        "ancestry": lambda: queries.list_ancestry(view, MODEL, versions, 5),
        "show": lambda: queries.get_version(view, MODEL, 3),
        "history": lambda: queries.ref_history(
            view, MODEL, RefKind.CHANNEL, "production", before_generation=None, limit=5
        ),
    }
    counts = {}
    for name, step in steps.items():
        before = view.rows_read
        step()
        counts[name] = view.rows_read - before
    return counts


def test_no_command_or_question_reads_more_rows_when_there_are_more_versions_and_moves() -> None:
    few, many = rows_read_after(10), rows_read_after(60)

    assert few == many


def test_what_was_it_at_a_time_reads_a_logarithm_of_the_moves() -> None:
    view = CountingView()
    world = StateWorld(view=view)
    world.commits(2)
    world.channel_set(*([1, 2] * 150))

    before = view.rows_read
    move = queries.ref_at(view, MODEL, RefKind.CHANNEL, "production", world.at_ms - 100_000)

    assert move is not None
    assert view.rows_read - before <= (300).bit_length() + 2
