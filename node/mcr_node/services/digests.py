"""The leader has the nodes compare their states: it asks the voters, and logs what most of them say."""

import asyncio
from collections.abc import Mapping
from contextlib import suppress

from mcr.errors import McrError
from mcr.model import LogIndex, RequestId
from mcr.v1 import admin_pb2 as pb
from mcr_node.core.state.commands import CheckDigest
from mcr_node.core.state.digest import judge
from mcr_node.ports_log import ReplicatedLog
from mcr_node.services.colleagues import Colleagues

# How often a leader looks whether a comparison is due. The voters are asked no oftener than this.
LOOK_S = 0.25
# A voter that does not answer by then is counted as one that does not know.
ANSWER_S = 2.0
# The entry is committed by then, or the comparison is left to the next leader.
DECISION_S = 10.0
PRINCIPAL = "mcr"


class DigestChecks:
    """Comparisons of one cluster; every node has this, the leader's works."""

    def __init__(self, log: ReplicatedLog, colleagues: Colleagues | None) -> None:
        self._log = log
        self._colleagues = colleagues
        # Index at which the voters' states differ although no digest has a majority; 0 = at none.
        self.disputed = LogIndex(0)

    async def check_for_ever(self) -> None:
        """Leader: have the states compared whenever it is due."""
        while True:
            await asyncio.sleep(LOOK_S)
            if self._is_due():
                with suppress(McrError, TimeoutError):
                    await self._check()

    def _is_due(self) -> bool:
        log = self._log
        if not log.is_leader or len(log.membership.ids()) == 1:
            self.disputed = LogIndex(0)
            return False
        # While two configurations are in force, a majority is one of both; it does not last.
        is_joint = bool(log.membership.conf.voters_outgoing)
        known = log.digests.known
        return not is_joint and bool(known) and max(known) > log.digests.checked

    async def _check(self) -> None:
        log = self._log
        answers = await asyncio.gather(*map(self._ask, log.membership.conf.voters))
        verdict = judge(answers, log.digests.checked)
        if verdict.digest is None:
            self.disputed = verdict.index
            return
        self.disputed = LogIndex(0)
        command = CheckDigest(
            request_id=RequestId(b"digest %d" % verdict.index),
            principal=PRINCIPAL,
            at_ms=log.clock.now_ms(),
            index=verdict.index,
            digest=verdict.digest,
        )
        async with asyncio.timeout(DECISION_S):
            await log.propose(command)

    async def _ask(self, node_id: int) -> Mapping[LogIndex, bytes]:
        log = self._log
        if node_id == log.node_id:
            return log.digests.known
        member = log.membership.get(node_id)
        if member is None or self._colleagues is None:
            return {}
        with suppress(McrError, TimeoutError):
            async with asyncio.timeout(ANSWER_S):
                answer = await self._colleagues.admin(
                    member.address, "GetStateDigests", pb.GetStateDigestsRequest(), pb.GetStateDigestsResponse
                )
            return {LogIndex(one.index): one.digest for one in answer.digests}
        return {}
