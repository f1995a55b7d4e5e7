"""Laws of the comparison: every stage of every system, on a store that is no more than copies."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks import embedded_store, measuring
from benchmarks.measuring import Run, run
from benchmarks.peers import NotInstalledError


@dataclass
class Copies:
    """The simplest store there is: a copy of the folder for every version."""

    label: str
    store: Path
    spoiled: bool = False
    count: int = 0

    def version(self) -> str:
        return run(("cp", "--version")).output.splitlines()[0]

    def init(self) -> None:
        self.store.mkdir()
        self.count = 0

    def commit(self, folder: Path) -> Run:
        self.count += 1
        return run(("cp", "-r", str(folder), str(self.store / f"v{self.count}")))

    def checkout(self, number: int, target: Path) -> Run:
        return run(("cp", "-r", str(self.store / f"v{1 if self.spoiled else number}"), str(target)))

    checkout_synced = checkout


@dataclass
class Missing(Copies):
    """A program that is not installed."""

    def version(self) -> str:
        raise NotInstalledError("missing is not installed")


@pytest.fixture(autouse=True)
def the_machines_page_cache_is_left_alone_and_nothing_waits(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(measuring, "DROP_CACHES", tmp_path / "nothing")
    # Copies trust no times of files, so theirs need not settle.
    monkeypatch.setattr(embedded_store, "SETTLED_S", 0)


@pytest.mark.parametrize("memory", embedded_store.MEMORY)
def test_every_stage_of_every_system_is_measured_and_shown(tmp_path: Path, memory: str) -> None:
    # given
    systems = [Copies("mcr raw", tmp_path / "one"), Copies("copies", tmp_path / "two")]
    # when
    report = embedded_store.measure(tmp_path, systems, size_mib=1, repetitions=2, memory=memory)
    # then
    for stage in embedded_store.STAGES:
        assert {label: len(found) for label, found in report.runs[stage].items()} == {
            "mcr raw": 2,
            "copies": 2,
        }
    assert report.store_bytes["changed"]["copies"] == 4 * report.store_bytes["first"]["copies"]
    assert {len(seconds) for seconds in report.limits.values()} == {2}
    text = embedded_store.render(report, systems, size_mib=1)
    assert "peer / mcr raw (above 1 = mcr raw is faster)" in text
    rows = [line.split()[0] for line in text.splitlines() if line]
    assert rows.count("cold") == 4
    assert rows.count("cold+sync") == 4


def test_a_checkout_that_is_not_the_commit_stops_the_benchmark(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="is not the version that was committed"):
        embedded_store.measure(
            tmp_path,
            [Copies("copies", tmp_path / "one", spoiled=True)],
            size_mib=1,
            repetitions=1,
            memory="left",
        )


def test_a_program_that_is_missing_is_left_out_and_named(tmp_path: Path) -> None:
    # given
    there, missing = Copies("there", tmp_path), Missing("gone", tmp_path)
    # when
    found, notes = embedded_store.installed([missing, there])
    # then
    assert found == [there]
    assert notes[0] == "gone: missing is not installed"
