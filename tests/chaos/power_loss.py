"""Power loss on real nodes: `python -m tests.chaos.power_loss --cycles 20 --seed 1` (as root).

Three nodes, each on a disk of its own. Under the load of several clients the power of one node is cut, or of
all at once: what was not synced is gone (a canary proves it in every cycle). Then everything that any client
was told is committed must be there, once, and its bytes; and the nodes must hold one state.
"""

import argparse
import random
import sys
import threading
import time
from collections import Counter

from tests.chaos.cluster import DiskCluster
from tests.chaos.disks import missing_for_disks, with_own_mounts
from tests.support.load import PATIENCE_S, Load, check_all_there, check_digests_equal, some_of

NODES = 3
# Every so many cycles the power of all nodes is cut at once.
ALL_EVERY = 4
COMMITS_BEFORE_CUT_MAX = 30
# Up to so long after a commit, so that the cut meets any moment of the next one.
MOMENT_S_MAX = 0.05
CHECKOUTS_PER_CYCLE = 25


def run(seed: int, cycles: int, say: "Counter[str]") -> None:
    """Cut the power so many times; AssertionError says what was lost. `say` counts what happened."""
    chance = random.Random(seed)
    with DiskCluster(NODES, heartbeat_ms=50, election_ms=500) as cluster:
        with Load(cluster, cluster.folder / "load") as load:
            checked = 0
            for cycle in range(cycles):
                load.wait_more(1 + chance.randrange(COMMITS_BEFORE_CUT_MAX))
                threading.Event().wait(chance.uniform(0, MOMENT_S_MAX))
                is_all = cycle % ALL_EVERY == ALL_EVERY - 1
                victims = list(range(NODES)) if is_all else [chance.randrange(NODES)]
                say["cuts of all nodes" if is_all else "cuts of one node"] += 1
                say["cuts of the leader alone"] += not is_all and cluster.leader() == victims[0]
                cluster.cut_power(victims)
                told = load.so_far()
                cluster.wait_ready(PATIENCE_S)
                sample = some_of(chance, told[checked:], CHECKOUTS_PER_CYCLE) if told[checked:] else []
                check_all_there(cluster, range(NODES), told, cluster.folder, checkouts=sample, is_quiet=False)
                checked = len(told)
        cluster.wait_ready(PATIENCE_S)
        check_digests_equal(cluster, range(NODES))
        total = check_all_there(cluster, range(NODES), load.acknowledged, cluster.folder)
        for i in range(NODES):
            with cluster.connect(i) as client:
                assert client.check().problems == ()
        say["commits acknowledged, there once, bytes read back"] = len(load.acknowledged)
        say["commits of unknown outcome"] = sum(load.unknown.values())
        say["of these done"] = total - len(load.acknowledged)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cycles", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with_own_mounts()
    missing = missing_for_disks()
    if missing:
        sys.stderr.write(f"power loss: {missing}\n")
        return 2
    began_s = time.perf_counter()
    counts: Counter[str] = Counter()
    run(options.seed, options.cycles, counts)
    sys.stdout.write(
        f"seed {options.seed}: {options.cycles} power losses in {time.perf_counter() - began_s:.0f} s,"
        " 0 acknowledged commits lost, 0 doubled\n"
    )
    for what, count in counts.items():
        sys.stdout.write(f"{count:8} {what}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
