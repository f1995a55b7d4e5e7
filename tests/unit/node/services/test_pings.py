"""Pings: nodes take those of this release with a margin."""

from mcr._remote.nodes import KEEPALIVE_MS
from mcr_node.services.public import PING_INTERVAL_MS_MIN
from mcr_node.transport import peers


def test_pings_of_clients_and_peers_may_come_late_and_still_not_too_often() -> None:
    peers_ms = dict(peers.OPTIONS)["grpc.keepalive_time_ms"]

    # One that is half an interval late makes the next one come half an interval early.
    assert min(KEEPALIVE_MS, peers_ms) / 2 >= PING_INTERVAL_MS_MIN
