"""Pure reads over a view: what users ask, in the nouns they know. They raise what the caller should see.

Every query costs a few seeks plus what it returns, however many versions and moves there are. Versions and
moves never change, so an answer put together while commands are applied is true piece by piece; whoever needs
one instant for several answers asks one view that does not change.
"""

from collections.abc import Iterator, Mapping
from heapq import heappop, heappush
from itertools import islice, takewhile
from typing import Any, cast

from mcr.errors import (
    AmbiguousReferenceError,
    CorruptStoreError,
    HistoryGoneError,
    ReferenceNotFoundError,
)
from mcr.model import DIGEST_BYTES, LogIndex, MetricReport, ModelSummary, Ref, RefKind, RefMove, Version
from mcr.record import Record, version_id
from mcr.references import Reference, Selector, is_id_prefix
from mcr.values import dataclass
from mcr_node.core.state import deletions, keys, lookup
from mcr_node.core.state.keys import NUMBER_MAX, RefName
from mcr_node.core.state.records import (
    PLACE,
    EventRow,
    EventsRow,
    IdRow,
    MetricRow,
    ModelRow,
    MoveRow,
    RefRow,
    ReportRow,
    read,
)
from mcr_node.core.state.view import View

# The largest page; greater limits are cut to it.
PAGE_MAX = 1000
# How many versions an ambiguous id prefix lists; more would not help to choose.
CANDIDATES_MAX = 8
# Characters of a version id shown in lists.
_SHORT_ID_CHARACTERS = 12
# In the order in which an ambiguous word lists what has that name.
_KINDS = (RefKind.BRANCH, RefKind.TAG, RefKind.CHANNEL)
_KIND_OF = {
    Selector.BRANCH: RefKind.BRANCH,
    Selector.TAG: RefKind.TAG,
    Selector.CHANNEL: RefKind.CHANNEL,
}


def resolve(view: View, reference: Reference) -> int:
    """Return the number of the version that a reference names.

    One word without a prefix is the branch, tag or channel of that name; if there is none, the start of an
    id.

    Raises:
        ModelNotFoundError, ReferenceNotFoundError: it names nothing.
        AmbiguousReferenceError: it names several things; lists them.
        VersionDeletedError: what it names was deleted.
    """
    number = _resolve(view, reference)
    deletions.check_there(view, reference.model, number)
    return number


def _resolve(view: View, reference: Reference) -> int:
    model = reference.model
    match reference.selector:
        case Selector.NUMBER:
            lookup.record_bytes(view, model, reference.number)
            return reference.number
        case Selector.ANY:
            return _resolve_word(view, model, reference.name)
        case selector:
            return lookup.ref_row(view, RefName(model, _KIND_OF[selector], reference.name)).number


def _resolve_word(view: View, model: str, word: str) -> int:
    lookup.model_row(view, model)
    found: dict[str, int] = {}
    for kind in _KINDS:
        row = read(view, keys.ref(RefName(model, kind, word)), RefRow)
        if row is not None:
            found[f"{kind}:{word}"] = row.number
    if not found and is_id_prefix(word):
        found = _with_id(view, model, word.lower())
    if not found:
        reason = "no branch, tag or channel has that name, and no version id starts so"
        raise ReferenceNotFoundError(model, word, reason)
    if len(found) > 1:
        candidates = list(islice(found, CANDIDATES_MAX)) + (["…"] if len(found) > CANDIDATES_MAX else [])
        raise AmbiguousReferenceError(model, word, ", ".join(candidates))
    return next(iter(found.values()))


def _with_id(view: View, model: str, prefix: str) -> dict[str, int]:
    """Return the versions whose id starts with a prefix, one more than are shown."""
    found: dict[str, int] = {}
    for key, value in islice(view.scan(*keys.version_ids(model, prefix)), CANDIDATES_MAX + 1):
        number = IdRow.unpack(value).number
        found[f"{key[-DIGEST_BYTES:].hex()[: _shown_characters(prefix)]} (v{number})"] = number
    return found


