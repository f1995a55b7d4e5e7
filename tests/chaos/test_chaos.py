"""Real nodes under one half minute of failures; more: `make chaos MINUTES=10`."""

import secrets

from tests.chaos.nemeses import FAULTS
from tests.chaos.run import SEED_LIMIT, run

SECONDS = 30.0
# A member that comes and goes takes as long as all the rest.
QUICK_ENOUGH = [name for name in FAULTS if not name.endswith("a new node")]


def test_what_clients_were_told_stays_true_whatever_happens_to_the_nodes() -> None:
    seed = 1 + secrets.randbelow(SEED_LIMIT)
    outcome = run(seed, SECONDS, faults=QUICK_ENOUGH)
    print(outcome.told())  # noqa: T201 - the report
    assert not outcome.violations, f"again: make chaos MINUTES=0.5 SEED={seed}\n{outcome.told()}"
    assert outcome.faults
