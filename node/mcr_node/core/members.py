"""Who belongs to the cluster: raft's configuration of ids and votes, and where each node is to be found.

Both stand in one record, which changes with one log entry, so that no node ever knows a voter without an
address. The entry is a membership change of raft; what the state needs to know rides along as its context.
"""

from collections.abc import Iterable, Mapping
from dataclasses import field, replace
from typing import Final, cast

from mcr import canonical
from mcr.canonical import CanonicalValue
from mcr.errors import AlreadyExistsError, FailedError, InvalidArgumentError, MemberNotFoundError
from mcr.values import dataclass
from mcr_node.core.raft.messages import ConfState

# Far above what one raft group is good for; bounds what a hostile or broken context can make us keep.
MEMBERS_MAX: Final = 256
NAME_BYTES_MAX: Final = 96
ADDRESS_BYTES_MAX: Final = 512
_FLAGS: Final = ("awaited", "arranged", "leaving")


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
        arranged: site and capacity are those of a layout; what the node says of itself changes them no more.
        leaving: placement gives it nothing, and its copies count no more; others take over what it holds.
    """

    node_id: int
    name: str
    address: str = ""
    site: str = ""
    capacity_bytes: int = 0
    awaited: bool = False
    arranged: bool = False
    leaving: bool = False

    @property
    def is_staying(self) -> bool:
        """Whether it can be given chunks, and its copies count."""
        return not (self.awaited or self.leaving)

    def said(self, by: "Member") -> "Member":
        """Return the member after the node said of itself what stands in `by`.

        What people decided stays: a node knows its own name and address, but not that it is to leave.
        """
        site, capacity_bytes = by.site, by.capacity_bytes
        if self.arranged:
            site, capacity_bytes = self.site, self.capacity_bytes
        return replace(
            by, site=site, capacity_bytes=capacity_bytes, arranged=self.arranged, leaving=self.leaving
        )


@dataclass(frozen=True, slots=True)
class Staged:
    """What is to become of one member when the layout is applied; None = it stays as it is."""

    node_id: int
    site: str | None = None
    capacity_bytes: int | None = None
    leaving: bool | None = None

    def changed(self, member: Member) -> Member:
        """Return the member as it will be."""
        is_placed = self.site is not None or self.capacity_bytes is not None
        return replace(
            member,
            site=member.site if self.site is None else self.site,
            capacity_bytes=member.capacity_bytes if self.capacity_bytes is None else self.capacity_bytes,
            arranged=member.arranged or is_placed,
            leaving=member.leaving if self.leaving is None else self.leaving,
        )


@dataclass(frozen=True, slots=True)
class Told:
    """What a membership change tells beside the votes.

    Attributes:
        members: as they are from now on; those not named stay as they are.
        staged: all that is staged from now on; None = as before.
    """

    members: tuple[Member, ...] = ()
    staged: tuple[Staged, ...] | None = None


@dataclass(frozen=True, slots=True)
class Membership:
    """The members as of one log index.

    Attributes:
        conf: who votes and who learns.
        members: sorted by id; one for each id in `conf`, once it was told.
        staged: what is to change with the next layout, sorted by id.
        epoch: log index of the change that made it so, and thereby its name: the same on every node, and
            another one after every change. 0 = none is known.
    """

    conf: ConfState = field(default_factory=ConfState)
    members: tuple[Member, ...] = ()
    staged: tuple[Staged, ...] = ()
    epoch: int = 0

    @property
    def staying(self) -> tuple[Member, ...]:
        """Those that placement may give chunks."""
        return tuple(member for member in self.members if member.is_staying)

    @property
    def leaving(self) -> tuple[Member, ...]:
        """Those that are drained."""
        return tuple(member for member in self.members if member.leaving)

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

    def after(
        self,
        conf: ConfState,
        told: Iterable[Member],
        *,
        staged: Iterable[Staged] | None = None,
        epoch: int | None = None,
    ) -> "Membership":
        """Return the membership under a new configuration, knowing what the change told of its nodes."""
        known = {member.node_id: member for member in self.members} | {one.node_id: one for one in told}
        kept = Membership(conf).ids()
        planned = {one.node_id: one for one in (self.staged if staged is None else staged)}
        return Membership(
            conf,
            tuple(known[node_id] for node_id in kept if node_id in known),
            tuple(planned[node_id] for node_id in kept if node_id in planned),
            self.epoch if epoch is None else epoch,
        )

    def check_leaving(self, node_id: int) -> None:
        """Refuse to drain a node without which nobody could decide, or hold anything.

        Raises:
            MemberNotFoundError: it is no member.
            FailedError: no other voter stays.
        """
        name = self.name_of(node_id)
        votes = [one for one in self.staying if one.node_id != node_id and one.node_id in self.conf.voters]
        if not votes:
            raise FailedError(
                f"draining {name}",
                "it is the last voter that stays; add a node first, or cancel another drain",
            )

    def describe(self, member: Member) -> "Membership":
        """Return the membership with other news of a node that is in it."""
        return replace(self, members=self.after(self.conf, [member]).members)


def arranged(membership: Membership) -> Membership:
    """Return the members as they are once what is staged is in force; nothing is staged then."""
    staged = {one.node_id: one for one in membership.staged}
    members = tuple(
        staged[member.node_id].changed(member) if member.node_id in staged else member
        for member in membership.members
    )
    return replace(membership, members=members, staged=())


def encode_context(members: Iterable[Member], staged: Iterable[Staged] | None = None) -> bytes:
    """Return what a membership change tells of nodes, for `ConfChangeV2.context`."""
    rows: list[CanonicalValue] = [_member_to(member) for member in members]
    if staged is None:
        return canonical.encode(rows)
    return canonical.encode({"members": rows, "staged": [_staged_to(one) for one in staged]})


def decode_context(context: bytes) -> Told:
    """Return what a membership change tells of nodes.

    Raises:
        InvalidArgumentError: it is no such context; the same on every node, so nothing is told then.
    """
    if not context:
        return Told()
    try:
        rows = canonical.decode(context)
        if isinstance(rows, dict):
            if rows.keys() != {"members", "staged"}:
                raise ValueError("it is no list of members")
            return Told(_members_from(rows["members"]), _staged_from(rows["staged"]))
        return Told(_members_from(rows))
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidArgumentError("context", str(error)) from error


def encode_membership(membership: Membership) -> bytes:
    """Return the canonical bytes of a membership, as they stand in the state store."""
    conf = membership.conf
    row: dict[str, CanonicalValue] = {
        "voters": list(conf.voters),
        "learners": list(conf.learners),
        "voters_outgoing": list(conf.voters_outgoing),
        "learners_next": list(conf.learners_next),
        "auto_leave": conf.auto_leave,
        "members": [_member_to(member) for member in membership.members],
    }
    if membership.staged:
        row["staged"] = [_staged_to(one) for one in membership.staged]
    if membership.epoch:
        row["epoch"] = membership.epoch
    return canonical.encode(row)


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
        return Membership(
            conf,
            _members_from(row["members"]),
            _staged_from(row.get("staged", [])),
            int(cast("int", row.get("epoch", 0))),
        )
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
    for name in _FLAGS:
        if getattr(member, name):
            row[name] = True
    return row


def _members_from(value: CanonicalValue) -> tuple[Member, ...]:
    if not isinstance(value, list) or len(value) > MEMBERS_MAX:
        raise ValueError("it is no list of members")
    return tuple(_member_from(row) for row in value)


def _staged_to(staged: Staged) -> dict[str, CanonicalValue]:
    values: dict[str, CanonicalValue] = {
        "id": staged.node_id,
        "site": staged.site,
        "capacity_bytes": staged.capacity_bytes,
        "leaving": staged.leaving,
    }
    return {name: value for name, value in values.items() if value is not None}


def _staged_from(value: CanonicalValue) -> tuple[Staged, ...]:
    if not isinstance(value, list) or len(value) > MEMBERS_MAX:
        raise ValueError("it is no list of staged changes")
    found: list[Staged] = []
    for one in value:
        row = cast("Mapping[str, CanonicalValue]", one)
        site, capacity_bytes, leaving = row.get("site"), row.get("capacity_bytes"), row.get("leaving")
        staged = Staged(
            int(cast("int", row["id"])),
            None if site is None else _site(site),
            None if capacity_bytes is None else int(cast("int", capacity_bytes)),
            None if leaving is None else bool(leaving),
        )
        found.append(staged)
    return tuple(found)


def _site(value: CanonicalValue) -> str:
    site = str(value)
    if len(site.encode()) > NAME_BYTES_MAX:
        raise ValueError(f"a site has more than {NAME_BYTES_MAX} bytes")
    return site


def _member_from(value: CanonicalValue) -> Member:
    row = cast("Mapping[str, CanonicalValue]", value)
    member = Member(
        int(cast("int", row["id"])),
        str(row["name"]),
        str(row["address"]),
        str(row["site"]),
        int(cast("int", row["capacity_bytes"])),
        *(bool(row.get(name, False)) for name in _FLAGS),
    )
    if not 0 < len(member.name.encode()) <= NAME_BYTES_MAX or len(member.site.encode()) > NAME_BYTES_MAX:
        raise ValueError(f"the name or site of node {member.node_id} is not of 1 to {NAME_BYTES_MAX} bytes")
    if len(member.address.encode()) > ADDRESS_BYTES_MAX:
        raise ValueError(f"the address of node {member.node_id} is longer than {ADDRESS_BYTES_MAX} bytes")
    return member