def _shown_characters(prefix: str) -> int:
    return max(_SHORT_ID_CHARACTERS, len(prefix) + 4)


def get_version(view: View, model: str, number: int) -> Version:
    """Return a version with its latest metrics and the refs that point at it; files are not read.

    Raises:
        ModelNotFoundError, ReferenceNotFoundError: there is no such version.
    """
    data = lookup.record_bytes(view, model, number)
    return _version_of(view, data, lookup.read_record(data), metrics=metrics_of(view, model, number))


def get_record(view: View, model: str, number: int) -> bytes:
    """Return the canonical record of a version, from which anybody can compute its id again.

    Raises:
        ModelNotFoundError, ReferenceNotFoundError: there is no such version.
    """
    return lookup.record_bytes(view, model, number)


def metrics_of(view: View, model: str, number: int) -> dict[str, float]:
    """Return the latest reported value of each metric of a version, by name."""
    return {
        keys.metric_in(model, key): MetricRow.unpack(value).value
        for key, value in view.scan(*keys.metrics(model, number))
    }


def refs_at(view: View, model: str, number: int) -> tuple[str, ...]:
    """Return the refs that point at a version, as `branch:main`, by kind and name."""
    return tuple(str(keys.pointer_in(model, key)) for key, _ in view.scan(*keys.pointers(model, number)))


def _version_of(view: View, data: bytes, record: Record, *, metrics: Mapping[str, float] | None) -> Version:
    deletion = deletions.deletion_of(view, record.model, record.number)
    return Version(
        model=record.model,
        number=record.number,
        id=version_id(data).hex(),
        created_at_ms=record.created_at_ms,
        creator=record.creator,
        description=record.description,
        parameters=record.parameters,
        branch=record.branch,
        kind=record.kind,
        parents=record.parents,
        parent_ids=tuple(parent.hex() for parent in record.parent_ids),
        target_number=record.target_number,
        manifest=record.manifest,
        bytes_total=record.bytes_total,
        file_count=record.file_count,
        chunk_count=record.chunk_count,
        merge_document=record.merge_document,
        base=record.base,
        metrics=metrics,
        refs=refs_at(view, record.model, record.number),
        deleted_at_ms=0 if deletion is None else deletion.row.at_ms,
        is_purged=deletion is not None and deletion.row.is_purged,
    )


def list_versions(view: View, model: str, *, before: int | None, limit: int) -> list[Version]:
    """Return versions of a model, newest first, with refs, without metrics.

    Args:
        view: where to read.
        model: the model.
        before: only versions with a smaller number; None = from the newest.
        limit: at most this many, and at most PAGE_MAX.

    Raises:
        ModelNotFoundError: there is no such model.
    """
    lookup.model_row(view, model)
    return versions_of(view, model, before=before, limit=limit)


def versions_of(view: View, model: str, *, before: int | None, limit: int) -> list[Version]:
    """Return versions of a model as `list_versions` does, also of one that was deleted; or none."""
    span = keys.versions_before(model, _bound(before))
    rows = islice(view.scan(*span, reverse=True), _page(limit))
    return [_version_of(view, data, lookup.read_record(data), metrics=None) for _, data in rows]


def list_ancestry(
    view: View, model: str, start: int, limit: int, *, before: int | None = None
) -> list[Version]:
    """Return a version and its ancestors through all parents, newest first, with refs, without metrics.

    Parents have smaller numbers than their children, so taking the greatest number that is left gives each
    version after all its descendants, and only what is returned is read.

    Args:
        view: where to read.
        model: the model.
        start: number of the version to start from.
        limit: at most this many, and at most PAGE_MAX.
        before: for a next page: only ancestors with a smaller number. They are found by walking from `start`
            again, so pages far back cost what lies before them.

    Raises:
        ModelNotFoundError, ReferenceNotFoundError: there is no such version.
    """
    pending = [-start]
    seen = {start}
    found: list[Version] = []
    bound = _bound(before)
    while pending and len(found) < _page(limit):
        number = -heappop(pending)
        data = lookup.record_bytes(view, model, number)
        record = lookup.read_record(data)
        if number < bound:
            found.append(_version_of(view, data, record, metrics=None))
        for parent in record.parents:
            if parent not in seen:
                seen.add(parent)
                heappush(pending, -parent)
    return found


