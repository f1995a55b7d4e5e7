"""What services do alike with requests and responses: read a limit, fit a page, show a version."""

from collections.abc import Iterable
from typing import TypeVar

from google.protobuf.message import Message

from mcr import _wire
from mcr.durability import COPIES_MAX, Durability
from mcr.errors import InvalidArgumentError
from mcr.model import MIB
from mcr.v1 import versions_pb2 as pb
from mcr_node.core.state import queries
from mcr_node.core.state.view import View

PAGE_MAX = 1000
# A page ends early before it would not fit into a message; its first item always does.
PAGE_BYTES_MAX = 2 * MIB

Item = TypeVar("Item", bound=Message)


def fitting(items: Iterable[Item]) -> list[Item]:
    """Return as many items as fit into one message, the first one in any case; a next page has the rest."""
    found: list[Item] = []
    length_bytes = 0
    for item in items:
        length_bytes += item.ByteSize()
        if found and length_bytes > PAGE_BYTES_MAX:
            break
        found.append(item)
    return found


def version_message(view: View, model: str, number: int) -> pb.Version:
    """Return a version as a message, its record as it is stored: whoever gets it computes its id again."""
    return pb.Version(
        record=queries.get_record(view, model, number),
        refs=queries.refs_at(view, model, number),
        metrics=_wire.metrics_to_wire(queries.metrics_of(view, model, number)),
    )


def durability_of(message: pb.Durability) -> Durability:
    """Return how widely a version shall be held.

    Raises:
        InvalidArgumentError: nothing could be held so.
    """
    copies, sites = message.copies_min, message.sites_min
    if not 0 < sites <= copies <= COPIES_MAX:
        raise InvalidArgumentError(
            "durability",
            f"{copies} copies in {sites} sites: not 1 to {COPIES_MAX}, or more sites than copies",
        )
    return Durability(copies, sites)


def limit_of(limit: int) -> int:
    """Return how much a page may hold.

    Raises:
        InvalidArgumentError: it is out of range.
    """
    if not 0 < limit <= PAGE_MAX:
        raise InvalidArgumentError("limit", f"{limit} is not between 1 and {PAGE_MAX}")
    return limit
