"""Where the store is: flag, environment, settings file, `.mcr` nearby."""

from pathlib import Path
from typing import Any

import pytest

from mcr.cli import settings
from mcr.cli.settings import Settings, Surroundings, read_file
from mcr.errors import (
    InvalidArgumentError,
    McrError,
    NoStoreError,
    SourceNotFoundError,
    SourceUnreadableError,
)

PROFILES = """
profile = "usual"
[profiles.usual]
cluster = "/stores/usual"
timeout = 5
[profiles.other]
cluster = "other"
[profiles.bare]
"""


def resolve(
    tmp_path: Path,
    *,
    cluster: str | None = None,
    profile: str | None = None,
    timeout_s: float | None = None,
    environment: dict[str, str] | None = None,
    document: str | None = None,
    directory: str = "work/deep",
) -> Settings:
    config, work = tmp_path / "config", tmp_path / directory
    config.mkdir(exist_ok=True)
    work.mkdir(parents=True, exist_ok=True)
    if document is not None:
        (config / "mcr.toml").write_text(document)
    around = Surroundings(environment or {}, work, config)
    return settings.resolve(cluster=cluster, profile=profile, timeout_s=timeout_s, around=around)


def test_flags_go_before_the_environment_and_that_before_files(tmp_path: Path) -> None:
    environment = {"MCR_CLUSTER": "/stores/environment", "MCR_PROFILE": "other"}
    (tmp_path / "work" / ".mcr").mkdir(parents=True)

    def path(**given: Any) -> str:  # noqa: ANN401 (arguments of resolve)
        variables = {k: v for k, v in environment.items() if k not in dropped}
        return str(resolve(tmp_path, environment=variables, document=document, **given).where)

    document, dropped = PROFILES, set[str]()
    assert path(cluster="/stores/flag", profile="usual") == "/stores/flag"
    assert path(profile="usual") == "/stores/usual"
    assert path() == "/stores/environment"
    dropped = {"MCR_CLUSTER"}
    assert path() == str(tmp_path / "config" / "other")
    dropped = {"MCR_CLUSTER", "MCR_PROFILE"}
    assert path() == "/stores/usual"
    document = ""
    assert path() == str(tmp_path / "work" / ".mcr")


def test_the_nearest_store_folder_above_is_found(tmp_path: Path) -> None:
    (tmp_path / ".mcr").mkdir()
    (tmp_path / "work" / "deep").mkdir(parents=True)
    (tmp_path / "work" / ".mcr").mkdir()
    (tmp_path / "work" / "deep" / ".mcr").write_text("a file is no store")
    assert resolve(tmp_path).where == tmp_path / "work" / ".mcr"


def test_with_nothing_given_the_error_says_all_the_ways(tmp_path: Path) -> None:
    with pytest.raises(NoStoreError) as caught:
        resolve(tmp_path)
    assert caught.value.directory == str(tmp_path / "work/deep")
    assert all(word in caught.value.hint for word in ("mcr init", "--cluster", "MCR_CLUSTER"))


def test_paths_count_from_where_they_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert resolve(tmp_path, cluster="rel").where == tmp_path / "work/deep/rel"
    assert resolve(tmp_path, environment={"MCR_CLUSTER": "~/s"}).where == tmp_path / "home/s"
    assert resolve(tmp_path, profile="other", document=PROFILES).where == tmp_path / "config/other"


def test_the_flag_for_the_timeout_goes_before_the_profiles(tmp_path: Path) -> None:
    assert resolve(tmp_path, document=PROFILES).timeout_s == 5
    assert resolve(tmp_path, document=PROFILES, timeout_s=9).timeout_s == 9
    assert resolve(tmp_path, cluster="/x", document=PROFILES).timeout_s == 5


def test_a_profile_without_a_store_leaves_the_search_to_the_rest(tmp_path: Path) -> None:
    found = resolve(tmp_path, profile="bare", document=PROFILES, environment={"MCR_CLUSTER": "/e"})
    assert (str(found.where), found.source) == ("/e", "MCR_CLUSTER")