def list_derived(view: View, model: str, number: int, *, after: tuple[str, int], limit: int) -> list[Version]:
    """Return versions that were derived from one, by model and number, with refs, without metrics.

    Args:
        view: where to read.
        model: of the base.
        number: of the base; whether or not it was deleted.
        after: only those that come after this model and number; ("", 0) = from the first.
        limit: at most this many, and at most PAGE_MAX.
    """
    span = keys.derived_after(model, number, after[0], min(after[1], NUMBER_MAX))
    rows = islice(view.scan(*span), _page(limit))
    found = [lookup.record_bytes(view, *keys.derived_in(model, key)) for key, _ in rows]
    return [_version_of(view, data, lookup.read_record(data), metrics=None) for data in found]


def list_models(view: View, after: str, limit: int) -> list[ModelSummary]:
    """Return models by name, those after a name; "" = from the first. Deleted ones are passed over."""
    found = view.scan(*keys.models_after(after))
    rows = ((keys.model_in(key), ModelRow.unpack(value)) for key, value in found)
    there = ((name, row) for name, row in rows if not deletions.model_is_gone(view, name, row))
    return [
        ModelSummary(name, row.version_count, row.created_at_ms, row.updated_at_ms)
        for name, row in islice(there, _page(limit))
    ]


def list_refs(view: View, model: str, kind: RefKind, *, after: str = "", limit: int = PAGE_MAX) -> list[Ref]:
    """Return the refs of one kind of a model by name, those after a name.

    Raises:
        ModelNotFoundError: there is no such model.
    """
    lookup.model_row(view, model)
    rows = islice(view.scan(*keys.refs_after(model, kind, after)), _page(limit))
    return [
        lookup.ref_of(RefName(model, kind, keys.ref_in(model, key)), RefRow.unpack(value))
        for key, value in rows
    ]


def get_ref(view: View, model: str, kind: RefKind, name: str) -> Ref:
    """Return a ref.

    Raises:
        ModelNotFoundError, ReferenceNotFoundError: there is no such ref.
    """
    of = RefName(model, kind, name)
    return lookup.ref_of(of, lookup.ref_row(view, of))


def ref_history(
    view: View, model: str, kind: RefKind, name: str, *, before_generation: int | None, limit: int
) -> list[RefMove]:
    """Return the moves of a ref, newest first; a deleted branch still has them.

    Args:
        view: where to read.
        model: the model.
        kind: kind of the ref.
        name: name of the ref.
        before_generation: only moves of a smaller generation; None = from the newest.
        limit: at most this many, and at most PAGE_MAX.

    Raises:
        ModelNotFoundError, ReferenceNotFoundError: there never was such a ref.
    """
    of = RefName(model, kind, name)
    _generations(view, of)
    rows = islice(view.scan(*keys.moves_before(of, _bound(before_generation)), reverse=True), _page(limit))
    return [_move_of(keys.number_in(key), MoveRow.unpack(value)) for key, value in rows]


def ref_at(view: View, model: str, kind: RefKind, name: str, at_ms: int) -> RefMove | None:
    """Return the move that was in force at a log time: the last one at or before it.

    A move with number 0 says that the name was deleted then; None that it did not exist yet.

    Raises:
        ModelNotFoundError, ReferenceNotFoundError: there never was such a ref.
    """
    of = RefName(model, kind, name)
    # Log time never goes back, so generations are in the order of their times and halving finds the last one.
    low, high = 0, _generations(view, of)
    while low < high:
        middle = (low + high + 1) // 2
        if lookup.move_row(view, of, middle).at_ms <= at_ms:
            low = middle
        else:
            high = middle - 1
    return _move_of(low, lookup.move_row(view, of, low)) if low else None


