"""Point reads: is a version deleted?

A version goes by itself, or with its model. A model may be made again under its name: numbers go on, and each
deletion took what there was up to a number. So the deletion that took a version is the first one at or above.
"""

from mcr.errors import ModelNotFoundError, VersionDeletedError
from mcr.values import dataclass
from mcr_node.core.state import keys, trash_keys
from mcr_node.core.state.records import ModelRow, read
from mcr_node.core.state.trash_keys import Trashed
from mcr_node.core.state.trash_records import TrashRow
from mcr_node.core.state.view import View

PURGED, RESTORABLE = "it is gone for good", "it is in the trash"


@dataclass(frozen=True, slots=True)
class Deletion:
    """What was deleted, and how."""

    of: Trashed
    row: TrashRow


def deletion_of(view: View, model: str, number: int) -> Deletion | None:
    """Return how a version was deleted; None when it was not. One that is gone for good comes first."""
    found: Deletion | None = None
    alone = Trashed(model, number)
    row = read(view, trash_keys.trash(alone), TrashRow)
    if row is not None:
        found = Deletion(alone, row)
    if found is None or not found.row.is_purged:
        found = _model_deletion(view, model, number) or found
    return found


def _model_deletion(view: View, model: str, number: int) -> Deletion | None:
    for key, value in view.scan(*trash_keys.model_deletions_from(model, number)):
        return Deletion(Trashed(model, trash_keys.number_in(key), whole_model=True), TrashRow.unpack(value))
    return None


def check_there(view: View, model: str, number: int) -> None:
    """Check that a version was not deleted.

    Raises:
        VersionDeletedError: it was.
    """
    found = deletion_of(view, model, number)
    if found is not None:
        raise VersionDeletedError(model, f"v{number}", PURGED if found.row.is_purged else RESTORABLE)


def model_is_gone(view: View, model: str, row: ModelRow) -> bool:
    """Say whether all that there is of a model went with it."""
    return _model_deletion(view, model, row.version_count) is not None


def check_model_there(view: View, model: str, row: ModelRow) -> None:
    """Check that a model was not deleted, or was made again.

    Raises:
        ModelNotFoundError: it was.
    """
    if model_is_gone(view, model, row):
        raise ModelNotFoundError(model)


def last_model_deletion(view: View, model: str) -> Deletion | None:
    """Return the last deletion of a model, if it was ever deleted."""
    start, end = trash_keys.model_deletions_from(model, 0)
    for key, value in view.scan(start, end, reverse=True):
        return Deletion(Trashed(model, trash_keys.number_in(key), whole_model=True), TrashRow.unpack(value))
    return None


def versions_of(view: View, model: str) -> int:
    """Return how many versions a model ever had."""
    row = read(view, keys.model(model), ModelRow)
    return 0 if row is None else row.version_count
