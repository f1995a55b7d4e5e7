"""What is put off is done once, in time or when somebody is in a hurry, and not after it was called off."""

import asyncio

from mcr_node.runtime.later import Later

LONG_S = 3600.0


def test_what_is_asked_for_several_times_is_done_once_and_may_be_hastened() -> None:
    async def story() -> list[str]:
        done: list[str] = []
        later = Later(LONG_S, lambda: done.append("work"))
        later.hasten()
        await asyncio.sleep(0)
        assert not done, "nobody asked for it"
        later.set()
        later.set()
        asyncio.get_running_loop().call_soon(done.append, "who was due before")
        later.hasten()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return done

    assert asyncio.run(story()) == ["who was due before", "work"]


def test_what_was_called_off_is_not_done_even_if_it_was_in_a_hurry() -> None:
    async def story() -> list[str]:
        done: list[str] = []
        later = Later(LONG_S, lambda: done.append("work"))
        later.set()
        later.hasten()
        later.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return done

    assert asyncio.run(story()) == []
