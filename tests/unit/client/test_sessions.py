"""Upload sessions as a client has them, on an embedded store."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import mcr
from mcr.cli.main import main
from mcr.client import Client, Model
from mcr.errors import (
    InvalidArgumentError,
    PartConflictError,
    ReferenceNotFoundError,
    SessionEndedError,
    SessionIncompleteError,
    SessionNotFoundError,
    UnsafePathError,
)

RANKS = [f"rank{number}.bin" for number in range(6)]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    path = tmp_path / "models.mcr"
    mcr.init(path)
    return path


@pytest.fixture
def client(store: Path) -> Iterator[Client]:
    with mcr.connect(store) as found:
        yield found


@pytest.fixture
def model(client: Client) -> Model:
    return client.model("vision/net")


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    folder.mkdir()
    for number, name in enumerate(RANKS):
        (folder / name).write_bytes(bytes((number,)) * 3000)
    return folder


def test_many_writers_make_one_version(model: Model, files: Path, tmp_path: Path) -> None:
    with model.session("step", message="step 1000", params={"lr": 0.5}, expected=RANKS) as session:

        def put(name: str) -> None:
            with model.session("step", message="step 1000", params={"lr": 0.5}, seal=False) as mine:
                mine.put(name, files / name)

        with ThreadPoolExecutor(len(RANKS)) as writers:
            list(writers.map(put, RANKS))

    version = session.version
    assert version is not None
    assert (version.number, version.description, version.parameters) == (1, "step 1000", {"lr": 0.5})
    model.checkout("v1", tmp_path / "out")
    for name in RANKS:
        assert (tmp_path / "out" / name).read_bytes() == (files / name).read_bytes()


def test_the_version_is_what_a_commit_of_the_whole_folder_makes(model: Model, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    for path in ("a/x", "a/y/z", "a-b", "a.b/c", "b", "a0/d"):
        (whole / path).parent.mkdir(parents=True, exist_ok=True)
        (whole / path).write_bytes(path.encode() * 9000)
    (whole / "a/link").symlink_to("y/z")
    (whole / "a/empty").mkdir()
    committed = model.commit(whole)

    with model.session() as session:
        for part in ("b", "a0/d", "a.b", "a-b", "a"):
            session.put(part, whole / part)

    assert session.version is not None
    assert session.version.manifest == committed.manifest
    assert session.version.parents == (1,)


def test_a_missing_rank_is_an_error_that_names_it_and_the_session_stays_open(
    model: Model, files: Path
) -> None:
    session = model.session("step")
    session.begin()
    for name in RANKS[1:]:
        session.put(name, files / name)

    with pytest.raises(SessionIncompleteError) as caught:
        session.seal(expected=RANKS)
    assert (caught.value.missing, caught.value.unexpected) == ("rank0.bin", "none")
    with pytest.raises(SessionIncompleteError) as caught:
        session.seal(expected=RANKS[2:])
    assert (caught.value.missing, caught.value.unexpected) == ("none", "rank1.bin")

    session.put(RANKS[0], files / RANKS[0])
    assert session.seal(expected=RANKS).file_count == len(RANKS)


def test_whoever_seals_can_wait_for_the_others(model: Model, files: Path) -> None:
    session = model.session("step")
    session.begin()

    with ThreadPoolExecutor(1) as beside:
        sealing = beside.submit(session.seal, expected=RANKS, wait_s=60)
        for name in RANKS:
            model.session("step").put(name, files / name)
        assert sealing.result().number == 1


def test_nothing_is_no_version(model: Model) -> None:
    session = model.session("step")
    session.begin()

    with pytest.raises(SessionIncompleteError, match="none was put"):
        session.seal()


def test_the_same_bytes_twice_are_one_part_and_other_bytes_are_refused(model: Model, files: Path) -> None:
    session = model.session("step")
    session.begin()
    first = session.put("weights.bin", files / RANKS[1])

    again = session.put("weights.bin", files / RANKS[1])

    assert (first.already, first.bytes_sent) == (False, 3000)
    assert (again.already, again.bytes_sent) == (True, 0)
    with pytest.raises(PartConflictError) as caught:
        session.put("weights.bin", files / RANKS[2])
    assert caught.value.exit_status == 10
    with pytest.raises(PartConflictError):
        session.put("weights.bin/inside", files / RANKS[2])


def test_a_block_that_fails_aborts_what_it_would_have_sealed_and_only_that(model: Model, files: Path) -> None:
    def fail(*, seal: bool) -> None:
        with model.session("step", seal=seal) as session:
            session.put(RANKS[0], files / RANKS[0])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail(seal=False)
    assert model.session("step").status().state == "open"
    with pytest.raises(ZeroDivisionError):
        fail(seal=True)

    status = model.session("step").status()
    assert (status.state, status.reason) == (
        "aborted",
        "ZeroDivisionError in the process that was to seal it",
    )
    with pytest.raises(SessionEndedError):
        model.session("step").put(RANKS[0], files / RANKS[0])


def test_sealing_twice_gives_the_same_version(model: Model, files: Path) -> None:
    with model.session("step") as session:
        session.put(RANKS[0], files / RANKS[0])
    assert session.version is not None

    assert model.session("step").seal().id == session.version.id
    assert session.seal(request_id="other").number == 1
    with pytest.raises(ReferenceNotFoundError):
        model.show("v2")


def test_a_retry_with_the_same_request_id_acts_once(model: Model, files: Path) -> None:
    session = model.session("step")
    first = session.begin(request_id="begin-1")
    assert session.begin(request_id="begin-1") == first
    session.put("a", files / RANKS[0], request_id="put-1")
    assert session.put("a", files / RANKS[0], request_id="put-1").already
    made = session.seal(request_id="seal-1")

    assert session.seal(request_id="seal-1").id == made.id
    assert [each.state for each in model.sessions(ended=True)] == ["sealed"]


def test_what_is_open_survives_a_restart_of_the_store(store: Path, files: Path) -> None:
    with mcr.connect(store) as client:
        session = client.model("vision/net").session("step", message="later")
        session.begin()
        session.put("a", files / RANKS[0])
    with mcr.connect(store) as client:
        model = client.model("vision/net")
        assert [(each.name, each.part_count) for each in model.sessions()] == [("step", 1)]
        assert [part.name for part in model.session("step").parts()] == ["a"]
        model.session("step").put("b", files / RANKS[1])
        assert model.session("step").seal().description == "later"


def test_bad_names_and_empty_folders_are_refused_before_anything_is_sent(
    model: Model, tmp_path: Path
) -> None:
    session = model.session("step")
    session.begin()
    (tmp_path / "empty").mkdir()

    with pytest.raises(UnsafePathError):
        session.put("../a", tmp_path)
    with pytest.raises(InvalidArgumentError, match="nothing in the folder"):
        session.put("a", tmp_path / "empty")
    with pytest.raises(SessionNotFoundError):
        model.session("another").put("a", tmp_path)


def test_only_the_part_of_the_parent_at_its_place_is_read(model: Model, files: Path) -> None:
    model.commit(files)

    with model.session() as session:
        part = session.put(RANKS[3], files / RANKS[3])

    assert (part.bytes_sent, part.chunks_new) == (0, 0)


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    status = main(words)
    out, err = capsys.readouterr()
    return status, out, err


def test_the_commands_tell_programs_what_they_did(
    store: Path, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    at = ("--cluster", str(store), "--json", "session", "vision/net")
    status, out, _ = run(capsys, *at, "begin", "step", "-m", "step 1000", "--expires", "30m")
    begun = json.loads(out)
    assert (status, begun["session"], begun["state"], begun["part_count"]) == (0, "step", "open", 0)

    put = json.loads(run(capsys, *at, "put", "step", str(files / RANKS[0]), "--as", "a/rank0.bin")[1])
    assert (put["part"], put["bytes_sent"], put["already"]) == ("a/rank0.bin", 3000, False)
    assert json.loads(run(capsys, *at)[1])["session"] == "step"
    shown = json.loads(run(capsys, *at, "show", "step")[1])
    assert [part["part"] for part in shown["parts"]] == ["a/rank0.bin"]

    status, _, err = run(capsys, *at, "put", "step", str(files / RANKS[1]), "--as", "a/rank0.bin")
    assert (status, json.loads(err)["error"]) == (10, "part_conflict")
    status, _, err = run(capsys, *at, "seal", "step", "a/rank0.bin", "a/rank1.bin")
    assert (status, json.loads(err)["missing"]) == (10, "a/rank1.bin")

    (files / "expected.txt").write_text("a/rank0.bin\n\n")
    sealed = json.loads(run(capsys, *at, "seal", "step", "--expected", str(files / "expected.txt"))[1])
    assert (sealed["reference"], sealed["description"]) == ("vision/net@v1", "step 1000")
    assert run(capsys, *at) == (0, "", "")
    assert json.loads(run(capsys, *at, "list", "--ended")[1])["version"] == "v1"
    assert run(capsys, *at, "abort", "step")[0] == 10
    assert run(capsys, *at, "abort", "another")[0] == 3
    assert run(capsys, *at, "begin", "-m", "x", "--expires", "soon")[0] == 2
