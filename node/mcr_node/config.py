"""What a node is told when it starts: flags over a file, checked once, one frozen value from then on.

The file (`--config`) is TOML; its keys are the long flags without their dashes:

    name = "ams-1"
    data = "/srv/mcr"             # a relative path counts from the file's folder
    listen = "0.0.0.0:7101"
    http = "127.0.0.1:7180"
    site = "ams"
    capacity = 2_000_000_000_000  # bytes
    heartbeat_ms = 100            # between signs of life of the leader
    election_ms = 1000            # silence after which another node asks for votes; the same on all nodes
    digest_entries = 1000         # nodes compare their states so often, in log entries; the same on all
    repair_silence_s = 60         # a member that is silent for so long is gone: its copies are made anew
    repair_bytes_per_s = 62_914_560
    rebalance_bytes_per_s = 31_457_280
    scrub_period_s = 604_800      # every chunk is read and verified once in this time
    scrub_bytes_per_s = 20_971_520  # more when the period asks for it
    prefetch_bytes_per_s = 62_914_560  # of what channels point at, fetched before anybody reads it
    cache_bytes = 68_719_476_736  # of chunks fetched for readers; less when the disk gets full, 0 = none
    trash_period_s = 604_800      # what is deleted through this node can be restored for so long
    retention_period_s = 600      # how often, while it leads, it looks what goes by retention rules
    garbage_interval_s = 3600     # garbage is marked so often, then collected; the same on all nodes
    garbage_bytes_per_s = 62_914_560
    drop_surplus = false          # let garbage collection take copies beyond those that placement wants
"""

import tomllib
from collections.abc import Mapping
from dataclasses import field, replace
from pathlib import Path

from mcr.addresses import Address, parse_address, parse_addresses
from mcr.errors import InvalidArgumentError, SourceNotFoundError, SourceUnreadableError
from mcr.references import check_name
from mcr.values import dataclass
from mcr_node.core.state.digest import DIGEST_ENTRIES
from mcr_node.runtime.runner import Timing
from mcr_node.services.caching import CACHE_BYTES_DEFAULT
from mcr_node.services.pace import Pace

LISTEN_DEFAULT = "127.0.0.1:7101"
CONFIG_BYTES_MAX = 1 << 20
# Below this not even the chunk of one message would surely fit beside the reserve.
CAPACITY_BYTES_MIN = 64 << 20
# As etcd has them: a tenth of the silence after which others ask for votes, on a network within a continent.
HEARTBEAT_MS_DEFAULT, ELECTION_MS_DEFAULT = 100, 1000
HEARTBEAT_MS_MIN = 5
# One lost heartbeat must not depose a leader.
ELECTION_HEARTBEATS_MIN = 3
# Each comparison is an entry itself.
DIGEST_ENTRIES_MIN = 2
# What a stop waits for calls under way; a supervisor usually kills after 10 s or more.
DRAIN_S = 8.0

Value = str | int | Path | None


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """All that a node is told.

    Attributes:
        data: its folder.
        http: where probes and metrics are; None = nowhere.
        site: may be empty.
        capacity_bytes: what its chunk files may take; None = whatever the disk holds.
        bootstrap: make a new cluster of one voter here.
        join: members of the cluster to join, any of them; empty when it was joined before, or made here.
        timing: of the log; the same on all nodes of a cluster.
        pace: of background work.
        cache_bytes: what chunks may take that were fetched for readers.
    """

    name: str
    data: Path
    listen: Address
    http: Address | None = None
    site: str = ""
    capacity_bytes: int | None = None
    bootstrap: bool = False
    join: tuple[Address, ...] = ()
    timing: Timing = field(default_factory=Timing)
    pace: Pace = field(default_factory=Pace)
    cache_bytes: int = CACHE_BYTES_DEFAULT


_KEYS: Mapping[str, type] = {
    "name": str,
    "data": str,
    "listen": str,
    "http": str,
    "site": str,
    "capacity": int,
    "heartbeat_ms": int,
    "election_ms": int,
    "digest_entries": int,
    "repair_silence_s": int,
    "repair_bytes_per_s": int,
    "rebalance_bytes_per_s": int,
    "scrub_period_s": int,
    "scrub_bytes_per_s": int,
    "prefetch_bytes_per_s": int,
    "cache_bytes": int,
    "trash_period_s": int,
    "retention_period_s": int,
    "garbage_interval_s": int,
    "garbage_bytes_per_s": int,
    "drop_surplus": bool,
}

_KIND_NAMES = {str: "text", int: "a number", bool: "true or false"}

_PACE: Mapping[str, str] = {
    "repair_silence_s": "silence_s",
    "repair_bytes_per_s": "repair_bytes_per_s",
    "rebalance_bytes_per_s": "rebalance_bytes_per_s",
    "scrub_period_s": "scrub_period_s",
    "scrub_bytes_per_s": "scrub_bytes_per_s",
    "prefetch_bytes_per_s": "prefetch_bytes_per_s",
    "trash_period_s": "trash_period_s",
    "retention_period_s": "retention_period_s",
    "garbage_interval_s": "garbage_interval_s",
    "garbage_bytes_per_s": "garbage_bytes_per_s",
}


