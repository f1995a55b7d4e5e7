"""The flow of automatic commits: look, wait until nobody writes, check that it is complete, decide, commit.

Killed at any moment it goes on where it was, and commits nothing twice. A request is named for the content
and for what was committed before it, so the same try again is the same request; and what a version holds is
remembered by the digests that the version itself has, not by what the disk said.
"""

import asyncio
import os
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

from mcr.auto_commit.completeness import TEMPORARY, metrics_of, why_incomplete
from mcr.auto_commit.happenings import AutoEvent, AutoStep, Found
from mcr.auto_commit.looking import Candidate, Digests, Look, candidates, content_of, step_in
from mcr.auto_commit.memory import Made, Memory, MemoryFile
from mcr.auto_commit.rules import AutoRules, Make, Skip, Wait, after, decide
from mcr.blocking import run_blocking
from mcr.checkout.tree import translated
from mcr.errors import (
    FailedError,
    NotFoundError,
    RequestReusedError,
    SourceChangedError,
    SourceNotFoundError,
    SourceUnreadableError,
)
from mcr.model import CommitResult, Parameters, Version, digest
from mcr.passing import PASSING
from mcr.references import DEFAULT_BRANCH
from mcr.values import dataclass

QUIET_S_DEFAULT, LOOK_S_DEFAULT = 5.0, 1.0
_STEP_METRICS = ("step", "global_step")
_MOVING = (SourceChangedError, SourceNotFoundError, SourceUnreadableError, OSError)

Result = TypeVar("Result")
Told = Callable[[AutoEvent], None]


class Committable(Protocol):
    """What is needed of `AsyncModel`."""

    @property
    def name(self) -> str:
        """The model's."""

    async def commit(
        self,
        path: str | Path,
        *,
        message: str = "",
        branch: str = ...,
        params: Parameters | None = None,
        metrics: Mapping[str, float] | None = None,
        request_id: str | None = None,
        allow_non_finite: bool = False,
        durability: str | int | None = None,
        exclude: "tuple[str, ...]" = (),
    ) -> CommitResult:
        """See AsyncModel."""

    async def show(self, ref: str = ...) -> Version:
        """See AsyncModel."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to watch, and what to do with it; see `AutoOptions`."""

    path: Path
    branch: str = DEFAULT_BRANCH
    each: str = ""
    message: str = ""
    params: Parameters = field(default_factory=dict)
    metrics_file: str = ""
    rules: AutoRules = field(default_factory=AutoRules)
    decide: Callable[[Found], bool] | None = None
    told: Told | None = None
    keep: int = 0
    durability: str | int | None = None
    quiet_s: float = QUIET_S_DEFAULT
    look_s: float = LOOK_S_DEFAULT
    once: bool = False


