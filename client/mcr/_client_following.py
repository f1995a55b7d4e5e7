"""Following a channel and committing by itself, for blocking callers: a part of `mcr.client.Model`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Unpack

from mcr.aio import AsyncModel
from mcr.auto_commit.calls import AutoOptions
from mcr.following.happenings import KEEP_DEFAULT, FollowEvent, Loading, Switch
from mcr.loop_thread import LoopThread


class BlockingFollowing:
    """The methods of `mcr.client.Model` that go on until they are ended; it brings the model and the loop."""

    _model: AsyncModel
    _loop: LoopThread

    def follow(
        self,
        channel: str,
        destination: str | Path,
        *,
        load: Callable[[Loading], Awaitable[None] | None] | None = None,
        told: Callable[[FollowEvent], None] | None = None,
        keep: int = KEEP_DEFAULT,
        switch: str = Switch.SYMLINK,
        once: bool = False,
        retry: bool = False,
        consumer: str | None = None,
        rank: int = 0,
    ) -> None:
        """See `AsyncModel.follow`; ends by an interruption. `load` and `told` run in other threads."""
        work = self._model.follow(
            channel,
            destination,
            load=load,
            told=told,
            keep=keep,
            switch=switch,
            once=once,
            retry=retry,
            consumer=consumer,
            rank=rank,
        )
        self._loop.run(work, "follow", bounded=once)

    def auto_commit(self, path: str | Path, **options: Unpack[AutoOptions]) -> None:
        """See `AsyncModel.auto_commit`; ends by an interruption. `decide` and `told`: in another thread."""
        self._loop.run(self._model.auto_commit(path, **options), "watch", bounded=options.get("once", False))
