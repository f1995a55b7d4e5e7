"""Other stores as command lines, driven alike: restic and BorgBackup, with and without compression.

Both are backup programs: content-defined chunks, deduplication, encryption (restic always, here Borg not).
They are the closest programs that a user could take instead to keep every version of a folder on a disk.
"""

import json
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from benchmarks.measuring import Run, remove, run


class System(Protocol):
    """A store that keeps versions of a folder, as command lines.

    `label` names it with its settings; `store` is where its files lie.
    """

    label: str
    store: Path

    def version(self) -> str:
        """Return the release of the program, or raise `NotInstalledError`."""

    def init(self) -> None:
        """Make an empty store where none is; not measured. Version numbers start anew."""

    def commit(self, folder: Path) -> Run:
        """Store the folder as the next version."""

    def checkout(self, number: int, target: Path) -> Run:
        """Bring back version `number`, from 1, into `target`, which does not exist."""

    def checkout_synced(self, number: int, target: Path) -> Run:
        """Bring it back until the disk holds it, where the system can; what it leaves is measured with it."""


class NotInstalledError(Exception):
    """The program is not there; its rows are left out, and that is said."""


@dataclass
class Restic:
    """restic with a local repository. It encrypts always; there is no switch."""

    label: str
    store: Path
    compression: str
    caches: Path
    snapshots: list[str] = field(default_factory=list)

    def version(self) -> str:
        """Return `restic 0.14.0`."""
        return " ".join(_first_line("restic", "version").split()[:2])

    def init(self) -> None:
        """Make the repository, and forget the one before."""
        remove(self.caches)
        self.snapshots.clear()
        run(self._command("init"), environment=self._environment())

    def commit(self, folder: Path) -> Run:
        """Back the folder up; restic compares with the last snapshot of the same path."""
        done = run(
            self._command("backup", "--json", "--compression", self.compression, "."),
            environment=self._environment(),
            folder=folder,
        )
        self.snapshots.append(_restic_snapshot(done.output))
        return done

    def checkout(self, number: int, target: Path) -> Run:
        """Restore a snapshot."""
        return run(
            self._command("restore", self.snapshots[number - 1], "--target", str(target)),
            environment=self._environment(),
        )

    # It syncs what it keeps, not what it restores.
    checkout_synced = checkout

    def _command(self, *arguments: str) -> Sequence[str]:
        return ("restic", "--repo", str(self.store), "--quiet", *arguments)

    def _environment(self) -> Mapping[str, str]:
        return {"RESTIC_PASSWORD": "benchmark", "RESTIC_CACHE_DIR": str(self.caches)}


@dataclass
class Borg:
    """BorgBackup with a local repository, without encryption."""

    label: str
    store: Path
    compression: str
    caches: Path
    count: int = 0

    def version(self) -> str:
        """Return `borg 1.2.4`."""
        return _first_line("borg", "--version")

    def init(self) -> None:
        """Make the repository, and forget the one before."""
        remove(self.caches)
        self.count = 0
        run(("borg", "init", "--encryption", "none", str(self.store)), environment=self._environment())

    def commit(self, folder: Path) -> Run:
        """Make the next archive."""
        done = run(
            ("borg", "create", "--compression", self.compression, f"{self.store}::v{self.count + 1}", "."),
            environment=self._environment(),
            folder=folder,
        )
        self.count += 1
        return done

    def checkout(self, number: int, target: Path) -> Run:
        """Extract an archive into the working directory, which is Borg's way."""
        target.mkdir(parents=True)
        return run(
            ("borg", "extract", f"{self.store}::v{number}"), environment=self._environment(), folder=target
        )

    # It syncs what it keeps, not what it extracts.
    checkout_synced = checkout

    def _environment(self) -> Mapping[str, str]:
        return {
            "BORG_BASE_DIR": str(self.caches),
            "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes",
            "BORG_RELOCATED_REPO_ACCESS_IS_OK": "yes",
        }


def peers(folder: Path) -> list[Restic | Borg]:
    """Return every peer in every setting, with stores and caches below `folder`."""
    caches = folder / "caches"
    return [
        Restic("restic off", folder / "restic-off", "off", caches / "restic-off"),
        Restic("restic auto", folder / "restic-auto", "auto", caches / "restic-auto"),
        Borg("borg none", folder / "borg-none", "none", caches / "borg-none"),
        Borg("borg lz4", folder / "borg-lz4", "lz4", caches / "borg-lz4"),
    ]


def _first_line(*command: str) -> str:
    if shutil.which(command[0]) is None:
        raise NotInstalledError(f"{command[0]} is not installed; its rows are left out")
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[0]


def _restic_snapshot(output: str) -> str:
    for line in reversed(output.splitlines()):
        if re.match(r"\s*\{", line):
            message = json.loads(line)
            if message.get("message_type") == "summary":
                return str(message["snapshot_id"])
    raise ValueError("restic named no snapshot")
