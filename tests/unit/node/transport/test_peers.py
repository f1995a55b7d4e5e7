"""What a node sends to its peers, and how fast."""

import pytest

from mcr_node.transport.peers import (
    SNAPSHOT_BYTES_PER_S_MAX,
    SNAPSHOT_BYTES_PER_S_MIN,
    SNAPSHOT_S,
    snapshot_pace,
)

MIB = 1 << 20


@pytest.mark.parametrize(
    ("bytes_total", "took_s"),
    [
        (0, 0.0),
        (16 * MIB, 1.0),
        (80 * MIB, SNAPSHOT_S),
        (500 * MIB, SNAPSHOT_S),
        (1000 * MIB, SNAPSHOT_S),
        (4000 * MIB, 20.0),
    ],
)
def test_a_snapshot_is_spread_over_a_time_unless_it_is_small_or_large(
    bytes_total: int, took_s: float
) -> None:
    pace_bytes_per_s = snapshot_pace(bytes_total)

    assert bytes_total / pace_bytes_per_s == pytest.approx(took_s)
    assert SNAPSHOT_BYTES_PER_S_MIN <= pace_bytes_per_s <= SNAPSHOT_BYTES_PER_S_MAX
