"""Following, as a client does it: a part of `AsyncModel`."""

from __future__ import annotations

import inspect
import socket
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mcr.blocking import run_blocking
from mcr.errors import InvalidArgumentError
from mcr.following.happenings import KEEP_DEFAULT, Loading, Switch
from mcr.model import RefMove
from mcr.receipts import FAILED, LOADED, ReceiptCalls
from mcr.references import check_name
from mcr.reporting import ReportCalls

if TYPE_CHECKING:
    from mcr.following.flow import Load, Told
    from mcr.following.place import Place

KEEP_MAX = 1000
# The longest name that receipts take.
CONSUMER_CHARACTERS_MAX = 256


class FollowCalls(ReportCalls, ReceiptCalls):
    """The methods of `AsyncModel` that keep a folder at a channel."""

    async def follow(
        self,
        channel: str,
        destination: str | Path,
        *,
        load: Callable[[Loading], Awaitable[None] | None] | None = None,
        told: Told | None = None,
        keep: int = KEEP_DEFAULT,
        switch: str = Switch.SYMLINK,
        once: bool = False,
        retry: bool = False,
        consumer: str | None = None,
        rank: int = 0,
    ) -> None:
        """Keep a folder at a channel: fetch, verify, switch, load; until cancelled, or once.

        The destination is one whole version at any moment, also for whoever opens it while this goes on or
        after a power loss. A node that is lost is replaced by another one, without missing a move; without
        any, the destination stays as it is until there is one again.

        Args:
            channel: its name.
            destination: becomes a link to the version, which lies in a folder beside it.
            load: called after each switch, with what to load: an asyncio function, or a plain one, which
                runs on a thread. When it raises, the destination goes back to the version before, `load` is
                called once more for that one, and this move of the channel is not tried again.
            told: called with each step, from the event loop; what it raises ends the following.
            keep: versions kept on disk, the one in use included. With 2 a rollback fetches nothing.
            switch: `symlink`; or `rename`: the destination is a folder, exchanged with the new one in one
                step.
            once: return when the present version of the channel is loaded.
            retry: try a move that failed before once more.
            consumer: name under which receipts are given (`acknowledge`); None = made of the names of this
                host and the destination; "" = no receipts.
            rank: which process of the consumer.

        Raises:
            ReferenceNotFoundError, ModelNotFoundError: there is no such channel.
            DestinationError: something else is there, or another follower keeps it.
            FailedError: with `once`: it failed to load.
        """
        # Only those who follow load what it takes.
        from mcr.following.flow import Follower, Wanted

        check_name("channel", channel)
        if not 0 < keep <= KEEP_MAX:
            raise InvalidArgumentError("keep", f"{keep} is not between 1 and {KEEP_MAX}")
        place = _place(destination, switch)
        name = default_consumer(place.destination) if consumer is None else consumer

        async def acknowledge(move: RefMove, loaded: bool) -> None:
            await self.acknowledge(
                f"v{move.number}",
                name,
                rank=rank,
                state=LOADED if loaded else FAILED,
                channel=channel,
                generation=move.generation,
            )

        wanted = Wanted(
            keep=keep,
            once=once,
            retry=retry,
            load=self._load(load),
            told=told,
            acknowledge=acknowledge if name else None,
        )
        await Follower(self._connection, self, channel, place, self._executor, wanted).run()

    def _load(self, load: Callable[[Loading], Awaitable[None] | None] | None) -> Load | None:
        if load is None:
            return None

        async def run(loading: Loading) -> None:
            if inspect.iscoroutinefunction(load):
                await load(loading)
                return
            waiting = await run_blocking(self._executor, partial(load, loading))
            if waiting is not None:
                await waiting

        return run


def _place(destination: str | Path, switch: str) -> Place:
    from mcr.following.place import Place

    if switch not in tuple(Switch):
        raise InvalidArgumentError("switch", f"{switch!r} is not {' or '.join(Switch)}")
    return Place(Path(destination), Switch(switch))


def default_consumer(destination: Path) -> str:
    """Return a name for whoever is served from a destination: its host and path, the end of a long one."""
    text = f"{socket.gethostname()}:{destination}"
    return "".join(each if each.isprintable() else "?" for each in text)[-CONSUMER_CHARACTERS_MAX:]
