"""The leader has policies decide what no report decides: that reports are missing, or what was put off.

It only proposes. Applying the command checks again, and a decision is one for a generation of the channel or
branch; so it does no harm when two nodes take themselves for the leader, or one dies and the next one
proposes the same.
"""

import asyncio
import secrets
from contextlib import suppress

from mcr.errors import McrError
from mcr.model import RequestId
from mcr.values import dataclass
from mcr_node.core.state import policy_keys, watching
from mcr_node.core.state.commands import Settle
from mcr_node.core.state.view import View
from mcr_node.ports_log import ReplicatedLog

# How often the leader looks. What was put off waits for this long at most; a policy of missing reports is in
# no hurry at all.
LOOK_S = 0.25
# Looked at in one turn; the next turn goes on behind them. A few reads each.
POLICIES_PER_TURN = 500
# The entry is committed by then, or it is left to the next turn.
DECISION_S = 10.0
REQUEST_ID_BYTES = 16
PRINCIPAL = "mcr"
MISSING, PUT_OFF = b"Km", b"Kd"


@dataclass(frozen=True, slots=True)
class _Due:
    model: str
    policy: str
    generation: int


class Settling:
    """Every node has this, the leader's works."""

    def __init__(self, log: ReplicatedLog) -> None:
        self._log = log
        self._after = {MISSING: b"", PUT_OFF: b""}

    async def settle_for_ever(self) -> None:
        """Leader: have decided what is due, whenever it is."""
        while True:
            await asyncio.sleep(LOOK_S)
            if self._log.is_leader:
                with suppress(McrError, TimeoutError):
                    await self.settle()

    async def settle(self) -> None:
        """Have decided what is due now.

        Raises:
            McrError, TimeoutError: the log took no proposal.
        """
        now_ms = self._log.clock.now_ms()
        for due in await self._log.run(lambda: self._due(self._log.view(), now_ms)):
            command = Settle(
                request_id=RequestId(secrets.token_bytes(REQUEST_ID_BYTES)),
                principal=PRINCIPAL,
                at_ms=now_ms,
                model=due.model,
                policy=due.policy,
                generation=due.generation,
            )
            async with asyncio.timeout(DECISION_S):
                # Whatever comes of it, the next turn looks again.
                await self._log.propose(command)

    def _due(self, view: View, now_ms: int) -> list[_Due]:
        found: list[_Due] = []
        for family in (MISSING, PUT_OFF):
            rows = view.scan(*policy_keys.marks_after(family, self._after[family]))
            for looked_at, (key, _) in enumerate(rows, start=1):
                self._after[family] = key
                model, policy = policy_keys.policy_in(key)
                generation = watching.unsettled(view, model, policy, now_ms)
                if generation:
                    found.append(_Due(model, policy, generation))
                if looked_at == POLICIES_PER_TURN:
                    break
            else:
                self._after[family] = b""
        return found
