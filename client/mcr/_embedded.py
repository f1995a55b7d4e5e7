"""The one seam to the node's code: an embedded store in this process, imported only when it is opened."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from mcr.connection import Connection
from mcr.errors import MissingExtraError

Encoding = Literal["raw", "auto"]
_EXTRA = ("rocksdict", "zstandard", "numpy")


@contextmanager
def _extra_installed() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        # Any other module that is missing is a broken installation, and says so itself.
        if error.name not in _EXTRA:
            raise
        raise MissingExtraError("an embedded store", "node") from error


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
