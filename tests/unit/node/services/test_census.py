"""What a count of copies may rely on before a member goes: what those who stay have read."""

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from mcr.model import ChunkId
from mcr_node.services.census import Census, Known
from mcr_node.services.lives import Lives
from mcr_node.services.walking import Kept
from tests.unit.node.services.test_repair import B, C, D, Scene, tell


async def counted(scene: Scene, manifest: ChunkId, *, proves: bool) -> Known:
    """Count the copies of one version, as if D were drained."""

    async def versions() -> AsyncIterator[Kept]:
        yield Kept("vision/net@v1", manifest)

    alive = [replace(member, leaving=member.address == D) for member in scene.rest()]
    census = Census(scene.chunks, scene.others, scene.me(), alive, 2, Lives(), proves=proves)
    known = Known()
    async for _ in census.count_all(versions(), known):
        pass
    return known


def test_a_copy_that_went_bad_unnoticed_does_not_let_the_last_good_one_go() -> None:
    async def story(scene: Scene) -> None:
        chunks = await scene.commit(1, B, C, D, files=100)
        bad, half = chunks[3].id, chunks[70].id
        scene.stores[B].damage(bad)
        scene.stores[C].damage(bad)
        scene.stores[C].damage(half)
        # Nobody looked: by what the nodes believe, all is well.
        assert not (await counted(scene, chunks[-1].id, proves=False)).short
        known = await counted(scene, chunks[-1].id, proves=True)
        assert {one: (copies.holders, copies.leaving) for one, copies in known.short.items()} == {
            bad: ((), (4,)),
            half: ((2,), (4,)),
        }
        # All that D has was read by those who stay.
        assert set(scene.others.vouched[B]) == {chunk.id for chunk in chunks}
        assert D not in scene.others.vouched

    tell(story)


@pytest.mark.parametrize("on", [(B, C), ("a:1", B, C)])
def test_what_the_one_that_goes_does_not_have_is_not_read_for_it(on: tuple[str, ...]) -> None:
    async def story(scene: Scene) -> None:
        chunks = await scene.commit(1, *on, files=10)
        assert not (await counted(scene, chunks[-1].id, proves=True)).short
        assert not scene.others.vouched

    tell(story)


def test_this_node_reads_its_own_copies_too() -> None:
    async def story(scene: Scene) -> None:
        chunks = await scene.commit(1, "a:1", B, D, files=10)
        scene.store.damage(chunks[5].id)
        known = await counted(scene, chunks[-1].id, proves=True)
        assert [(one, copies.holders) for one, copies in known.short.items()] == [(chunks[5].id, (2,))]

    tell(story)
