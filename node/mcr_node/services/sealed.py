"""What counts on chunks is entered in the log: sealed first, and again where garbage was marked meanwhile."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from mcr.durability import Durability
from mcr.errors import SealOutdatedError
from mcr.model import ChunkId
from mcr_node.services.chunks import LocalChunks
from mcr_node.services.sealing import Content

Result = TypeVar("Result")
# Marks are an interval apart, so the second try meets another one only by a hair. The others are for nodes
# that hear of the mark a little later: what they promise in the round before is not enough.
TRIES_MAX = 8
AGAIN_S_MIN, AGAIN_S_MAX = 0.02, 1.0


async def seal_and_enter(
    chunks: LocalChunks,
    manifest: ChunkId,
    enter: Callable[[Content], Awaitable[Result]],
    *,
    durability: Durability | None = None,
) -> Result:
    """Seal a manifest, then do what counts on it.

    Args:
        chunks: of this node.
        manifest: its root.
        enter: puts into the log what names the round of the content it is given.
        durability: see `LocalChunks.seal`.

    Raises:
        SealOutdatedError: some node does not hear of the last mark; nothing was entered, repeat it later.
        MissingChunkError, DurabilityError: see `LocalChunks.seal`.
    """
    wait_s = AGAIN_S_MIN
    for tries_left in range(TRIES_MAX - 1, -1, -1):
        content = await chunks.seal(manifest, durability=durability)
        try:
            return await enter(content)
        except SealOutdatedError:
            if not tries_left:
                raise
        await asyncio.sleep(wait_s)
        wait_s = min(2 * wait_s, AGAIN_S_MAX)
    raise AssertionError("the last try returns or raises")
