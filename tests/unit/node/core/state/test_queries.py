"""What users ask: resolving, listing, history, time."""

import pytest

from mcr.errors import (
    AmbiguousReferenceError,
    CorruptStoreError,
    ModelNotFoundError,
    ReferenceNotFoundError,
)
from mcr.model import RefKind, VersionId
from mcr.references import parse_reference
from mcr_node.core.state import keys, queries
from mcr_node.core.state.commands import NumberTarget
from mcr_node.core.state.keys import RefName
from mcr_node.core.state.outcomes import RefResult, VersionResult
from mcr_node.core.state.records import IdRow
from tests.support.state_world import MODEL, START_MS, StateWorld


def resolve(world: StateWorld, what: str) -> int:
    return queries.resolve(world.view, parse_reference(what, model=MODEL))


def test_each_way_to_name_a_version_resolves() -> None:
    world = StateWorld()
    world.commits(3)
    world.accept(world.create_tag("release", 2), RefResult)
    world.channel_set(1)
    identity = queries.get_version(world.view, MODEL, 2).id

    for what, number in [
        ("v2", 2),
        ("branch:main", 3),
        ("main", 3),
        ("tag:release", 2),
        ("release", 2),
        ("channel:production", 1),
        ("production", 1),
        (identity, 2),
        (identity[:8], 2),
        (identity[:9], 2),
        (identity[:63].upper(), 2),
    ]:
        assert resolve(world, what) == number
    assert queries.resolve(world.view, parse_reference(MODEL)) == 3


def test_a_word_that_names_several_refs_is_ambiguous() -> None:
    world = StateWorld()
    world.commits(2)
    world.accept(world.create_branch("stable", 1), RefResult)
    world.accept(world.create_tag("stable", 2), RefResult)
    world.channel_set(2, channel="stable")

    with pytest.raises(AmbiguousReferenceError) as raised:
        resolve(world, "stable")

    assert raised.value.candidates == "branch:stable, tag:stable, channel:stable"
    assert resolve(world, "tag:stable") == 2


def test_a_ref_whose_name_is_the_start_of_an_id_wins() -> None:
    world = StateWorld()
    world.commits(2)
    prefix = queries.get_version(world.view, MODEL, 2).id[:8]

    world.accept(world.create_tag(prefix, 1), RefResult)

    assert resolve(world, prefix) == 1


def test_a_start_that_several_ids_share_is_ambiguous_and_lists_them() -> None:
    world = StateWorld()
    world.commits(1)
    for number in range(2, 14):
        identity = VersionId(bytes.fromhex("abcdef0123") + bytes([number]) * 27)
        world.view.write([(keys.version_id(MODEL, identity), IdRow(number=number).pack())])

    with pytest.raises(AmbiguousReferenceError) as raised:
        resolve(world, "abcdef012")

    assert raised.value.candidates.startswith("abcdef0123020 (v2), abcdef0123030 (v3), ")
    assert raised.value.candidates.endswith("(v9), …")
    assert resolve(world, "abcdef01230d") == 13


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("v2", "no such version; the newest is v1"),
        ("branch:exp", "no such branch"),
        ("tag:exp", "no such tag"),
        ("channel:exp", "no such channel"),
        ("exp", "no branch, tag or channel has that name, and no version id starts so"),
        ("deadbeef", "no branch, tag or channel has that name, and no version id starts so"),
    ],
)
def test_what_names_nothing_is_not_found(what: str, reason: str) -> None:
    world = StateWorld()
    world.commits(1)

    with pytest.raises(ReferenceNotFoundError) as raised:
        resolve(world, what)

    assert (raised.value.reference, raised.value.reason) == (what, reason)


def test_every_query_says_that_a_model_does_not_exist() -> None:
    world = StateWorld()
    view, main = world.view, RefKind.BRANCH

    for what in ("v1", "branch:main", "word", "deadbeef", f"v{2**63 + 1}"):
        with pytest.raises(ModelNotFoundError):
            resolve(world, what)
    for ask in (
        lambda: queries.get_version(view, MODEL, 1),
        lambda: queries.get_record(view, MODEL, 1),
        lambda: queries.list_versions(view, MODEL, before=None, limit=1),
        lambda: queries.list_ancestry(view, MODEL, 1, 1),
        lambda: queries.list_refs(view, MODEL, main),
        lambda: queries.get_ref(view, MODEL, main, "main"),
        lambda: queries.ref_history(view, MODEL, main, "main", before_generation=None, limit=1),
        lambda: queries.ref_at(view, MODEL, main, "main", 0),
        lambda: queries.metric_reports(view, MODEL, 1, 1),
    ):
        with pytest.raises(ModelNotFoundError):
            ask()
    assert queries.list_models(view, "", 10) == []


def test_versions_are_listed_newest_first_in_pages() -> None:
    world = StateWorld()
    world.commits(300)

    first = queries.list_versions(world.view, MODEL, before=None, limit=2)
    second = queries.list_versions(world.view, MODEL, before=first[-1].number, limit=2)

    assert [version.number for version in first + second] == [300, 299, 298, 297]
    assert [version.number for version in queries.list_versions(world.view, MODEL, before=2, limit=9)] == [1]
    assert queries.list_versions(world.view, MODEL, before=0, limit=9) == []
    assert queries.list_versions(world.view, MODEL, before=None, limit=-1) == []
    assert (first[0].refs, first[0].metrics) == (("branch:main",), None)


