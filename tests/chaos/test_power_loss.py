"""What was acknowledged survives a power loss of all nodes at once; more: `make power-loss CYCLES=20`."""

import pytest

from tests.chaos.cluster import DiskCluster
from tests.chaos.disks import missing_for_disks
from tests.support.load import PATIENCE_S, Load, check_all_there, check_digests_equal

EVERY_NODE = [0, 1, 2]


@pytest.mark.root
def test_nothing_acknowledged_is_lost_when_all_nodes_lose_power_at_once() -> None:
    missing = missing_for_disks()
    if missing:
        pytest.skip(missing)
    with DiskCluster(len(EVERY_NODE), heartbeat_ms=50, election_ms=500) as cluster:
        with Load(cluster, cluster.folder / "load") as load:
            load.wait_more(10)
            cluster.cut_power(EVERY_NODE)
            load.wait_more(1)
        cluster.wait_ready(PATIENCE_S)
        check_digests_equal(cluster, EVERY_NODE)
        check_all_there(cluster, EVERY_NODE, load.acknowledged, cluster.folder)
