"""A walk through all whose bytes must have their copies: versions, and what was put into open sessions."""

from collections.abc import AsyncGenerator, AsyncIterable
from functools import partial

from mcr.model import ChunkId
from mcr.values import dataclass
from mcr_node.core.state import session_queries, trash_queries
from mcr_node.ports_log import ReplicatedLog

PAGE_MAX = 100
# Between a model and a session of it; no name has it.
_SESSION = "#"


@dataclass(frozen=True, slots=True)
class Kept:
    """One manifest whose bytes are kept.

    Attributes:
        name: the version or the part, for people.
    """

    name: str
    manifest: ChunkId


async def all_models(log: ReplicatedLog) -> dict[str, int]:
    """Return how many versions each model ever had, deleted ones too, by its name.

    An open session counts as a model of its own, and its parts as versions.
    """
    found: dict[str, int] = {}
    after = ""
    while page := await log.run(partial(trash_queries.all_models, log.view(), after=after, limit=PAGE_MAX)):
        found |= dict(page)
        after = page[-1][0]
    for one in await log.run(partial(session_queries.open_sessions, log.view())):
        found[f"{one.model}{_SESSION}{one.session}"] = one.part_count
    return found


async def versions_of(log: ReplicatedLog, model: str, *, after: int = 0) -> AsyncGenerator[Kept]:
    """Yield those versions of a greater number than `after` whose bytes are kept, the newest first.

    Parts have no order in which they came: all of them, if there are more than `after`.
    """
    if _SESSION in model:
        async for part in _parts_of(log, *model.split(_SESSION, 1), after=after):
            yield part
        return
    before: int | None = None
    while page := await log.run(
        partial(trash_queries.contents, log.view(), model, before=before, limit=PAGE_MAX)
    ):
        for found in page:
            if found.number <= after:
                return
            # Nobody misses what of a version that was given up cannot be found any more.
            if not found.is_purged:
                yield Kept(f"{model}@v{found.number}", found.manifest)
        before = page[-1].number


async def _parts_of(log: ReplicatedLog, model: str, session: str, *, after: int) -> AsyncGenerator[Kept]:
    opened = await log.run(partial(session_queries.open_sessions, log.view()))
    serial = next((one.serial for one in opened if (one.model, one.session) == (model, session)), None)
    if serial is None or all(one.part_count <= after for one in opened if one.serial == serial):
        # It ended, or has nothing new.
        return
    path = b""
    while page := await log.run(
        partial(session_queries.list_parts, log.view(), serial, after=path, limit=PAGE_MAX)
    ):
        for part in page:
            yield Kept(f"part {part.name} of session {session} of {model}", ChunkId(part.row.manifest))
        path = page[-1].path


async def in_batches(versions: AsyncIterable[Kept], size: int) -> AsyncGenerator[tuple[Kept, ...]]:
    """Yield all of them, some at a time."""
    batch: list[Kept] = []
    async for version in versions:
        batch.append(version)
        if len(batch) == size:
            yield tuple(batch)
            batch = []
    if batch:
        yield tuple(batch)
