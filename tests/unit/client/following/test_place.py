"""The destination of a follower is one whole version, or not there; wherever it is cut off."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from mcr.errors import DestinationError
from mcr.following import place as place_module
from mcr.following.happenings import Switch
from mcr.following.place import Place
from mcr.following.record import FollowRecord, Held, Loaded
from mcr.model import EntryKind, FileEntry, digest

ONE, TWO, THREE = (Held(number, f"{number:064x}"[::-1]) for number in (1, 2, 3))
BOTH = pytest.mark.parametrize("switch", list(Switch))
# The calls after which something else is on disk.
_CHANGES = ("rename", "symlink", "unlink", "mkdir")


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[[Switch], Place]]:
    places: list[Place] = []

    def open_(switch: Switch) -> Place:
        for each in places:
            each.close()
        places.append(Place(tmp_path / "serving", switch))
        places[-1].open()
        return places[-1]

    yield open_
    for each in places:
        each.close()


def hold(place: Place, held: Held) -> None:
    folder = place.unseal(held)
    (folder / "deep").mkdir(parents=True, exist_ok=True)
    (folder / "deep" / "weights").write_text(f"{held.number}")
    place.seal(held, entries(held))


def entries(held: Held, *, executable: bool = False) -> list[FileEntry]:
    """Return what the version holds that `hold` writes."""
    data = f"{held.number}".encode()
    return [FileEntry("deep/weights", EntryKind.FILE, len(data), executable=executable, blake3=digest(data))]


def served(place: Place) -> str:
    return (place.destination / "deep" / "weights").read_text()


@BOTH
def test_a_switch_shows_the_version_under_the_same_name(
    opened: Callable[[Switch], Place], switch: Switch
) -> None:
    place = opened(switch)
    assert place.current() is None
    for held in (ONE, TWO, ONE, THREE, TWO):
        if not place.is_held(held):
            hold(place, held)
        place.switch(held)
        assert served(place) == f"{held.number}"
        assert place.current() == held.folder
    assert all(place.is_held(held) for held in (ONE, TWO, THREE))
    assert (place.destination.is_symlink()) == (switch is Switch.SYMLINK)


@BOTH
def test_a_version_that_somebody_wrote_into_is_not_held(
    opened: Callable[[Switch], Place], switch: Switch
) -> None:
    place = opened(switch)
    hold(place, ONE)
    place.switch(ONE)
    assert place.is_held(ONE)
    (place.folder_of(ONE) / "cache.tmp").write_text("mine")
    assert not place.is_held(ONE)
    # Being mended it is still known for what it is.
    place.unseal(ONE)
    assert place.current() == ONE.folder


@BOTH
def test_files_that_are_the_same_are_shared_unless_somebody_wrote_to_them(
    opened: Callable[[Switch], Place], switch: Switch
) -> None:
    place = opened(switch)
    hold(place, ONE)
    place.switch(ONE)
    file = place.destination / "deep" / "weights"
    # A version with the same file; and one that has it with another mode.
    assert place.share(TWO, entries(ONE), [ONE]) == 1
    assert (place.folder_of(TWO) / "deep" / "weights").samefile(file)
    assert place.share(THREE, entries(ONE, executable=True), [ONE]) == 0
    assert place.share(THREE, entries(TWO), [ONE]) == 0
    file.write_text("x")
    assert place.share(THREE, entries(ONE), [ONE, TWO]) == 0


@BOTH
def test_pruning_spares_what_the_destination_is(opened: Callable[[Switch], Place], switch: Switch) -> None:
    place = opened(switch)
    for held in (ONE, TWO, THREE):
        hold(place, held)
    place.switch(TWO)
    assert place.prune([]) == 2
    assert served(place) == "2"
    assert not place.is_held(ONE)
    assert place.is_held(TWO)


@BOTH
@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_what_is_not_a_followers_is_left_alone(tmp_path: Path, switch: Switch, kind: str) -> None:
    there = tmp_path / "serving"
    match kind:
        case "file":
            there.write_text("mine")
        case "folder":
            there.mkdir()
        case _:
            there.symlink_to(tmp_path)
    place = Place(there, switch)
    with pytest.raises(DestinationError, match="did not make"):
        place.open()
    place.close()


def test_two_followers_do_not_share_a_destination(tmp_path: Path) -> None:
    first, second = (Place(tmp_path / "serving", Switch.SYMLINK) for _ in range(2))
    first.open()
    with pytest.raises(DestinationError, match="another follower"):
        second.open()
    second.close()
    first.close()
    second.open()
    second.close()


def test_the_whole_can_be_moved_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    place = Place(tmp_path / "a" / "serving", Switch.SYMLINK)
    place.open()
    hold(place, ONE)
    place.switch(ONE)
    place.close()
    (tmp_path / "a").rename(tmp_path / "b")
    assert (tmp_path / "b" / "serving" / "deep" / "weights").read_text() == "1"


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[1]", b'{"format": 2}', b'{"format": 1, "model": 3}', b"\xff"]
)
def test_a_damaged_record_is_none(data: bytes) -> None:
    assert FollowRecord.unpack(data) is None


def test_a_record_is_read_as_it_was_written() -> None:
    record = FollowRecord("a/b", "c", Loaded(ONE, 4), Loaded(TWO, 5), 2, 3, "no", (ONE, TWO))
    assert FollowRecord.unpack(record.pack()) == record


class _CutOffError(Exception):
    """The process ends here."""


class _MortalOs:
    """The functions of `os`; the process ends just before the nth change, or just after it."""

    def __init__(self, steps_left: int, *, after: bool) -> None:
        self.steps_left = steps_left
        self._after = after

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 (whatever os has)
        found = getattr(os, name)
        return self._mortal(found) if name in _CHANGES else found

    def _mortal(self, change: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401 (whatever os takes)
            self.steps_left -= 1
            if self.steps_left == 0 and not self._after:
                raise _CutOffError
            # One that fails is no change, and the next one is the last.
            result = change(*arguments, **options)
            if self.steps_left <= 0:
                raise _CutOffError
            return result

        return run


@BOTH
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("step", range(1, 20))
def test_cut_off_at_any_step_the_destination_is_one_whole_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, switch: Switch, after: bool, step: int
) -> None:
    # Given one version in use, and another that is held.
    place = Place(tmp_path / "serving", switch)
    place.open()
    for held in (ONE, TWO, THREE):
        hold(place, held)
    place.switch(ONE)
    # When the process ends in the middle of the way to the other one.
    mortal: ModuleType = _MortalOs(step, after=after)  # type: ignore[assignment]
    monkeypatch.setattr(place_module, "os", mortal)
    ended = False
    try:
        place.save(FollowRecord("a/b", "c", loading=Loaded(TWO, 2)))
        place.switch(TWO)
        place.save(FollowRecord("a/b", "c", served=Loaded(TWO, 2)))
        place.prune([TWO])
    except _CutOffError:
        ended = True
    monkeypatch.setattr(place_module, "os", os)
    place.close()
    # Then whoever looks meanwhile finds one or the other,
    assert served(place) in {"1", "2"}
    # and the next follower knows which, and gets where it was going.
    again = Place(tmp_path / "serving", switch)
    again.open()
    assert again.current() == {"1": ONE, "2": TWO}[served(again)].folder
    assert again.is_held(TWO)
    again.switch(TWO)
    again.prune([TWO])
    assert served(again) == "2"
    assert sorted(path.name for path in again.home.iterdir() if "v" in path.name) == (
        [TWO.folder, f"{TWO.folder}.json"] if switch is Switch.SYMLINK else [f"{TWO.folder}.json"]
    )
    again.close()
    assert ended or step > 5
