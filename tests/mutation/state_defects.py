"""Defects of the state by text, each against one of the laws that the ledger of `tests.support` checks."""

import random
from typing import Final

from mcr.errors import McrError
from tests.mutation.patching import TextDefect as Of
from tests.support.state_acts import CHOICES, VERBS, Act, run

ACTS_PER_STORY: Final = 60

STATE_DEFECTS: Final = (
    Of("numbers_have_a_gap", "state.versions:commit", "else model_row.version_count + 1",
       "else model_row.version_count + 1 + model_row.version_count // 4"),
    Of("a_named_version_is_deleted", "state.roots:Uses.of",
       "islice(self._view.scan(*keys.pointers(self._model, number)), NAMED_MAX)", "()"),
    Of("a_pinned_version_is_deleted", "state.roots:Uses.of", "if pin is not None:", "if False:"),
    Of("a_served_version_is_given_up", "state.trash:_is_loaded", "if not of.whole_model:", "return False"
       "\n    if not of.whole_model:"),
    Of("what_merges_wait_for_is_deleted", "state.merges:_open",
       "deletions.check_there(overlay, model, number)", "pass"),
    Of("an_approved_move_names_what_is_gone", "state.channels:approve",
       "deletions.check_there(step.overlay, of.model, number)", "pass"),
    Of("commits_count_on_what_is_swept", "state.collecting:check_round",
       "sealed_round != present", "sealed_round > present"),
    Of("trash_is_no_root", "state.collecting:is_root", "row is None or not row.is_purged or present_round",
       "row is None or present_round"),
    Of("a_deletion_leaves_no_move", "state.refs:delete", '_write_history(step, of, row, "delete")', "pass"),
    Of("a_name_made_again_forgets_its_moves", "state.refs:move",
       "lookup.last_generation(overlay, of) if before is None", "0 if before is None"),
    Of("a_retry_is_carried_out_again", "state.requests:recall", "if row is None:", "if True:"),
)  # fmt: skip


def story_that_finds(defect: Of, stories: int) -> int | None:
    """Return the first random story, by seed, in which the ledger sees a defect; None when none does."""
    with defect():
        for seed in range(stories):
            draw = random.Random(seed)
            acts = [
                Act(draw.choice(VERBS), draw.randrange(CHOICES), draw.randrange(CHOICES), draw.random() < 0.5)
                for _ in range(ACTS_PER_STORY)
            ]
            try:
                run(acts)
            except (AssertionError, McrError):
                return seed
    return None
