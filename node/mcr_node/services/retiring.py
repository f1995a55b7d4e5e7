"""What goes by retention rules: the decision over all versions of a model, page by page, and its execution.

`Retiring` is the worker that does so from time to time, on the node that leads.
"""

import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from functools import partial

from mcr.errors import ConflictError, NotFoundError
from mcr.model import LogIndex, RequestId
from mcr.retention_rules import BranchRules, RetentionRules, Verdict
from mcr.values import dataclass
from mcr_node.core.state import retention, retention_queries
from mcr_node.core.state.outcomes import Accepted, DeletedResult, Rejected
from mcr_node.core.state.retention_commands import RetireVersions
from mcr_node.core.state.retention_decision import Candidate, Decision, metrics_asked
from mcr_node.core.state.trash import DELETIONS_MAX
from mcr_node.ports import Clock
from mcr_node.ports_log import ReplicatedLog
from mcr_node.services.pace import RETENTION_PERIOD_S
from mcr_node.services.workers import Step

# Looked at in one step on the thread that reads the state: some ten milliseconds.
VERSIONS_AT_ONCE = 256
LOOK_S = 5.0
# A decision reads records, which cost far less than this; it is held back by its pages.
BYTES_PER_S = 1e9
REQUEST_ID_BYTES = 16
PRINCIPAL = "node:retention"


async def verdicts(
    log: ReplicatedLog, model: str, rules: Mapping[str, RetentionRules]
) -> AsyncGenerator[list[Verdict]]:
    """Yield what becomes of each version, newest first, a page at a time.

    Raises:
        ModelNotFoundError: there is no such model.
    """
    decision = Decision(rules, now_ms=log.clock.now_ms())
    metrics = metrics_asked(rules)
    if metrics:
        async for page in _pages(log, model, metrics, with_uses=False):
            for candidate in page:
                decision.survey(candidate)
    async for page in _pages(log, model, (), with_uses=True):
        yield [decision.verdict(candidate) for candidate in page]


async def _pages(
    log: ReplicatedLog, model: str, metrics: tuple[str, ...], *, with_uses: bool
) -> AsyncIterator[list[Candidate]]:
    before = 0
    while True:
        read = partial(
            retention_queries.candidates,
            log.view(),
            model,
            before=before,
            limit=VERSIONS_AT_ONCE,
            metrics=metrics,
            with_uses=with_uses,
        )
        page, before = await log.run(read)
        yield page
        if not before:
            return


@dataclass(frozen=True, slots=True)
class Retired:
    """What went: numbers, ascending, and the log index of the last deletion; 0 = nothing went."""

    numbers: tuple[int, ...]
    index: LogIndex


async def retire(log: ReplicatedLog, model: str, principal: str) -> Retired:
    """Decide, and put what goes into the trash.

    Raises:
        ModelNotFoundError: there is no such model.
        HeadMovedError: the rules were changed meanwhile.
    """
    branches = await log.run(partial(retention.rules_of_model, log.view(), model))
    if not branches:
        return Retired((), LogIndex(0))
    by_branch = {branch.branch: branch for branch in branches}
    going: dict[str, list[int]] = {}
    async for page in verdicts(log, model, {branch.branch: branch.rules for branch in branches}):
        for verdict in page:
            if verdict.goes:
                owner = verdict.branch if verdict.branch in by_branch else ""
                going.setdefault(owner, []).append(verdict.number)
    gone: list[int] = []
    index = LogIndex(0)
    for owner, numbers in going.items():
        ascending = sorted(numbers)
        for start in range(0, len(ascending), DELETIONS_MAX):
            chosen = tuple(ascending[start : start + DELETIONS_MAX])
            accepted = await _propose(log, model, by_branch[owner], chosen, principal)
            assert isinstance(accepted.result, DeletedResult)
            gone += accepted.result.numbers
            index = max(index, accepted.index)
    return Retired(tuple(sorted(gone)), index)


async def _propose(
    log: ReplicatedLog, model: str, rules: BranchRules, numbers: tuple[int, ...], principal: str
) -> Accepted:
    outcome = await log.propose(
        RetireVersions(
            request_id=RequestId(secrets.token_bytes(REQUEST_ID_BYTES)),
            principal=principal,
            at_ms=log.clock.now_ms(),
            model=model,
            branch=rules.branch,
            generation=rules.generation,
            numbers=numbers,
        )
    )
    match outcome:
        case Rejected():
            raise outcome.error()
        case Accepted():
            return outcome


class Retiring:
    """`services.workers.Task`: retention of the whole cluster, on the node that leads."""

    name = "retention"
    look_s = LOOK_S
    bytes_per_s = BYTES_PER_S

    def __init__(self, log: ReplicatedLog, clock: Clock, *, period_s: float = RETENTION_PERIOD_S) -> None:
        self._log = log
        self._clock = clock
        self._period_s = period_s
        self._last_ns = clock.monotonic_ns()
        self._models = self._versions = 0

    async def is_due(self) -> bool:
        """See Task."""
        if not self._log.is_leader:
            return False
        return self._clock.monotonic_ns() - self._last_ns >= self._period_s * 1e9

    async def run(self, *, asked: bool) -> AsyncGenerator[Step]:
        """See Task. Asked for on a node that does not lead, it runs there: no harm in two that do."""
        del asked
        self._last_ns = self._clock.monotonic_ns()
        after, done = "", 0
        while model := await self._after(after):
            try:
                retired = await retire(self._log, model, PRINCIPAL)
                self._versions += len(retired.numbers)
            except (ConflictError, NotFoundError):
                # Rules that change just now, or a model that goes, are looked at the next time.
                pass
            after, done = model, done + 1
            self._models += 1
            yield Step("models looked at", done, 0, 0)

    async def _after(self, name: str) -> str | None:
        return await self._log.run(partial(retention.model_with_rules_after, self._log.view(), name))

    def counts(self) -> Mapping[str, int]:
        """See Task."""
        return {"models_looked_at": self._models, "versions_retired": self._versions}

    def findings(self) -> list[str]:
        """See Task."""
        return []
