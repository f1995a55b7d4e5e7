"""The flow of a follower: what it does, in which order, and where it goes on after it was killed.

For each move of the channel: fetch (where the version is not held), seal, remember that it is being loaded,
switch, load, remember that it is in use, acknowledge. A kill between any two leaves the destination at a
whole version, and the next run goes on from what is remembered:

    killed while             the next run
    fetching                 goes on fetching: what was written whole stays
    loading                  switches and loads again, `LOAD_TRIES_MAX` times in all: a model that takes the
                             machine down with it must not do so for ever
    going back               finds the destination where it should not be, and goes back
    acknowledging            acknowledges again; the same receipt twice is one

A newer move ends a fetch at once. It does not end a load: a program that is being restarted would be left
half way; a load is bounded by whoever gives it.
"""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import TypeVar

from mcr.blocking import run_blocking, settle
from mcr.connection import Connection
from mcr.errors import FailedError, InvalidArgumentError, McrError, OutOfSpaceError
from mcr.following.channel_watch import ChannelWatch
from mcr.following.happenings import KEEP_DEFAULT, FollowEvent, FollowStep, Loading
from mcr.following.place import Place
from mcr.following.record import FollowRecord, Held, Loaded
from mcr.model import RefMove
from mcr.passing import PASSING, Again
from mcr.reading import ModelReader
from mcr.values import dataclass

LOAD_TRIES_MAX = 3
# A follower that is silent for longer than some of these is gone, for whoever looks at `mcr served`. Each is
# one entry of the log: a fleet of a thousand makes three a second.
SIGN_OF_LIFE_S = 300.0
REASON_CHARACTERS_MAX = 1000

