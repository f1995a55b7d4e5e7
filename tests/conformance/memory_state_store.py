"""A `ports.StateStore` in memory, for tests of what stands on one."""

from collections.abc import Sequence
from dataclasses import replace

from mcr.model import DIGEST_BYTES, LogIndex
from mcr_node.core.state.digest import DIGEST_START
from mcr_node.core.state.memory import MemoryView
from mcr_node.core.state.view import View
from mcr_node.ports import StatePosition


class MemoryStateStore:
    """Loses, with `lose_unsynced`, what was written after the last `sync`, as a power cut would."""

    def __init__(self) -> None:
        self._view = MemoryView()
        self._position = StatePosition(LogIndex(0), 0, DIGEST_START, b"")
        self.sync()

    def view(self) -> View:
        return self._view

    def position(self) -> StatePosition:
        return self._position

    def applied(self) -> LogIndex:
        return self._position.applied

    def applied_term(self) -> int:
        return self._position.applied_term

    def state_digest(self) -> bytes:
        return self._position.state_digest

    def configuration(self) -> bytes:
        return self._position.configuration

    def write(
        self,
        changes: Sequence[tuple[bytes, bytes | None]],
        applied: LogIndex,
        state_digest: bytes,
        *,
        applied_term: int,
        configuration: bytes | None = None,
    ) -> None:
        assert applied > self._position.applied
        assert applied_term >= self._position.applied_term
        assert len(state_digest) == DIGEST_BYTES
        self._view.write(changes)
        known = replace(self._position, applied=applied, applied_term=applied_term, state_digest=state_digest)
        self._position = known if configuration is None else replace(known, configuration=configuration)

    def sync(self) -> None:
        copy = MemoryView()
        copy.write(list(self._view.scan(b"", b"\xff")))
        self._synced = (copy, self._position)

    def lose_unsynced(self) -> None:
        self._view, self._position = self._synced
        self.sync()

    def close(self) -> None:
        pass
