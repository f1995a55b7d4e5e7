"""What the leader proposes for policies: what is due, nothing else, and only once."""

import asyncio
from collections.abc import Awaitable, Callable

from mcr.model import LogIndex, RefKind
from mcr_node.core.state import explaining, queries
from mcr_node.core.state.commands import Command
from mcr_node.core.state.outcomes import Accepted
from mcr_node.services.settling import Settling
from tests.support.log_clusters import member
from tests.support.memory_log import MemoryLog, SharedLog
from tests.support.state_world import MODEL, StateWorld

STORY_S_MAX = 30.0


def tell(story: Callable[[MemoryLog, StateWorld], Awaitable[None]]) -> None:
    async def told() -> None:
        log = SharedLog(member(1)).open(1)
        await log.wait_applied(log.commit)
        async with asyncio.timeout(STORY_S_MAX):
            await story(log, StateWorld(at_ms=log.clock.now_ms()))

    asyncio.run(told())


async def propose(log: MemoryLog, *commands: Command) -> LogIndex:
    for command in commands:
        outcome = await log.propose(command)
        assert isinstance(outcome, Accepted), outcome
    return outcome.index


def where(log: MemoryLog, kind: RefKind) -> int:
    """Return where the only ref of a kind is."""
    [ref] = queries.list_refs(log.view(), MODEL, kind, after="", limit=10)
    return ref.number


def test_silence_is_decided_when_it_has_lasted_and_once() -> None:
    async def story(log: MemoryLog, world: StateWorld) -> None:
        await propose(log, world.commit(), world.set_channel(1), world.commit(), world.set_channel(2))
        await propose(log, world.set_policy("silence", {"channel": "production", "missing": "10m"}))
        settling = Settling(log)
        log.clock.ms = world.at_ms
        before = log.applied
        await settling.settle()
        assert log.applied == before

        log.clock.ms += 600_000
        await settling.settle()
        await settling.settle()

        assert where(log, RefKind.CHANNEL) == 1
        state = explaining.explain(log.view(), MODEL, "silence", at_ms=log.clock.ms)
        assert [one.outcome for one in state.decisions] == ["rolled_back"]
        assert log.applied == before + 1

    tell(story)


def test_what_a_commit_put_off_is_decided_at_the_next_turn() -> None:
    async def story(log: MemoryLog, world: StateWorld) -> None:
        await propose(log, world.commit())
        await propose(log, world.set_policy("loss", {"branch": "main", "metric": "loss", "above": 2}))
        index = await propose(log, world.commit(metrics={"loss": 3.0}))

        await Settling(log).settle()
        await Settling(log).settle()

        assert where(log, RefKind.BRANCH) == 3
        assert log.applied == index + 1

    tell(story)
