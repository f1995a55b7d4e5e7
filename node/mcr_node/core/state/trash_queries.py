"""Pure reads of the trash, of pins, and of what keeps a version from being deleted; see `queries`."""

from collections.abc import Iterator
from itertools import islice

from mcr.model import ChunkId
from mcr.values import dataclass
from mcr_node.core.state import deletions, keys, lookup, trash_keys
from mcr_node.core.state.collecting import is_root, round_of
from mcr_node.core.state.records import ModelRow, read
from mcr_node.core.state.trash_keys import Trashed
from mcr_node.core.state.trash_records import PinRow, TrashRow
from mcr_node.core.state.view import View

PAGE_MAX = 1000


@dataclass(frozen=True, slots=True)
class TrashItem:
    """Something that can be restored.

    Attributes:
        key: names it, to go on with the next page after it.
        bytes_total: of the files; of a whole model 0.
    """

    key: bytes
    of: Trashed
    row: TrashRow
    bytes_total: int


def list_trash(view: View, model: str, *, after: bytes, limit: int) -> list[TrashItem]:
    """Return what is in the trash, what goes first before the rest.

    Args:
        view: where to read.
        model: only of this model; "" = of all. What is of others is passed over at the cost of its key.
        after: key of the last item of the page before; empty = from the first.
        limit: at most this many, and at most PAGE_MAX.
    """
    aged = ((key, trash_keys.trashed_in(key)) for key, _ in view.scan(*trash_keys.trash_ages(after)))
    mine = ((key, of) for key, of in aged if model in ("", of.model))
    return [_item(view, key, of) for key, of in islice(mine, min(limit, PAGE_MAX))]


def _item(view: View, key: bytes, of: Trashed) -> TrashItem:
    row = read(view, trash_keys.trash(of), TrashRow)
    assert row is not None, "what has an age is in the trash"
    bytes_total = 0 if of.whole_model else lookup.record(view, of.model, of.number).bytes_total
    return TrashItem(key, of, row, bytes_total)


def list_pins(view: View, model: str, *, after: int = 0, limit: int = PAGE_MAX) -> list[tuple[int, PinRow]]:
    """Return the pinned versions of a model by number.

    Raises:
        ModelNotFoundError: there is no such model.
    """
    lookup.model_row(view, model)
    rows = islice(view.scan(*trash_keys.pins_after(model, after)), min(limit, PAGE_MAX))
    return [(trash_keys.number_in(key), PinRow.unpack(value)) for key, value in rows]


def all_models(view: View, after: str, limit: int) -> list[tuple[str, int]]:
    """Return names and numbers of versions of all models, deleted ones too."""
    rows = islice(view.scan(*keys.models_after(after)), min(limit, PAGE_MAX))
    return [(keys.model_in(key), ModelRow.unpack(value).version_count) for key, value in rows]


@dataclass(frozen=True, slots=True)
class Content:
    """What a version names, and whether its bytes are kept.

    Attributes:
        is_root: they are no garbage.
        is_purged: the version was given up, so nobody misses what of it cannot be found any more.
    """

    number: int
    manifest: ChunkId
    is_root: bool
    is_purged: bool


def contents(view: View, model: str, *, before: int | None, limit: int) -> list[Content]:
    """Return what the versions of a model name, deleted ones too, newest first; nothing = there are no more.

    Args:
        view: where to read.
        model: the model, deleted or not.
        before: only versions with a smaller number; None = from the newest.
        limit: at most this many, and at most PAGE_MAX.
    """
    present = round_of(view)
    last = keys.NUMBER_MAX if before is None else before
    rows = islice(view.scan(*keys.versions_before(model, last), reverse=True), min(limit, PAGE_MAX))
    return [_content(view, model, keys.number_in(key), data, present) for key, data in rows]


def _content(view: View, model: str, number: int, data: bytes, present_round: int) -> Content:
    found = deletions.deletion_of(view, model, number)
    row = None if found is None else found.row
    manifest = lookup.read_record(data).manifest
    return Content(number, manifest, is_root(row, present_round), row is not None and row.is_purged)


def root_manifests(view: View) -> Iterator[tuple[str, int, ChunkId]]:
    """Yield model, number and manifest of each version whose bytes are kept; lazily, all models."""
    for key, _ in view.scan(*keys.models_after("")):
        model = keys.model_in(key)
        before: int | None = None
        while page := contents(view, model, before=before, limit=PAGE_MAX):
            yield from ((model, found.number, found.manifest) for found in page if found.is_root)
            before = page[-1].number
