"""The background work of a cluster, as a client sees and steers it: a part of `AsyncClient`."""

from mcr import _wire
from mcr.connection import Connection
from mcr.keeping import CollectionPlan, NodeCollection
from mcr.model import RepairPlan, WorkersAsked, WorkersReport
from mcr.v1 import admin_pb2 as admin


class UpkeepCalls:
    """The methods of `AsyncClient` about background work; it brings the connection."""

    _connection: Connection

    async def workers(self, name: str = "", *, member: str = "") -> WorkersReport:
        """Return how background work does.

        Args:
            name: `repair`, `scrub` or `gc`; "" = all kinds.
            member: name of the node; "" = all members.

        Raises:
            MemberNotFoundError: no member has that name.
            FailedError: it is an embedded store, which has no background of its own. There `start_worker` of
                `gc` collects the garbage, and returns when that is done.
        """
        answer = await self._connection.admin.list_workers(admin.ListWorkersRequest(name=name, member=member))
        return WorkersReport(
            tuple(_wire.worker_from_wire(worker) for worker in answer.workers), tuple(answer.silent)
        )

    async def start_worker(self, name: str, *, member: str = "", at_full_speed: bool = False) -> WorkersAsked:
        """End a pause and begin a run now, unless one is under way; returns at once.

        Of `repair`: whoever does not answer now is taken to be gone for good, as if it had been silent for
        long.

        Args:
            name: `repair`, `scrub` or `gc`.
            member: name of the node; "" = all members.
            at_full_speed: this run is not held back for other work.

        Raises:
            MemberNotFoundError, FailedError: see `workers`.
        """
        request = admin.StartWorkerRequest(name=name, member=member, at_full_speed=at_full_speed)
        answer = await self._connection.admin.start_worker(request)
        return WorkersAsked(tuple(answer.members), tuple(answer.silent))

    async def pause_worker(self, name: str, *, member: str = "") -> WorkersAsked:
        """Do no more of this work, until it is started or the node restarts.

        Args:
            name: `repair`, `scrub` or `gc`.
            member: name of the node; "" = all members.

        Raises:
            MemberNotFoundError, FailedError: see `workers`.
        """
        answer = await self._connection.admin.pause_worker(admin.PauseWorkerRequest(name=name, member=member))
        return WorkersAsked(tuple(answer.members), tuple(answer.silent))

    async def plan_repair(self, *, member: str = "") -> RepairPlan:
        """Return what a repair started now would copy; nothing is copied.

        Takes as long as looking through the manifests of all versions does.

        Args:
            member: name of the node whose share is meant; "" = of all members.

        Raises:
            MemberNotFoundError, FailedError: see `workers`.
        """
        answer = await self._connection.admin.plan_repair(admin.PlanRepairRequest(member=member))
        return RepairPlan(answer.chunks, answer.bytes_total, answer.chunks_lost, tuple(answer.silent))

    async def plan_collection(self, *, member: str = "") -> CollectionPlan:
        """Return what garbage collection would take if it swept now; nothing is taken.

        Takes as long as looking through the manifests of all versions does.

        Args:
            member: name of the node; "" = all members.

        Raises:
            MemberNotFoundError: no member has that name.
            MissingChunkError, UnavailableError: a manifest cannot be had, so it cannot be told.
        """
        answer = await self._connection.admin.plan_collection(admin.PlanCollectionRequest(member=member))
        return CollectionPlan(
            tuple(
                NodeCollection(
                    node.member,
                    node.chunks,
                    node.bytes_total,
                    node.chunks_deleted,
                    node.bytes_deleted,
                    node.chunks_waiting,
                    node.bytes_waiting,
                    node.bytes_dead,
                    tuple(node.versions),
                )
                for node in answer.nodes
            ),
            tuple(answer.silent),
        )
