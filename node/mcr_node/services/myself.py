"""Who a node is, as it is told when it is opened."""

from mcr.values import dataclass


@dataclass(frozen=True, slots=True)
class Myself:
    """Who this node is.

    Attributes:
        name: unique in the cluster.
        address: where it is reached, `host:port`; the folder of an embedded store.
        site: may be empty.
        capacity_bytes: what its chunk files may take; None = whatever the disk holds.
    """

    name: str
    address: str
    site: str = ""
    capacity_bytes: int | None = None
