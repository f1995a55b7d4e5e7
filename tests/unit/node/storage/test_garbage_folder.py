"""Id sets and the journal of touches, on disk."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcr.model import ChunkId, digest
from mcr_node.storage import garbage_folder
from mcr_node.storage.garbage_folder import GarbageFiles


def ids(*numbers: int) -> list[ChunkId]:
    return [ChunkId(digest(number.to_bytes(8, "big"))) for number in numbers]


def test_a_set_has_what_was_added_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(garbage_folder, "BUFFERED_IDS_MAX", 50)
    found = GarbageFiles(tmp_path).new_set("keep")
    found.add(ids(*range(0, 1000, 2)))

    asked = sorted(ids(*range(1000)))

    assert found.among(asked) == set(ids(*range(0, 1000, 2)))
    found.add(ids(1))
    assert found.among(ids(1, 3)) == set(ids(1))


def test_repeats_do_not_make_a_set_grow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(garbage_folder, "BUFFERED_IDS_MAX", 50)
    monkeypatch.setattr(garbage_folder, "REPEATS_MIN", 10)
    found = GarbageFiles(tmp_path).new_set("keep")

    for _ in range(100):
        found.add(ids(*range(40)))

    size = sum(file.stat().st_size for file in (tmp_path / "garbage" / "keep").iterdir())
    assert size < 100 * 40 * 32 / 2
    assert found.among(ids(*range(60))) == set(ids(*range(40)))


def test_a_dropped_set_leaves_nothing_and_a_new_one_begins_empty(tmp_path: Path) -> None:
    files = GarbageFiles(tmp_path)
    found = files.new_set("keep")
    found.add(ids(*range(10)))
    assert files.new_set("keep").among(ids(1)) == set()

    found.drop()

    assert list((tmp_path / "garbage").iterdir()) == []


@given(st.lists(st.lists(st.integers(0, 300), max_size=40), max_size=8), st.lists(st.integers(0, 300)))
@settings(max_examples=25, deadline=None)
def test_a_set_on_disk_is_a_set(
    tmp_path_factory: pytest.TempPathFactory, added: list[list[int]], asked: list[int]
) -> None:
    found = GarbageFiles(tmp_path_factory.mktemp("sets")).new_set("keep")
    for some in added:
        found.add(ids(*some))

    wanted = {number for some in added for number in some}
    assert found.among(ids(*asked)) == set(ids(*(number for number in asked if number in wanted)))


def journal_of(files: GarbageFiles, since: int) -> set[ChunkId]:
    return {one for page in files.journal.read(since) for one in page}


def test_the_journal_survives_its_process_and_forgets_old_rounds(tmp_path: Path) -> None:
    files = GarbageFiles(tmp_path)
    for in_round in (3, 4, 5):
        files.journal.append(in_round, ids(in_round, 10 * in_round))
    files.journal.close()

    again = GarbageFiles(tmp_path)
    again.journal.append(5, ids(7))

    assert journal_of(again, 4) == set(ids(4, 40, 5, 50, 7))
    again.journal.forget(5)
    assert journal_of(again, 0) == set(ids(5, 50, 7))
    again.journal.close()


def test_a_torn_end_of_the_journal_is_cut(tmp_path: Path) -> None:
    files = GarbageFiles(tmp_path)
    files.journal.append(1, ids(1, 2))
    files.journal.close()
    file = tmp_path / "garbage" / "touched-00000001"
    file.write_bytes(file.read_bytes()[:-5])

    again = GarbageFiles(tmp_path)
    again.journal.append(1, ids(3))

    assert journal_of(again, 0) == set(ids(1, 3))
    again.journal.close()
