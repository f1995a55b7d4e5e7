"""A node takes no more than it was given, by whoever gave less: its operator at its start, or the layout."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from mcr_node.core.members import Member
from mcr_node.services.cluster_chunks import ClusterChunks
from tests.conformance.memory_chunk_store import MemoryChunkStore
from tests.support.holders import MemoryHolders

ME = Member(1, "a", "a:1", capacity_bytes=500)


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as found:
        yield found


@pytest.mark.parametrize(
    ("at_start", "member", "bound"),
    [
        (None, ME, None),
        (700, ME, 700),
        (None, replace(ME, arranged=True), 500),
        (700, replace(ME, arranged=True), 500),
        (300, replace(ME, arranged=True), 300),
        (700, replace(ME, arranged=True, capacity_bytes=0), 700),
    ],
)
def test_the_less_of_both_bounds_it(
    executor: ThreadPoolExecutor, at_start: int | None, member: Member, bound: int | None
) -> None:
    chunks = ClusterChunks(
        MemoryChunkStore(), executor, MemoryHolders(), lambda: member, list, capacity_bytes=at_start
    )
    assert chunks.capacity_bytes == bound
