"""Automatic commits, as a client does them: a part of `AsyncModel`."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack, cast

from mcr.errors import InvalidArgumentError
from mcr.model import Parameters
from mcr.reading import ModelReader
from mcr.references import check_name

if TYPE_CHECKING:
    from mcr.auto_commit.flow import Committable, Told, Wanted
    from mcr.auto_commit.happenings import Found
    from mcr.auto_commit.rules import AutoRules


class AutoOptions(TypedDict, total=False):
    """The options of `AsyncModel.auto_commit`.

    Attributes:
        each: pattern over names in the folder, such as `checkpoint-*`: each is a version of its own.
        branch: to commit to; `main` by default.
        message: the description; by default the name of what was found.
        params: parameters of each version.
        metrics_file: JSON in the folder (of the checkpoint), or elsewhere by an absolute path: reported with
            the version. `step` or `global_step` in it, else the number at the end of a name, is the step of
            training.
        rules: when a version is made of what changed; by default always.
        decide: called last, with what was found; False = no version of it.
        told: called with each step, from the event loop; what it raises ends the watching.
        keep: with `each`: remove all but so many of the newest here, once they are committed; 0 = none.
        durability: see `commit`.
        quiet_s: for how long nothing may have changed; 5 by default.
        look_s: how often to look; 1 by default.
        memory: file in which it is remembered what was committed; by default beside the folder.
        once: commit what is complete now, then return.
    """

    each: str
    branch: str
    message: str
    params: Parameters
    metrics_file: str
    rules: AutoRules
    decide: Callable[[Found], bool] | None
    told: Told | None
    keep: int
    durability: str | int | None
    quiet_s: float
    look_s: float
    memory: str | Path | None
    once: bool


class AutoCommitCalls(ModelReader):
    """The method of `AsyncModel` that commits by itself."""

    async def auto_commit(self, path: str | Path, **options: Unpack[AutoOptions]) -> None:
        """Commit a folder, or each checkpoint in it, whenever it is complete and changed; until cancelled.

        Complete is what nobody writes any more, and what says so itself where its format can: safetensors
        and zip archives their length, an index the shards that belong to it. Files with names such as
        `*.tmp` are left out. Killed at any moment, the same call goes on and commits nothing twice.

        Args:
            path: folder or file to watch; may come later.
            options: see AutoOptions.

        Raises:
            SourceNotFoundError, FailedError: with `once`: there is nothing, or it is not complete.
            DestinationError: another watcher keeps the same memory.
        """
        # Only those who watch load what it takes.
        from mcr.auto_commit.flow import Watcher
        from mcr.auto_commit.memory import MemoryFile

        wanted = _wanted(path, options)
        memory = options.get("memory")
        beside = wanted.path.with_name(f".{wanted.path.name}.mcr-watch.json")
        file = MemoryFile(beside if memory is None else Path(memory))
        await Watcher(cast("Committable", self), file, self._executor, wanted).run()


def _wanted(path: str | Path, options: AutoOptions) -> Wanted:
    from mcr.auto_commit.flow import Wanted
    from mcr.auto_commit.rules import check

    given: dict[str, Any] = {name: value for name, value in options.items() if name != "memory"}
    # Not resolved: what is watched may be a link that moves. The names and types are those of AutoOptions.
    wanted = Wanted(path=Path(os.path.abspath(path)), **given)
    check_name("branch", wanted.branch)
    check(wanted.rules)
    if wanted.keep < 0 or (wanted.keep and not wanted.each):
        raise InvalidArgumentError("keep", "it needs a number from 1, and `each`")
    if wanted.quiet_s < 0 or wanted.look_s <= 0:
        raise InvalidArgumentError("quiet_s", "a time is below 0")
    return wanted
