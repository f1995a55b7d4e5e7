"""Noticing that a node started again while its copies were counted on."""

from mcr.errors import UnavailableError
from mcr_node.core.members import Member


class Lives:
    """Of whose process each member's answers came, since the first one.

    Between two answers a node may have lost power and be back, and no call tells: there was none just then.
    What it held and had not synced may be lost, so what it said before counts for nothing.
    """

    def __init__(self) -> None:
        """Know nobody."""
        self._first: dict[int, int] = {}

    def check(self, member: Member, life: int) -> None:
        """Note an answer.

        Args:
            member: whose.
            life: as `Holders.promise` and `Holders.sync` tell it.

        Raises:
            UnavailableError: another process gave an answer before.
        """
        if self._first.setdefault(member.node_id, life) != life:
            raise UnavailableError(member.address, "it started again meanwhile")
