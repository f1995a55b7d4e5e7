"""Who belongs to a cluster, as a client changes it: a part of `AsyncClient`."""

from collections.abc import Callable

from mcr.addresses import parse_address
from mcr.arrangement import DrainProgress
from mcr.connection import Connection
from mcr.layout import LayoutCalls
from mcr.references import check_name
from mcr.v1 import admin_pb2 as admin


class MembershipCalls(LayoutCalls):
    """The methods of `AsyncClient` that change the members; it brings the connection."""

    _connection: Connection

    async def add_member(self, name: str, address: str, *, site: str = "") -> None:
        """Keep a place for a node that is started later with `--join`, under this name and address.

        Until then it is a learner that is awaited: it counts for no majority and holds no copies. To repeat
        it does no harm.

        Args:
            name: of the node.
            address: where it will listen, `host:port`, as the others reach it.
            site: where it stands; may be empty.

        Raises:
            AlreadyExistsError: another node has the name or the address.
            NoQuorumError: no majority decided in time.
        """
        check_name("node", name)
        request = admin.AddMemberRequest(
            name=name, address=str(parse_address("--address", address)), site=site, awaited=True
        )
        await self._connection.admin.add_member(request)

    async def replace_member(self, old: str, new: str, *, patience_s: float = 0) -> None:
        """Remove node `old` once `new`, which has joined, is a voter that has caught up.

        What `old` alone held is copied first. When this fails `old` is still a member, and the same call goes
        on where it stopped.

        Args:
            old: name of the node that leaves.
            new: name of the node that takes its place.
            patience_s: how long to wait for `new`; 0 = a minute.

        Raises:
            InvalidArgumentError: both are the same.
            MemberNotFoundError: no member has one of the names.
            FailedError: `new` did not catch up in time, or another replacement is under way.
            NoQuorumError: no majority decided in time.
        """
        request = admin.ReplaceMemberRequest(name=old, by=new, patience_ms=round(1000 * patience_s))
        await self._connection.admin.replace_member(request)

    async def remove_member(
        self,
        name: str,
        *,
        force: bool = False,
        accept_loss: bool = False,
        progress: Callable[[DrainProgress], None] | None = None,
    ) -> None:
        """Remove a node from the cluster; its process goes on until it is stopped, without a say.

        Without `force` it is drained first; see `drain_member`.

        Args:
            name: of the node.
            force: although it cannot hand over what it holds.
            accept_loss: with `force`, also where chunks are lost with it.
            progress: called now and then while it is drained.

        Raises:
            MemberNotFoundError: no member has that name.
            FailedError: it is the last voter.
            LastCopyError: with `force`: some chunks may be on it alone.
            NoQuorumError: no majority decided in time; look at `cluster_status` before repeating.
        """
        if not force:
            await self.drain_member(name, progress=progress)
        await self._connection.admin.remove_member(
            admin.RemoveMemberRequest(name=name, force=force, accept_loss=accept_loss)
        )

    async def promote_member(self, name: str) -> None:
        """Give a learner a vote now, rather than when it has caught up; done already for a voter.

        Raises:
            MemberNotFoundError: no member has that name.
            NoQuorumError: no majority decided in time.
        """
        await self._connection.admin.promote_member(admin.PromoteMemberRequest(name=name))

    async def transfer_leadership(self, name: str = "") -> str:
        """Let another voter lead: `name`, or the one that lacks least; return the leader's name.

        Raises:
            MemberNotFoundError: no member has that name.
            FailedError: it has no vote, or there is no other voter.
            NoQuorumError: it did not take over in time; the old leader leads on.
        """
        answer = await self._connection.admin.transfer_leadership(admin.TransferLeadershipRequest(name=name))
        return answer.leader
