"""A follower on an embedded store: what it does with each move of a channel, and after it was cut off."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import mcr
from mcr.aio import AsyncClient, AsyncModel, connect
from mcr.errors import (
    DestinationError,
    FailedError,
    InvalidArgumentError,
    ModelNotFoundError,
    ReferenceNotFoundError,
)
from mcr.following.flow import LOAD_TRIES_MAX
from mcr.following.happenings import FollowEvent, FollowStep, Loading

PATIENCE_S = 30.0
LOADED, FAILED, BACK, SWITCHED, FETCHED = (
    FollowStep.LOADED,
    FollowStep.FAILED,
    FollowStep.BACK,
    FollowStep.SWITCHED,
    FollowStep.FETCHED,
)


@dataclass
class Fleet:
    """A model with three versions, a channel, and one follower of it."""

    client: AsyncClient
    model: AsyncModel
    folder: Path
    events: list[FollowEvent] = field(default_factory=list)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    @property
    def served(self) -> str:
        return (self.folder / "serving" / "weights").read_text()

    def told(self, event: FollowEvent) -> None:
        self.events.append(event)

        async def notify() -> None:
            async with self.changed:
                self.changed.notify_all()

        self._notifying = asyncio.get_running_loop().create_task(notify())

    async def until(self, step: FollowStep, generation: int) -> FollowEvent:
        def found() -> list[FollowEvent]:
            return [each for each in self.events if (each.step, each.generation) == (step, generation)]

        async with asyncio.timeout(PATIENCE_S), self.changed:
            await self.changed.wait_for(lambda: bool(found()))
        return found()[-1]

    @asynccontextmanager
    async def following(self, **options: Any) -> AsyncIterator[asyncio.Task[None]]:  # noqa: ANN401
        work = self.model.follow("production", self.folder / "serving", told=self.told, **options)
        task = asyncio.create_task(work)
        try:
            yield task
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def move(self, version: str) -> int:
        return (await self.model.channel("production").set(version)).generation

    def steps(self) -> list[tuple[str, int]]:
        # Receipts are given beside what goes on, so their place among the other steps is open.
        told = [each for each in self.events if each.step is not FollowStep.ACKNOWLEDGED]
        return [(str(each.step), each.number) for each in told]

    async def receipt(self, consumer: str) -> tuple[int, int, str, int, str]:
        """Return what a consumer has loaded, from which generation, and its last receipt."""
        (found,) = [each for each in (await self.model.served()).servings if each.consumer == consumer]
        last = found.last
        return found.number, found.generation, last.state, last.number, last.channel


def story(tmp_path: Path, tell: Callable[[Fleet], Awaitable[None]]) -> None:
    """Run a story with versions v1 to v3, of which the channel has v1."""
    mcr.init(tmp_path / "store")
    for number in (1, 2, 3):
        (tmp_path / f"in{number}").mkdir()
        (tmp_path / f"in{number}" / "weights").write_text(f"{number}")
        (tmp_path / f"in{number}" / "config").write_text("the same in all")

    async def run() -> None:
        async with await connect(tmp_path / "store") as client:
            model = client.model("vision/net")
            for number in (1, 2, 3):
                await model.commit(tmp_path / f"in{number}")
            fleet = Fleet(client, model, tmp_path)
            await fleet.move("v1")
            await tell(fleet)

    asyncio.run(run())


def test_every_move_is_followed_and_a_rollback_fetches_nothing(tmp_path: Path) -> None:
    async def tell(fleet: Fleet) -> None:
        async with fleet.following():
            await fleet.until(LOADED, 1)
            await fleet.until(LOADED, await fleet.move("v2"))
            assert fleet.served == "2"
            back = await fleet.model.channel("production").rollback()
            event = await fleet.until(LOADED, back.generation)
            assert fleet.served == "1"
            assert (event.version, event.version_id) == ("v1", back.version_id)
        assert fleet.steps() == [
            ("fetching", 1), ("fetched", 1), ("switched", 1), ("loaded", 1),
            ("fetching", 2), ("fetched", 2), ("switched", 2), ("loaded", 2),
            ("switched", 1), ("loaded", 1),
        ]  # fmt: skip

    story(tmp_path, tell)


def test_what_happened_while_it_was_away_is_caught_up_with(tmp_path: Path) -> None:
    async def tell(fleet: Fleet) -> None:
        async with fleet.following():
            await fleet.until(LOADED, 1)
        await fleet.move("v2")
        generation = await fleet.move("v3")
        async with fleet.following():
            await fleet.until(LOADED, generation)
        assert fleet.served == "3"
        # Only what the channel is at matters: v2 was never fetched.
        assert 2 not in {number for _, number in fleet.steps()}

    story(tmp_path, tell)


def test_a_failed_load_goes_back_and_is_not_tried_again(tmp_path: Path) -> None:
    async def tell(fleet: Fleet) -> None:
        loads: list[tuple[int, str, bool]] = []

        def load(loading: Loading) -> None:
            loads.append((loading.number, (loading.destination / "weights").read_text(), loading.back))
            if loading.number == 2:
                raise ValueError("it does not fit")

        async with fleet.following(load=load):
            await fleet.until(LOADED, 1)
            generation = await fleet.move("v2")
            event = await fleet.until(BACK, generation)
            assert (fleet.served, event.version, event.reason) == ("1", "v1", "it does not fit")
        assert loads == [(1, "1", False), (2, "2", False), (1, "1", True)]
        async with fleet.following(load=load):
            # The same move again: no. The next one: yes, and one to the very same version too.
            await fleet.until(FAILED, generation)
            assert len(loads) == 3
            await fleet.until(LOADED, await fleet.move("v3"))
            await fleet.until(BACK, await fleet.move("v2"))
        assert fleet.served == "3"
        assert [number for number, *_ in loads[3:]] == [3, 2, 3]

    story(tmp_path, tell)


def test_a_first_version_that_fails_leaves_nothing(tmp_path: Path) -> None:
    async def tell(fleet: Fleet) -> None:
        async def load(loading: Loading) -> None:
            raise ValueError(loading.version)

        with pytest.raises(FailedError, match="v1"):
            await fleet.model.follow("production", tmp_path / "serving", load=load, once=True)
        assert not (tmp_path / "serving").is_symlink()

    story(tmp_path, tell)


def test_a_load_that_kills_the_program_is_given_up_in_the_end(tmp_path: Path) -> None:
    class Killed(BaseException):
        """As SIGKILL would: nothing is put in order."""

    async def tell(fleet: Fleet) -> None:
        async with fleet.following():
            await fleet.until(LOADED, 1)
        generation = await fleet.move("v2")

        async def die(_: Loading) -> None:
            raise Killed

        for _ in range(LOAD_TRIES_MAX):
            with pytest.raises(Killed):
                await fleet.model.follow("production", tmp_path / "serving", load=die, once=True)
            assert fleet.served == "2"
        async with fleet.following():
            await fleet.until(BACK, generation)
            assert fleet.served == "1"

    story(tmp_path, tell)


def test_ended_while_loading_it_loads_again_and_counts_no_failure(tmp_path: Path) -> None:
    async def tell(fleet: Fleet) -> None:
        loads = []
        begun = asyncio.Event()

        async def never_ready(loading: Loading) -> None:
            loads.append(loading.number)
            begun.set()
            await asyncio.Event().wait()

        for _ in range(LOAD_TRIES_MAX + 2):
            begun.clear()
            async with fleet.following(load=never_ready):
                await begun.wait()
        async with fleet.following():
            await fleet.until(LOADED, 1)
        assert loads == [1] * (LOAD_TRIES_MAX + 2)

    story(tmp_path, tell)


def test_the_same_version_by_another_move_is_loaded_already(tmp_path: Path) -> None:
    async def tell(fleet: Fleet) -> None:
        loads = []

        def load(loading: Loading) -> None:
            loads.append(loading.generation)

        async with fleet.following(load=load):
            await fleet.until(LOADED, 1)
        await fleet.move("v2")
        back = await fleet.move("v1")
        async with fleet.following(load=load):
            await fleet.until(LOADED, back)
        assert loads == [1]

    story(tmp_path, tell)


def test_as_many_versions_are_kept_as_asked_for(tmp_path: Path) -> None:
    async def tell(fleet: Fleet) -> None:
        for keep, held in ((3, 3), (2, 2), (1, 1)):
            for version in ("v1", "v2", "v3"):
                await fleet.move(version)
                await fleet.model.follow("production", tmp_path / "serving", keep=keep, once=True)
            assert len([path for path in (tmp_path / ".serving.mcr").iterdir() if path.is_dir()]) == held
            assert fleet.served == "3"

    story(tmp_path, tell)


def test_a_folder_that_somebody_wrote_into_is_mended_before_it_is_served(tmp_path: Path) -> None:
    async def tell(fleet: Fleet) -> None:
        async with fleet.following():
            first = await fleet.until(LOADED, 1)
            await fleet.until(LOADED, await fleet.move("v2"))
            assert first.path is not None
            (first.path / "weights").write_text("scribbled")
            (first.path / "cache").write_text("scribbled")
            event = await fleet.until(LOADED, await fleet.move("v1"))
        assert (fleet.served, event.path) == ("1", first.path)
        assert not (first.path / "cache").exists()

    story(tmp_path, tell)


def test_what_did_not_change_is_not_written_again(tmp_path: Path) -> None:
    async def tell(fleet: Fleet) -> None:
        async with fleet.following():
            await fleet.until(LOADED, 1)
            event = await fleet.until(FETCHED, await fleet.move("v2"))
            # Only the weights: their one byte.
            assert event.bytes_written == 1
            assert (tmp_path / "serving" / "config").read_text() == "the same in all"

    story(tmp_path, tell)


def test_one_destination_follows_one_channel(tmp_path: Path) -> None:
    async def tell(fleet: Fleet) -> None:
        await fleet.model.channel("canary").set("v2")
        await fleet.model.follow("production", tmp_path / "serving", once=True)
        with pytest.raises(InvalidArgumentError, match="one destination"):
            await fleet.model.follow("canary", tmp_path / "serving", once=True)

    story(tmp_path, tell)


def test_what_does_not_exist_is_said_at_once(tmp_path: Path) -> None:
    async def tell(fleet: Fleet) -> None:
        with pytest.raises(ReferenceNotFoundError):
            await fleet.model.follow("canary", tmp_path / "serving")
        with pytest.raises(ModelNotFoundError):
            await fleet.client.model("no/such").follow("production", tmp_path / "serving")
        (tmp_path / "mine").mkdir()
        with pytest.raises(DestinationError):
            await fleet.model.follow("production", tmp_path / "mine")
        for options in ({"keep": 0}, {"switch": "magic"}):
            with pytest.raises(InvalidArgumentError):
                await fleet.model.follow("production", tmp_path / "serving", **options)

    story(tmp_path, tell)


def test_receipts_say_what_is_loaded_and_what_failed(tmp_path: Path) -> None:
    async def tell(fleet: Fleet) -> None:
        async def load(loading: Loading) -> None:
            if loading.number == 2:
                raise ValueError("no")

        options: dict[str, Any] = {"consumer": "gpu-7", "load": load, "rank": 3}
        async with fleet.following(**options):
            await fleet.until(FollowStep.ACKNOWLEDGED, 1)
            assert await fleet.receipt("gpu-7") == (1, 1, "loaded", 1, "production")
            generation = await fleet.move("v2")
            await fleet.until(FollowStep.ACKNOWLEDGED, generation)
            assert await fleet.receipt("gpu-7") == (1, 1, "failed", 2, "production")
            generation = await fleet.move("v3")
            await fleet.until(FollowStep.ACKNOWLEDGED, generation)
        assert await fleet.receipt("gpu-7") == (3, generation, "loaded", 3, "production")
        (serving,) = (await fleet.model.served()).servings
        assert serving.rank == 3
        await fleet.move("v1")
        # Once, and then the receipt is there when it returns; or none is given.
        await fleet.model.follow("production", tmp_path / "other", once=True)
        await fleet.model.follow("production", tmp_path / "third", once=True, consumer="")
        found = {each.consumer: each.number for each in (await fleet.model.served()).servings}
        (mine,) = found.keys() - {"gpu-7"}
        assert mine.endswith(f":{tmp_path / 'other'}")
        assert found[mine] == 1

    story(tmp_path, tell)
