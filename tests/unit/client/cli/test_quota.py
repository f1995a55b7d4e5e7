"""`mcr quota`, on an embedded store."""

import json
from pathlib import Path

import pytest

import mcr
from mcr.cli.main import main
from mcr.errors import InvalidNameError, QuotaExceededError


@pytest.fixture
def store(tmp_path: Path) -> Path:
    mcr.init(tmp_path / "store")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "weights.bin").write_bytes(bytes(1000))
    return tmp_path / "store"


def test_a_commit_that_does_not_fit_ends_with_status_14(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--cluster", str(store), "--json"]
    source = str(store.parent / "in")
    assert main(["commit", "vision/net", source, "-m", "one", *where]) == 0
    capsys.readouterr()

    assert main(["quota", "vision", "--set", "1999", *where]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["scope"], told["bytes_max"], told["bytes_used"]) == ("vision", 1999, 1000)
    assert told["counting"] is False
    assert main(["commit", "vision/other", source, "-m", "two", *where]) == 14
    refused = json.loads(capsys.readouterr().err)
    assert (refused["error"], refused["scope"], refused["bytes_asked"]) == ("quota_exceeded", "vision", 1000)

    assert main(["quota", "vision", "--set", "2000", *where]) == 0
    assert main(["commit", "vision/other", source, "-m", "two", *where]) == 0
    capsys.readouterr()
    assert main(["quota", "--cluster", str(store)]) == 0
    assert capsys.readouterr().out.startswith("vision  2")
    assert main(["quota", "vision", "--clear", *where]) == 0
    assert main(["quota", "vision", *where]) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "words", [["--set", "1"], ["vision", "--set", "1", "--clear"], ["vision", "--set", "-1"]]
)
def test_what_makes_no_sense_is_a_usage_error(store: Path, words: list[str]) -> None:
    assert main(["quota", *words, "--cluster", str(store)]) == 2


def test_the_client_says_what_does_not_fit(store: Path) -> None:
    with mcr.connect(store) as client:
        quota = client.set_quota("vision/net", 10)
        assert quota is not None
        assert client.quotas() == [quota]
        with pytest.raises(QuotaExceededError):
            client.model("vision/net").commit(store.parent / "in")
        with pytest.raises(InvalidNameError):
            client.set_quota("a b", 1)
