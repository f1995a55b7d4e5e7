"""A whole store whose power goes at a chosen durable operation, and its folder as it is found afterwards.

One counter runs over everything that makes bytes durable: writes, syncs and names of segment files, and
writes and syncs of all three databases. At the chosen operation, before or after its effect, all stops.
"""

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tests.faults import FaultyDisk, Keep
from tests.faults_database import CrashPoint, Faults, image_of

DATABASES = ("log", "state", "chunks/index")


@dataclass
class Power(Faults):
    """Faults that last: after the crash every further operation crashes too."""

    off: bool = False
    journal: list[str] = field(default_factory=list)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def carry_out(self, operation: Callable[[], None]) -> None:
        with self.step("database"):
            operation()

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        with self.lock:
            if self.off:
                raise CrashPoint(f"{name} after the power went")
            self.count += 1
            self.journal.append(name)
            crashes = self.count == self.fail_at
            if crashes and self.when == "before":
                self.off = True
                raise CrashPoint(f"before {name}, operation {self.count}")
            yield
            if crashes:
                self.off = True
                raise CrashPoint(f"after {name}, operation {self.count}")


class CrashingDisk(FaultyDisk):
    """Segment files that count with the rest of the store."""

    def __init__(self, root: Path, power: Power) -> None:
        super().__init__(root)
        self._power = power

    @contextmanager
    def operation(self, name: str) -> Iterator[None]:
        with self._lock, self._power.step(name):
            yield


def store_after_power_loss(
    store: Path, disk: CrashingDisk, power: Power, target: Path, *, keep: Keep, seed: int
) -> Path:
    """Write below `target` what is found when the machine starts again; return the store's folder there."""
    target.mkdir()
    shutil.copyfile(store / "STORE", target / "STORE")
    if (store / "log.mark").exists():
        shutil.copyfile(store / "log.mark", target / "log.mark")
    if (store / "chunks").exists():
        disk.image_after_power_loss(target / "chunks", keep=keep, seed=seed)
    for name in DATABASES:
        if not (store / name).exists():
            continue
        shutil.rmtree(target / name, ignore_errors=True)
        if keep == "all":
            shutil.copytree(store / name, target / name)
        else:
            # A torn log tail: some bytes behind the last sync.
            kept = 0 if keep == "none" else (seed * 7919) % 200
            image_of(store / name, power.synced_wal_bytes, target / name, unsynced_bytes_kept=kept)
    return target


When = Literal["before", "after"]