def _generations(view: View, of: RefName) -> int:
    generations = lookup.last_generation(view, of)
    if generations == 0:
        lookup.ref_row(view, of)
        raise CorruptStoreError(PLACE, f"{of.model}@{of} exists but has no history")
    return generations


def _move_of(generation: int, row: MoveRow) -> RefMove:
    return RefMove(
        generation=generation,
        number=row.number,
        version_id=row.version_id.hex(),
        verb=row.verb,
        actor=row.actor,
        reason=row.reason,
        at_ms=row.at_ms,
        log_index=LogIndex(row.index),
        evidence=row.evidence,
    )


def metric_reports(view: View, model: str, number: int, limit: int) -> list[MetricReport]:
    """Return the reports of metrics for a version, newest first.

    Raises:
        ModelNotFoundError, ReferenceNotFoundError: there is no such version.
    """
    lookup.record_bytes(view, model, number)
    rows = islice(view.scan(*keys.reports(model, number), reverse=True), _page(limit))
    reports: list[MetricReport] = []
    for _, value in rows:
        row = ReportRow.unpack(value)
        for channel, values in ((row.channel, row.values), *row.more)[::-1]:
            # What `metrics` wrote.
            kept = MetricReport(number, cast("Any", values), cast("str", channel), row.principal, row.at_ms)
            reports.append(kept)
        if len(reports) >= _page(limit):
            break
    return reports[: _page(limit)]


@dataclass(frozen=True, slots=True)
class Happening:
    """A move of a ref, as those who watch see it.

    Attributes:
        record: canonical record of the version that the same command made; empty when it made none.
    """

    of: RefName
    move: RefMove
    record: bytes


# What a move of a branch is called when a version was made for it.
_MAKING_VERBS = ("commit", "rollback", "merge")


def happenings(view: View, model: str, *, after: int, through: int, limit: int) -> list[Happening]:
    """Return the moves of refs in log order.

    Args:
        view: where to read.
        model: only of this model; "" = of all. What others do is passed over at the cost of reading it.
        after: only of a greater log index.
        through: only up to this log index, which the view has reached.
        limit: at most this many, and at most PAGE_MAX.

    Raises:
        HistoryGoneError: some of a greater log index than `after` are no longer kept.
    """
    rows = _events(view, after)
    mine = (row for index, row in rows if index <= through and model in ("", row.model))
    return [_happening(view, row) for row in islice(mine, _page(limit))]


def moved(view: View, *, after: int, through: int, limit: int) -> list[tuple[LogIndex, RefName]]:
    """Return which refs moved and when, in log order; as `happenings`, for all models, without how.

    Raises:
        HistoryGoneError: some of a greater log index than `after` are no longer kept.
    """
    rows = takewhile(lambda found: found[0] <= through, _events(view, after))
    return [
        (LogIndex(index), RefName(row.model, RefKind(row.kind), row.name))
        for index, row in islice(rows, _page(limit))
    ]


def _events(view: View, after: int) -> Iterator[tuple[int, EventRow]]:
    kept = read(view, keys.EVENTS, EventsRow) or EventsRow()
    if after < kept.gone_through:
        raise HistoryGoneError(after, kept.gone_through)
    return (
        (keys.number_in(key), EventRow.unpack(value)) for key, value in view.scan(*keys.events_after(after))
    )


def _happening(view: View, row: EventRow) -> Happening:
    of = RefName(row.model, RefKind(row.kind), row.name)
    move = _move_of(row.generation, lookup.move_row(view, of, row.generation))
    made = of.kind is RefKind.BRANCH and move.verb in _MAKING_VERBS
    return Happening(of, move, lookup.record_bytes(view, of.model, move.number) if made else b"")


def _page(limit: int) -> int:
    return max(0, min(limit, PAGE_MAX))


def _bound(before: int | None) -> int:
    return NUMBER_MAX if before is None else max(0, min(before, NUMBER_MAX))
