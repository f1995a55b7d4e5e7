"""Random command sequences over few names, so that they meet each other, and what holds in every state."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

from hypothesis import strategies as st

from mcr.bases import BaseVersion
from mcr.model import ChunkId, ParameterValue, RequestId
from mcr.record import decode_record, version_id
from mcr_node.core.state import keys, policy_keys, receipt_keys, receipts, requests
from mcr_node.core.state.commands import (
    Acknowledge,
    ApproveMove,
    Command,
    CommitVersion,
    CreateBranch,
    CreateTag,
    DeleteBranch,
    DeletePolicy,
    FreezeChannel,
    LastGoodTarget,
    MoveChannel,
    NumberTarget,
    PreviousTarget,
    ProtectChannel,
    ReportMany,
    ReportMetrics,
    RollbackBranch,
    RollbackChannel,
    SetPolicy,
    Settle,
)
from mcr_node.core.state.policy_rows import DecisionRow, PoliciesRow
from mcr_node.core.state.receipts import AgeRow, ConsumerRow, ReceiptRow, ReceiptsRow, UseRow
from mcr_node.core.state.records import (
    EventRow,
    EventsRow,
    IdRow,
    MetricCountRow,
    ModelRow,
    MoveRow,
    RefRow,
    StateRow,
    read,
)
from mcr_node.core.state.view import View, prefix_end
from tests.support import merge_commands, session_commands
from tests.support.state_retention import retention_commands
from tests.support.state_signatures import KEYS, check_signatures, signature_commands
from tests.support.state_space import check_space, space_commands
from tests.support.state_trash import check_trash, trash_commands
from tests.support.state_world import StateWorld

_models = st.sampled_from(["a/one"] * 7 + ["a/one.2"])
_branches = st.sampled_from(["main", "exp", "exp.2"])
_channels = st.sampled_from(["production"] * 4 + ["main"])
_numbers = st.integers(1, 6)
_reasons = st.sampled_from(["", "p99 up"])
_targets = st.just(PreviousTarget()) | st.just(LastGoodTarget()) | st.builds(NumberTarget, _numbers)
_floats = st.floats(allow_nan=True, allow_infinity=True)
_metrics = st.dictionaries(st.sampled_from(["loss", "accuracy", "norm"]), _floats, max_size=3)
_envelope = {
    "request_id": st.just(RequestId(b"to be replaced")),
    "principal": st.sampled_from(["alice", "bob", "ci"]),
    "at_ms": st.integers(1_000, 10**10),
    "model": _models,
}
POLICIES: list[Mapping[str, ParameterValue]] = [
    {"channel": "production", "metric": "loss", "above": 0.5, "nan": True},
    {"channel": "production", "metric": "loss", "below": 0, "target": "last-good", "freeze": "automatic"},
    {"channel": "production", "metric": "accuracy", "drop": 0.1, "count": 2, "target": "v1"},
    {"channel": "main", "metric": "loss", "above": 0, "consecutive": 2, "interval": "1s"},
    {"branch": "main", "metric": "loss", "above": 0, "never_past": "t1"},
    {"branch": "exp", "metric": "norm", "nan": True, "dry_run": True},
    {"branch": "main", "metric": "accuracy", "below": 0.5, "max_per_day": 1, "cool_down": "1h"},
    {"channel": "production", "missing": "10m"},
    {"channel": "production", "metric": "loss"},
]
_policies = st.sampled_from(["p", "q", "r"])
_protections = st.fixed_dictionaries(
    {},
    optional={
        "actors": st.lists(st.sampled_from(["alice", "bob", "ci", "dora"]), min_size=1, max_size=3),
        "branch": _branches,
        "metrics": st.just(["loss"]),
        "available": st.just(["north"]),
        "signers": st.just([KEYS[0].hex()]),
        "two_person": st.just(True),
    },
)

_reports = st.builds(
    ReportMetrics,
    number=_numbers,
    values=_metrics,
    channel=st.just("") | _channels,
    allow_non_finite=st.booleans(),
    **_envelope,
)


def _together(drawn: list[tuple[ReportMetrics, int]]) -> Command:
    """Return reports as one command; ids are few, so that some are known."""
    first = drawn[0][0]
    return ReportMany(
        request_id=first.request_id,
        principal=first.principal,
        at_ms=first.at_ms,
        reports=tuple(
            replace(
                report,
                request_id=RequestId(b"of many %d" % number),
                principal=first.principal,
                at_ms=first.at_ms,
            )
            for report, number in drawn
        ),
    )


commits = st.builds(
    CommitVersion,
    branch=_branches,
    expected_head=st.none() | st.integers(0, 6),
    parent=st.none() | _numbers,
    description=st.text(max_size=3),
    parameters=st.dictionaries(
        st.text(max_size=2), st.integers() | _floats | st.text(max_size=2), max_size=2
    ),
    manifest=st.binary(min_size=31, max_size=32).map(ChunkId),
    bytes_total=st.sampled_from([0, 1, 2**40, -1]),
    file_count=st.integers(0, 9),
    chunk_count=st.integers(0, 9),
    metrics=_metrics,
    allow_non_finite=st.booleans(),
    layout_epoch=st.sampled_from([None, 0, 5, 9]),
    base=st.sampled_from([None] * 8 + [BaseVersion("a/one", 1, "ab" * 32), BaseVersion("a", 0, "?")]),
    **_envelope,
)
plain_commits = st.builds(
    CommitVersion,
    branch=_branches,
    expected_head=st.none(),
    parent=st.none(),
    description=st.just(""),
    parameters=st.just({}),
    manifest=st.just(ChunkId(bytes(32))),
    bytes_total=st.just(1),
    file_count=st.just(1),
    chunk_count=st.just(1),
    metrics=st.just({}),
    **_envelope,
)
others: st.SearchStrategy[Command] = st.one_of(
    st.builds(RollbackBranch, branch=_branches, target=_targets, reason=_reasons, **_envelope),
    st.builds(CreateBranch, name=_branches, number=_numbers, **_envelope),
    st.builds(DeleteBranch, name=_branches, reason=_reasons, **_envelope),
    st.builds(CreateTag, name=st.sampled_from(["t1", "main"]), number=_numbers, **_envelope),
    st.builds(
        MoveChannel,
        channel=_channels,
        number=_numbers,
        expected_generation=st.sampled_from([None, None, None, 0, 3, 4]),
        reason=_reasons,
        **_envelope,
    ),
    st.builds(RollbackChannel, channel=_channels, target=_targets, reason=_reasons, **_envelope),
    st.builds(ProtectChannel, channel=_channels, protection=_protections, **_envelope),
    _reports,
    st.lists(st.tuples(_reports, st.integers(0, 30)), min_size=1, max_size=4).map(_together),
    st.builds(
        Acknowledge,
        number=_numbers,
        channel=st.just("") | _channels,
        generation=st.integers(0, 4),
        consumer=st.sampled_from(["gpu-1", "gpu-2"]),
        rank=st.integers(0, 1),
        state=st.sampled_from(["loaded", "loaded", "failed", "gone"]),
        **_envelope,
    ),
    merge_commands.drawn(_envelope, _branches),
    session_commands.drawn(_envelope, _branches),
    st.builds(
        SetPolicy,
        name=_policies,
        rules=st.sampled_from(POLICIES),
        **_envelope,
    ),
    st.builds(DeletePolicy, name=_policies, **_envelope),
    st.builds(Settle, policy=_policies, generation=st.integers(1, 6), **_envelope),
    st.builds(
        FreezeChannel,
        channel=_channels,
        level=st.sampled_from(["", "", "automatic", "all"]),
        reason=_reasons,
        **_envelope,
    ),
    st.builds(
        ApproveMove, channel=_channels, request=st.integers(1, 40), withdraw=st.booleans(), **_envelope
    ),
    signature_commands(_envelope),
)
any_command: st.SearchStrategy[Command] = st.one_of(
    plain_commits, plain_commits, commits, others, others, trash_commands, space_commands, retention_commands
)


def _prelude() -> list[Command]:
    """Return a start from which most commands find what they name: four versions, two branches, a channel."""
    world = StateWorld(model="a/one", at_ms=0)
    commands: list[Command] = [world.commit(branch) for branch in ("main", "main", "exp", "main")]
    return commands + [world.set_channel(number) for number in (1, 2, 4)]


def at_time(command: Command, at_ms: int) -> Command:
    """Return a command as if it was proposed at another time."""
    if isinstance(command, ReportMany):
        reports = tuple(replace(each, at_ms=at_ms) for each in command.reports)
        return replace(command, at_ms=at_ms, reports=reports)
    return replace(command, at_ms=at_ms)


def _with_ids(drawn: list[tuple[Command, int]]) -> list[Command]:
    """Give each command an id of its own, but for some that repeat an earlier one: wholly, or only its id."""
    commands = _prelude()
    for command, repeated in drawn:
        earlier = commands[-min(repeated, len(commands))]
        if repeated == 0:
            commands.append(replace(command, request_id=RequestId(b"own %d" % len(commands))))
        elif repeated % 2:
            commands.append(at_time(earlier, command.at_ms))
        else:
            commands.append(replace(command, request_id=earlier.request_id))
    return commands


_repeats = st.sampled_from([0] * 20 + [1, 2, 5, 6])
sequences: st.SearchStrategy[list[Command]] = st.lists(
    st.tuples(any_command, _repeats), min_size=10, max_size=40
).map(_with_ids)
"""Command sequences, bad commands and retries included."""


def check_invariants(view: View) -> None:
    """Assert what holds in every state."""
    for key, value in view.scan(*keys.models_after("")):
        _check_versions(view, keys.model_in(key), ModelRow.unpack(value))
    _check_refs(view)
    check_trash(view)
    check_space(view)
    _check_requests(view)
    _check_events(view)
    _check_receipts(view)
    session_commands.check_sessions(view)
    merge_commands.check_merges(view)
    check_signatures(view)
    _check_policies(view)
    for key, value in _rows(view, b"c"):
        assert MetricCountRow.unpack(value).count == len(_rows(view, b"l" + key[1:]))


def _rows(view: View, prefix: bytes) -> list[tuple[bytes, bytes]]:
    return list(view.scan(prefix, prefix_end(prefix)))


def _check_versions(view: View, model: str, row: ModelRow) -> None:
    rows = list(view.scan(*keys.versions_before(model, keys.NUMBER_MAX)))
    assert [keys.number_in(key) for key, _ in rows] == list(range(1, row.version_count + 1))
    ids = {}
    for key, data in rows:
        record = decode_record(data)
        identity = version_id(data)
        ids[record.number] = identity
        assert record.number == keys.number_in(key)
        assert all(parent < record.number for parent in (*record.parents, record.target_number))
        assert record.parent_ids == tuple(ids[parent] for parent in record.parents)
        found = read(view, keys.version_id(model, identity), IdRow)
        assert found is not None
        assert found.number == record.number
        if record.target_number:
            target = decode_record(rows[record.target_number - 1][1])
            assert target.target_number == 0
            assert target.manifest == record.manifest
    times = [decode_record(data).created_at_ms for _, data in rows]
    assert times == sorted(times)
    assert [row.created_at_ms, row.updated_at_ms] == [times[0], times[-1]]


def _check_refs(view: View) -> None:
    histories: dict[bytes, list[MoveRow]] = {}
    for key, value in _rows(view, b"h"):
        moves = histories.setdefault(key[1:-9], [])
        moves.append(MoveRow.unpack(value))
        assert keys.number_in(key) == len(moves), "generations have no gaps"
    existing = {key[1:]: RefRow.unpack(value) for key, value in _rows(view, b"r")}
    assert existing.keys() == {name for name, moves in histories.items() if moves[-1].verb != "delete"}
    assert len(_rows(view, b"p")) == len(existing)
    for name, moves in histories.items():
        assert all(one.at_ms <= two.at_ms and one.index < two.index for one, two in pairwise(moves))
        _check_chain(moves)
        if name in existing:
            row, last = existing[name], moves[-1]
            assert row.generation == len(moves)
            assert (row.number, row.version_id, row.below, row.actor, row.reason, row.at_ms) == (
                last.number,
                last.version_id,
                last.below,
                last.actor,
                last.reason,
                last.at_ms,
            )
            model, _, kind_and_name = name.partition(b"\x00")
            number = row.number.to_bytes(8, "big")
            assert view.get(b"p" + model + b"\x00" + number + kind_and_name) is not None


def _check_chain(moves: Sequence[MoveRow]) -> None:
    """What a rollback goes back to is always older, and another version."""
    for generation, move in enumerate(moves, start=1):
        assert 0 <= move.below < generation
        if move.below:
            assert moves[move.below - 1].number != move.number


def _check_requests(view: View) -> None:
    ages = _rows(view, b"a")
    remembered = [key[1:] for key, _ in _rows(view, b"q")]
    found: list[bytes] = []
    for key, value in ages:
        found += requests.remembered_in(value) if keys.request_age_in(key)[1] else [value]
    assert sorted(found) == remembered
    state = read(view, keys.STATE, StateRow)
    assert len(found) == (0 if state is None else state.request_count)
    assert state is None or not ages or state.oldest_request_index <= keys.request_age_in(ages[0][0])[0]


def _check_events(view: View) -> None:
    """Every move has an event, and there are no others, but for those that are known to be gone."""
    state = read(view, keys.EVENTS, EventsRow) or EventsRow()
    rows = _rows(view, b"w")
    assert len(rows) == state.count
    moves = {MoveRow.unpack(value).index: keys.number_in(key) for key, value in _rows(view, b"h")}
    events = {keys.number_in(key): EventRow.unpack(value).generation for key, value in rows}
    assert events == {index: generation for index, generation in moves.items() if index > state.gone_through}


def _check_receipts(view: View) -> None:
    """Counts are those of the rows, and a version is in use exactly while somebody has it loaded."""
    for model_key, _ in view.scan(*keys.models_after("")):
        model = keys.model_in(model_key)
        loaded: Counter[int] = Counter()
        consumers = list(view.scan(*receipt_keys.consumers_after(model, "", 0)))
        for key, value in consumers:
            name, rank = receipt_keys.consumer_in(model, key)
            row = ConsumerRow.unpack(value)
            kept = [
                ReceiptRow.unpack(data) for _, data in view.scan(*receipt_keys.receipts(model, name, rank))
            ]
            assert row.receipt_count == len(kept)
            assert receipts.receipt_row(view, name, rank, row, model) == kept[-1]
            loaded[kept[-1].loaded_number] += 1
        ages = [AgeRow.unpack(value) for _, value in view.scan(*receipt_keys.ages(model))]
        assert sorted((age.name, age.rank) for age in ages) == sorted(
            receipt_keys.consumer_in(model, key) for key, _ in consumers
        )
        totals = read(view, receipt_keys.totals(model), ReceiptsRow) or ReceiptsRow()
        assert totals.consumer_count == len(consumers)
        uses = {
            keys.number_in(key): UseRow.unpack(value).count
            for key, value in view.scan(*receipt_keys.uses(model))
        }
        assert uses == {number: count for number, count in loaded.items() if number}


def _check_policies(view: View) -> None:
    """The lists are those of the policies there are, and a policy goes back once from where it goes back."""
    for model_key, _ in view.scan(*keys.models_after("")):
        model = keys.model_in(model_key)
        listed = view.scan(*policy_keys.policies_after(model, ""))
        names = [policy_keys.policy_in(key)[1] for key, _ in listed]
        totals = read(view, policy_keys.totals(model), PoliciesRow) or PoliciesRow()
        assert totals.count == len(names)
        assert sorted(name for group in totals.by_metric.values() for name in group) == names
        for name in names:
            rows = [DecisionRow.unpack(value) for _, value in view.scan(*policy_keys.decisions(model, name))]
            moved = [(row.evidence["rules"], row.generation) for row in rows if row.outcome == "rolled_back"]
            assert all(moved.count(one) == 1 for one in moved)
    for key, value in _rows(view, b"h"):
        move = MoveRow.unpack(value)
        if move.actor.startswith("policy:"):
            assert move.verb == "rollback"
            assert move.evidence is not None
            assert f"policy:{move.evidence['policy']}" == move.actor
            assert keys.number_in(key) > 1
