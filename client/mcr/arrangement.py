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


@dataclass(frozen=True, slots=True)
class Quota:
    """How many bytes versions may have together.

    Attributes:
        scope: `namespace/name`, or `namespace`.
        bytes_used: sizes of their files; too low while `is_counting`.
        is_counting: what there was before it was set is still being counted.
        set_by, set_at_ms: who set it last, and when, milliseconds since 1970.
    """

    scope: str
    bytes_max: int
    bytes_used: int
    is_counting: bool
    set_by: str
    set_at_ms: int
