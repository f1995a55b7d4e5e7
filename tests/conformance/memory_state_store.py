"""A `ports.StateStore` in memory, for tests of what stands on one."""

from collections.abc import Sequence

from mcr.model import DIGEST_BYTES, LogIndex
from mcr_node.core.state.digest import DIGEST_START
from mcr_node.core.state.memory import MemoryView
from mcr_node.core.state.view import View


class MemoryStateStore:
    """Loses, with `lose_unsynced`, what was written after the last `sync`, as a power cut would."""

    def __init__(self) -> None:
        self._view = MemoryView()
        self._applied = LogIndex(0)
        self._state_digest = DIGEST_START
        self.sync()

    def view(self) -> View:
        return self._view

    def applied(self) -> LogIndex:
        return self._applied

    def state_digest(self) -> bytes:
        return self._state_digest

    def write(
        self, changes: Sequence[tuple[bytes, bytes | None]], applied: LogIndex, state_digest: bytes
    ) -> None:
        assert applied > self._applied
        assert len(state_digest) == DIGEST_BYTES
        self._view.write(changes)
        self._applied = applied
        self._state_digest = state_digest

    def sync(self) -> None:
        copy = MemoryView()
        copy.write(list(self._view.scan(b"", b"\xff")))
        self._synced = (copy, self._applied, self._state_digest)

    def lose_unsynced(self) -> None:
        self._view, self._applied, self._state_digest = self._synced
        self.sync()

    def close(self) -> None:
        pass
