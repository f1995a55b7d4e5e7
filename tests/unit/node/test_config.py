"""What a node is told: flags before the file, everything checked before anything is touched."""

import asyncio
from pathlib import Path

import pytest

from mcr.addresses import Address
from mcr.errors import (
    AlreadyExistsError,
    InvalidArgumentError,
    InvalidNameError,
    McrError,
    SourceNotFoundError,
)
from mcr_node import embedded, main
from mcr_node.config import NodeSettings, Value, settle
from mcr_node.services.pace import Pace
from mcr_node.storage import node_folder, store_folder
from mcr_node.transport.colleagues import GrpcColleagues


def settings(data: Path, *, name: str = "n1", site: str = "", bootstrap: bool = False) -> NodeSettings:
    return settle({"name": name, "data": data, "site": site or None}, bootstrap=bootstrap, config=None)


def establish(wanted: NodeSettings) -> node_folder.NodeIdentity:
    async def work() -> node_folder.NodeIdentity:
        return await main.establish(wanted, GrpcColleagues())

    return asyncio.run(work())


def test_flags_go_before_the_file_and_its_folder_is_where_paths_count_from(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text(
        'name = "of-file"\ndata = "data"\nlisten = "0.0.0.0:1"\ncapacity = 100_000_000\nsite = "ams"\n'
    )
    found = settle({"name": "of-flag", "http": "[::1]:0"}, bootstrap=False, config=file)
    assert found == NodeSettings(
        name="of-flag",
        data=tmp_path / "data",
        listen=Address("0.0.0.0", 1),
        http=Address("[::1]", 0),
        site="ams",
        capacity_bytes=100_000_000,
    )


def test_the_file_says_how_eager_background_work_is(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text(
        "repair_silence_s = 5\nrepair_bytes_per_s = 6\nscrub_period_s = 7\nscrub_bytes_per_s = 8\n"
        "drop_surplus = true\n"
    )
    found = settle({"name": "n1", "data": tmp_path}, bootstrap=False, config=file)
    assert found.pace == Pace(
        silence_s=5, repair_bytes_per_s=6, scrub_period_s=7, scrub_bytes_per_s=8, drops_surplus=True
    )


@pytest.mark.parametrize(
    ("flags", "text", "error"),
    [
        ({}, "", InvalidArgumentError),
        ({"name": "n1"}, "", InvalidArgumentError),
        ({"name": "../n", "data": "d"}, "", InvalidNameError),
        ({"name": "n1", "data": "d", "site": "a b"}, "", InvalidNameError),
        ({"name": "n1", "data": "d", "listen": "7101"}, "", InvalidArgumentError),
        ({"name": "n1", "data": "d", "listen": "host:99999"}, "", InvalidArgumentError),
        ({"name": "n1", "data": "d", "listen": "::1:7101"}, "", InvalidArgumentError),
        ({"name": "n1", "data": "d", "http": "x"}, "", InvalidArgumentError),
        ({"name": "n1", "data": "d", "capacity": 1}, "", InvalidArgumentError),
        ({"name": "n1", "data": "d"}, "repair_silence_s = 0", InvalidArgumentError),
        ({"name": "n1", "data": "d"}, "scrub_bytes_per_s = -1", InvalidArgumentError),
        ({"name": "n1", "data": "d"}, "nmae = 'x'", InvalidArgumentError),
        ({"name": "n1", "data": "d"}, "capacity = true", InvalidArgumentError),
        ({"name": "n1", "data": "d"}, "drop_surplus = 1", InvalidArgumentError),
        ({"name": "n1", "data": "d"}, "listen = 7101", InvalidArgumentError),
        ({"name": "n1", "data": "d"}, "= no", InvalidArgumentError),
    ],
)
def test_what_makes_no_sense_is_refused(
    tmp_path: Path, flags: dict[str, Value], text: str, error: type[McrError]
) -> None:
    file = tmp_path / "node.toml"
    file.write_text(text)
    with pytest.raises(error):
        settle(flags, bootstrap=False, config=file)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFoundError, match="no\\.toml"):
        settle({}, bootstrap=False, config=tmp_path / "no.toml")


def test_a_new_folder_becomes_a_node_only_when_asked_to(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="--bootstrap"):
        establish(settings(tmp_path / "d"))
    assert not (tmp_path / "d").exists()

    establish(settings(tmp_path / "d", site="ams", bootstrap=True))

    again = establish(settings(tmp_path / "d"))
    assert (again.name, again.site) == ("n1", "ams")
    # A supervisor always gives the same command.
    assert establish(settings(tmp_path / "d", site="ams", bootstrap=True)) == again


def test_an_embedded_store_becomes_a_node_only_when_asked_to(tmp_path: Path) -> None:
    embedded.init_store(tmp_path / "d", encoding="raw")
    before = store_folder.read(tmp_path / "d")
    with pytest.raises(InvalidArgumentError, match="embedded store"):
        establish(settings(tmp_path / "d"))

    establish(settings(tmp_path / "d", bootstrap=True))

    assert store_folder.read(tmp_path / "d") == before


@pytest.mark.parametrize("bootstrap", [True, False])
def test_a_node_never_takes_the_place_of_another(tmp_path: Path, bootstrap: bool) -> None:
    establish(settings(tmp_path / "d", site="ams", bootstrap=True))
    with pytest.raises(AlreadyExistsError, match="n1"):
        establish(settings(tmp_path / "d", name="n2", bootstrap=bootstrap))
    with pytest.raises(InvalidArgumentError, match="--site"):
        establish(settings(tmp_path / "d", site="fra", bootstrap=bootstrap))


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(AlreadyExistsError):
        establish(settings(tmp_path, bootstrap=True))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("text", ["", "{", '{"format": 1}', '{"format": 2, "name": "n1", "site": ""}'])
def test_a_marker_that_cannot_be_read_stops_the_start(tmp_path: Path, text: str) -> None:
    establish(settings(tmp_path / "d", bootstrap=True))
    (tmp_path / "d" / "NODE").write_text(text)
    with pytest.raises(McrError):
        node_folder.read(tmp_path / "d")
