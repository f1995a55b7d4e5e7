"""What a follower remembers between two runs, as JSON in the folder beside its destination. Pure."""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from mcr.values import dataclass

FORMAT = 1
# Enough of an id to tell versions of several models apart that were followed one after the other.
ID_CHARACTERS = 16
_FOLDER = re.compile(r"v([0-9]{1,19})-([0-9a-f]{16})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Held:
    """A version as a follower knows it."""

    number: int
    version_id: str

    @property
    def folder(self) -> str:
        """The name of its folder."""
        return f"v{self.number}-{self.version_id[:ID_CHARACTERS]}"


def is_folder_name(name: str) -> bool:
    """Tell whether `name` is of the form that folders of versions have."""
    return _FOLDER.fullmatch(name) is not None


@dataclass(frozen=True, slots=True)
class Loaded:
    """A version, and the move of the channel that it was loaded for."""

    held: Held
    generation: int


@dataclass(frozen=True, slots=True)
class FollowRecord:
    """Where a follower is.

    Attributes:
        model, channel: what the destination follows.
        served: what was loaded last, and did not fail.
        loading: written before the switch, so a follower that is killed while a program loads knows it.
        tries: how often `loading` was begun.
        failed_generation: the move that is not tried again; 0 = none. failed_reason: why.
        recent: versions loaded, newest first: what is kept on disk.
    """

    model: str
    channel: str
    served: Loaded | None = None
    loading: Loaded | None = None
    tries: int = 0
    failed_generation: int = 0
    failed_reason: str = ""
    recent: tuple[Held, ...] = ()

    def pack(self) -> bytes:
        """Return it as JSON."""
        return json.dumps({"format": FORMAT} | asdict(self), indent=1).encode()

    @staticmethod
    def unpack(data: bytes) -> "FollowRecord | None":
        """Return the record; None when it is damaged or of a later release."""
        try:
            found = json.loads(data)
            if found.pop("format") != FORMAT:
                return None
            found["served"], found["loading"] = _loaded(found["served"]), _loaded(found["loading"])
            found["recent"] = tuple(Held(**each) for each in found["recent"])
            return FollowRecord(**found)
        except (ValueError, TypeError, KeyError, AttributeError):
            return None


def _loaded(found: Mapping[str, Any] | None) -> Loaded | None:
    return None if found is None else Loaded(Held(**found["held"]), found["generation"])
