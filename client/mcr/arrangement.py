"""What a client learns of how a cluster is laid out: values without behaviour."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DrainProgress:
    """How far a drain has come.

    Attributes:
        is_leaving: whether the member is drained at all.
        is_drained: no chunk of any version depends on it.
        chunks_left: still to be copied, as far as the nodes have counted.
        chunks_copied: copies made since the nodes started, for whatever reason.
        waits_for: what it waits for, one sentence; "" when it is drained.
    """

    is_leaving: bool
    is_drained: bool
    chunks_left: int
    chunks_copied: int
    waits_for: str
