"""mcr: a version store for machine-learning models.

import mcr

mcr.init("models.mcr")
with mcr.connect("models.mcr") as client:
    model = client.model("vision/resnet50")
    version = model.commit("ckpt/", message="epoch 3", params={"lr": 1e-4})
    model.channel("production").set(version.name, reason="eval passed")
    model.checkout("channel:production", "out/")
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mcr import aio, errors, testing
    from mcr._embedded import Encoding
    from mcr.aio import AsyncChannel, AsyncClient, AsyncModel
    from mcr.auto_commit.happenings import AutoEvent, Found
    from mcr.auto_commit.rules import AutoRules, Improved
    from mcr.blocking_sessions import Session
    from mcr.client import Channel, Client, Model, connect
    from mcr.following.happenings import FollowEvent, Loading
    from mcr.keeping import Deleted, Pin, TrashItem
    from mcr.model import (
        ChunkId,
        ClusterStatus,
        CommitResult,
        EntryKind,
        Event,
        FileEntry,
        Ref,
        RefKind,
        RefMove,
        Tensor,
        Version,
        VersionId,
        VersionKind,
    )
    from mcr.retention_rules import BestRule, RetentionRules
    from mcr.serving import Receipt, Served, Serving
    from mcr.sessions import AsyncSession
    from mcr.signatures import Signature

__version__ = "0.1.0"

__all__ = [
    "AsyncChannel",
    "AsyncClient",
    "AsyncModel",
    "AsyncSession",
    "AutoEvent",
    "AutoRules",
    "BaseVersion",
    "BestRule",
    "Channel",
    "ChunkId",
    "Client",
    "ClusterStatus",
    "CommitResult",
    "Deleted",
    "EntryKind",
    "Event",
    "FileEntry",
    "FollowEvent",
    "Found",
    "Improved",
    "Lineage",
    "Loading",
    "Model",
    "Pin",
    "Receipt",
    "Ref",
    "RefKind",
    "RefMove",
    "RetentionRules",
    "Served",
    "Serving",
    "Session",
    "Signature",
    "Tensor",
    "TrashItem",
    "Version",
    "VersionId",
    "VersionKind",
    "aio",
    "connect",
    "errors",
    "init",
    "testing",
]


# Importing everything costs a quarter of a second, which `mcr --help` need not pay: a name is imported when
# it is first used.
_HOMES = {
    "mcr": ("aio", "errors", "testing"),
    "mcr.auto_commit.happenings": ("AutoEvent", "Found"),
    "mcr.auto_commit.rules": ("AutoRules", "Improved"),
    "mcr.following.happenings": ("FollowEvent", "Loading"),
    "mcr.bases": ("BaseVersion",),
    "mcr.reading": ("Lineage",),
    "mcr.retention_rules": ("BestRule", "RetentionRules"),
    "mcr.aio": ("AsyncChannel", "AsyncClient", "AsyncModel"),
    "mcr.sessions": ("AsyncSession",),
    "mcr.blocking_sessions": ("Session",),
    "mcr.client": ("Channel", "Client", "Model", "connect"),
    "mcr.model": (
        "ChunkId",
        "ClusterStatus",
        "CommitResult",
        "EntryKind",
        "Event",
        "FileEntry",
        "Ref",
        "RefKind",
        "RefMove",
        "Tensor",
        "Version",
        "VersionId",
        "VersionKind",
    ),
    "mcr.keeping": ("Deleted", "Pin", "TrashItem"),
    "mcr.signatures": ("Signature",),
    "mcr.serving": ("Receipt", "Served", "Serving"),
}


def __getattr__(name: str) -> object:
    for home, names in _HOMES.items():
        if name in names:
            value = import_module(f"mcr.{name}") if home == "mcr" else getattr(import_module(home), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module 'mcr' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def init(path: str | Path, *, encoding: "Encoding" = "auto") -> None:
    """Make an embedded store.

    Args:
        path: a folder that does not exist yet, or is empty.
        encoding: `auto` stores each chunk in its smallest encoding; `raw` as it is, which is faster to write
            and takes more space.

    Raises:
        AlreadyExistsError: a store or other files are there.
        OutOfSpaceError, DestinationError: it cannot be written.
    """
    import_module("mcr._embedded").init_store(Path(path), encoding=encoding)
