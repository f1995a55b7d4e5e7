"""The laws of versions over everything that can happen to them, against a ledger that is kept apart."""

import os
from collections.abc import Sequence

from hypothesis import given, settings

from tests.support.state_acts import Act, run, sequences

EXAMPLES = int(os.environ.get("MCR_LEDGER_EXAMPLES", "40"))


@given(sequences)
@settings(max_examples=EXAMPLES)
def test_numbers_heads_needed_versions_and_histories_survive_any_sequence(acts: Sequence[Act]) -> None:
    """No gaps, heads are reachable, what is served, pinned or named is there, and every history is whole."""
    run(acts)
