"""How long a caller waits is known to what is done on its behalf."""

import asyncio

from mcr_node.services.deadlines import set_time_left, time_left_s


def test_time_left_is_that_of_the_call_under_way_and_of_no_other() -> None:
    async def call(seconds: float | None) -> float | None:
        set_time_left(seconds)
        await asyncio.sleep(0)
        return time_left_s()

    async def story() -> list[float | None]:
        tasks = [asyncio.create_task(call(seconds)) for seconds in (60.0, None, 0.0)]
        return [*await asyncio.gather(*tasks), time_left_s()]

    long, unknown, none, outside = asyncio.run(story())
    assert long is not None
    assert 50 < long <= 60
    assert (unknown, none, outside) == (None, 0.0, None)
