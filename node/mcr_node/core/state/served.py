"""Pure reads of receipts: what is loaded where, now or at a time, and what one consumer said."""

from itertools import islice

from mcr.model import LogIndex
from mcr.serving import Receipt, Serving
from mcr.values import dataclass
from mcr_node.core.state import keys, lookup, receipt_keys, receipts
from mcr_node.core.state.queries import PAGE_MAX
from mcr_node.core.state.receipts import ConsumerRow, ReceiptRow, ReceiptsRow
from mcr_node.core.state.records import read
from mcr_node.core.state.view import View


@dataclass(frozen=True, slots=True)
class Page:
    """A part of what is served.

    Attributes:
        servings: by consumer and rank.
        next_consumer, next_rank: where the next page begins: after these; "" = this is the last one.
        is_complete: nothing that would be an answer is known to be forgotten.
    """

    servings: list[Serving]
    next_consumer: str
    next_rank: int
    is_complete: bool


def served(
    view: View, model: str, *, at_ms: int | None, after: tuple[str, int] = ("", 0), limit: int = PAGE_MAX
) -> Page:
    """Return what consumers have loaded.

    Args:
        view: the state.
        model: the model.
        at_ms: at this time; None = now.
        after: only consumers after this one, by name and rank.
        limit: look at so many consumers at most, and at most PAGE_MAX.

    Raises:
        ModelNotFoundError: there is no such model.
    """
    lookup.model_row(view, model)
    totals = read(view, receipt_keys.totals(model), ReceiptsRow) or ReceiptsRow()
    complete = at_ms is None or at_ms > totals.forgotten_at_ms
    found: list[Serving] = []
    looked_at = 0
    name, rank = "", 0
    limit = max(1, min(limit, PAGE_MAX))
    for key, value in islice(view.scan(*receipt_keys.consumers_after(model, *after)), limit):
        looked_at += 1
        name, rank = receipt_keys.consumer_in(model, key)
        row = ConsumerRow.unpack(value)
        serving = _serving(view, model, name, rank, row, at_ms)
        if serving is not None:
            found.append(serving)
        elif at_ms is not None and at_ms <= row.forgotten_at_ms:
            complete = False
    if looked_at < limit:
        name = ""
    return Page(found, name, rank, complete)


def _serving(
    view: View, model: str, name: str, rank: int, row: ConsumerRow, at_ms: int | None
) -> Serving | None:
    """Return what a consumer served; None when it had said nothing yet, or that is forgotten."""
    if at_ms is None:
        last = receipts.receipt_row(view, name, rank, row, model)
        return _with_loaded(name, rank, row.last_index, last, row.heard_at_ms)
    span = receipt_keys.receipts(model, name, rank)
    for key, value in view.scan(*span, reverse=True):
        then = ReceiptRow.unpack(value)
        if then.at_ms <= at_ms:
            return _with_loaded(name, rank, keys.number_in(key), then, then.at_ms)
    return None


def _with_loaded(name: str, rank: int, index: int, row: ReceiptRow, heard_at_ms: int) -> Serving:
    return Serving(
        consumer=name,
        rank=rank,
        number=row.loaded_number,
        version_id=row.loaded_id.hex(),
        channel=row.loaded_channel,
        generation=row.loaded_generation,
        since_ms=row.loaded_at_ms,
        heard_ms=heard_at_ms,
        last=_receipt(name, rank, index, row),
    )


def _receipt(name: str, rank: int, index: int, row: ReceiptRow) -> Receipt:
    return Receipt(
        consumer=name,
        rank=rank,
        state=row.state,
        number=row.number,
        version_id=row.version_id.hex(),
        channel=row.channel,
        generation=row.generation,
        principal=row.principal,
        at_ms=row.at_ms,
        log_index=LogIndex(index),
    )


def receipts_of(view: View, model: str, name: str, *, limit: int) -> list[Receipt]:
    """Return the receipts of all ranks of a consumer, newest first.

    Raises:
        ModelNotFoundError: there is no such model.
    """
    lookup.model_row(view, model)
    found: list[Receipt] = []
    for consumer_key, _ in islice(view.scan(*receipt_keys.consumers_named(model, name)), PAGE_MAX):
        _, rank = receipt_keys.consumer_in(model, consumer_key)
        for key, value in view.scan(*receipt_keys.receipts(model, name, rank), reverse=True):
            found.append(_receipt(name, rank, keys.number_in(key), ReceiptRow.unpack(value)))
    found.sort(key=lambda receipt: -receipt.log_index)
    return found[: max(0, min(limit, PAGE_MAX))]
