"""A walk through all versions whose bytes must have their copies, for work that looks at each of them."""

from collections.abc import AsyncGenerator
from functools import partial

from mcr.model import Version
from mcr_node.core.state import trash_queries
from mcr_node.ports_log import ReplicatedLog

PAGE_MAX = 100


async def all_models(log: ReplicatedLog) -> dict[str, int]:
    """Return how many versions each model ever had, deleted ones too, by its name."""
    found: dict[str, int] = {}
    after = ""
    while page := await log.run(partial(trash_queries.all_models, log.view(), after=after, limit=PAGE_MAX)):
        found |= dict(page)
        after = page[-1][0]
    return found


async def versions_of(log: ReplicatedLog, model: str, *, after: int = 0) -> AsyncGenerator[Version]:
    """Yield those versions of a greater number than `after` whose bytes are kept, the newest first."""
    before: int | None = None
    while before != 0:
        page, before = await log.run(
            partial(trash_queries.versions_kept, log.view(), model, before=before, limit=PAGE_MAX)
        )
        for version in page:
            if version.number <= after:
                return
            yield version
