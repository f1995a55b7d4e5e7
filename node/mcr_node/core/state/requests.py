"""The memory of requests: a retry gets the first outcome, and the same id never acts twice.

Only accepted requests are remembered: a rejected one changed nothing, so its retry is judged anew, and a
rejection leaves no trace. `Window` says when requests are forgotten: after a week of log time, or when too
many came later.
"""

from collections.abc import Callable, Sequence
from dataclasses import MISSING, fields
from functools import cache
from typing import Any, cast

import blake3

from mcr import canonical
from mcr.bases import BaseVersion
from mcr.canonical import CanonicalError, CanonicalValue
from mcr.errors import CorruptStoreError, RequestReusedError
from mcr.model import LogIndex, RequestId
from mcr.values import dataclass
from mcr_node.core.state import keys
from mcr_node.core.state.commands import Command, LastGoodTarget, NumberTarget, PreviousTarget
from mcr_node.core.state.outcomes import Accepted, Result, pack_result, unpack_result
from mcr_node.core.state.records import PLACE, RequestRow, StateRow, read
from mcr_node.core.state.step import Step
from mcr_node.core.state.view import View

DAY_MS = 24 * 60 * 60 * 1000
_CONTEXT = b"mcr request fingerprint 1\x00"
_COMMAND = "command"
_PLAIN = frozenset((str, bytes, int, bool, type(None)))
# Nor in which round of garbage collection it was found that chunks are held, nor under which lease.
_ENVELOPE_FIELDS = ("request_id", "at_ms", "gc_round", "layout_epoch", "lease")


@dataclass(frozen=True, slots=True)
class Window:
    """How long requests are remembered.

    Attributes:
        length_ms: in log time. A week covers a training job that waited over a long weekend for its cluster.
        count_max: a quarter of a million rows of some 300 bytes are 80 MB on disk.
        evictions_max: forgotten per command at most, so that applying costs the same after a long pause. More
            than one, so the memory shrinks again; it grows by one per command.
    """

    length_ms: int = 7 * DAY_MS
    count_max: int = 1 << 18
    evictions_max: int = 8


WINDOW = Window()


def fingerprint(command: Command) -> bytes:
    """Return a digest of what a command asks for: all of it but the request id and what belongs to this try.

    A field at its default is left out. So a field that a later release adds does not change the fingerprints
    of commands without it, and a retry across an upgrade is still known.
    """
    kind: Any = type(command)
    content: dict[str, CanonicalValue] = {}
    is_ordered = True
    names, defaults, values_of = _asked(kind)
    for name, default, value in zip(names, defaults, values_of(command), strict=True):
        if value == default:
            continue
        if type(value) not in _PLAIN:
            value, is_in_order = _canonical(value)
            is_ordered = is_ordered and is_in_order
        content[name] = value
    encode = canonical.encode_ordered if is_ordered else canonical.encode
    return blake3.blake3(_CONTEXT + encode(content)).digest()


def _canonical(value: Any) -> tuple[CanonicalValue, bool]:  # noqa: ANN401 (a field of a command)
    """Return what stands for a value, and whether it is in canonical order."""
    if type(value) is dict:
        # Parameters, metrics, rules.
        if not value:
            return value, True
        try:
            return canonical.ordered(value), True
        except CanonicalError:
            return value, False
    match value:
        case PreviousTarget():
            return "previous", True
        case LastGoodTarget():
            return "last-good", True
        case NumberTarget(number):
            return number, True
        case BaseVersion():
            return [value.model, value.number, value.id], True
        case str() | bytes() | int() | None:
            return value, True
        case _:
            try:
                return canonical.ordered(value), True
            except CanonicalError:
                return value, False


@cache
def _asked(kind: Any) -> "tuple[tuple[str, ...], tuple[object, ...], Callable[[Any], tuple[Any, ...]]]":  # noqa: ANN401 (a class of commands)
    """Return what a command asks for, in canonical order, the shorter name first: names, defaults, values.

    Nothing is equal to the default of a field that has none.
    """
    found = [(each.name, each.default) for each in fields(kind) if each.name not in _ENVELOPE_FIELDS]
    found = sorted([(_COMMAND, MISSING), *found], key=lambda one: (len(one[0]), one[0]))
    asked = (repr(kind.__name__) if name == _COMMAND else f"command.{name}" for name, _ in found)
    values_of = eval(f"lambda command: ({', '.join(asked)},)", {})  # noqa: S307 (of names of fields alone)
    return tuple(name for name, _ in found), tuple(default for _, default in found), values_of


