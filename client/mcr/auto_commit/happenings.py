"""What an automatic commit tells, and what it found. Pure values."""

from collections.abc import Mapping
from dataclasses import field
from enum import StrEnum
from pathlib import Path

from mcr.model import CommitResult, Version
from mcr.values import dataclass


class AutoStep(StrEnum):
    """What happened."""

    INCOMPLETE = "incomplete"
    """Something is there that is not complete; `reason` says why."""
    SKIPPED = "skipped"
    """It is complete, and by the rules no version is made of it."""
    COMMITTED = "committed"
    """A version was made; or it had been made before this was started, and was found again."""
    REMOVED = "removed"
    """It was committed, and is no longer among those that are kept here."""
    WAITING = "waiting"
    """Something that may pass, such as that no node can be reached."""


@dataclass(frozen=True, slots=True)
class Found:
    """A complete candidate for a version.

    Attributes:
        name: of the folder or file, where each is a version of its own; else "".
        path: where it is.
        step: of training; None when nothing says it.
        metrics: that its file of metrics holds.
    """

    name: str
    path: Path
    step: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AutoEvent:
    """One step.

    Attributes:
        name: see Found.
        version: that was made; None in other steps.
        result: what making it took; None where it was found again at the head of the branch.
        reason: why it waits, is skipped, or was removed; "" otherwise.
    """

    step: AutoStep
    model: str
    name: str = ""
    version: Version | None = None
    result: CommitResult | None = None
    reason: str = ""
