"""What `apply` answers: accepted with a result, or rejected with an error as data."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, cast

from mcr import canonical
from mcr.canonical import CanonicalValue
from mcr.errors import CorruptStoreError, FieldValue, McrError, from_fields
from mcr.model import LogIndex, Ref, RefKind, VersionId
from mcr.values import dataclass
from mcr_node.core.state.records import PLACE


@dataclass(frozen=True, slots=True)
class VersionResult:
    """The version that a commit or a rollback of a branch made.

    Attributes:
        id: 32 bytes.
    """

    number: int
    id: VersionId


@dataclass(frozen=True, slots=True)
class RefResult:
    """A ref after a command.

    Attributes:
        ref: as it stands; after a deletion with number 0 and no version id.
        already: it stood there before, nothing moved.
        waits: the move was only asked for; nothing moves before somebody else approves.
    """

    ref: Ref
    already: bool = False
    waits: bool = False


@dataclass(frozen=True, slots=True)
class ReportResult:
    """A report of metrics was kept.

    Attributes:
        number: the version.
        metric_count: how many different metrics it has now.
        decision: what policies decided on it, in sentences; "" when nothing.
    """

    number: int
    metric_count: int
    decision: str = ""


@dataclass(frozen=True, slots=True)
class ReceiptResult:
    """A receipt was noted.

    Attributes:
        number: the version.
        channel, generation: that it speaks of; "" and 0 without one.
    """

    number: int
    channel: str
    generation: int


@dataclass(frozen=True, slots=True)
class SessionResult:
    """An upload session after a command.

    Attributes:
        serial: log index of its beginning.
        generation: how many parts it has.
        already: it was so before, nothing changed.
    """

    session: str
    serial: int
    generation: int
    already: bool = False


@dataclass(frozen=True, slots=True)
class PolicyResult:
    """A policy was set, deleted, or had its turn.

    Attributes:
        decision: what it decided, in one sentence; "" when nothing.
    """

    name: str
    decision: str


@dataclass(frozen=True, slots=True)
class MergeResult:
    """A waiting merge after a command.

    Attributes:
        merge: its number.
        open_count: conflicts that nobody decided yet; 0 too when it was dropped.
    """

    merge: int
    open_count: int


@dataclass(frozen=True, slots=True)
class DigestResult:
    """A digest was noted for comparison; nothing changed, so no retry ever asks for this."""


@dataclass(frozen=True, slots=True)
class DeletedResult:
    """Versions were put into the trash.

    Attributes:
        numbers: those that this command put there; of a whole model none is named.
        until_ms: they can be restored before this log time.
    """

    numbers: tuple[int, ...]
    until_ms: int


@dataclass(frozen=True, slots=True)
class CountResult:
    """So many rows of their kind were changed.

    Attributes:
        more: there are more, which the same command with another request id changes.
    """

    count: int
    more: bool = False


@dataclass(frozen=True, slots=True)
class RoundResult:
    """The round of garbage collection that a mark began, or that a lease holds since."""

    round: int


Result = (
    VersionResult
    | RefResult
    | ReportResult
    | ReceiptResult
    | DeletedResult
    | CountResult
    | RoundResult
    | SessionResult
    | PolicyResult
    | MergeResult
)


@dataclass(frozen=True, slots=True)
class ReportsResult:
    """What became of several reports of one command.

    Attributes:
        outcomes: of the first of them, in their order; where there are fewer than reports, the rest did not
            have its turn and is to be proposed again.
    """

    outcomes: "tuple[Accepted | Rejected, ...]"


@dataclass(frozen=True, slots=True)
class Accepted:
    """The command took effect.

    Attributes:
        index: log index at which it did; of the first try when this one was a retry.
        already_applied: an earlier command with the same request id had done it; nothing changed now.
    """

    index: LogIndex
    result: Result | DigestResult | ReportsResult
    already_applied: bool = False


@dataclass(frozen=True, slots=True)
class Rejected:
    """The command had no effect at all.

    Attributes:
        code, fields: of the error in `mcr.errors`.
    """

    index: LogIndex
    code: str
    fields: Mapping[str, FieldValue]

    def error(self) -> McrError:
        """Return the error to raise for the caller."""
        return from_fields(self.code, self.fields)


Outcome = Accepted | Rejected

_REF_FIELDS = tuple(each.name for each in fields(Ref))


def pack_result(result: Result) -> dict[str, CanonicalValue]:
    """Return a result as a mapping in canonical order, which saves sorting each time."""
    match result:
        case VersionResult():
            return {"id": result.id, "type": "version", "number": result.number}
        case RefResult():
            ref = {name: getattr(result.ref, name) for name in _REF_FIELDS}
            # Rules as whoever set them wrote them.
            waits: dict[str, CanonicalValue] = {"waits": True} if result.waits else {}
            return {"ref": canonical.ordered(ref), "type": "ref", **waits, "already": result.already}
        case ReportResult():
            said: dict[str, CanonicalValue] = {"decision": result.decision} if result.decision else {}
            return {"type": "report", "number": result.number, **said, "metric_count": result.metric_count}
        case PolicyResult(name, decision):
            return {"name": name, "type": "policy", "decision": decision}
        case ReceiptResult(number, channel, generation):
            return {"type": "receipt", "number": number, "channel": channel, "generation": generation}
        case MergeResult(merge, open_count):
            return {"type": "merge", "merge": merge, "open_count": open_count}
        case DeletedResult():
            return {"type": "deleted", "numbers": result.numbers, "until_ms": result.until_ms}
        case CountResult():
            return {"more": result.more, "type": "count", "count": result.count}
        case RoundResult():
            return {"type": "round", "round": result.round}
        case SessionResult(session, serial, generation, already):
            return {
                "type": "session",
                "serial": serial,
                "already": already,
                "session": session,
                "generation": generation,
            }


def unpack_result(packed: Mapping[str, CanonicalValue]) -> Result:
    """Read what `pack_result` gave.

    Raises:
        CorruptStoreError: it is something else.
    """
    values = dict(packed)
    try:
        match values.pop("type"):
            case "version":
                return VersionResult(cast("int", values["number"]), VersionId(cast("bytes", values["id"])))
            case "ref":
                ref = dict(cast("Mapping[str, CanonicalValue]", values["ref"]))
                kind = RefKind(cast("str", ref.pop("kind")))
                return RefResult(
                    Ref(kind=kind, **cast("dict[str, Any]", ref)),
                    values["already"] is True,
                    "waits" in values,
                )
            case "report":
                return ReportResult(
                    cast("int", values["number"]),
                    cast("int", values["metric_count"]),
                    cast("str", values.get("decision", "")),
                )
            case "policy":
                return PolicyResult(cast("str", values["name"]), cast("str", values["decision"]))
            case "receipt":
                return ReceiptResult(
                    cast("int", values["number"]),
                    cast("str", values["channel"]),
                    cast("int", values["generation"]),
                )
            case "merge":
                return MergeResult(cast("int", values["merge"]), cast("int", values["open_count"]))
            case "deleted":
                numbers = tuple(cast("Sequence[int]", values["numbers"]))
                return DeletedResult(numbers, cast("int", values["until_ms"]))
            case "count":
                return CountResult(cast("int", values["count"]), values["more"] is True)
            case "round":
                return RoundResult(cast("int", values["round"]))
            case "session":
                return SessionResult(
                    cast("str", values["session"]),
                    cast("int", values["serial"]),
                    cast("int", values["generation"]),
                    values["already"] is True,
                )
            case other:
                raise CorruptStoreError(PLACE, f"a remembered result is of type {other!r}")
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptStoreError(PLACE, f"a remembered result lacks a field: {error}") from error
