"""Point reads that commands and queries share: return what is there, or raise what the caller should see."""

from mcr.canonical import CanonicalError
from mcr.errors import CorruptStoreError, ModelNotFoundError, ReferenceNotFoundError
from mcr.model import Ref
from mcr.record import Record, decode_record
from mcr_node.core.state import deletions, keys
from mcr_node.core.state.keys import RefName
from mcr_node.core.state.records import PLACE, ModelRow, MoveRow, RefRow, read
from mcr_node.core.state.view import View


def model_row(view: View, model: str) -> ModelRow:
    """Return a model's row.

    Raises:
        ModelNotFoundError: it has no version, or was deleted.
    """
    row = read(view, keys.model(model), ModelRow)
    if row is None:
        raise ModelNotFoundError(model)
    deletions.check_model_there(view, model, row)
    return row


def record_bytes(view: View, model: str, number: int) -> bytes:
    """Return the canonical record of a version.

    Raises:
        ModelNotFoundError, ReferenceNotFoundError: there is no such version.
    """
    data = view.get(keys.version(model, number)) if 0 < number <= keys.NUMBER_MAX else None
    if data is None:
        newest = model_row(view, model).version_count
        raise ReferenceNotFoundError(model, f"v{number}", f"no such version; the newest is v{newest}")
    return data


def read_record(data: bytes) -> Record:
    """Read a record out of the view.

    Raises:
        CorruptStoreError: it is damaged.
    """
    try:
        return decode_record(data)
    except CanonicalError as error:
        raise CorruptStoreError(PLACE, f"a version record: {error}") from error


def record(view: View, model: str, number: int) -> Record:
    """Return the record of a version.

    Raises:
        ModelNotFoundError, ReferenceNotFoundError: there is no such version.
        CorruptStoreError: it is damaged.
    """
    return read_record(record_bytes(view, model, number))


def content_number(of: Record) -> int:
    """Return the version that first had this content: itself, or what a rollback restored."""
    return of.target_number or of.number


def ref_row(view: View, of: RefName) -> RefRow:
    """Return a ref's row.

    Raises:
        ModelNotFoundError, ReferenceNotFoundError: there is none.
    """
    row = read(view, keys.ref(of), RefRow)
    if row is not None:
        return row
    model_row(view, of.model)
    deleted = last_generation(view, of) > 0
    reason = f"the {of.kind} was deleted" if deleted else f"no such {of.kind}"
    raise ReferenceNotFoundError(of.model, str(of), reason)


def last_generation(view: View, of: RefName) -> int:
    """Return the generation of the latest move of a name, existing or deleted; 0 if there never was one."""
    start, end = keys.moves_before(of, keys.NUMBER_MAX)
    for key, _ in view.scan(start, end, reverse=True):
        return keys.number_in(key)
    return 0


def move_row(view: View, of: RefName, generation: int) -> MoveRow:
    """Return a move that must exist.

    Raises:
        CorruptStoreError: the history has a hole.
    """
    row = read(view, keys.move(of, generation), MoveRow)
    if row is None:
        raise CorruptStoreError(PLACE, f"{of.model}@{of} lacks generation {generation} of its history")
    return row


def ref_of(of: RefName, row: RefRow) -> Ref:
    """Return a row as the noun that callers know."""
    return Ref(
        model=of.model,
        kind=of.kind,
        name=of.name,
        number=row.number,
        version_id=row.version_id.hex(),
        generation=row.generation,
        actor=row.actor,
        reason=row.reason,
        moved_at_ms=row.at_ms,
        protection=row.protection,
        frozen=row.frozen,
        pending=row.pending,
    )


def no_policy(view: View, model: str, name: str) -> ReferenceNotFoundError:
    """Return the error that says that there is no such policy.

    Raises:
        ModelNotFoundError: nor such a model.
    """
    model_row(view, model)
    return ReferenceNotFoundError(model, f"policy:{name}", "no such policy, or nothing for it to watch")
