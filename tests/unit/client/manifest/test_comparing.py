import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcr.errors import MissingChunkError
from mcr.manifest import ManifestBuilder, compare, drain, walk_files
from tests.unit.client.manifest.samples import MemoryStore, build

Files = dict[str, int]


def check(before: Files, after: Files) -> MemoryStore:
    store = MemoryStore()
    roots = [build(store, files.items()).root for files in (before, after)]
    found = list(drain(compare(*roots), store.get))
    store_for_rows = MemoryStore()
    store_for_rows.chunks = store.chunks
    rows = [{row.entry.path: row for row in drain(walk_files(r), store_for_rows.get)} for r in roots]
    expected = [
        (path, rows[0].get(path), rows[1].get(path))
        for path in sorted(before.keys() | after.keys())
        if before.get(path) != after.get(path)
    ]
    assert [(item.path, item.before, item.after) for item in found] == expected
    return store


def many(count: int = 1500) -> Files:
    return {f"f{n:05}": n for n in range(count)}


def test_equal_versions_differ_in_nothing_and_nothing_is_read() -> None:
    assert check(many(), many()).reads == []


def test_one_changed_file_is_found_by_reading_two_paths_down() -> None:
    store = check(many(), many() | {"f00700": 0})
    assert len(store.reads) <= 8


def test_an_added_and_a_removed_file_are_found_by_reading_few_nodes() -> None:
    after = many() | {"f00700-new": 1}
    del after["f01100"]
    assert len(check(many(), after).reads) <= 20


def test_versions_without_anything_in_common_are_read_whole_in_few_rounds() -> None:
    after = {f"g{n:05}": n for n in range(1500)}
    store = check(many(), after)
    assert store.rounds <= 8


@pytest.mark.parametrize("other", [{}, {"f00000": 0}, {"a": 1}, {"z": 1}])
def test_trees_of_different_heights_compare(other: Files) -> None:
    check(many(), other)
    check(other, many())


def test_a_tail_that_was_cut_off_is_found() -> None:
    before = many()
    check(before, dict(list(before.items())[:900]))
    check(dict(list(before.items())[600:]), before)


def test_empty_versions_compare() -> None:
    check({}, {})
    check({}, {"a": 1})


@given(st.integers(), st.integers(0, 600), st.integers(0, 30))
@settings(max_examples=15, deadline=None)
def test_any_edits_are_found_and_nothing_else(seed: int, count: int, edits: int) -> None:
    chance = random.Random(seed)
    before = {f"f{chance.randrange(10**6):06}": 0 for _ in range(count)}
    after = dict(before)
    for _ in range(edits):
        kind = chance.randrange(3)
        if kind == 0 or not after:
            after[f"f{chance.randrange(10**6):06}"] = 1
        elif kind == 1:
            after[chance.choice(list(after))] = chance.randrange(2, 9)
        else:
            del after[chance.choice(list(after))]
    check(before, after)


def test_a_missing_node_is_named() -> None:
    store = MemoryStore()
    root = build(store, [("a", 1)]).root
    empty = ManifestBuilder(store.emit).finish().root
    with pytest.raises(MissingChunkError):
        compare(root, empty).feed({})
