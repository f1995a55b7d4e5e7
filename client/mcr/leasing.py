"""The lease of an upload: while it is held, no node collects what the upload brought or counts on."""

import asyncio
import secrets
from types import TracebackType
from typing import Self

from mcr.blocking import settle
from mcr.connection import TrashApi
from mcr.errors import McrError
from mcr.reporting import write_header
from mcr.v1 import trash_pb2 as pb

# Most commits are over by then, and cost no second entry of the log. What came before is kept anyway.
AFTER_S = 2.0
# A client that was stopped for longer sends again what was collected meanwhile.
HOLD_MS = 3_600_000
RENEW_S = 600.0
# A node that refused, or could not be reached, is asked again so soon.
AGAIN_S = 10.0


class UploadLease:
    """Holds a lease while the block lasts, from when it has lasted for a moment.

    It is not given back at the end: the commit does that; after a failure it lapses, so that the same command
    goes on where this one stopped.
    """

    def __init__(self, trash: TrashApi) -> None:
        self._trash = trash
        self._name = secrets.token_bytes(16)
        self._is_taken = False
        self._task: asyncio.Task[None] | None = None

    @property
    def name(self) -> bytes:
        """What the commit names; empty where no lease was taken."""
        return self._name if self._is_taken else b""

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._hold(), name="mcr-lease")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._task is not None, "entered"
        await settle([self._task])

    async def _hold(self) -> None:
        await asyncio.sleep(AFTER_S)
        while True:
            request = pb.HoldUploadRequest(header=write_header(None), lease=self._name, hold_ms=HOLD_MS)
            try:
                await self._trash.hold_upload(request)
            except McrError:
                # It saves work, and nothing else depends on it.
                await asyncio.sleep(AGAIN_S)
                continue
            self._is_taken = True
            await asyncio.sleep(RENEW_S)
