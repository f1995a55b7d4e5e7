"""The lease of an upload: while it is held, no node collects what the upload brought or counts on."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

from mcr.blocking import settle
from mcr.connection import TrashApi
from mcr.errors import McrError, MissingChunkError
from mcr.reporting import write_header
from mcr.v1 import trash_pb2 as pb

if TYPE_CHECKING:
    from mcr.committing import Uploaded
    from mcr.merging.writing import Merged

Made = TypeVar("Made", "Uploaded", "Merged")
Answer = TypeVar("Answer")

# Nodes may fail one after the other while a version is made; but not for ever.
UPLOADS_AGAIN_MAX = 3

# Most commits are over by then, and cost no second entry of the log. What came before is kept anyway.
AFTER_S = 2.0
# A client that was stopped for longer sends again what was collected meanwhile.
HOLD_MS = 3_600_000
RENEW_S = 600.0
# A node that refused, or could not be reached, is asked again so soon.
AGAIN_S = 10.0


class UploadLease:
    """Holds a lease while the block lasts, from when it has lasted for a moment.

    It is not given back at the end: the commit does that, or `give_back`; after a failure it lapses, so that
    the same command goes on where this one stopped.
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

    async def give_back(self) -> None:
        """Give it back now, where what ends the upload cannot; where that fails, it lapses."""
        assert self._task is not None, "entered"
        await settle([self._task])
        if self._is_taken:
            with suppress(McrError):
                await self._trash.release_upload(
                    pb.ReleaseUploadRequest(header=write_header(None), lease=self._name)
                )

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


async def upload_and_enter(
    upload: Callable[[], Awaitable[Made]], enter: Callable[[Made], Awaitable[Answer]]
) -> tuple[Made, Answer]:
    """Upload, and enter what was made into the log; what is missing by then is uploaded again, a few times.

    The node that took the chunks, or was said to hold them, lost power or is cut off by now; or garbage was
    collected while this client was stopped. Only what is missing is sent again.

    Returns:
        What was made, with all that was stored for it, and the answer.
    """
    made = await upload()
    for _ in range(UPLOADS_AGAIN_MAX):
        try:
            return made, await enter(made)
        except MissingChunkError:
            again = await upload()
            made = replace(again, stored=made.stored + again.stored)
    return made, await enter(made)
