"""Who belongs to the cluster: raft's configuration of ids and votes, and where each node is to be found.

Both stand in one record, which changes with one log entry, so that no node ever knows a voter without an
address. The entry is a membership change of raft; what the state needs to know rides along as its context.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, cast

from mcr import canonical
from mcr.canonical import CanonicalValue
from mcr.errors import AlreadyExistsError, FailedError, InvalidArgumentError, MemberNotFoundError
from mcr_node.core.raft.messages import ConfState

# Far above what one raft group is good for; bounds what a hostile or broken context can make us keep.
MEMBERS_MAX: Final = 256
NAME_BYTES_MAX: Final = 96
ADDRESS_BYTES_MAX: Final = 512


@dataclass(frozen=True, slots=True)
class Member:
    """One node.

    Attributes:
        node_id: for the life of its data; a node that lost its data gets another.
        name: as people call it, one of its kind in the cluster.
        address: `host:port` of its gRPC edge; empty for a store that nobody serves.
        site: where it stands; copies are spread over sites.
        capacity_bytes: how much it may hold; 0 = whatever its disk has.
        awaited: it was added by a person and has not been started yet.
    """

    node_id: int
    name: str
    address: str = ""
    site: str = ""
    capacity_bytes: int = 0
    awaited: bool = False


@dataclass(frozen=True, slots=True)
class Membership:
    """The members as of one log index.

    Attributes:
        conf: who votes and who learns.
        members: sorted by id; one for each id in `conf`, once it was told.
    """

    conf: ConfState = field(default_factory=ConfState)
    members: tuple[Member, ...] = ()

    def get(self, node_id: int) -> Member | None:
        """Return the member of an id."""
        return next((member for member in self.members if member.node_id == node_id), None)

    def named(self, name: str) -> Member | None:
        """Return the member of a name."""
        return next((member for member in self.members if member.name == name), None)

    def ids(self) -> tuple[int, ...]:
        """Return every id of the configuration, sorted."""
        conf = self.conf
        found = {*conf.voters, *conf.learners, *conf.voters_outgoing, *conf.learners_next}
        return tuple(sorted(found))

    def decides_alone(self, node_id: int) -> bool:
        """Say whether a node is the only one with a vote."""
        return self.conf.voters == (node_id,) and not self.conf.voters_outgoing

    def name_of(self, node_id: int) -> str:
        """Return the name of a node.

        Raises:
            MemberNotFoundError: it is no member.
        """
        member = self.get(node_id)
        if member is None and node_id not in self.ids():
            raise MemberNotFoundError(str(node_id))
        return str(node_id) if member is None else member.name

    def check_added(self, member: Member) -> None:
        """Refuse a node that the members could not be told from another.

        Raises:
            AlreadyExistsError: another node has its name.
        """
        namesake = self.named(member.name)
        if namesake is not None and namesake.node_id != member.node_id:
            raise AlreadyExistsError("node", member.name, "another node of the cluster has that name")

    def check_removed(self, node_id: int) -> None:
        """Refuse a removal after which nobody could decide anything.

        Raises:
            MemberNotFoundError: it is no member.
            FailedError: it is the last voter.
        """
        name = self.name_of(node_id)
        if self.conf.voters == (node_id,):
            raise FailedError(
                f"removing {name}", "it is the last voter; promote another node first, or stop it"
            )

    def check_leading(self, node_id: int) -> None:
        """Refuse a leader that could not be one.

        Raises:
            MemberNotFoundError: it is no member.
            FailedError: it has no vote.
        """
        name = self.name_of(node_id)
        if node_id not in self.conf.voters:
            raise FailedError(f"leadership of {name}", "it has no vote; promote it first")

    def after(self, conf: ConfState, told: Iterable[Member]) -> "Membership":
        """Return the membership under a new configuration, knowing what the change told of its nodes."""
        known = {member.node_id: member for member in self.members} | {one.node_id: one for one in told}
        kept = Membership(conf).ids()
        return Membership(conf, tuple(known[node_id] for node_id in kept if node_id in known))

    def describe(self, member: Member) -> "Membership":
        """Return the membership with other news of a node that is in it."""
        return replace(self, members=self.after(self.conf, [member]).members)


def encode_context(members: Iterable[Member]) -> bytes:
    """Return what a membership change tells of nodes, for `ConfChangeV2.context`."""
    return canonical.encode([_member_to(member) for member in members])


def decode_context(context: bytes) -> tuple[Member, ...]:
    """Return what a membership change tells of nodes.

    Raises:
        InvalidArgumentError: it is no such context; the same on every node, so nothing is told then.
    """
    if not context:
        return ()
    try:
        rows = canonical.decode(context)
        if not isinstance(rows, list) or len(rows) > MEMBERS_MAX:
            raise ValueError("it is no list of members")
        return tuple(_member_from(row) for row in rows)
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidArgumentError("context", str(error)) from error


def encode_membership(membership: Membership) -> bytes:
    """Return the canonical bytes of a membership, as they stand in the state store."""
    conf = membership.conf
    return canonical.encode(
        {
            "voters": list(conf.voters),
            "learners": list(conf.learners),
            "voters_outgoing": list(conf.voters_outgoing),
            "learners_next": list(conf.learners_next),
            "auto_leave": conf.auto_leave,
            "members": [_member_to(member) for member in membership.members],
        }
    )


def decode_membership(data: bytes) -> Membership:
    """Return a membership from the state store; empty bytes are an empty one.

    Raises:
        InvalidArgumentError: it is none.
    """
    if not data:
        return Membership()
    try:
        row = cast("Mapping[str, CanonicalValue]", canonical.decode(data))
        conf = ConfState(
            _ids(row["voters"]),
            _ids(row["learners"]),
            _ids(row["voters_outgoing"]),
            _ids(row["learners_next"]),
            bool(row["auto_leave"]),
        )
        rows = cast("list[CanonicalValue]", row["members"])
        return Membership(conf, tuple(_member_from(one) for one in rows))
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidArgumentError("membership", str(error)) from error


def _ids(value: CanonicalValue) -> tuple[int, ...]:
    return tuple(int(cast("int", one)) for one in cast("list[CanonicalValue]", value))


def _member_to(member: Member) -> dict[str, CanonicalValue]:
    row: dict[str, CanonicalValue] = {
        "id": member.node_id,
        "name": member.name,
        "address": member.address,
        "site": member.site,
        "capacity_bytes": member.capacity_bytes,
    }
    # Only where it says something, so that the bytes of all others stay what they were.
    return row | {"awaited": True} if member.awaited else row


def _member_from(value: CanonicalValue) -> Member:
    row = cast("Mapping[str, CanonicalValue]", value)
    member = Member(
        int(cast("int", row["id"])),
        str(row["name"]),
        str(row["address"]),
        str(row["site"]),
        int(cast("int", row["capacity_bytes"])),
        bool(row.get("awaited", False)),
    )
    if not 0 < len(member.name.encode()) <= NAME_BYTES_MAX or len(member.site.encode()) > NAME_BYTES_MAX:
        raise ValueError(f"the name or site of node {member.node_id} is not of 1 to {NAME_BYTES_MAX} bytes")
    if len(member.address.encode()) > ADDRESS_BYTES_MAX:
        raise ValueError(f"the address of node {member.node_id} is longer than {ADDRESS_BYTES_MAX} bytes")
    return member
