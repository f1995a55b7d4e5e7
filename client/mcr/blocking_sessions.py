"""Upload sessions for callers that block; every flow is that of `mcr.sessions`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from mcr._session_wire import Part, SessionStatus
from mcr.loop_thread import LoopThread
from mcr.model import CommitResult
from mcr.sessions import AsyncSession

if TYPE_CHECKING:
    from typing import Self

    from mcr.committing import CommitProgress


class Session:
    """An upload session. Make one with `Model.session`."""

    def __init__(self, session: AsyncSession, loop: LoopThread) -> None:
        self._session = session
        self._loop = loop

    @property
    def name(self) -> str:
        """How writers know it."""
        return self._session.name

    @property
    def version(self) -> CommitResult | None:
        """See `AsyncSession.version`."""
        return self._session.version

    def __enter__(self) -> Self:
        self.begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._loop.run(self._session.__aexit__(kind, error, traceback), "session")

    def begin(self, *, request_id: str | None = None) -> SessionStatus:
        """See `AsyncSession.begin`."""
        return self._loop.run(self._session.begin(request_id=request_id), "session")

    def put(
        self,
        name: str,
        path: str | Path,
        *,
        request_id: str | None = None,
        progress: Callable[[CommitProgress], None] | None = None,
    ) -> Part:
        """See `AsyncSession.put`; `progress` is called from another thread."""
        work = self._session.put(name, path, request_id=request_id, progress=progress)
        return self._loop.run(work, "session")

    def seal(
        self,
        *,
        expected: Sequence[str] = (),
        wait_s: float = 0.0,
        durability: str | int | None = None,
        request_id: str | None = None,
    ) -> CommitResult:
        """See `AsyncSession.seal`."""
        work = self._session.seal(
            expected=expected, wait_s=wait_s, durability=durability, request_id=request_id
        )
        return self._loop.run(work, "session")

    def abort(self, *, reason: str = "") -> None:
        """See `AsyncSession.abort`."""
        self._loop.run(self._session.abort(reason=reason), "session")

    def status(self) -> SessionStatus:
        """See `AsyncSession.status`."""
        return self._loop.run(self._session.status(), "session")

    def parts(self) -> list[Part]:
        """See `AsyncSession.parts`."""
        return self._loop.run(self._session.parts(), "session")
