"""What a served node keeps in its store's folder beside the store.

NODE            one line of JSON: format, name, site, node_id; who this node is, for good
node.json       where the running process listens, for tools; not there while none runs
"""

import json
from dataclasses import asdict
from pathlib import Path

from mcr.errors import CorruptStoreError, StoreFormatError
from mcr.values import dataclass
from mcr_node.storage import store_folder

NODE_FORMAT = 1
_MARKER = "NODE"
INFO = "node.json"


@dataclass(frozen=True, slots=True)
class NodeIdentity:
    """Who a node is: set when it first starts, and never changed by a flag.

    Attributes:
        node_id: of a node that joined a cluster; None for the one with which its cluster began, whose id its
            store implies.
    """

    name: str
    site: str = ""
    node_id: int | None = None


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """The running process of a node; addresses as bound, http empty when it has none."""

    name: str
    listen: str
    http: str
    pid: int


def read(path: Path) -> NodeIdentity | None:
    """Return who the node at `path` is; None when none was ever started there.

    Raises:
        StoreFormatError: a newer release made it.
        CorruptStoreError: the marker is unreadable.
    """
    marker = path / _MARKER
    try:
        value = json.loads(marker.read_bytes())
        if int(value["format"]) > NODE_FORMAT:
            raise StoreFormatError(str(path), int(value["format"]), NODE_FORMAT)
        node_id = value.get("node_id")
        return NodeIdentity(str(value["name"]), str(value["site"]), None if node_id is None else int(node_id))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CorruptStoreError(str(marker), error.strerror or str(error)) from error
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptStoreError(str(marker), "it is not the marker of a node") from error


def write(path: Path, identity: NodeIdentity) -> None:
    """Say who the node at `path` is; durable when this returns.

    Raises:
        OutOfSpaceError, DestinationError: it cannot be written.
    """
    _replace(path / _MARKER, {"format": NODE_FORMAT, **asdict(identity)})


def write_info(path: Path, info: NodeInfo) -> None:
    """Tell tools where the process listens.

    Raises:
        OutOfSpaceError, DestinationError: it cannot be written.
    """
    _replace(path / INFO, asdict(info))


def remove_info(path: Path) -> None:
    """Say that no process runs."""
    (path / INFO).unlink(missing_ok=True)


def _replace(target: Path, value: dict[str, object]) -> None:
    try:
        store_folder.write_durably(target, json.dumps(value).encode() + b"\n")
    except OSError as error:
        raise store_folder.translated(target, error) from error
