"""The chaos run finds nodes that are broken on purpose: `make chaos-broken`, some four minutes."""

import os

import pytest

from tests.chaos import broken
from tests.chaos.disks import missing_for_disks
from tests.chaos.nemeses import ON_DISKS
from tests.chaos.run import run

SECONDS = 12.0
# Of each defect: the fault under which it shows, and what is then said of it. A node whose files are torn in
# the middle may say so, or end, instead of having lost something.
FOUND_BY = {
    "reads_what_it_has": ("leader cut off", "stale read"),
    "forgets_requests": ("restart of a follower", "doubled"),
    "answers_before_it_is_replicated": ("leader cut off", "lost"),
    "serves_unverified_bytes": ("flipped bits", "not healed"),
    "acknowledges_before_sync": ("power loss of all", ""),
    "seals_too_early": ("all stand still", "too few copies"),
}


def test_each_defect_is_tried() -> None:
    assert sorted(FOUND_BY) == sorted(broken.DEFECTS)


@pytest.mark.skipif("CHAOS_BROKEN" not in os.environ, reason="make chaos-broken; some four minutes")
@pytest.mark.parametrize("defect", FOUND_BY)
def test_a_broken_node_is_found(defect: str) -> None:
    fault, violation = FOUND_BY[defect]
    if fault in ON_DISKS and (missing := missing_for_disks()):
        pytest.skip(missing)
    outcome = run(1, SECONDS, program=broken.program(defect), faults=(fault,))
    print(outcome.told())  # noqa: T201 - the report
    assert any(one.startswith(violation) for one in outcome.violations), outcome.violations
