"""Where a channel is, as soon as it moves: one stream of events, from whichever node gives it."""

import asyncio
from contextlib import aclosing

from mcr import _wire
from mcr.connection import Connection
from mcr.errors import HistoryGoneError, McrError
from mcr.model import RefKind, RefMove
from mcr.passing import UNREACHABLE
from mcr.reading import ModelReader
from mcr.v1 import versions_pb2 as pb

# A stream goes on elsewhere by itself for half a minute; then it is begun anew, after as long as this.
AGAIN_S = 1.0


class ChannelWatch:
    """Knows the newest move of one channel. Used on one event loop."""

    def __init__(self, connection: Connection, model: ModelReader, channel: str) -> None:
        self._connection = connection
        self._model = model
        self._channel = channel
        self._newest: RefMove | None = None
        self._problem: McrError | None = None
        self._changed = asyncio.Condition()

    async def run(self) -> None:
        """Follow the channel until cancelled.

        Raises:
            McrError: one that does not pass, such as that the channel does not exist.
        """
        while True:
            try:
                await self._stream()
            except HistoryGoneError:
                # Away for longer than events are kept: where the channel is now is all that matters.
                continue
            except UNREACHABLE as error:
                await self._note(None, error)
                await asyncio.sleep(AGAIN_S)

    async def _stream(self) -> None:
        # From now on; and what is so now is read once the stream has begun, so nothing falls between.
        request = pb.WatchEventsRequest(model=self._model.name)
        begun = False
        async with aclosing(self._connection.versions.watch_events(request)) as answers:
            async for answer in answers:
                if not begun:
                    begun = True
                    await self._note((await self._model.history(RefKind.CHANNEL, self._channel, limit=1))[0])
                for event in map(_wire.event_from_wire, answer.events):
                    if event.kind is RefKind.CHANNEL and event.name == self._channel:
                        await self._note(event.move)

    async def _note(self, move: RefMove | None, problem: McrError | None = None) -> None:
        async with self._changed:
            # A node that lags behind may tell an older place again.
            if move is not None and (self._newest is None or move.generation > self._newest.generation):
                self._newest = move
            self._problem = problem
            self._changed.notify_all()

    async def newer_than(self, generation: int) -> RefMove:
        """Wait until the channel has moved on from `generation`, and return its newest move."""
        async with self._changed:
            await self._changed.wait_for(
                lambda: self._newest is not None and self._newest.generation > generation
            )
            assert self._newest is not None, "waited for"
            return self._newest

    async def next_problem(self) -> McrError:
        """Wait until no node can be reached, and return why."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._problem is not None)
            found, self._problem = self._problem, None
            assert found is not None, "waited for"
            return found