Result = TypeVar("Result")
Load = Callable[[Loading], Awaitable[None]]
Told = Callable[[FollowEvent], None]
Acknowledge = Callable[[RefMove, bool], Awaitable[None]]
"""Sends the receipt of a move: whether the version is loaded."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """How to follow.

    Attributes:
        keep: versions kept on disk, the one in use included, 1 or more.
        once: end when the channel's present version is loaded; raise what a follower otherwise waits out.
        retry: try the move that failed to load before once more.
        load: called after each switch; None = nothing is to run.
        told: called at each step, from the event loop.
        acknowledge: None = nobody is told.
    """

    keep: int = KEEP_DEFAULT
    once: bool = False
    retry: bool = False
    load: Load | None = None
    told: Told | None = None
    acknowledge: Acknowledge | None = None


class Follower:
    """Keeps one place at one channel."""

    def __init__(
        self,
        connection: Connection,
        model: ModelReader,
        channel: str,
        place: Place,
        executor: ThreadPoolExecutor,
        wanted: Wanted,
    ) -> None:
        self._model = model
        self._channel = channel
        self._place = place
        self._executor = executor
        self._wanted = wanted
        self._watch = ChannelWatch(connection, model, channel)
        self._record = FollowRecord(model.name, channel)
        # The move that there is nothing left to do for.
        self._done = 0
        self._began_s = 0.0
        self._receipt: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Follow until cancelled, or once."""
        watching: list[asyncio.Task[None]] = []
        try:
            await self._blocking(self._place.open)
            await self._blocking(self._remember)
            watching.append(asyncio.create_task(self._watch.run()))
            while True:
                move = await self._next_move(watching[0])
                self._began_s = _now_s()
                await self._follow(move)
                if self._wanted.once and self._done >= move.generation:
                    break
            if self._receipt is not None:
                await self._receipt
        finally:
            await settle([*watching, *([] if self._receipt is None else [self._receipt])])
            self._place.close()

    def _remember(self) -> None:
        record = self._place.load()
        if record is None:
            return
        if (record.model, record.channel) != (self._record.model, self._record.channel):
            raise InvalidArgumentError(
                "destination",
                f"{self._place.destination} follows {record.model}@channel:{record.channel}; "
                "one destination follows one channel",
            )
        if self._wanted.retry:
            record = replace(record, failed_generation=0, failed_reason="")
        self._record = record
        served = None if record.loading is not None else record.served
        if served is not None and self._place.is_held(served.held):
            # Killed while going back, or somebody removed the link.
            self._place.switch(served.held)

    async def _next_move(self, watching: asyncio.Task[None]) -> RefMove:
        """Wait for a move that is news, telling meanwhile why nothing comes."""
        newer = asyncio.create_task(self._watch.newer_than(self._done))
        problem = asyncio.create_task(self._watch.next_problem())
        try:
            while True:
                await asyncio.wait({newer, problem, watching}, return_when=asyncio.FIRST_COMPLETED)
                if newer.done():
                    return newer.result()
                if watching.done():
                    watching.result()
                    raise AssertionError("watching ends with an error only")
                error = problem.result()
                if self._wanted.once:
                    raise error
                self._tell(FollowStep.WAITING, None, reason=_said(error))
                problem = asyncio.create_task(self._watch.next_problem())
        finally:
            await settle([newer, problem])

    async def _follow(self, move: RefMove) -> None:
        record = self._record
        if not move.number:
            self._tell(FollowStep.GONE, move, reason=move.reason)
            self._done = move.generation
            return
        held = Held(move.number, move.version_id)
        if record.failed_generation == move.generation:
            self._done = move.generation
            self._acknowledge(move, loaded=False)
            self._tell(FollowStep.FAILED, move, reason=record.failed_reason)
            self._end_once(move, record.failed_reason)
            return
        if not await self._have(held, move):
            return
        await self._load(held, move)

    # Fetching.

    async def _have(self, held: Held, move: RefMove) -> bool:
        """Fetch a version unless it is held; False when the channel moved on meanwhile."""
        fetching = asyncio.create_task(self._fetch(held, move))
        newer = asyncio.create_task(self._watch.newer_than(move.generation))
        try:
            await asyncio.wait({fetching, newer}, return_when=asyncio.FIRST_COMPLETED)
            if not fetching.done():
                return False
            fetching.result()
            return True
        finally:
            await settle([fetching, newer])

    async def _fetch(self, held: Held, move: RefMove) -> None:
        again = Again()
        while not await self._blocking(lambda: self._place.is_held(held)):
            self._tell(FollowStep.FETCHING, move)
            try:
                await self._fetch_once(held, move)
            except PASSING as error:
                if self._wanted.once:
                    raise
                if isinstance(error, OutOfSpaceError):
                    await self._blocking(lambda: self._place.prune((*self._needed(), held)))
                self._tell(FollowStep.WAITING, move, reason=_said(error))
                await again.wait()

    async def _fetch_once(self, held: Held, move: RefMove) -> None:
        folder = await self._blocking(lambda: self._place.unseal(held))
        # What is written is read back and compared with the digests of the version: a bit that flips on the
        # way to this disk is found here, and not by whoever is served.
        entries = await self._model.files(held.version_id)
        await self._blocking(lambda: self._place.share(held, entries, self._record.recent))
        result = await self._model.checkout(held.version_id, folder, verify=True, delete=True)
        await self._blocking(lambda: self._place.seal(held, entries))
        self._tell(FollowStep.FETCHED, move, bytes_written=result.bytes_written)

    def _needed(self) -> tuple[Held, ...]:
        """Return what must not be removed whatever happens."""
        found = (self._record.served, self._record.loading)
        return tuple(each.held for each in found if each is not None)

    # Loading.

    async def _load(self, held: Held, move: RefMove) -> None:
        loading, former = Loaded(held, move.generation), self._record.served
        was_there = await self._blocking(self._place.current) == held.folder
        in_use = former is not None and former.held == held and was_there and self._record.loading is None
        if not in_use:
            tries = self._record.tries if self._record.loading == loading else 0
            if tries >= LOAD_TRIES_MAX:
                await self._give_up(loading, move, f"this program was killed {tries} times while loading it")
                return
            self._record = replace(self._record, loading=loading, tries=tries + 1)
            await self._save()
            await self._blocking(lambda: self._place.switch(held))
            self._tell(FollowStep.SWITCHED, move)
            try:
                await self._run_load(self._loading(loading, move, former))
            except asyncio.CancelledError:
                # Ended in order, which is no try that failed.
                self._record = replace(self._record, tries=tries)
                self._place.save(self._record)
                raise
            except Exception as error:  # noqa: BLE001 (whatever the user's code raises, it did not load)
                await self._give_up(loading, move, _said(error))
                return
        await self._settle(loading, move)

    async def _run_load(self, loading: Loading) -> None:
        if self._wanted.load is not None:
            await self._wanted.load(loading)

    async def _settle(self, loaded: Loaded, move: RefMove) -> None:
        recent = (loaded.held, *(each for each in self._record.recent if each != loaded.held))
        self._record = replace(
            self._record, served=loaded, loading=None, tries=0, recent=recent[: self._wanted.keep]
        )
        await self._save()
        self._done = move.generation
        self._acknowledge(move, loaded=True)
        self._tell(FollowStep.LOADED, move)
        await self._blocking(lambda: self._place.prune(self._record.recent))

    async def _give_up(self, loading: Loaded, move: RefMove, reason: str) -> None:
        """Go back to what was in use; this move is not tried again."""
        former = self._record.served
        self._record = replace(
            self._record,
            loading=None,
            tries=0,
            failed_generation=loading.generation,
            failed_reason=reason,
        )
        # Remembered before anything is undone: killed from here on, the next run goes back too.
        await self._save()
        self._done = move.generation
        self._acknowledge(move, loaded=False)
        self._tell(FollowStep.FAILED, move, reason=reason)
        if former is None:
            await self._blocking(self._place.clear)
            self._tell(FollowStep.BACK, move, of=Held(0, ""), reason=reason)
        else:
            await self._blocking(lambda: self._place.switch(former.held))
            with suppress(Exception):
                await self._run_load(self._loading(former, move, loading, back=True))
            self._tell(FollowStep.BACK, move, of=former.held, reason=reason)
        await self._blocking(lambda: self._place.prune(self._record.recent))
        self._end_once(move, reason)

    def _end_once(self, move: RefMove, reason: str) -> None:
        if self._wanted.once:
            raise FailedError(f"loading {self._model.name}@v{move.number}", reason)

    def _loading(
        self, loaded: Loaded, move: RefMove, former: Loaded | None, *, back: bool = False
    ) -> Loading:
        return Loading(
            model=self._model.name,
            channel=self._channel,
            generation=move.generation,
            number=loaded.held.number,
            version_id=loaded.held.version_id,
            destination=self._place.destination,
            path=self._place.folder_of(loaded.held),
            former_number=former.held.number if former is not None else 0,
            verb=move.verb,
            reason=move.reason,
            back=back,
        )

    # Telling.

    def _acknowledge(self, move: RefMove, *, loaded: bool) -> None:
        """Give a receipt beside what goes on: a fleet without a quorum still serves."""
        if self._wanted.acknowledge is not None:
            sending = self._send_receipt(self._receipt, self._wanted.acknowledge, move, loaded=loaded)
            self._receipt = asyncio.create_task(sending)

    async def _send_receipt(
        self, overtaken: asyncio.Task[None] | None, send: Acknowledge, move: RefMove, *, loaded: bool
    ) -> None:
        # Only the newest counts.
        if overtaken is not None:
            await settle([overtaken])
        again = Again()
        while True:
            try:
                await send(move, loaded)
            except McrError as error:
                if self._wanted.once:
                    raise
                self._tell(FollowStep.WAITING, move, reason=_said(error))
                await again.wait()
                continue
            self._tell(FollowStep.ACKNOWLEDGED, move)
            if self._wanted.once:
                return
            again = Again()
            # Sent again it is a sign of life.
            await asyncio.sleep(SIGN_OF_LIFE_S)

    def _tell(
        self,
        step: FollowStep,
        move: RefMove | None,
        *,
        of: Held | None = None,
        reason: str = "",
        bytes_written: int = 0,
    ) -> None:
        if self._wanted.told is None:
            return
        held = of
        if held is None and move is not None and move.number:
            held = Held(move.number, move.version_id)
        self._wanted.told(
            FollowEvent(
                step=step,
                model=self._model.name,
                channel=self._channel,
                generation=self._done if move is None else move.generation,
                number=held.number if held is not None else 0,
                version_id=held.version_id if held is not None else "",
                path=self._place.folder_of(held) if held is not None and held.number else None,
                seconds=0.0 if move is None else _now_s() - self._began_s,
                bytes_written=bytes_written,
                reason=reason,
            )
        )

    async def _save(self) -> None:
        await self._blocking(lambda: self._place.save(self._record))

    async def _blocking(self, work: Callable[[], Result]) -> Result:
        return await run_blocking(self._executor, work)


def _said(error: BaseException) -> str:
    return (str(error) or type(error).__name__)[:REASON_CHARACTERS_MAX]


def _now_s() -> float:
    return asyncio.get_running_loop().time()