def settle(
    flags: Mapping[str, Value], *, bootstrap: bool, join: str | None = None, config: Path | None
) -> NodeSettings:
    """Decide the settings of a node.

    Args:
        flags: by key, None where a flag was not given.
        bootstrap: the flag; never in a file, since it is meant once.
        join: addresses of members of the cluster to join; not in a file for the same reason.
        config: the settings file.

    Raises:
        InvalidArgumentError, InvalidNameError: names the flag or key and says what is wrong with it.
        SourceNotFoundError, SourceUnreadableError: the file.
    """
    values: dict[str, Value] = {} if config is None else _read(config)
    values |= {key: value for key, value in flags.items() if value is not None}
    for key in ("name", "data"):
        if values.get(key) in (None, ""):
            raise InvalidArgumentError(f"--{key}", "a node needs it; give the flag, or the key in --config")
    capacity = values.get("capacity")
    if bootstrap and join is not None:
        raise InvalidArgumentError("--join", "a node either begins a cluster (--bootstrap) or joins one")
    if capacity is not None and (not isinstance(capacity, int) or capacity < CAPACITY_BYTES_MIN):
        raise InvalidArgumentError("--capacity", f"{capacity} is less than {CAPACITY_BYTES_MIN} bytes")
    http = values.get("http")
    return NodeSettings(
        name=check_name("node", str(values["name"])),
        data=Path(str(values["data"])),
        listen=parse_address("--listen", str(values.get("listen") or LISTEN_DEFAULT)),
        http=None if http is None else parse_address("--http", str(http)),
        site=check_name("site", str(values["site"])) if values.get("site") else "",
        capacity_bytes=capacity,
        bootstrap=bootstrap,
        join=() if join is None else tuple(parse_addresses("--join", join)),
        timing=_timing(values),
        pace=_pace(values),
        cache_bytes=_cache_bytes(values),
    )


def _cache_bytes(values: Mapping[str, Value]) -> int:
    found = values.get("cache_bytes", CACHE_BYTES_DEFAULT)
    assert isinstance(found, int)
    if found < 0:
        raise InvalidArgumentError("cache_bytes", f"{found} is less than 0")
    return found


def _pace(values: Mapping[str, Value]) -> Pace:
    found: dict[str, float] = {}
    for key, name in _PACE.items():
        value = values.get(key)
        if value is None:
            continue
        assert isinstance(value, int)
        if value < 1:
            raise InvalidArgumentError(key, f"{value} is less than 1")
        found[name] = value
    return replace(Pace(), **found, drops_surplus=bool(values.get("drop_surplus")))


def _timing(values: Mapping[str, Value]) -> Timing:
    heartbeat = values.get("heartbeat_ms") or HEARTBEAT_MS_DEFAULT
    election = values.get("election_ms") or ELECTION_MS_DEFAULT
    assert isinstance(heartbeat, int)
    assert isinstance(election, int)
    if heartbeat < HEARTBEAT_MS_MIN:
        raise InvalidArgumentError("heartbeat_ms", f"{heartbeat} is less than {HEARTBEAT_MS_MIN}")
    if election < ELECTION_HEARTBEATS_MIN * heartbeat:
        raise InvalidArgumentError(
            "election_ms", f"{election} is less than {ELECTION_HEARTBEATS_MIN} heartbeats of {heartbeat} ms"
        )
    digest_entries = values.get("digest_entries", DIGEST_ENTRIES)
    assert isinstance(digest_entries, int)
    if digest_entries < DIGEST_ENTRIES_MIN:
        raise InvalidArgumentError("digest_entries", f"{digest_entries} is less than {DIGEST_ENTRIES_MIN}")
    return Timing(heartbeat, election // heartbeat, digest_entries)


def _read(file: Path) -> dict[str, Value]:
    try:
        with file.open("rb") as source:
            data = source.read(CONFIG_BYTES_MAX + 1)
    except FileNotFoundError as error:
        raise SourceNotFoundError(str(file)) from error
    except OSError as error:
        raise SourceUnreadableError(str(file), error.strerror or str(error)) from error
    if len(data) > CONFIG_BYTES_MAX:
        raise SourceUnreadableError(str(file), f"it has more than {CONFIG_BYTES_MAX} bytes")
    try:
        document = tomllib.loads(data.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidArgumentError(str(file), f"not valid TOML: {error}") from error
    for key, value in document.items():
        kind = _KEYS.get(key)
        if kind is None:
            raise InvalidArgumentError(str(file), f"unknown key {key!r}; known are: {', '.join(_KEYS)}")
        # For Python, true is a number as well.
        if not isinstance(value, kind) or isinstance(value, bool) is not (kind is bool):
            raise InvalidArgumentError(str(file), f"{key} must be {_KIND_NAMES[kind]}")
    if "data" in document:
        document["data"] = str(file.parent / document["data"])
    return document
