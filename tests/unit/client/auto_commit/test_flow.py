"""Automatic commits into an embedded store: what becomes a version, and what does not, also after a kill."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import mcr
from mcr.aio import AsyncClient, AsyncModel, connect
from mcr.auto_commit.happenings import AutoEvent, AutoStep, Found
from mcr.auto_commit.rules import AutoRules, Improved
from mcr.errors import DestinationError, FailedError, InvalidArgumentError, SourceNotFoundError

PATIENCE_S = 30.0
FAST: dict[str, Any] = {"quiet_s": 0.05, "look_s": 0.02}


@dataclass
class Desk:
    """A model, a folder to be watched, and what was told."""

    client: AsyncClient
    model: AsyncModel
    folder: Path
    events: list[AutoEvent] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def told(self, event: AutoEvent) -> None:
        self.events.append(event)
        self.changed.set()

    def write(self, name: str, text: str, **metrics: float) -> None:
        where = self.folder / "out" / name
        where.mkdir(parents=True, exist_ok=True)
        (where / "weights").write_text(text)
        if metrics:
            (where / "metrics.json").write_text(json.dumps(metrics))

    async def until(self, step: AutoStep, count: int = 1) -> AutoEvent:
        async with asyncio.timeout(PATIENCE_S):
            while len(found := [event for event in self.events if event.step is step]) < count:
                self.changed.clear()
                await self.changed.wait()
        return found[count - 1]

    async def once(self, **options: Any) -> list[tuple[str, str]]:  # noqa: ANN401 (the options of auto_commit)
        """Commit what is there, and return what was told."""
        self.events.clear()
        await self.model.auto_commit(self.folder / "out", told=self.told, once=True, **(FAST | options))
        return [(str(event.step), event.name) for event in self.events]

    @asynccontextmanager
    async def watching(self, **options: Any) -> AsyncIterator[None]:  # noqa: ANN401 (the same)
        work = self.model.auto_commit(self.folder / "out", told=self.told, **(FAST | options))
        task = asyncio.create_task(work)
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def versions(self) -> list[str]:
        return [version.description for version in reversed(await self.model.log(limit=100))]


def story(tmp_path: Path, tell: Callable[[Desk], Awaitable[None]]) -> None:
    mcr.init(tmp_path / "store")

    async def run() -> None:
        async with await connect(tmp_path / "store") as client:
            await tell(Desk(client, client.model("vision/net"), tmp_path))

    asyncio.run(run())


def test_what_changed_is_committed_and_nothing_twice(tmp_path: Path) -> None:
    async def tell(desk: Desk) -> None:
        async with desk.watching():
            desk.write("", "one")
            await desk.until(AutoStep.COMMITTED, 1)
            desk.write("", "two")
            await desk.until(AutoStep.COMMITTED, 2)
            # Written again, with the same in it.
            desk.write("", "two")
            desk.write("", "one")
            event = await desk.until(AutoStep.COMMITTED, 3)
            assert event.version is not None
            assert event.version.number == 3
        assert await desk.once() == []
        assert len(await desk.versions()) == 3

    story(tmp_path, tell)


def test_a_watcher_that_lost_its_memory_commits_nothing_again(tmp_path: Path) -> None:
    async def tell(desk: Desk) -> None:
        for name in ("checkpoint-9", "checkpoint-10"):
            desk.write(name, name)
        await desk.once(each="checkpoint-*")
        (tmp_path / ".out.mcr-watch.json").unlink()
        await desk.once(each="checkpoint-*")
        assert await desk.versions() == ["auto: checkpoint-9", "auto: checkpoint-10"]
        # And it remembers again.
        assert await desk.once(each="checkpoint-*") == []

    story(tmp_path, tell)


def test_killed_between_the_commit_and_the_memory_it_commits_once(tmp_path: Path) -> None:
    class Killed(BaseException):
        """As SIGKILL would: nothing is put in order."""

    class Mortal(AsyncModel):
        async def commit(self, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401
            await super().commit(*arguments, **options)
            raise Killed

    async def tell(desk: Desk) -> None:
        for text in ("one", "two", "one"):
            desk.write("", text)
            mortal = Mortal(desk.model._connection, desk.model._executor, desk.model.name)
            for _ in range(2):
                with suppress(Killed):
                    await mortal.auto_commit(desk.folder / "out", once=True, **FAST)
            await desk.once()
        assert len(await desk.versions()) == 3

    story(tmp_path, tell)


def test_what_is_not_complete_waits_and_temporary_files_are_left_out(tmp_path: Path) -> None:
    async def tell(desk: Desk) -> None:
        desk.write("", "one")
        (desk.folder / "out" / "model.safetensors").write_bytes(b"\x10")
        (desk.folder / "out" / "other.tmp").write_bytes(b"half")
        with pytest.raises(FailedError, match="not complete"):
            await desk.once()
        async with desk.watching():
            event = await desk.until(AutoStep.INCOMPLETE, 2)
            assert "model.safetensors" in event.reason
            (desk.folder / "out" / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
            await desk.until(AutoStep.COMMITTED)
        assert [entry.path for entry in await desk.model.files()] == ["model.safetensors", "weights"]

    story(tmp_path, tell)


def test_each_checkpoint_is_a_version_by_the_rules_with_its_metrics(tmp_path: Path) -> None:
    async def tell(desk: Desk) -> None:
        for step, loss in ((10, 3.0), (20, 2.0), (30, 2.5), (40, float("nan")), (50, 1.0)):
            desk.write(f"checkpoint-{step}", f"{step}", loss=loss)
        rules = AutoRules(improved=Improved("loss", "min"))
        done = await desk.once(each="checkpoint-*", metrics_file="metrics.json", rules=rules)
        assert done == [
            ("committed", "checkpoint-10"),
            ("committed", "checkpoint-20"),
            ("skipped", "checkpoint-30"),
            ("skipped", "checkpoint-40"),
            ("committed", "checkpoint-50"),
        ]
        assert (await desk.model.show("v3")).metrics == {"loss": 1.0}
        # A run that starts later knows what was best.
        desk.write("checkpoint-60", "60", loss=1.5)
        done = await desk.once(each="checkpoint-*", metrics_file="metrics.json", rules=rules)
        assert done == [("skipped", "checkpoint-60")]

    story(tmp_path, tell)


def test_only_what_is_committed_and_untouched_is_removed(tmp_path: Path) -> None:
    async def tell(desk: Desk) -> None:
        for step in (10, 20, 30, 40):
            desk.write(f"checkpoint-{step}", f"{step}")
        rules = AutoRules(every_steps=20)
        options: dict[str, Any] = {"each": "checkpoint-*", "rules": rules}
        await desk.once(**options)
        assert await desk.versions() == ["auto: checkpoint-10", "auto: checkpoint-30"]
        desk.write("checkpoint-50", "50")
        done = await desk.once(keep=2, **options)
        assert done == [("committed", "checkpoint-50"), ("removed", "checkpoint-10")]
        # What the rules left out is in no store, so it stays; and so does what was written to since.
        desk.write("checkpoint-30", "30 and more")
        desk.write("checkpoint-70", "70")
        await desk.once(keep=1, decide=lambda found: found.step != 30, **options)
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
            "checkpoint-20", "checkpoint-30", "checkpoint-40", "checkpoint-70",
        ]  # fmt: skip

    story(tmp_path, tell)


def test_a_callback_has_the_last_word(tmp_path: Path) -> None:
    async def tell(desk: Desk) -> None:
        for step in (1, 2, 3):
            desk.write(f"checkpoint-{step}", f"{step}")
        met = []

        def decide(found: Found) -> bool:
            met.append(found.step)
            return found.step == 2

        done = await desk.once(each="checkpoint-*", decide=decide)
        assert done == [
            ("skipped", "checkpoint-1"),
            ("committed", "checkpoint-2"),
            ("skipped", "checkpoint-3"),
        ]
        assert met == [1, 2, 3]

    story(tmp_path, tell)


def test_wrong_calls_are_refused(tmp_path: Path) -> None:
    async def tell(desk: Desk) -> None:
        with pytest.raises(SourceNotFoundError):
            await desk.once()
        desk.write("", "one")
        for options in ({"keep": 1}, {"keep": -1, "each": "*"}, {"quiet_s": -1}, {"look_s": 0}):
            with pytest.raises(InvalidArgumentError):
                await desk.once(**options)
        await desk.once()
        with pytest.raises(InvalidArgumentError, match="branch:main"):
            await desk.once(branch="other")
        async with desk.watching():
            desk.write("", "two")
            await desk.until(AutoStep.COMMITTED)
            with pytest.raises(DestinationError, match="another watcher"):
                await desk.model.auto_commit(tmp_path / "out", once=True, **FAST)

    story(tmp_path, tell)