def test_empty_variables_count_as_absent(tmp_path: Path) -> None:
    with pytest.raises(NoStoreError):
        resolve(tmp_path, environment={"MCR_CLUSTER": "", "MCR_PROFILE": ""})


@pytest.mark.parametrize("address", ["node1:7101", "node1:7101,node2:7101", "[::1]:7101", "10.0.0.1:7"])
def test_a_network_address_is_never_taken_for_a_folder(tmp_path: Path, address: str) -> None:
    marked = ",".join(f"grpc://{part}" for part in address.split(","))
    assert resolve(tmp_path, cluster=address).where == marked
    assert resolve(tmp_path, environment={"MCR_CLUSTER": f"grpc://{address}"}).where == marked


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("grpcs://node1:7101", "no TLS"),
        ("http://node1:7101", "the scheme is grpc://"),
        ("grpc://node1", "not host:port"),
        ("grpc://node1:7101,there", "not host:port"),
        ("node1:71010", "no port"),
    ],
)
def test_an_address_that_cannot_be_used_is_refused_with_the_reason(
    tmp_path: Path, address: str, reason: str
) -> None:
    with pytest.raises(InvalidArgumentError, match=reason):
        resolve(tmp_path, cluster=address)


def test_a_path_that_looks_like_an_address_is_a_path_when_it_is_there(tmp_path: Path) -> None:
    (tmp_path / "work/deep/run:7101").mkdir(parents=True)
    assert resolve(tmp_path, cluster="run:7101").where == tmp_path / "work/deep/run:7101"
    assert resolve(tmp_path, cluster="./node1:7101").where == tmp_path / "work/deep/node1:7101"


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"cluster": ""}, "empty"),
        ({"cluster": "~nobody-of-that-name/x"}, "home"),
        ({"profile": "x"}, "there is no settings file"),
        ({"environment": {"MCR_PROFILE": "x"}}, "MCR_PROFILE"),
        ({"profile": "x", "document": PROFILES}, "it has: bare, other, usual"),
        ({"document": 'profile = "gone"'}, "it has: none"),
        ({"document": "profile = 5"}, "profile must be text"),
        ({"document": "profiles = 5"}, "must be tables"),
        ({"document": "not toml"}, "not valid TOML"),
        ({"document": '[profiles.x]\ncluter = "/a"', "profile": "x"}, "unknown key 'cluter'"),
        ({"document": "[profiles.x]\ncluster = 5", "profile": "x"}, "cluster must be text"),
        ({"document": "[profiles.x]\ntimeout = true", "profile": "x"}, "timeout must be a number"),
        ({"document": "[profiles.x]\ntimeout = 0", "profile": "x"}, "not in the range"),
    ],
)
def test_settings_that_make_no_sense_are_usage_errors(
    tmp_path: Path, given: dict[str, Any], reason: str
) -> None:
    with pytest.raises(InvalidArgumentError, match=reason) as caught:
        resolve(tmp_path, **given)
    assert caught.value.exit_status == 2


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf"), 1e12])
def test_a_timeout_is_above_zero_and_finite(seconds: float) -> None:
    with pytest.raises(InvalidArgumentError):
        settings.check_timeout(seconds)


def test_files_that_cannot_be_read_say_why(tmp_path: Path) -> None:
    (tmp_path / "long").write_bytes(b"12345")

    def failure(name: str) -> type[McrError]:
        with pytest.raises(McrError) as caught:
            read_file(tmp_path / name, length_bytes_max=4)
        return type(caught.value)

    assert failure("missing") is SourceNotFoundError
    assert failure("long/below") is SourceNotFoundError
    assert failure("long") is SourceUnreadableError
    assert failure(".") is SourceUnreadableError
    assert failure("nul\0byte") is SourceUnreadableError


def test_a_deleted_working_directory_is_survived(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert settings.surroundings().directory == Path("/")
