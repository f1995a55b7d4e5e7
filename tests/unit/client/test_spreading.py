"""From how many nodes a client reads: whichever was measured faster, and only where there is much to read."""

import asyncio

import pytest

from mcr._remote import spreading
from mcr._remote.nodes import Way
from mcr._remote.spreading import Spreading
from mcr.addresses import Address
from mcr.model import MIB

PART_BYTES = 8 * MIB
IN_FLIGHT = 6


def download(chosen: Spreading, near: list[Way], size_bytes: int, one_s: float, all_s: float) -> list[str]:
    """Read in parts; a part takes `one_s` while one node is read from, and `all_s` while all are."""
    used: list[str] = []
    now_s = 0.0
    running: list[Way] = []
    for _ in range(size_bytes // PART_BYTES):
        while len(running) < IN_FLIGHT:
            way = chosen.choose(near)
            chosen.begin(way, now_s)
            running.append(way)
            used.append(way.address)
        now_s += all_s if chosen.is_wide else one_s
        chosen.end(running.pop(0), PART_BYTES, now_s)
    for way in running:
        chosen.end(way, 0, now_s)
    return used


@pytest.fixture
def near() -> list[Way]:
    async def ways() -> list[Way]:
        return [Way.to(Address("127.0.0.1", port)) for port in (1, 2, 3)]

    return asyncio.run(ways())


def test_a_small_download_is_read_from_the_nearest_node_alone(near: list[Way]) -> None:
    assert set(download(Spreading(), near, spreading.TRIAL_BYTES - PART_BYTES, 1, 0.1)) == {near[0].address}


def test_all_are_used_where_that_is_faster_and_evenly(near: list[Way]) -> None:
    used = download(Spreading(), near, 1024 * MIB, one_s=1, all_s=0.5)[-60:]
    assert {used.count(way.address) for way in near} == {20}


@pytest.mark.parametrize("all_s", [1.0, 0.95, 2.0])
def test_one_is_used_where_all_are_not_clearly_faster(near: list[Way], all_s: float) -> None:
    used = download(Spreading(), near, 1024 * MIB, one_s=1, all_s=all_s)
    assert set(used[-60:]) == {near[0].address}
    assert len(set(used)) == 3, "all were tried"


def test_it_is_tried_anew_after_a_while(near: list[Way]) -> None:
    chosen = Spreading()
    download(chosen, near, 1024 * MIB, one_s=1, all_s=2)
    assert not chosen.is_wide
    used = download(chosen, near, 2 * spreading.AGAIN_BYTES, one_s=1, all_s=0.5)
    assert {used[-60:].count(way.address) for way in near} == {20}
