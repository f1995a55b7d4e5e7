"""Receipts: what is really loaded where, as those say who loaded it.

A consumer is one process of a fleet: a name, and a rank where several processes make up one. Laws:
    A receipt of a channel names a generation at which the channel was at that version, so what a fleet runs
    and what it was told to run cannot be mixed up.
    `failed` says that a version could not be loaded: what was loaded before stays loaded. `gone` says that
    the consumer ended: nothing is loaded any more.
    A receipt that says again what the last one said is no new entry, only a sign of life.
    A version counts as in use while a consumer has it loaded; `versions_in_use` reads counts, so its cost
    does not grow with the fleet.
    Bounded: `Window` says how many receipts of a consumer, and how many consumers of a model, are remembered.
    What is forgotten is known, so that nobody takes a gap for an answer.
"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

from mcr.errors import CorruptStoreError, InvalidArgumentError
from mcr.model import RefKind
from mcr.record import version_id
from mcr.references import check_name
from mcr.values import dataclass
from mcr_node.core.state import keys, lookup, receipt_keys
from mcr_node.core.state.commands import Acknowledge
from mcr_node.core.state.keys import RefName
from mcr_node.core.state.outcomes import ReceiptResult
from mcr_node.core.state.records import PLACE, Row, StandingRow, read
from mcr_node.core.state.step import Step
from mcr_node.core.state.texts import check_number, check_text
from mcr_node.core.state.view import View

LOADED, FAILED, GONE = "loaded", "failed", "gone"
STATES = (LOADED, FAILED, GONE)
CONSUMER_CHARACTERS_MAX = 256
# More processes than any machine room has; a rank is a number within a job, not an address.
RANK_MAX = 2**32 - 1


@dataclass(frozen=True, slots=True)
class Window:
    """How much is remembered.

    Attributes:
        consumers_max: of one model; then the one that was silent the longest is forgotten. 16,384 with all
            their receipts are some 300 MB on disk.
        receipts_max: of one consumer. With a new version every hour, more than two days.
    """

    consumers_max: int = 1 << 14
    receipts_max: int = 64


WINDOW = Window()


@dataclass(frozen=True, slots=True)
class ReceiptRow(Row):
    """One receipt, and what was loaded after it.

    Attributes:
        number, version_id, channel, generation, state, principal, at_ms: of the receipt.
        loaded_number, loaded_id, loaded_channel, loaded_generation, loaded_at_ms: of the receipt of what is
            loaded since; 0 and empty when nothing is.
    """

    number: int
    version_id: bytes
    channel: str
    generation: int
    state: str
    principal: str
    at_ms: int
    loaded_number: int
    loaded_id: bytes
    loaded_channel: str
    loaded_generation: int
    loaded_at_ms: int


@dataclass(frozen=True, slots=True)
class ConsumerRow(Row):
    """A consumer.

    Attributes:
        last_index: log index of its last receipt that is an entry of its own.
        receipt_count: how many are remembered.
        heard_index, heard_at_ms: of its last sign of life.
        forgotten_at_ms: of the newest receipt that is no longer remembered; 0 = all are.
    """

    last_index: int
    receipt_count: int
    heard_index: int
    heard_at_ms: int
    forgotten_at_ms: int


@dataclass(frozen=True, slots=True)
class AgeRow(Row):
    """Whose last sign of life was at a log index."""

    name: str
    rank: int


@dataclass(frozen=True, slots=True)
class ReceiptsRow(Row):
    """What concerns all consumers of a model.

    Attributes:
        consumer_count: how many are remembered.
        forgotten_at_ms: last sign of life of the newest that is not; 0 = all are.
    """

    consumer_count: int = 0
    forgotten_at_ms: int = 0


@dataclass(frozen=True, slots=True)
class UseRow(Row):
    """How many consumers have a version loaded; there is no row for none."""

    count: int


def check(command: Acknowledge) -> None:
    """Check what needs no state.

    Raises:
        InvalidArgumentError, InvalidNameError: says what is wrong.
    """
    if command.channel:
        check_name("channel", command.channel)
    check_number("number", command.number, 1)
    check_number("generation", command.generation, 0)
    check_number("rank", command.rank, 0, RANK_MAX)
    check_consumer(command.consumer)
    if command.generation and not command.channel:
        raise InvalidArgumentError("generation", "it needs a channel")
    if command.state not in STATES:
        raise InvalidArgumentError("state", f"it is none of {', '.join(STATES)}")


def check_consumer(name: str) -> None:
    """Check the name of a consumer: free, since hosts and pods have names of their own making.

    Raises:
        InvalidArgumentError: empty, too long, or with characters that cannot be shown.
    """
    check_text("consumer", name, CONSUMER_CHARACTERS_MAX)
    if not name or not name.isprintable():
        raise InvalidArgumentError("consumer", "it is empty or has a character that cannot be shown")


def acknowledge(step: Step, command: Acknowledge, *, window: Window = WINDOW) -> ReceiptResult:
    """Note a receipt.

    Raises:
        ModelNotFoundError, ReferenceNotFoundError: no such version or channel.
        InvalidArgumentError: the channel was not at the version at that generation.
    """
    overlay, model = step.overlay, command.model
    identity = version_id(lookup.record_bytes(overlay, model, command.number))
    generation = _generation(overlay, command)
    key = receipt_keys.consumer(model, command.consumer, command.rank)
    before = read(overlay, key, ConsumerRow)
    last = None if before is None else receipt_row(overlay, command.consumer, command.rank, before, model)
    row = _row(step, command, identity, generation, last)
    now = before or ConsumerRow(0, 0, 0, 0, 0)
    if before is not None:
        overlay.delete(receipt_keys.age(model, before.heard_index))
    if last is None or not _says_the_same(row, last):
        overlay.put(receipt_keys.receipt(model, command.consumer, command.rank, step.index), row.pack())
        now = replace(now, last_index=step.index, receipt_count=now.receipt_count + 1)
        now = _forget_receipts(step, command, now, window)
        _count_use(step, model, 0 if last is None else last.loaded_number, row.loaded_number)
    overlay.put(key, replace(now, heard_index=step.index, heard_at_ms=step.at_ms).pack())
    age = AgeRow(name=command.consumer, rank=command.rank)
    overlay.put(receipt_keys.age(model, step.index), age.pack())
    if before is None:
        _count_consumer(step, model, window)
    return ReceiptResult(command.number, command.channel, generation)


def _generation(view: View, command: Acknowledge) -> int:
    """Return the generation that a receipt speaks of; 0 without a channel."""
    if not command.channel:
        return 0
    of = RefName(command.model, RefKind.CHANNEL, command.channel)
    last = lookup.ref_row(view, of).generation
    if not command.generation:
        standing = read(view, keys.standing(of, command.number), StandingRow)
        if standing is None:
            raise InvalidArgumentError("channel", f"{of} was never at v{command.number}")
        return standing.generation
    if command.generation > last:
        raise InvalidArgumentError("generation", f"{of} is at generation {last}")
    at = lookup.move_row(view, of, command.generation).number
    if at != command.number:
        reason = f"{of} was at v{at} at generation {command.generation}, not at v{command.number}"
        raise InvalidArgumentError("generation", reason)
    return command.generation


def _row(
    step: Step, command: Acknowledge, identity: bytes, generation: int, last: ReceiptRow | None
) -> ReceiptRow:
    row = ReceiptRow(
        number=command.number,
        version_id=identity,
        channel=command.channel,
        generation=generation,
        state=command.state,
        principal=step.principal,
        at_ms=step.at_ms,
        loaded_number=command.number,
        loaded_id=identity,
        loaded_channel=command.channel,
        loaded_generation=generation,
        loaded_at_ms=step.at_ms,
    )
    if command.state == LOADED:
        return row
    if command.state == GONE or last is None:
        return replace(
            row, loaded_number=0, loaded_id=b"", loaded_channel="", loaded_generation=0, loaded_at_ms=0
        )
    return replace(
        row,
        loaded_number=last.loaded_number,
        loaded_id=last.loaded_id,
        loaded_channel=last.loaded_channel,
        loaded_generation=last.loaded_generation,
        loaded_at_ms=last.loaded_at_ms,
    )


def _says_the_same(row: ReceiptRow, last: ReceiptRow) -> bool:
    """Tell whether a receipt is only a sign of life."""
    return row == replace(
        last, at_ms=row.at_ms, loaded_at_ms=row.loaded_at_ms if row.state == LOADED else last.loaded_at_ms
    )


def _forget_receipts(step: Step, command: Acknowledge, now: ConsumerRow, window: Window) -> ConsumerRow:
    excess = now.receipt_count - window.receipts_max
    if excess <= 0:
        return now
    span = receipt_keys.receipts(command.model, command.consumer, command.rank)
    for key, value in list(islice(step.overlay.scan(*span), excess)):
        step.overlay.delete(key)
        forgotten_at_ms = ReceiptRow.unpack(value).at_ms
        now = replace(now, receipt_count=now.receipt_count - 1, forgotten_at_ms=forgotten_at_ms)
    return now


def _count_use(step: Step, model: str, before: int, after: int) -> None:
    if before == after:
        return
    for number, change in ((before, -1), (after, 1)):
        if number:
            key = receipt_keys.use(model, number)
            row = read(step.overlay, key, UseRow)
            count = change if row is None else row.count + change
            assert count >= 0, "a version is in use as often as it was loaded"
            step.overlay.put(key, UseRow(count=count).pack()) if count else step.overlay.delete(key)


def _count_consumer(step: Step, model: str, window: Window) -> None:
    overlay, key = step.overlay, receipt_keys.totals(model)
    row = read(overlay, key, ReceiptsRow) or ReceiptsRow()
    row = replace(row, consumer_count=row.consumer_count + 1)
    if row.consumer_count > window.consumers_max:
        # The rows of one consumer are few, so forgetting one whole costs the same however many there are.
        age_key, value = next(overlay.scan(*receipt_keys.ages(model)))
        silent = AgeRow.unpack(value)
        known = read(overlay, receipt_keys.consumer(model, silent.name, silent.rank), ConsumerRow)
        assert known is not None, "whoever has an age is known"
        last = receipt_row(overlay, silent.name, silent.rank, known, model)
        _count_use(step, model, last.loaded_number, 0)
        for receipt_key, _ in list(overlay.scan(*receipt_keys.receipts(model, silent.name, silent.rank))):
            overlay.delete(receipt_key)
        overlay.delete(age_key)
        overlay.delete(receipt_keys.consumer(model, silent.name, silent.rank))
        row = ReceiptsRow(consumer_count=row.consumer_count - 1, forgotten_at_ms=known.heard_at_ms)
    overlay.put(key, row.pack())


def receipt_row(view: View, name: str, rank: int, of: ConsumerRow, model: str) -> ReceiptRow:
    """Return the last receipt of a consumer.

    Raises:
        CorruptStoreError: there is none.
    """
    row = read(view, receipt_keys.receipt(model, name, rank, of.last_index), ReceiptRow)
    if row is None:
        raise CorruptStoreError(PLACE, f"the receipt of log index {of.last_index} is missing")
    return row


def versions_in_use(view: View, model: str) -> Iterator[int]:
    """Yield the numbers of the versions that somebody has loaded, ascending: roots for garbage collection."""
    for key, _ in view.scan(*receipt_keys.uses(model)):
        yield keys.number_in(key)


def is_in_use(view: View, model: str, number: int) -> bool:
    """Tell whether somebody has a version loaded."""
    return view.get(receipt_keys.use(model, number)) is not None
