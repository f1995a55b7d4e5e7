"""What a follower tells: each step it took, and what a load is about. Pure values."""

from enum import StrEnum
from pathlib import Path

from mcr.values import dataclass

# The one in use and the one before it: a rollback is a switch, without a fetch.
KEEP_DEFAULT = 2


class Switch(StrEnum):
    """How the destination becomes another version."""

    SYMLINK = "symlink"
    """It is a link; a new one is renamed over it."""
    RENAME = "rename"
    """It is a folder, exchanged with the new one in one step: for programs that do not follow links."""


class FollowStep(StrEnum):
    """What happened."""

    FETCHING = "fetching"
    """The version is not held here and is being fetched."""
    FETCHED = "fetched"
    """It is here now, and every file was read back and compared with its digest."""
    SWITCHED = "switched"
    """The destination is the version now; whoever opens it from here on gets that."""
    LOADED = "loaded"
    """The version is in use: what was to run for it ended well, or there was nothing to run."""
    ACKNOWLEDGED = "acknowledged"
    """The receipt is in the log: that it is loaded, or failed; and again as a sign of life."""
    FAILED = "failed"
    """Loading failed; this move of the channel is not tried again."""
    BACK = "back"
    """The destination is the former version again, or gone when there was none."""
    WAITING = "waiting"
    """Something that may pass; the destination stays as it is meanwhile."""
    GONE = "gone"
    """The channel was deleted; the destination stays as it is."""


@dataclass(frozen=True, slots=True)
class FollowEvent:
    """One step of a follower.

    Attributes:
        generation: of the channel, at the move that is being followed.
        number: of the version this is about; 0 = none.
        version_id: its id, 64 hexadecimal characters; "" = none.
        path: folder of that version on this disk; None where there is none.
        seconds: since the follower learned of the move.
        bytes_written: by fetching.
        reason: why it failed, waits or is back; "" otherwise.
    """

    step: FollowStep
    model: str
    channel: str
    generation: int
    number: int = 0
    version_id: str = ""
    path: Path | None = None
    seconds: float = 0.0
    bytes_written: int = 0
    reason: str = ""

    @property
    def version(self) -> str:
        """The version as `v12`; "" for none."""
        return f"v{self.number}" if self.number else ""


@dataclass(frozen=True, slots=True)
class Loading:
    """What a program is asked to load.

    Attributes:
        destination: the name under which it is found from now on.
        path: the folder of this very version, which stays as it is while the destination moves on; the
            destination itself where folders are exchanged.
        former_number: of the version in use before; 0 = none.
        verb, reason: of the move: `set` or `rollback`, and why.
        back: whether this is the former version once more, since the next one failed to load.
    """

    model: str
    channel: str
    generation: int
    number: int
    version_id: str
    destination: Path
    path: Path
    former_number: int = 0
    verb: str = ""
    reason: str = ""
    back: bool = False

    @property
    def version(self) -> str:
        """The version as `v12`."""
        return f"v{self.number}"
