"""How widely chunks must be held before a version becomes visible: what may be asked for, what can be had."""

from collections.abc import Sequence
from typing import Final

from mcr.errors import DurabilityError, InvalidArgumentError
from mcr.values import dataclass

# As many as there can be members.
COPIES_MAX: Final = 256
SITE, CLUSTER = "site", "cluster"


@dataclass(frozen=True, slots=True)
class Durability:
    """How widely chunks are held.

    Attributes:
        copies: nodes that hold each chunk, from 1.
        sites: sites that these nodes stand in at least, from 1 to `copies`.
    """

    copies: int
    sites: int = 1

    def __post_init__(self) -> None:
        """Refuse what no placement can meet; what comes from outside was checked before."""
        assert 0 < self.sites <= self.copies <= COPIES_MAX, "a site needs a node, a node holds one copy"

    def __str__(self) -> str:
        copies = _count(self.copies, "copy", "copies")
        return copies if self.sites == 1 else f"{copies} in {self.sites} sites"


def parse_durability(asked: str | int | None, argument: str = "durability") -> Durability | None:
    """Return what `site`, `cluster` or a number of copies stands for; None = what the cluster always does.

    Raises:
        InvalidArgumentError: it is none of them.
    """
    if asked is None or asked == SITE:
        return None
    if asked == CLUSTER:
        return Durability(copies=2, sites=2)
    text = str(asked)
    is_number = text.isascii() and text.isdigit() and len(text) <= len(str(COPIES_MAX))
    if is_number and 0 < int(text) <= COPIES_MAX:
        return Durability(int(text))
    raise InvalidArgumentError(
        argument, f"{text!r} is not {SITE}, {CLUSTER} or a number of copies from 1 to {COPIES_MAX}"
    )


def check_possible(asked: Durability, sites: Sequence[str]) -> None:
    """Refuse what the cluster could not hold if all its nodes were there.

    Args:
        asked: for.
        sites: the site of each node, in any order.

    Raises:
        DurabilityError: there are too few nodes or sites.
    """
    count = len(sites)
    if asked.copies > count:
        reason = f"{_count(count, 'node', 'nodes')} in all"
        remedy = "add nodes (mcr cluster add), or ask for less with --durability"
        if count == 1:
            remedy = "one node keeps one copy: leave --durability out, say --durability 1, or add nodes"
        raise DurabilityError(str(asked), count, reason, remedy)
    found = sorted(set(sites))
    if asked.sites > len(found):
        named = ", ".join(repr(site) for site in found)
        raise DurabilityError(
            str(asked),
            count,
            f"they stand in {_count(len(found), 'site', 'sites')}: {named}",
            "say where each node stands (mcr node start --site), or ask for copies wherever they are: "
            "--durability site, or a number",
        )


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
