"""The settings of raft under which a replica works."""

from collections.abc import Callable
from typing import Final

from mcr_node.core.raft.config import RaftConfig

# A leader cut off from the others must not fill its memory and disk with what nobody will commit.
UNCOMMITTED_BYTES_MAX: Final = 64 << 20
# Committed entries handed out to be applied and not reported yet.
APPLY_BYTES_MAX: Final = 4 << 20


def config_of(
    node_id: int,
    *,
    draw: Callable[[int], int],
    applied: int,
    election_ticks: int,
    heartbeat_ticks: int,
) -> RaftConfig:
    """Return the settings of raft under which this replica works."""
    return RaftConfig(
        node_id=node_id,
        draw=draw,
        applied=applied,
        election_ticks=election_ticks,
        heartbeat_ticks=heartbeat_ticks,
        asynchronous=True,
        forward_proposals=False,
        tell_commit_later=True,
        uncommitted_bytes_max=UNCOMMITTED_BYTES_MAX,
        apply_bytes_max=APPLY_BYTES_MAX,
    )
