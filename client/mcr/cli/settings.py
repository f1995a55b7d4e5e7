"""Where the store is, and other defaults: flag, then environment, then settings file, then `.mcr` nearby.

The only module of the command that reads the environment; everything else gets values.

The settings file, `mcr.toml` in the platform's configuration folder:

    profile = "work"            # the profile to use when none is asked for

    [profiles.work]
    cluster = "node1:7101,node2:7101"   # or the path of an embedded store; a relative one counts from here
    timeout = 60                # seconds, as --timeout
"""

import os
from collections.abc import Mapping
from pathlib import Path

from mcr.addresses import looks_like_addresses, parse_addresses
from mcr.errors import InvalidArgumentError, NoStoreError, SourceNotFoundError, SourceUnreadableError
from mcr.values import dataclass

CLUSTER_VARIABLE = "MCR_CLUSTER"
PROFILE_VARIABLE = "MCR_PROFILE"
COMPLETION_VARIABLE = "_MCR_COMPLETE"
FILE_NAME = "mcr.toml"
STORE_FOLDER_NAME = ".mcr"
# A settings file is written by hand; whatever is longer is another file by mistake.
FILE_BYTES_MAX = 1 << 20
# A year; longer is a slip of the keyboard, and far below what the system's timer can hold.
TIMEOUT_SECONDS_MAX = 366 * 86_400
_PROFILE_KEYS = ("cluster", "timeout")


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a process finds around itself when it starts.

    Attributes:
        environment: variables by name.
        directory: the working directory.
        config_folder: where `mcr.toml` may be.
    """

    environment: Mapping[str, str]
    directory: Path
    config_folder: Path


@dataclass(frozen=True, slots=True)
class Settings:
    """What the flags, the environment and the files come to.

    Attributes:
        where: path of an embedded store, or addresses of nodes as `mcr.connect` takes them.
        source: what named it, for people: `--cluster`, `MCR_CLUSTER`, a file or the folder searched.
        timeout_s: bound on the whole command; None for none.
    """

    where: Path | str
    source: str
    timeout_s: float | None = None


@dataclass(frozen=True, slots=True)
class _Profile:
    cluster: str = ""
    timeout_s: float | None = None


def surroundings() -> Surroundings:
    """Read the environment of this process."""
    # Imported late: `mcr version` and `mcr --help` do without it.
    import platformdirs

    try:
        directory = Path.cwd()
    except FileNotFoundError:
        # The working directory was deleted below us; there is nothing to find in it.
        directory = Path("/")
    return Surroundings(dict(os.environ), directory, Path(platformdirs.user_config_dir("mcr")))


def completion_instruction() -> str:
    """Return what a shell asks the program to complete; empty in an ordinary run."""
    return os.environ.get(COMPLETION_VARIABLE, "")


def resolve(
    *, cluster: str | None, profile: str | None, timeout_s: float | None, around: Surroundings
) -> Settings:
    """Decide where the store is; see the module's text for the order.

    A profile asked for with the flag goes before `MCR_CLUSTER`, since flags go before the environment.

    Raises:
        NoStoreError: nothing says where.
        InvalidArgumentError: a bad address, an unknown profile, or a settings file that makes no sense.
        SourceUnreadableError: the settings file cannot be read.
    """
    file = around.config_folder / FILE_NAME
    variables = around.environment
    asked = profile if profile is not None else variables.get(PROFILE_VARIABLE) or None
    asked_by = "--profile" if profile is not None else PROFILE_VARIABLE
    found = _profile(file, asked, asked_by)
    timeout = timeout_s if timeout_s is not None else found.timeout_s

    candidates = (
        (cluster, "--cluster"),
        (found.cluster if profile is not None else None, str(file)),
        (variables.get(CLUSTER_VARIABLE) or None, CLUSTER_VARIABLE),
        (found.cluster or None, str(file)),
    )
    for text, source in candidates:
        if text is not None and not (text == "" and source == str(file)):
            folder = around.config_folder if source == str(file) else around.directory
            return Settings(_where(text, source, folder), source, timeout)

    for folder in (around.directory, *around.directory.parents):
        if (folder / STORE_FOLDER_NAME).is_dir():
            return Settings(folder / STORE_FOLDER_NAME, str(folder), timeout)
    raise NoStoreError(str(around.directory))


def _where(text: str, source: str, folder: Path) -> Path | str:
    if not text.strip():
        raise InvalidArgumentError(source, "it is empty; give the path of a store, or host:port of a node")
    path = Path(text)
    if text.startswith("~"):
        try:
            path = path.expanduser()
        except RuntimeError as error:
            raise InvalidArgumentError(source, f"{text!r}: {error}") from error
    path = folder / path
    # A scheme is never a path; `host:port` could be one, if there is such a folder.
    if looks_like_addresses(text) and ("://" in text or not path.exists()):
        # With the scheme, so that nobody takes it for a folder any more.
        return ",".join(f"grpc://{each}" for each in parse_addresses(source, text))
    return path


def _profile(file: Path, asked: str | None, asked_by: str) -> _Profile:
    document = _document(file)
    if document is None:
        if asked is not None:
            raise InvalidArgumentError(
                asked_by, f"no profile {asked!r}, for there is no settings file {file}"
            )
        return _Profile()
    name = asked if asked is not None else document.get("profile", "")
    if not isinstance(name, str):
        raise InvalidArgumentError(str(file), "profile must be text")
    profiles = document.get("profiles", {})
    if not isinstance(profiles, dict):
        raise InvalidArgumentError(str(file), "profiles must be tables: [profiles.NAME]")
    if not name:
        return _Profile()
    table = profiles.get(name)
    if not isinstance(table, dict):
        known = ", ".join(sorted(profiles)) or "none"
        blame = asked_by if asked is not None else str(file)
        raise InvalidArgumentError(blame, f"no profile {name!r} in {file}; it has: {known}")
    return _profile_of(table, f"{file} [profiles.{name}]")


def _profile_of(table: dict[str, object], where: str) -> _Profile:
    for key in table:
        # A misspelt `cluster` that is passed over would send a commit to another store.
        if key not in _PROFILE_KEYS:
            raise InvalidArgumentError(where, f"unknown key {key!r}; known are: {', '.join(_PROFILE_KEYS)}")
    cluster = table.get("cluster", "")
    if not isinstance(cluster, str):
        raise InvalidArgumentError(where, "cluster must be text")
    timeout = table.get("timeout")
    if timeout is None:
        return _Profile(cluster)
    if isinstance(timeout, bool) or not isinstance(timeout, int | float):
        raise InvalidArgumentError(where, "timeout must be a number of seconds")
    return _Profile(cluster, check_timeout(float(timeout), where))


def check_timeout(seconds: float, argument: str = "--timeout") -> float:
    """Return `seconds` if it may bound a command.

    Raises:
        InvalidArgumentError: not above 0, not a number, or more than a year.
    """
    # Written so that NaN fails too.
    if not 0 < seconds <= TIMEOUT_SECONDS_MAX:
        raise InvalidArgumentError(
            argument, f"{seconds} is not in the range above 0 up to {TIMEOUT_SECONDS_MAX} seconds"
        )
    return seconds


def _document(file: Path) -> dict[str, object] | None:
    try:
        data = read_file(file, length_bytes_max=FILE_BYTES_MAX)
    except SourceNotFoundError:
        return None
    # Imported late: most users have no settings file.
    import tomllib

    try:
        return tomllib.loads(data.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidArgumentError(str(file), f"not valid TOML: {error}") from error


def read_file(file: Path, *, length_bytes_max: int) -> bytes:
    """Return the bytes of a small file that a person wrote.

    Raises:
        SourceNotFoundError: it does not exist.
        SourceUnreadableError: it is a folder, may not be read, or is too long.
    """
    try:
        with file.open("rb") as source:
            data = source.read(length_bytes_max + 1)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise SourceNotFoundError(str(file)) from error
    except (OSError, ValueError) as error:
        raise SourceUnreadableError(str(file), str(getattr(error, "strerror", None) or error)) from error
    if len(data) > length_bytes_max:
        raise SourceUnreadableError(str(file), f"it has more than {length_bytes_max} bytes")
    return data
