"""The membership service: any node takes a change, the leader makes it, and copies come before a farewell."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest
from google.protobuf.message import Message

from mcr.errors import FailedError, InvalidArgumentError, MemberNotFoundError, NoQuorumError, UnavailableError
from mcr.model import LogIndex
from mcr.v1 import admin_pb2 as pb
from mcr_node.core.members import Member
from mcr_node.services.edge import snake
from mcr_node.services.membership import MembershipService
from tests.support.log_clusters import Cluster, join, leader_of, memory_cluster

Response = TypeVar("Response", bound=Message)
STORY_S_MAX = 30.0


class Edges:
    """`services.colleagues.Colleagues`: the services of all nodes, called in this process."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.services: dict[int, MembershipService] = {}
        # Whose copies were seen to.
        self.kept: list[int] = []
        # Of whom it was asked whether they hold what nobody else has.
        self.checked: list[int] = []
        for node_id in cluster.nodes:
            self.serve(node_id)

    def serve(self, node_id: int) -> None:
        log = self._cluster.nodes[node_id]
        self.services[node_id] = MembershipService(
            log,
            self,
            cluster_id=b"cluster",
            encoding="raw",
            keep_all=self._keep,
            check_dispensable=self._check,
        )

    async def _keep(self, leaving: int) -> None:
        # It is a member for as long as it may be asked for what it holds.
        assert leaving in leader_of(self._cluster).membership.ids()
        self.kept.append(leaving)

    async def _check(self, member: Member) -> None:
        self.checked.append(member.node_id)

    async def store_status(self, address: str) -> pb.GetStoreStatusResponse:
        raise UnavailableError(address, "nobody asks how it does here")

    async def admin(
        self,
        address: str,
        rpc: str,
        request: Message,
        kind: type[Response],
        *,
        timeout_s: float | None = None,
    ) -> Response:
        service = self.services[int(address.rpartition(":")[2])]
        verb: dict[str, Callable[[Message], Awaitable[Message]]] = {
            "add_member": service.add,  # type: ignore[dict-item]  # each takes the message of its rpc
            "remove_member": service.remove,  # type: ignore[dict-item]
            "promote_member": service.promote,  # type: ignore[dict-item]
            "transfer_leadership": service.transfer,  # type: ignore[dict-item]
        }
        response = await verb[snake(rpc)](request)
        assert isinstance(response, kind)
        return response


def tell(story: Callable[[Cluster, Edges], Awaitable[None]], *, size: int = 3) -> None:
    async def told() -> None:
        async with asyncio.timeout(STORY_S_MAX), memory_cluster(size) as cluster:
            await story(cluster, Edges(cluster))

    asyncio.run(told())


def followers(cluster: Cluster) -> list[int]:
    return [node_id for node_id, log in cluster.nodes.items() if not log.is_leader]


def test_a_change_asked_of_a_follower_is_made_by_the_leader() -> None:
    async def story(cluster: Cluster, edges: Edges) -> None:
        cluster.start(9)
        asked = edges.services[followers(cluster)[0]]
        added = await asked.add(pb.AddMemberRequest(node_id=9, name="n9", address="host:9"))
        assert (added.cluster_id, added.encoding) == (b"cluster", "raw")
        assert leader_of(cluster).membership.conf.learners == (9,)
        await asked.promote(pb.PromoteMemberRequest(name="n9"))
        assert 9 in leader_of(cluster).membership.conf.voters
        await asked.remove(pb.RemoveMemberRequest(name="n9"))
        assert 9 not in leader_of(cluster).membership.ids()

    tell(story)


def test_a_change_that_was_handed_on_once_is_not_handed_on_again() -> None:
    async def story(cluster: Cluster, edges: Edges) -> None:
        asked = edges.services[followers(cluster)[0]]
        with pytest.raises(NoQuorumError, match="the leader is changing"):
            await asked.remove(pb.RemoveMemberRequest(name="n1", handed_on=True))

    tell(story)


def test_a_leader_that_is_to_go_hands_over_and_is_removed_by_the_next() -> None:
    async def story(cluster: Cluster, edges: Edges) -> None:
        await join(cluster, 4)
        edges.serve(4)
        former = leader_of(cluster).node_id
        await edges.services[former].remove(pb.RemoveMemberRequest(name=f"n{former}"))
        left = next(log for node_id, log in cluster.nodes.items() if node_id != former and log.is_leader)
        assert former not in left.membership.ids()
        assert edges.kept == [former]

    tell(story)


def test_copies_are_kept_before_a_node_leaves_unless_it_is_forced_out() -> None:
    async def story(cluster: Cluster, edges: Edges) -> None:
        first, second = followers(cluster)
        service = edges.services[leader_of(cluster).node_id]
        await service.remove(pb.RemoveMemberRequest(name=f"n{first}", force=True))
        assert (edges.kept, edges.checked) == ([], [first])
        await service.remove(pb.RemoveMemberRequest(name=f"n{second}"))
        assert (edges.kept, edges.checked) == ([second], [first])

    tell(story)


def test_the_last_voter_is_told_so_before_anything_is_copied() -> None:
    async def story(cluster: Cluster, edges: Edges) -> None:
        with pytest.raises(FailedError, match="last voter"):
            await edges.services[1].remove(pb.RemoveMemberRequest(name="n1"))
        assert edges.kept == []

    tell(story, size=1)


def test_leadership_goes_to_the_voter_named_or_to_some_other_one() -> None:
    async def story(cluster: Cluster, edges: Edges) -> None:
        target = followers(cluster)[-1]
        asked = edges.services[followers(cluster)[0]]
        told = await asked.transfer(pb.TransferLeadershipRequest(name=f"n{target}"))
        assert told.leader == f"n{target}"
        told = await asked.transfer(pb.TransferLeadershipRequest())
        assert told.leader not in ("", f"n{target}")

    tell(story)


def test_names_and_ids_that_make_no_sense_are_refused_by_whoever_is_asked() -> None:
    async def story(cluster: Cluster, edges: Edges) -> None:
        before = leader_of(cluster).membership
        for service in edges.services.values():
            for node_id in (0, 1 << 62):
                with pytest.raises(InvalidArgumentError, match="node_id"):
                    await service.add(pb.AddMemberRequest(node_id=node_id, name="n9"))
            with pytest.raises(MemberNotFoundError, match="n77"):
                await service.promote(pb.PromoteMemberRequest(name="n77"))
        assert leader_of(cluster).membership == before

    tell(story)


def test_a_learner_gets_its_vote_by_itself_once_it_has_caught_up() -> None:
    async def story(cluster: Cluster, edges: Edges) -> None:
        leader = leader_of(cluster)
        cluster.start(9)
        await edges.services[leader.node_id].add(pb.AddMemberRequest(node_id=9, name="n9"))
        promoting = [asyncio.create_task(service.promote_for_ever()) for service in edges.services.values()]
        promoted = LogIndex(leader.commit + 1)
        await leader.wait_applied(promoted)
        assert leader.membership.conf.voters == (1, 2, 3, 9)
        for task in promoting:
            task.cancel()
        await asyncio.wait(promoting)
        # Once, and by the leader alone.
        assert leader.commit == promoted

    tell(story)
