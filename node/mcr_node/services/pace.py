"""How eager background work is: what a node is told when it is opened, apart from the workers themselves.

A store without others has no workers, and need not load them to be opened.
"""

from mcr.model import MIB
from mcr.values import dataclass

# A member silent for so long does not count any more: long enough for a restart, or for a machine to boot,
# since copying all that a node held for nothing costs more than it gains.
SILENCE_S = 60.0
# Half of a gigabit line, so that clients keep the other half; a node with 1 TB is made good in five hours.
REPAIR_BYTES_PER_S = 60 * MIB
# Less than repair: nothing is in danger.
REBALANCE_BYTES_PER_S = 30 * MIB
# Every frame is read once in this time. A week is what file systems are scrubbed in (ZFS advises a week for
# cheap disks, a month for good ones), and short beside the time in which a second copy is likely to go bad.
SCRUB_PERIOD_S = 7 * 86_400
# Little beside what a disk gives, so that reads of clients hardly notice; 12 TB in a week.
SCRUB_BYTES_PER_S = 20 * MIB
# As for repair: half of a gigabit line, so that readers keep the other half.
PREFETCH_BYTES_PER_S = 60 * MIB
# A week: long enough to come back from a holiday, short enough that a full disk empties.
TRASH_PERIOD_S = 7 * 86_400.0
# How often the leader looks: rules speak of days, and of the last so many.
RETENTION_PERIOD_S = 600.0
# Marks are so far apart. What was brought before it is committed has at least so long, without a lease.
COLLECT_INTERVAL_S = 3600.0
# What walking manifests and rewriting segments may take from reads of clients.
COLLECT_BYTES_PER_S = 60 * MIB


@dataclass(frozen=True, slots=True)
class Pace:
    """How eager background work is.

    Attributes:
        silence_s: a member that does not answer for so long is taken to be gone, and its copies are replaced.
        repair_bytes_per_s: what repair sends at most.
        rebalance_bytes_per_s: what rebalancing sends at most.
        scrub_period_s: every frame is read once in this time.
        scrub_bytes_per_s: what scrub reads at most, unless the period asks for more.
        prefetch_bytes_per_s: what is fetched at most before anybody reads it.
        trash_period_s: what is deleted can be restored for so long.
        retention_period_s: how often what goes by retention rules is put into the trash.
        garbage_interval_s: between two marks of garbage; what is brought before it is committed has so long.
        garbage_bytes_per_s: what its collection reads and writes at most.
        drops_surplus: copies beyond those that placement wants go with the garbage; they were perhaps asked
            for (`--durability 3`), so only where the operator says so.
    """

    silence_s: float = SILENCE_S
    repair_bytes_per_s: float = REPAIR_BYTES_PER_S
    rebalance_bytes_per_s: float = REBALANCE_BYTES_PER_S
    scrub_period_s: float = SCRUB_PERIOD_S
    scrub_bytes_per_s: float = SCRUB_BYTES_PER_S
    prefetch_bytes_per_s: float = PREFETCH_BYTES_PER_S
    trash_period_s: float = TRASH_PERIOD_S
    retention_period_s: float = RETENTION_PERIOD_S
    garbage_interval_s: float = COLLECT_INTERVAL_S
    garbage_bytes_per_s: float = COLLECT_BYTES_PER_S
    drops_surplus: bool = False