class Watcher:
    """Watches one folder."""

    def __init__(
        self, model: Committable, memory: MemoryFile, executor: ThreadPoolExecutor, wanted: Wanted
    ) -> None:
        self._model = model
        self._file = memory
        self._executor = executor
        self._wanted = wanted
        self._memory = Memory(model.name, wanted.branch)
        self._digests = Digests()
        # Since when each candidate is as it is, by the clock of the event loop.
        self._since_s: dict[str, tuple[Look, float]] = {}
        # As it was when there was nothing left to do for it.
        self._settled: dict[str, Look] = {}
        self._told: dict[str, str] = {}

    async def run(self) -> None:
        """Watch until cancelled, or once."""
        try:
            await self._blocking(self._file.open)
            self._memory = await self._blocking(lambda: self._file.load(self._memory))
            while True:
                pending = await self._round()
                if self._wanted.once and not pending:
                    return
                await asyncio.sleep(self._wanted.look_s)
        finally:
            self._file.close()

    async def _round(self) -> bool:
        """Look at everything once; True when something may become a version without being touched again."""
        try:
            found = await self._blocking(lambda: list(candidates(self._wanted.path, self._wanted.each)))
        except _MOVING as error:
            self._tell_once("", AutoStep.INCOMPLETE, str(error))
            return True
        if self._wanted.once and not found:
            raise SourceNotFoundError(str(self._wanted.path))
        pending = False
        for candidate in found:
            if self._settled.get(candidate.name) == candidate.look:
                continue
            if not self._is_quiet(candidate):
                pending = True
                continue
            try:
                pending = await self._consider(candidate) or pending
            except _MOVING as error:
                # Somebody writes after all.
                self._since_s.pop(candidate.name, None)
                self._tell_once(candidate.name, AutoStep.INCOMPLETE, str(error))
                pending = True
        if self._wanted.keep and self._wanted.each:
            await self._keep(found)
        return pending

    def _is_quiet(self, candidate: Candidate) -> bool:
        now_s = asyncio.get_running_loop().time()
        look, since_s = self._since_s.get(candidate.name, ((), now_s))
        if look != candidate.look:
            since_s = now_s
            self._since_s[candidate.name] = (candidate.look, since_s)
        return now_s - since_s >= self._wanted.quiet_s

    async def _consider(self, candidate: Candidate) -> bool:
        """Do what there is to do for a candidate that nobody writes; True = look at it again."""
        name = candidate.name
        reason = await self._blocking(lambda: why_incomplete(candidate.sources))
        if reason:
            self._tell_once(name, AutoStep.INCOMPLETE, reason)
            if self._wanted.once:
                raise FailedError(f"committing {candidate.path}", f"it is not complete: {reason}")
            return True
        content = await self._blocking(lambda: self._digests.content_of(candidate))
        made = self._memory.made.get(name)
        if (made is not None and made.content == content) or self._memory.skipped.get(name) == content:
            self._settled[name] = candidate.look
            return False
        found = await self._blocking(lambda: self._found(candidate))
        decision = decide(self._wanted.rules, found, self._memory.standing, now_ms=_now_ms())
        if isinstance(decision, Make) and self._wanted.decide is not None and not self._wanted.decide(found):
            decision = Skip("it was decided so")
        match decision:
            case Wait():
                # Once is now.
                return not self._wanted.once
            case Skip(reason=reason):
                self._memory = replace(self._memory, skipped={**self._memory.skipped, name: content})
                await self._save()
                self._settled[name] = candidate.look
                self._tell(AutoEvent(AutoStep.SKIPPED, self._model.name, name, reason=reason))
                return False
            case Make():
                return not await self._commit(candidate, found, content)

    def _found(self, candidate: Candidate) -> Found:
        metrics: dict[str, float] = {}
        if self._wanted.metrics_file:
            # One outside is named by an absolute path, which takes the place of the folder's.
            metrics = metrics_of(os.path.join(candidate.path, self._wanted.metrics_file))
        step = next((int(metrics[key]) for key in _STEP_METRICS if key in metrics), None)
        name = candidate.name or candidate.path.name
        return Found(candidate.name, candidate.path, step_in(name) if step is None else step, metrics)

    # Committing.

    async def _commit(self, candidate: Candidate, found: Found, content: str) -> bool:
        """Make a version; False when that has to wait."""
        made = self._memory.made.get(candidate.name)
        try:
            head = await self._head_with(content) if made is None else None
            if head is not None:
                await self._remember(candidate, found, head)
                return True
            result = await self._model.commit(
                candidate.path,
                message=self._wanted.message or f"auto: {candidate.name or candidate.path.name}",
                branch=self._wanted.branch,
                params=self._wanted.params,
                metrics=found.metrics,
                request_id=self._request_id(candidate.name, made, content),
                # A metric that is no number is what a policy wants to see.
                allow_non_finite=True,
                durability=self._wanted.durability,
                exclude=TEMPORARY,
            )
        except RequestReusedError as error:
            # The very content, committed before with another message; its version is there.
            self._settled[candidate.name] = candidate.look
            self._tell(AutoEvent(AutoStep.SKIPPED, self._model.name, candidate.name, reason=str(error)))
            return True
        except PASSING as error:
            if self._wanted.once:
                raise
            self._tell_once(candidate.name, AutoStep.WAITING, str(error))
            return False
        await self._remember(candidate, found, result)
        return True

    async def _head_with(self, content: str) -> Version | None:
        """Return the head of the branch if it has this content: made by one that lost its memory."""
        try:
            head = await self._model.show(f"branch:{self._wanted.branch}")
        except NotFoundError:
            return None
        return head if head.files is not None and content_of(head.files) == content else None

    def _request_id(self, name: str, made: Made | None, content: str) -> str:
        before = "" if made is None else made.version_id
        text = "\n".join((self._model.name, self._wanted.branch, before, content, name))
        return f"watch-{digest(text.encode(errors='surrogateescape')).hex()[:40]}"

    async def _remember(self, candidate: Candidate, found: Found, version: Version) -> None:
        assert version.files is not None, "both ways to a version read its files"
        # What was committed, which may be newer than what was looked at.
        made = Made(version.number, version.id, content_of(version.files))
        standing = after(self._wanted.rules, found, self._memory.standing, made_at_ms=version.created_at_ms)
        self._memory = self._memory.with_made(candidate.name, made, standing)
        await self._save()
        self._told.pop(candidate.name, None)
        result = version if isinstance(version, CommitResult) else None
        self._tell(AutoEvent(AutoStep.COMMITTED, self._model.name, candidate.name, version, result))

    # Keeping.

    async def _keep(self, found: list[Candidate]) -> None:
        """Remove the oldest of what was committed and is not touched since, but for the newest `keep`."""
        there = {candidate.name: candidate for candidate in found}
        names = list(self._memory.made)
        for name in [name for name in names if name not in there]:
            self._memory = self._memory.without(name)
        kept = [name for name in names if name in there]
        for name in kept[: -self._wanted.keep]:
            candidate = there[name]
            content = await self._blocking(partial(self._digests.content_of, candidate))
            if content != self._memory.made[name].content:
                continue
            await self._blocking(partial(_remove, candidate))
            self._digests.forget(candidate)
            self._memory = self._memory.without(name)
            await self._save()
            reason = f"more than the last {self._wanted.keep}, and in the store"
            self._tell(AutoEvent(AutoStep.REMOVED, self._model.name, name, reason=reason))

    # Telling.

    def _tell(self, event: AutoEvent) -> None:
        if self._wanted.told is not None:
            self._wanted.told(event)

    def _tell_once(self, name: str, step: AutoStep, reason: str) -> None:
        """Tell why nothing comes of a candidate, unless that was the last thing told of it."""
        if self._told.get(name) != reason:
            self._told[name] = reason
            self._tell(AutoEvent(step, self._model.name, name, reason=reason))

    async def _save(self) -> None:
        await self._blocking(lambda: self._file.save(self._memory))

    async def _blocking(self, work: Callable[[], Result]) -> Result:
        return await run_blocking(self._executor, work)


def _remove(candidate: Candidate) -> None:
    # Out of the way first: killed on the way, nothing half removed looks like a checkpoint.
    gone = candidate.path.with_name(f".tmp-removed-{candidate.path.name}")
    with translated(str(candidate.path)):
        if gone.is_dir():
            shutil.rmtree(gone)
        os.rename(candidate.path, gone)
        if gone.is_dir():
            shutil.rmtree(gone)
        else:
            os.unlink(gone)


def _now_ms() -> int:
    # Compared with the log time of the last version, which another machine gave: an interval of minutes.
    return int(datetime.now(UTC).timestamp() * 1000)
