"""The background work of a node, and how an operator sees and steers that of all nodes."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from mcr.errors import FailedError, InvalidArgumentError, McrError, MemberNotFoundError
from mcr.v1 import admin_pb2 as pb
from mcr_node.core.members import Member
from mcr_node.ports_log import ReplicatedLog
from mcr_node.services.chunks import LocalChunks
from mcr_node.services.colleagues import Colleagues
from mcr_node.services.collecting import CollectionPlan, Collector
from mcr_node.services.damage import WatchedStore
from mcr_node.services.deadlines import time_left_s
from mcr_node.services.draining import Draining
from mcr_node.services.repair import Repair
from mcr_node.services.scrub import Scrub
from mcr_node.services.workers import State, Task, Worker

# How often it is looked whether the members changed; costs nothing.
MEMBERS_LOOK_S = 0.5
_STATES = {
    State.IDLE: pb.WORKER_STATE_IDLE,
    State.RUNNING: pb.WORKER_STATE_RUNNING,
    State.PAUSED: pb.WORKER_STATE_PAUSED,
}


class Upkeep:
    """The workers of one node."""

    def __init__(
        self,
        log: ReplicatedLog,
        store: WatchedStore,
        chunks: LocalChunks,
        repair: Repair,
        scrub: Scrub,
        draining: Draining,
        *others: Task,
        collector: Collector,
    ) -> None:
        self._log = log
        self._store = store
        self._chunks = chunks
        self.repair = repair
        self.draining = draining
        self.collector = collector
        tasks: tuple[Task, ...] = (repair, scrub, draining, *others, collector)
        self.workers = {task.name: Worker(task, log.clock) for task in tasks}

    async def work_for_ever(self, bug: Callable[[str, Exception], None]) -> None:
        """Do all of it; ended by cancelling it."""
        async with asyncio.TaskGroup() as group:
            for worker in self.workers.values():
                group.create_task(worker.work_for_ever(bug))
            group.create_task(self._watch_members())

    async def _watch_members(self) -> None:
        """Let repair look at once when the members change, and often while somebody leaves: people wait."""
        seen_epoch = 0
        while True:
            await asyncio.sleep(MEMBERS_LOOK_S)
            membership = self._log.membership
            if membership.epoch != seen_epoch or membership.leaving:
                seen_epoch = membership.epoch
                self.workers[self.repair.name].look()

    def describe(self, status: pb.GetStoreStatusResponse) -> None:
        """Put what was counted into the status of this node."""
        damage, repair = self._store.damage, self.repair
        status.chunks_damaged = damage.damaged
        status.chunks_healed = damage.healed
        status.chunks_unhealed = damage.unhealed
        status.chunks_under_replicated = repair.under_replicated
        status.chunks_lost = repair.lost
        status.lost = next(iter(repair.findings()), "")
        counts = repair.counts()
        status.chunks_copied = counts["chunks_copied"]
        status.bytes_copied = counts["bytes_copied"]
        self._chunks.describe(status)
        collected = self.collector.counts()
        status.gc_round = collected["round"]
        status.chunks_swept, status.bytes_swept = collected["chunks_swept"], collected["bytes_swept"]
        status.bytes_given_back = collected["bytes_given_back"]
        worker = self.workers[self.collector.name].status
        status.gc_problem = worker.error if self.collector.is_stuck else ""


class UpkeepService:
    """The rpcs of mcr.v1.AdminService about background work, for one node or all of them."""

    def __init__(
        self,
        log: ReplicatedLog,
        colleagues: Colleagues | None,
        upkeep: Upkeep | None,
        my_name: Callable[[], str],
        collector: Collector | None = None,
    ) -> None:
        """Serve the workers of this node; None = it has none, being an embedded store.

        Garbage is collected there too, when somebody asks for it: by `collector`.
        """
        self._log = log
        self._colleagues = colleagues
        self._upkeep = upkeep
        self._my_name = my_name
        self._collector = collector

    def _mine(self) -> Upkeep:
        if self._upkeep is None:
            raise FailedError(
                "background work", "an embedded store has none; run mcr doctor, or serve it as a node"
            )
        return self._upkeep

    def _worker(self, name: str) -> Worker:
        workers = self._mine().workers
        if name not in workers:
            raise InvalidArgumentError("name", f"{name!r} is not one of {', '.join(workers)}")
        return workers[name]

    async def list_all(self, request: pb.ListWorkersRequest) -> pb.ListWorkersResponse:
        """Say how the workers do."""
        workers = [self._worker(request.name)] if request.name else list(self._mine().workers.values())
        found = pb.ListWorkersResponse()

        async def ask(member: Member, colleagues: Colleagues) -> None:
            asked = pb.ListWorkersRequest(name=request.name, handed_on=True)
            answer = await colleagues.admin(member.address, "ListWorkers", asked, pb.ListWorkersResponse)
            found.workers.extend(answer.workers)

        is_meant, silent = await self._ask_all(request.member, request.handed_on, ask)
        if is_meant:
            found.workers.extend(_described(self._my_name(), worker) for worker in workers)
        found.workers.sort(key=lambda worker: (worker.member, worker.name))
        found.silent.extend(silent)
        return found

    async def start(self, request: pb.StartWorkerRequest) -> pb.StartWorkerResponse:
        """Let workers run now."""
        if self._upkeep is None and self._collector is not None and request.name == self._collector.name:
            await self._collector.collect_now()
            return pb.StartWorkerResponse(members=[self._my_name()])
        worker = self._worker(request.name)
        found = pb.StartWorkerResponse()

        async def ask(member: Member, colleagues: Colleagues) -> None:
            asked = pb.StartWorkerRequest(
                name=request.name, at_full_speed=request.at_full_speed, handed_on=True
            )
            await colleagues.admin(member.address, "StartWorker", asked, pb.StartWorkerResponse)
            found.members.append(member.name)

        is_meant, silent = await self._ask_all(request.member, request.handed_on, ask)
        if is_meant:
            worker.start(at_full_speed=request.at_full_speed)
            found.members.append(self._my_name())
        found.members.sort()
        found.silent.extend(silent)
        return found

    async def pause(self, request: pb.PauseWorkerRequest) -> pb.PauseWorkerResponse:
        """Let workers rest."""
        worker = self._worker(request.name)
        found = pb.PauseWorkerResponse()

        async def ask(member: Member, colleagues: Colleagues) -> None:
            asked = pb.PauseWorkerRequest(name=request.name, handed_on=True)
            await colleagues.admin(member.address, "PauseWorker", asked, pb.PauseWorkerResponse)
            found.members.append(member.name)

        is_meant, silent = await self._ask_all(request.member, request.handed_on, ask)
        if is_meant:
            worker.pause()
            found.members.append(self._my_name())
        found.members.sort()
        found.silent.extend(silent)
        return found

    async def plan(self, request: pb.PlanRepairRequest) -> pb.PlanRepairResponse:
        """Say what a repair would copy."""
        repair = self._mine().repair
        found = pb.PlanRepairResponse()

        async def ask(member: Member, colleagues: Colleagues) -> None:
            answer = await colleagues.admin(
                member.address,
                "PlanRepair",
                pb.PlanRepairRequest(handed_on=True),
                pb.PlanRepairResponse,
                # All that it looks after is looked through: as long as the caller waits.
                timeout_s=time_left_s(),
            )
            found.chunks += answer.chunks
            found.bytes_total += answer.bytes_total
            found.chunks_lost += answer.chunks_lost

        is_meant, silent = await self._ask_all(request.member, request.handed_on, ask)
        if is_meant:
            plan = await repair.plan()
            found.chunks += plan.chunks
            found.bytes_total += plan.bytes_total
            found.chunks_lost += plan.lost
        found.silent.extend(silent)
        return found

    async def plan_collection(self, request: pb.PlanCollectionRequest) -> pb.PlanCollectionResponse:
        """Say what a garbage collection would take, node by node."""
        found = pb.PlanCollectionResponse()
        collector = self._collector
        assert collector is not None, "every node and store has one"

        async def ask(member: Member, colleagues: Colleagues) -> None:
            answer = await colleagues.admin(
                member.address,
                "PlanCollection",
                pb.PlanCollectionRequest(handed_on=True),
                pb.PlanCollectionResponse,
                timeout_s=time_left_s(),
            )
            found.nodes.extend(answer.nodes)

        is_meant, silent = await self._ask_all(request.member, request.handed_on, ask)
        if is_meant:
            found.nodes.append(_planned(self._my_name(), await collector.plan()))
        found.nodes.sort(key=lambda node: node.member)
        found.silent.extend(silent)
        return found

    async def _ask_all(
        self, name: str, handed_on: bool, ask: Callable[[Member, Colleagues], Awaitable[None]]
    ) -> tuple[bool, list[str]]:
        """Ask the other nodes that are meant.

        Args:
            name: of the only one; empty = all members.
            handed_on: this node alone is meant.
            ask: asks one.

        Returns:
            Whether this node is meant too, and the names of members that did not answer.

        Raises:
            MemberNotFoundError: no member has that name.
            McrError: the only one that is meant does not answer.
        """
        if handed_on:
            return True, []
        if name and name != self._my_name() and self._log.membership.named(name) is None:
            raise MemberNotFoundError(name)
        others = [
            member
            for member in self._log.membership.members
            if member.node_id != self._log.node_id and name in ("", member.name)
        ]
        is_meant = name in ("", self._my_name())
        colleagues = self._colleagues
        if colleagues is None:
            return is_meant, []

        async def tried(member: Member) -> McrError | None:
            try:
                await ask(member, colleagues)
            except McrError as error:
                return error
            return None

        answers = await asyncio.gather(*map(tried, others))
        if name and (error := next(iter(answers), None)) is not None:
            raise error
        return is_meant, _names(others, answers)


def _names(members: Sequence[Member], answers: Sequence[McrError | None]) -> list[str]:
    return sorted(member.name for member, error in zip(members, answers, strict=True) if error is not None)


def _planned(member: str, plan: CollectionPlan) -> pb.NodeCollection:
    return pb.NodeCollection(
        member=member,
        chunks=plan.chunks,
        bytes_total=plan.bytes_total,
        chunks_deleted=plan.chunks_deleted,
        bytes_deleted=plan.bytes_deleted,
        chunks_waiting=plan.chunks_waiting,
        bytes_waiting=plan.bytes_waiting,
        bytes_dead=plan.bytes_dead,
        versions=plan.versions,
    )


def _described(member: str, worker: Worker) -> pb.Worker:
    status = worker.status
    return pb.Worker(
        member=member,
        name=status.name,
        state=_STATES[status.state],
        doing=status.step.doing,
        done=status.step.done,
        total=status.step.total,
        runs=status.runs,
        started_ms=status.started_ms,
        ended_ms=status.ended_ms,
        error=status.error,
        counts=[pb.WorkerCount(name=name, value=value) for name, value in worker.task.counts().items()],
        findings=worker.task.findings(),
    )
