"""Whatever is reported and moved: one rollback for each policy and generation, never to a bad place."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from mcr.model import ParameterValue, RefKind
from mcr_node.core.state import explaining, keys, lookup, policy_keys, watching
from mcr_node.core.state.commands import Command
from mcr_node.core.state.keys import RefName
from mcr_node.core.state.outcomes import Accepted
from mcr_node.core.state.policy_rows import WatchRow
from mcr_node.core.state.records import MoveRow, StandingRow, read
from tests.support.state_commands import check_invariants
from tests.support.state_world import MODEL, PREVIOUS, StateWorld

Rules = dict[str, ParameterValue]

VERSIONS = 5
# A hundred samples as evidence, each with the longest principal and reason, and a hundred times.
POLICY_ROW_BYTES_MAX = 256 * 1024
CHANNELS = ("production", "canary")

_refs = st.sampled_from([{"channel": "production"}, {"channel": "canary"}, {"branch": "main"}])
_limits = st.sampled_from(
    [
        {"above": 2.0},
        {"above": 2.0, "nan": True},
        {"below": -1.0, "nan": True},
        {"drop": 1.0, "better": "lower"},
        {"drop": "50%", "better": "lower", "baseline": "v1"},
        {"above": 2.0, "missing": "1m"},
    ]
)
_counting = st.sampled_from(
    [
        {},
        {},
        {"count": 2},
        {"consecutive": 2},
        {"count": 2, "window": "3s"},
        {"interval": "2s"},
        {"samples": 2},
    ]
)
_doing = st.sampled_from(
    [
        {},
        {},
        {"target": "last-good"},
        {"target": "v1"},
        {"cool_down": "5s"},
        {"max_per_day": 1},
        {"never_past": "release"},
        {"dry_run": True},
    ]
)
_policies: st.SearchStrategy[Rules] = st.builds(
    lambda ref, limit, counting, doing: {"metric": "loss"} | ref | limit | counting | doing,
    _refs,
    _limits,
    _counting,
    _doing,
)
_numbers = st.integers(1, VERSIONS + 3)
_losses = st.sampled_from([0.5, 1.0, 3.0, 9.0, -4.0, float("nan"), float("inf")])
_steps = st.lists(
    st.one_of(
        st.tuples(st.just("report"), _numbers, _losses, st.sampled_from(["", *CHANNELS]), st.integers(0, 3)),
        st.tuples(st.just("report"), st.just(0), _losses, st.just("production"), st.just(0)),
        st.tuples(st.just("set"), _numbers, st.sampled_from(CHANNELS)),
        st.tuples(st.just("back"), st.sampled_from([None, 1, 2]), st.sampled_from(CHANNELS)),
        st.tuples(st.just("commit"), _losses),
        st.tuples(st.just("settle"), st.sampled_from(["p", "q"]), st.sampled_from([0, 70])),
        st.tuples(st.just("policy"), st.sampled_from(["p", "q"]), _policies),
    ),
    min_size=10,
    max_size=40,
)


def _command(world: StateWorld, step: tuple[object, ...]) -> Command | None:
    """Make a command of what was drawn; number 0 means wherever production is."""
    match step:
        case ("report", int(number), float(loss), str(channel), int(generation)):
            if number == 0:
                number = lookup.ref_row(world.view, RefName(MODEL, RefKind.CHANNEL, "production")).number
            generation = generation if channel else 0
            return world.report(number, {"loss": loss}, channel, generation=generation)
        case ("set", int(number), str(channel)):
            return world.set_channel(number, channel)
        case ("back", target, str(channel)):
            return world.roll_back_channel(target if isinstance(target, int) else PREVIOUS, channel)
        case ("commit", float(loss)):
            return world.commit(metrics={"loss": loss}, allow_non_finite=True)
        case ("settle", str(name), int(seconds)):
            world.at_ms += seconds * 1000
            generation = watching.unsettled(world.view, MODEL, name, world.at_ms)
            return world.settle(name, generation) if generation else None
        case ("policy", str(name), dict(rules)):
            return world.set_policy(name, rules)
        case _:
            raise AssertionError(step)


@settings(max_examples=150, deadline=None)
@given(_policies, _policies, _steps)
def test_any_sequence_of_reports_and_moves_keeps_the_laws_of_policies(
    one: Rules, other: Rules, steps: list[tuple[object, ...]]
) -> None:
    world = StateWorld()
    world.commits(VERSIONS)
    for channel in CHANNELS:
        world.channel_set(1, 2, 3, channel=channel)
    world.apply(world.create_tag("release", 2))
    world.apply(world.set_policy("p", one))
    world.apply(world.set_policy("q", other))
    for step in steps:
        command = _command(world, step)
        if command is None:
            continue
        before = {of: _generation(world, of) for of in _all_refs()}
        bad = {of: _rolled_back(world, of) for of in _all_refs()}

        world.apply(command)

        for of in _all_refs():
            _check_move(world, of, before[of], bad[of])
        # The same request again is the same decision.
        again = world.apply(replace(command, at_ms=world.at_ms + 5))
        assert not isinstance(again, Accepted) or again.already_applied
        assert world.changes == []
    check_invariants(world.view)
    for name in ("p", "q"):
        watch = world.view.get(policy_keys.watch(MODEL, name))
        assert watch is not None
        assert len(watch) < POLICY_ROW_BYTES_MAX
        assert explaining.explain(world.view, MODEL, name, at_ms=world.at_ms).why


def _all_refs() -> list[RefName]:
    channels = [RefName(MODEL, RefKind.CHANNEL, name) for name in CHANNELS]
    return [*channels, RefName(MODEL, RefKind.BRANCH, "main")]


def _generation(world: StateWorld, of: RefName) -> int:
    return lookup.ref_row(world.view, of).generation


def _rolled_back(world: StateWorld, of: RefName) -> set[int]:
    """Return what a rollback left, and the present version, which the next one leaves."""
    start, end = keys.standing(of, 0), keys.standing(of, keys.NUMBER_MAX)
    rows = [(keys.number_in(key), StandingRow.unpack(value)) for key, value in world.view.scan(start, end)]
    present = lookup.content_number(lookup.record(world.view, MODEL, lookup.ref_row(world.view, of).number))
    return {number for number, row in rows if row.rolled_back} | {present}


def _check_move(world: StateWorld, of: RefName, before: int, bad: set[int]) -> None:
    ref = lookup.ref_row(world.view, of)
    # An entry moves a ref once at most, so a policy rolls back once at most from where it was.
    assert ref.generation in (before, before + 1)
    if ref.generation == before or not ref.actor.startswith("policy:"):
        return
    move = read(world.view, keys.move(of, ref.generation), MoveRow)
    assert move is not None
    assert move.evidence is not None
    assert lookup.content_number(lookup.record(world.view, MODEL, ref.number)) not in bad
    rules = move.evidence["rules"]
    assert isinstance(rules, dict)
    assert "dry_run" not in rules
    assert rules.get(str(of.kind)) == of.name
    if "never_past" in rules:
        assert lookup.content_number(lookup.record(world.view, MODEL, ref.number)) >= 2
    watch = read(world.view, policy_keys.watch(MODEL, ref.actor.removeprefix("policy:")), WatchRow)
    assert watch is not None
    assert watch.rollbacks_at_ms[-1] == move.at_ms