def test_ancestry_follows_parents_newest_first() -> None:
    world = StateWorld()
    world.commits(2)
    world.commits(2, "exp")  # v3 v4 on v2
    world.commits(1)  # v5 on v2
    world.accept(world.roll_back_branch(target=NumberTarget(1)), VersionResult)  # v6 on v5

    def ancestry(start: int, limit: int, before: int | None = None) -> list[int]:
        found = queries.list_ancestry(world.view, MODEL, start, limit, before=before)
        return [version.number for version in found]

    assert ancestry(6, 10) == [6, 5, 2, 1]
    assert ancestry(4, 10) == [4, 3, 2, 1]
    assert ancestry(4, 2) == [4, 3]
    assert ancestry(4, 2, before=3) == [2, 1]
    with pytest.raises(ReferenceNotFoundError):
        ancestry(7, 1)


def test_models_and_refs_are_listed_by_name_in_pages() -> None:
    world = StateWorld()
    for model in ("b/one", "a/two", "a/one", "a/one-more"):
        world.model = model
        world.commits(1)
    world.model = MODEL
    world.commits(1)
    for name in ("c", "a", "b"):
        world.accept(world.create_tag(name, 1), RefResult)

    models = [summary.name for summary in queries.list_models(world.view, "", 2)]
    models += [summary.name for summary in queries.list_models(world.view, models[-1], 10)]
    tags = [ref.name for ref in queries.list_refs(world.view, MODEL, RefKind.TAG, limit=1)]
    tags += [ref.name for ref in queries.list_refs(world.view, MODEL, RefKind.TAG, after=tags[-1])]

    assert models == ["a/one", "a/one-more", "a/two", "b/one", MODEL]
    assert tags == ["a", "b", "c"]


def test_a_summary_of_a_model_tells_when_it_began_and_last_changed() -> None:
    world = StateWorld()
    world.commits(3)

    [summary] = queries.list_models(world.view, "", 10)

    assert (summary.version_count, summary.created_at_ms, summary.updated_at_ms) == (
        3,
        START_MS + 1000,
        START_MS + 3000,
    )


def test_history_comes_newest_first_in_pages() -> None:
    world = StateWorld()
    world.commits(2)
    world.channel_set(1, 2, 1, 2)

    def history(before: int | None, limit: int) -> list[int]:
        moves = queries.ref_history(
            world.view, MODEL, RefKind.CHANNEL, "production", before_generation=before, limit=limit
        )
        return [move.generation for move in moves]

    assert history(None, 3) == [4, 3, 2]
    assert history(2, 3) == [1]
    assert history(1, 3) == []
    with pytest.raises(ReferenceNotFoundError):
        queries.ref_history(world.view, MODEL, RefKind.TAG, "none", before_generation=None, limit=1)


def test_what_a_ref_was_at_a_time_is_the_last_move_at_or_before_it() -> None:
    world = StateWorld()
    world.commits(3)
    world.channel_set(1, 2)
    world.at_ms = START_MS  # a clock that went back: log time stands still
    world.channel_set(3)
    world.at_ms = START_MS + 100_000
    world.channel_set(1)

    def at(offset_ms: int) -> tuple[int, int] | None:
        move = queries.ref_at(world.view, MODEL, RefKind.CHANNEL, "production", START_MS + offset_ms)
        return None if move is None else (move.generation, move.number)

    assert [at(offset) for offset in (0, 3999, 4000, 4999, 5000, 100_999, 101_000, 10**9)] == [
        None,
        None,
        (1, 1),
        (1, 1),
        (3, 3),
        (3, 3),
        (4, 1),
        (4, 1),
    ]
    with pytest.raises(ReferenceNotFoundError):
        queries.ref_at(world.view, MODEL, RefKind.CHANNEL, "canary", START_MS)


def test_a_deleted_branch_is_at_nothing_since_its_deletion() -> None:
    world = StateWorld()
    world.commits(1)
    world.accept(world.create_branch("exp", 1), RefResult)
    world.accept(world.delete_branch("exp"), RefResult)

    before = queries.ref_at(world.view, MODEL, RefKind.BRANCH, "exp", world.at_ms - 1)
    after = queries.ref_at(world.view, MODEL, RefKind.BRANCH, "exp", world.at_ms)

    assert before is not None
    assert after is not None
    assert (before.number, after.number, after.verb, after.version_id) == (1, 0, "delete", "")


def test_damage_is_told_apart_from_what_was_never_there() -> None:
    world = StateWorld()
    world.commits(2)
    main = RefName(MODEL, RefKind.BRANCH, "main")

    world.view.write([(keys.move(main, 1), None)])
    with pytest.raises(CorruptStoreError, match="lacks generation 1"):
        queries.ref_at(world.view, MODEL, RefKind.BRANCH, "main", START_MS)
    world.view.write([(keys.move(main, 2), None)])
    with pytest.raises(CorruptStoreError, match="has no history"):
        queries.ref_at(world.view, MODEL, RefKind.BRANCH, "main", START_MS)
    world.view.write([(keys.version(MODEL, 1), b"\x01")])
    with pytest.raises(CorruptStoreError, match="record"):
        queries.get_version(world.view, MODEL, 1)
