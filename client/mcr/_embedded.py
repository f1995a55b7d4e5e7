"""The one seam to the node's code: a store or a node in this process, imported only when it is asked for."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, Protocol

from mcr.behind_others import load_behind_others
from mcr.connection import Connection
from mcr.errors import MissingExtraError

Encoding = Literal["raw", "auto"]
_EXTRA = ("rocksdict", "zstandard", "numpy", "aiohttp", "grpc_health", "grpc_reflection", "prometheus_client")


@contextmanager
def _extra_installed() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        # Any other module that is missing is a broken installation, and says so itself.
        if error.name not in _EXTRA:
            raise
        raise MissingExtraError("a store or node in this process", "node") from error


async def open_store(path: Path, *, principal: str, timeout_s: float | None) -> Connection:
    """Open the store at `path`; see `mcr.aio.connect`."""
    with _extra_installed():
        from mcr_node import embedded
    return await embedded.open_store(path, principal=principal, timeout_s=timeout_s)


def init_store(path: Path, *, encoding: Encoding) -> None:
    """Make a store at `path`; see `mcr.init`."""
    with _extra_installed():
        from mcr_node import embedded
    embedded.init_store(path, encoding=encoding)


class NodeInfo(Protocol):
    """The running process of a node: its name, the addresses it is bound to, its process id."""

    @property
    def name(self) -> str: ...
    @property
    def listen(self) -> str: ...
    @property
    def http(self) -> str: ...
    @property
    def pid(self) -> int: ...


class Survivor(Protocol):
    """What a node holds, and what becomes of it; see `mcr_node.recovering`."""

    @property
    def name(self) -> str: ...
    @property
    def cluster_id(self) -> bytes: ...
    @property
    def new_cluster_id(self) -> bytes: ...
    @property
    def was_voter(self) -> bool: ...
    @property
    def applied(self) -> int: ...
    @property
    def committed(self) -> int: ...
    @property
    def last(self) -> int: ...
    @property
    def dropped(self) -> tuple[str, ...]: ...
    @property
    def model_count(self) -> int: ...
    @property
    def kept(self) -> Path: ...


def recover_cluster(path: Path, confirm: Callable[[Survivor], None]) -> Survivor:
    """Make a new cluster of what a stopped node holds; see `mcr cluster recover`."""
    with _extra_installed():
        from mcr_node import recovering
    return recovering.recover(path, confirm)


def run_node(
    flags: Mapping[str, str | int | Path | None],
    *,
    bootstrap: bool,
    join: str | None,
    config: Path | None,
    told: Callable[[NodeInfo], None],
) -> None:
    """Run a node in this process until a signal ends it; see `mcr node start`."""
    with _extra_installed():
        if join is not None:
            load_behind_others("mcr_node.main", "mcr_node.among_others")
        from mcr_node import config as settings
        from mcr_node import main
    main.run(settings.settle(flags, bootstrap=bootstrap, join=join, config=config), told)
