"""What a client learns of how a cluster is laid out: values without behaviour."""

from mcr.values import dataclass


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


@dataclass(frozen=True, slots=True)
class LayoutMember:
    """What placement knows of a member.

    Attributes:
        capacity_bytes: by which its share goes; 0 = whatever its disk has.
        share: its part of all chunks, 0 to 1.
        leaving: it gets nothing, and is drained.
        awaited: it has not been started yet, and gets nothing.
        arranged: site and capacity were set by a layout, not by the node itself.
    """

    name: str
    site: str
    capacity_bytes: int
    share: float
    leaving: bool
    awaited: bool
    arranged: bool


@dataclass(frozen=True, slots=True)
class Layout:
    """The members by name; `staged` are those for which something is, as they would be."""

    epoch: int
    members: tuple[LayoutMember, ...]
    staged: tuple[LayoutMember, ...]


@dataclass(frozen=True, slots=True)
class LayoutMove:
    """What one member would get, and what would be surplus on it, in bytes before encoding."""

    name: str
    bytes_in: int
    bytes_out: int


@dataclass(frozen=True, slots=True)
class LayoutPlan:
    """What would move if what is staged were applied.

    Attributes:
        epoch: of the layout it starts from.
        chunks: of all versions, each once.
        chunks_moved: that get another holder; `bytes_moved` are their bytes, before encoding.
        chunks_looked_at: fewer than `chunks` where the other numbers are a multiple of an unbiased part.
    """

    epoch: int
    chunks: int
    chunks_moved: int
    bytes_moved: int
    chunks_looked_at: int
    moves: tuple[LayoutMove, ...]
