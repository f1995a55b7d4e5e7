"""The values of the view, as canonical bytes: one small class for each family in `keys`.

Every value is a canonical mapping with its own format number under `"f"` and its fields under their names, so
a state digest is computed over bytes that only one value can have, and any CBOR tool can show a row. Version
records are the exception: they are stored as `mcr.record` made them, so that their ids can be verified again.

A field that a later release adds gets a new format number for its family; `_read` keeps reading the old ones.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field, fields
from functools import cache
from typing import Any, ClassVar, Self, TypeVar, cast

from mcr import canonical
from mcr.canonical import CanonicalError, CanonicalValue
from mcr.errors import CorruptStoreError, StoreFormatError
from mcr.model import ParameterValue
from mcr.values import dataclass
from mcr_node.core.state.view import View

# The place named in errors; the store that holds the view knows its own path, this code does not.
PLACE = "state"
_FORMAT_KEY = "f"
# Integers of rows are log indexes, numbers, counts and times, all far below 64 bits: `checks` bounds them.
_PLAIN = frozenset((str, bytes, int, bool, type(None)))


@cache
def _names(row: Any) -> tuple[str, ...]:  # noqa: ANN401 (a class of rows; typeshed thinks it unhashable)
    # In canonical order: the shorter first. The format's key is the shortest of all.
    return tuple(sorted((each.name for each in fields(row)), key=lambda name: (len(name), name)))


@cache
def _names_of(row: Any, form: int) -> tuple[str, ...]:  # noqa: ANN401 (as above)
    """Return the fields that a row of a format has, in canonical order."""
    return tuple(name for name in _names(row) if row.SINCE.get(name, 1) <= form)


@cache
def _mapper(row: Any) -> "Callable[[Any], dict[str, CanonicalValue]]":  # noqa: ANN401 (as above)
    """Return what makes a mapping in canonical order of a row.

    Made of source text, as dataclasses make their methods: a dozen rows are written for each command, and a
    loop over the names of their fields takes as long as encoding them.
    """
    named = "".join(f", {name!r}: row.{name}" for name in _names(row))
    mapper: Callable[[Any], dict[str, CanonicalValue]] = eval(  # noqa: S307 (of names of this module alone)
        f"lambda row: {{{_FORMAT_KEY!r}: {row.FORMAT}{named}}}", {}
    )
    return mapper


_PLAIN_FIELDS = frozenset((str, bytes, int, bool))


@cache
def _plan(row: Any) -> "tuple[Callable[[Any], dict[str, CanonicalValue]], tuple[str, ...], bool]":  # noqa: ANN401 (as above)
    """Return how a row is packed: its mapper, the fields whose values may be out of order, whether it is hot.

    What is declared to be text, bytes or an integer is in order as it is.
    """
    looked_at = tuple(
        each.name for each in fields(row) if each.type not in _PLAIN_FIELDS and each.name not in row.ORDERED
    )
    return _mapper(row), looked_at, row.IS_HOT


# Rows of the commands a moment ago by their bytes, so that they need not be read again. It is no state: the
# same bytes are the same row. Of plain fields alone, whose types are those that reading them would give.
_HOT: "dict[bytes, Row]" = {}
_HOT_MAX = 4096


def _remember(data: bytes, row: "Row") -> None:
    if len(_HOT) >= _HOT_MAX:
        # All at once; those that are still hot are back after one reading.
        _HOT.clear()
    _HOT[data] = row


def _is_in_order(value: CanonicalValue) -> bool:
    # The value of a metric, the metrics of a report of one, and several such reports.
    if type(value) is list or type(value) is tuple:
        return all(type(item) is str or _is_in_order(item) for item in value)
    if type(value) is dict and len(value) == 1:
        return all(type(item) is float and math.isfinite(item) for item in value.values())
    return type(value) is float and math.isfinite(value)


@dataclass(frozen=True, slots=True)
class Row:
    """Shared form of all rows.

    Class attributes:
        FORMAT: format number this release writes.
        SINCE: the format that brought a field, of those that the first did not have. They have defaults.
        ORDERED: fields that whoever makes the row puts into canonical order, finite and plain.
        IS_HOT: what one command writes the next one reads; of plain fields.
    """

    FORMAT: ClassVar[int] = 1
    SINCE: ClassVar[Mapping[str, int]] = {}
    ORDERED: ClassVar[frozenset[str]] = frozenset()
    IS_HOT: ClassVar[bool] = False

    def pack(self) -> bytes:
        """Return the canonical bytes."""
        mapped, looked_at, is_hot = _plan(cast("Any", type(self)))
        values = mapped(self)
        for name in looked_at:
            value = values[name]
            if type(value) in _PLAIN or not value:
                continue
            is_hot = False
            if not _is_in_order(value):
                return canonical.encode(values)
        data = canonical.encode_ordered(values)
        if is_hot:
            _remember(data, self)
        return data

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """Read a row.

        Raises:
            CorruptStoreError: the bytes are no row of this family.
            StoreFormatError: a newer release wrote it.
        """
        known = _HOT.get(data)
        if type(known) is cls:
            return known
        try:
            values = canonical.decode_own(data)
        except CanonicalError as error:
            raise CorruptStoreError(PLACE, f"a {cls.__name__} is not canonical: {error}") from error
        if not isinstance(values, dict):
            raise CorruptStoreError(PLACE, f"a {cls.__name__} is not a mapping")
        found = values.pop(_FORMAT_KEY, None)
        if isinstance(found, int) and found > cls.FORMAT:
            raise StoreFormatError(PLACE, found, cls.FORMAT)
        is_format = isinstance(found, int) and found > 0
        # What is stored is in canonical order, so the names are too.
        if not is_format or tuple(values) != _names_of(cast("Any", cls), cast("int", found)):
            raise CorruptStoreError(
                PLACE, f"a {cls.__name__} has format {found!r} and fields {sorted(values)}"
            )
        return cls(**values)


AnyRow = TypeVar("AnyRow", bound=Row)


def read(view: View, key: bytes, row: type[AnyRow]) -> AnyRow | None:
    """Return the row at `key`, or None.

    Raises:
        CorruptStoreError, StoreFormatError: the value cannot be read.
    """
    data = view.get(key)
    return None if data is None else row.unpack(data)


@dataclass(frozen=True, slots=True)
class StateRow(Row):
    """What concerns all commands.

    Attributes:
        last_at_ms: log time of the last accepted command; log time never goes back.
        request_count: how many requests are remembered.
        oldest_request_index: no remembered request has a smaller log index. A scan for the oldest starts
            here, not at the start of the family, where an LSM tree keeps the graves of all that were evicted.
        oldest_request_at_ms: log time of that request; 0 when it is not known. It says whether there is
            anything to forget, without a look.
    """

    IS_HOT = True

    FORMAT = 2
    SINCE = {"oldest_request_at_ms": 2}  # noqa: RUF012 (see Row)

    last_at_ms: int = 0
    request_count: int = 0
    oldest_request_index: int = 0
    oldest_request_at_ms: int = 0


@dataclass(frozen=True, slots=True)
class ModelRow(Row):
    """A model; it exists from its first version on.

    Attributes:
        version_count: versions are numbered from 1 to this, without gaps.
    """

    IS_HOT = True

    version_count: int
    created_at_ms: int
    updated_at_ms: int


@dataclass(frozen=True, slots=True)
class IdRow(Row):
    """Which version has an id."""

    number: int


@dataclass(frozen=True, slots=True)
class RefRow(Row):
    """A ref that exists, as its latest move left it.

    Attributes:
        version_id: 32 bytes.
        below: generation of the entry that the present one was set on top of, 0 at the bottom: what a
        rollback
            goes back to. It is not simply the generation before: after a rollback that one is what was left.
        protection: rules; empty when unprotected.
        protected_by: principal that set them last; "" when never set.
        frozen: `level`, `actor`, `reason` and `at_ms` of a channel that is frozen; None when it is not.
        pending: `number`, `actor`, `reason`, `at_ms` and `index` of a move that waits for approval.
    """

    FORMAT = 2
    SINCE = {"frozen": 2, "pending": 2}  # noqa: RUF012 (see Row)

    IS_HOT = True

    number: int
    version_id: bytes
    generation: int
    below: int
    actor: str
    reason: str
    at_ms: int
    protection: Mapping[str, ParameterValue] = field(default_factory=dict)
    protected_by: str = ""
    frozen: Mapping[str, ParameterValue] | None = None
    pending: Mapping[str, ParameterValue] | None = None


@dataclass(frozen=True, slots=True)
class MoveRow(Row):
    """One move of a ref.

    Attributes:
        number, version_id: what it points at since; 0 and empty after a deletion.
        below: as in RefRow, as of this move.
        index: log index.
        evidence: what a policy decided it on; None when a person moved it.
    """

    FORMAT = 2
    SINCE = {"evidence": 2}  # noqa: RUF012 (see Row)

    number: int
    version_id: bytes
    below: int
    verb: str
    actor: str
    reason: str
    at_ms: int
    index: int
    evidence: Mapping[str, ParameterValue] | None = None


@dataclass(frozen=True, slots=True)
class PointerRow(Row):
    """A ref points at a version; the key says which and at which."""


POINTER = PointerRow().pack()


@dataclass(frozen=True, slots=True)
class DerivedRow(Row):
    """A version was derived from another; the key says which from which."""


@dataclass(frozen=True, slots=True)
class StandingRow(Row):
    """How a channel or branch stands to a version it was at.

    Attributes:
        generation: the latest at which it was.
        rolled_back: a rollback left this version since it was last chosen by name.
    """

    generation: int
    rolled_back: bool


@dataclass(frozen=True, slots=True)
class SignatureRow(Row):
    """A signature of a version, 64 bytes; the key says of which and by which public key.

    Attributes:
        principal, at_ms, index: who handed it in, and when.
    """

    signature: bytes
    principal: str
    at_ms: int
    index: int


@dataclass(frozen=True, slots=True)
class MetricRow(Row):
    """The latest value of a metric of a version, and the log index of its report."""

    value: float
    index: int


@dataclass(frozen=True, slots=True)
class MetricCountRow(Row):
    """How many different metrics a version has."""

    IS_HOT = True

    count: int


@dataclass(frozen=True, slots=True)
class ReportRow(Row):
    """One report of metrics, or several for a version that came with one command.

    Attributes:
        more: channel and values of those behind the first, in their order.
    """

    FORMAT = 2
    SINCE = {"more": 2}  # noqa: RUF012 (see Row)

    values: Mapping[str, float]
    channel: str
    principal: str
    at_ms: int
    more: Sequence[Sequence[CanonicalValue]] = ()


@dataclass(frozen=True, slots=True)
class RequestRow(Row):
    """An accepted request.

    Attributes:
        fingerprint: digest of its content, 32 bytes.
        index, at_ms: when it was applied.
        result: as `outcomes.pack_result` gives it.
    """

    ORDERED = frozenset(("result",))

    fingerprint: bytes
    index: int
    at_ms: int
    result: Mapping[str, CanonicalValue]


@dataclass(frozen=True, slots=True)
class EventsRow(Row):
    """What concerns all events.

    Attributes:
        count: how many are kept.
        gone_through: those up to this log index are no longer kept. A scan for the oldest starts behind it,
            as for requests.
    """

    IS_HOT = True

    count: int = 0
    gone_through: int = 0


@dataclass(frozen=True, slots=True)
class EventRow(Row):
    """A ref moved at a log index; what the move was stands in its MoveRow."""

    model: str
    kind: str
    name: str
    generation: int


@dataclass(frozen=True, slots=True)
class MergesRow(Row):
    """What concerns all merges of a model that waited: the last number given, and how many wait now."""

    last: int = 0
    count: int = 0


@dataclass(frozen=True, slots=True)
class WaitingRow(Row):
    """A merge that waits for decisions; fields as in `commands.OpenMerge`.

    Attributes:
        open_count: conflicts without a choice.
    """

    branch: str
    ours: int
    theirs: int
    base: int
    document: bytes
    conflict_count: int
    open_count: int
    creator: str
    at_ms: int


@dataclass(frozen=True, slots=True)
class ConflictRow(Row):
    """A conflict of a waiting merge.

    Attributes:
        choice: "" while nobody decided; decider, at_ms: who did, and when.
    """

    detail: bytes
    choice: str = ""
    decider: str = ""
    at_ms: int = 0


@dataclass(frozen=True, slots=True)
class DocumentRow(Row):
    """How a version was merged: bytes whose digest stands in its record."""

    document: bytes