def recall(view: View, request_id: RequestId, content: bytes) -> Accepted | None:
    """Return the outcome of a request that was accepted before, or None.

    `content` is the fingerprint of the command at hand.

    Raises:
        RequestReusedError: the id was used for something else.
    """
    row = read(view, keys.request(request_id), RequestRow)
    if row is None:
        return None
    if row.fingerprint != content:
        raise RequestReusedError(shown_id(request_id))
    return Accepted(LogIndex(row.index), unpack_result(row.result), already_applied=True)


def shown_id(request_id: RequestId) -> str:
    """Return a request id as its chooser would know it: as text if it is text, else in hexadecimal."""
    text = request_id.decode("ascii", "replace")
    return text if text.isascii() and text.isprintable() else request_id.hex()


def remember(
    step: Step,
    request_id: RequestId,
    content: bytes,
    result: Result,
    *,
    state: StateRow,
    window: Window = WINDOW,
) -> None:
    """Note an accepted request, forget a few old ones, and write what follows the row `state`."""
    write(step, request_id, content, result)
    step.overlay.put(keys.request_age(step.index), request_id)
    _write_state(step, 1, state, window)


def write(step: Step, request_id: RequestId, content: bytes, result: Result) -> None:
    """Write an accepted request; whoever does it notes all of its command with `remember_many`."""
    row = RequestRow(fingerprint=content, index=step.index, at_ms=step.at_ms, result=pack_result(result))
    step.overlay.put(keys.request(request_id), row.pack())


def remember_many(
    step: Step, request_ids: Sequence[RequestId], *, state: StateRow, window: Window = WINDOW
) -> None:
    """Note accepted requests of one command, which were written; otherwise as `remember`."""
    step.overlay.put(keys.request_ages(step.index), canonical.encode(request_ids))
    _write_state(step, len(request_ids), state, window)


def _write_state(step: Step, added: int, state: StateRow, window: Window) -> None:
    count = state.request_count + added
    oldest, oldest_at_ms = state.oldest_request_index, state.oldest_request_at_ms
    if count > window.count_max or oldest_at_ms < step.at_ms - window.length_ms:
        count, oldest, oldest_at_ms = _forget(step, count, oldest, window, added)
    now = StateRow(
        last_at_ms=step.at_ms,
        request_count=count,
        oldest_request_index=oldest,
        oldest_request_at_ms=oldest_at_ms,
    )
    step.overlay.put(keys.STATE, now.pack())


def _forget(step: Step, count: int, oldest: int, window: Window, added: int) -> tuple[int, int, int]:
    """Forget a few requests beyond the window; return how many are left, and index and time of the oldest.

    Those of one command are forgotten together.
    """
    # The memory shrinks although this command adds several.
    evictions_left = window.evictions_max + added - 1
    for key, value in step.overlay.scan(*keys.request_ages_from(oldest)):
        oldest, is_many = keys.request_age_in(key)
        if oldest == step.index:
            return count, oldest, step.at_ms
        old_ids = remembered_in(value) if is_many else [RequestId(value)]
        old = read(step.overlay, keys.request(old_ids[0]), RequestRow)
        if old is None:
            raise CorruptStoreError(PLACE, f"the request of log index {oldest} is missing")
        is_kept = count <= window.count_max and old.at_ms >= step.at_ms - window.length_ms
        if is_kept or evictions_left <= 0:
            return count, oldest, old.at_ms
        step.overlay.delete(key)
        for old_id in old_ids:
            step.overlay.delete(keys.request(old_id))
        count -= len(old_ids)
        evictions_left -= len(old_ids)
    raise AssertionError("the request of this command is remembered")


def remembered_in(value: bytes) -> list[RequestId]:
    """Return the requests that were remembered together.

    Raises:
        CorruptStoreError: it is no list of them.
    """
    try:
        found = canonical.decode_own(value)
    except CanonicalError as error:
        raise CorruptStoreError(PLACE, f"a list of requests is not canonical: {error}") from error
    if not isinstance(found, list) or not found:
        raise CorruptStoreError(PLACE, "what should be a list of requests is not")
    return cast("list[RequestId]", found)
