"""The two forms of every value: a JSON object for programs, lines for people. Pure.

Fields of the objects are only added to, never renamed or removed.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from mcr.bases import BaseVersion
from mcr.cli.output import JsonObject, JsonValue, one_line, to_json
from mcr.model import (
    CommitResult,
    FileEntry,
    MetricReport,
    ModelSummary,
    Ref,
    RefKind,
    RefMove,
    Version,
    VersionKind,
    datetime_of,
)
from mcr.signatures import Signature

if TYPE_CHECKING:
    from mcr.reading import Lineage

# Eight characters are the shortest prefix that a reference takes.
ID_CHARACTERS_SHOWN = 8
TITLE_CHARACTERS_MAX = 100
_UNITS = ("kB", "MB", "GB", "TB", "PB")


def size(count_bytes: int) -> str:
    """Return a size for people: `999 B`, `1.2 GB`."""
    if count_bytes < 1000:
        return f"{count_bytes} B"
    value = float(count_bytes)
    for unit in _UNITS:
        value /= 1000
        # 999.95 would round to 1000.0.
        if value < 999.95 or unit == _UNITS[-1]:
            break
    return f"{value:.1f} {unit}"


def count(number: int, noun: str) -> str:
    """Return `1 file`, `2 files`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def number(value: float | None) -> str:
    """Return a number for people, at most six digits; `-` for None."""
    return "-" if value is None else f"{value:.6g}"


def moment(at_ms: int) -> str:
    """Return a time for people, to the minute, in UTC: `2026-11-23 10:00Z`."""
    return f"{datetime_of(at_ms):%Y-%m-%d %H:%M}Z"


def timestamp(at_ms: int) -> str:
    """Return a time for programs: `2026-11-23T10:00:00.123Z`."""
    return instant(datetime_of(at_ms))


def instant(at: datetime) -> str:
    """Return an aware datetime for programs, in UTC, to the millisecond."""
    return f"{at.astimezone(UTC).replace(tzinfo=None).isoformat(timespec='milliseconds')}Z"


def table(rows: Iterable[Sequence[str]]) -> str:
    """Return rows as aligned columns, two spaces apart; the last column is as wide as it likes."""
    lines = [list(row) for row in rows]
    if not lines:
        return ""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]) - 1)]
    return "\n".join(
        "  ".join(
            [*(cell.ljust(width) for cell, width in zip(line, widths, strict=False)), line[-1]]
        ).rstrip()
        for line in lines
    )


# ---- models and versions ----


def model_object(summary: ModelSummary) -> JsonObject:
    """Return a model as JSON."""
    return {
        "model": summary.name,
        "version_count": summary.version_count,
        "created_at": timestamp(summary.created_at_ms),
        "created_at_ms": summary.created_at_ms,
        "updated_at": timestamp(summary.updated_at_ms),
        "updated_at_ms": summary.updated_at_ms,
    }


def version_object(version: Version) -> dict[str, JsonValue]:
    """Return a version as JSON: its record and what was read beside it, without its files."""
    return {
        "reference": version.reference,
        "model": version.model,
        "version": version.name,
        "number": version.number,
        "id": version.id,
        "created_at": timestamp(version.created_at_ms),
        "created_at_ms": version.created_at_ms,
        "creator": version.creator,
        "description": version.description,
        "parameters": version.parameters,
        "branch": version.branch,
        "kind": version.kind,
        "parents": [f"v{parent}" for parent in version.parents],
        "parent_ids": version.parent_ids,
        "target": f"v{version.target_number}" if version.target_number else None,
        "base": None if version.base is None else _base_object(version.base),
        "manifest": version.manifest,
        "bytes_total": version.bytes_total,
        "file_count": version.file_count,
        "chunk_count": version.chunk_count,
        "metrics": version.metrics,
        "refs": version.refs,
        "deleted_at": timestamp(version.deleted_at_ms) if version.deleted_at_ms else None,
        "purged": version.is_purged,
    }


def _base_object(base: BaseVersion) -> dict[str, JsonValue]:
    return {
        "reference": base.reference,
        "model": base.model,
        "version": f"v{base.number}",
        "number": base.number,
        "id": base.id,
    }


def lineage_object(lineage: "Lineage") -> dict[str, JsonValue]:
    """Return what a version was derived from and what from it as JSON; `base` says more than in a log."""
    base = lineage.base
    return {
        "base": None if base is None else _relative_object(base),
        "derived": [_relative_object(each) for each in lineage.derived],
        "derived_more": lineage.has_more,
    }


def _relative_object(version: Version) -> dict[str, JsonValue]:
    return _base_object(BaseVersion(version.model, version.number, version.id)) | {
        "created_at": timestamp(version.created_at_ms),
        "creator": version.creator,
        "description": version.description,
        "deleted_at": timestamp(version.deleted_at_ms) if version.deleted_at_ms else None,
        "purged": version.is_purged,
    }


def signature_object(signature: Signature) -> dict[str, JsonValue]:
    """Return a signature as JSON."""
    return {
        "public_key": signature.public_key,
        "signature": signature.signature.hex(),
        "signed_by": signature.principal,
        "signed_at": timestamp(signature.at_ms),
        "signed_at_ms": signature.at_ms,
        "log_index": signature.log_index,
    }


def commit_object(result: CommitResult) -> JsonObject:
    """Return what a commit did as JSON."""
    return version_object(result) | {
        "log_index": result.log_index,
        "bytes_sent": result.bytes_sent,
        "bytes_stored": result.bytes_stored,
        "chunks_new": result.chunks_new,
        "chunks_total": result.chunks_total,
        "seconds": round(result.seconds, 3),
    }


def commit_summary(result: CommitResult) -> str:
    """Return what a commit did in one line."""
    new = "nothing new to store"
    if result.chunks_new:
        new = (
            f"{result.chunks_new} of {count(result.chunks_total, 'chunk')} new: {size(result.bytes_sent)}, "
            f"stored in {size(result.bytes_stored)}"
        )
    return f"{count(result.file_count, 'file')}, {size(result.bytes_total)}; {new}; {result.seconds:.1f} s"


def title(version: Version) -> str:
    """Return the first line of a version's description."""
    return one_line(version.description.strip().partition("\n")[0], characters_max=TITLE_CHARACTERS_MAX)


def decoration(refs: Sequence[str] | None) -> str:
    """Return refs as `(main, channel:production)`: branches bare, as they are most; each fits after `@`."""
    if not refs:
        return ""
    return f"({', '.join(ref.removeprefix('branch:') for ref in refs)})"


def log_row(version: Version) -> tuple[str, ...]:
    """Return one version as the cells of a log."""
    return (
        version.name,
        version.id[:ID_CHARACTERS_SHOWN],
        moment(version.created_at_ms),
        one_line(version.creator),
        "  ".join(part for part in (title(version), decoration(version.refs), _deleted(version)) if part),
    )


def _deleted(version: Version) -> str:
    if not version.deleted_at_ms:
        return ""
    return "[deleted]" if version.is_purged else "[in the trash]"


def version_text(
    version: Version,
    *,
    storage: str,
    tensor_count: int,
    lineage: "Lineage",
    signatures: Sequence[Signature] = (),
) -> str:
    """Return everything about a version, for people."""
    made = f"{datetime_of(version.created_at_ms):%Y-%m-%d %H:%M:%S}Z by {one_line(version.creator)}"
    content = ", ".join(
        (
            count(version.file_count, "file"),
            size(version.bytes_total),
            count(tensor_count, "tensor"),
        )
    )
    rows = [("id", version.id), ("created", made), ("branch", version.branch)]
    if version.parents:
        rows.append(("parents", ", ".join(f"v{parent}" for parent in version.parents)))
    if lineage.base is not None:
        rows.append(("base", _relative_text(lineage.base)))
    if lineage.derived:
        names = [_relative_text(each) for each in lineage.derived]
        rows.append(("derived", ", ".join([*names, "…"] if lineage.has_more else names)))
    if version.kind is VersionKind.ROLLBACK:
        rows.append(("restores", f"v{version.target_number}"))
    if version.refs:
        rows.append(("refs", ", ".join(version.refs)))
    for place, signature in enumerate(signatures):
        handed_in = f"{signature.public_key} by {one_line(signature.principal)}"
        rows.append(("" if place else "signed", handed_in))
    rows += [("content", content), ("storage", storage)]
    parts = [version.reference, table(rows)]
    if version.description.strip():
        parts += ["", *(f"    {line}" for line in version.description.strip().splitlines())]
    parameters = table((f"  {key}", value) for key, value in leaves(version.parameters))
    metrics = table((f"  {one_line(name)}", number(value)) for name, value in (version.metrics or {}).items())
    files = files_table(version.files or ())
    for heading, body in (("parameters", parameters), ("metrics", metrics), ("files", files)):
        if body:
            parts += ["", heading, body]
    return "\n".join(parts)


def _relative_text(version: Version) -> str:
    return " ".join(part for part in (version.reference, _deleted(version)) if part)


def leaves(parameters: Mapping[str, JsonValue], prefix: str = "") -> list[tuple[str, str]]:
    """Return a parameter tree as (dotted key, JSON value) pairs."""
    found: list[tuple[str, str]] = []
    for key, value in parameters.items():
        name = f"{prefix}{one_line(key)}"
        if isinstance(value, Mapping) and value:
            found += leaves(value, f"{name}.")
        else:
            found.append((name, to_json(value)))
    return found


# ---- files ----


def file_object(entry: FileEntry) -> JsonObject:
    """Return a file as JSON."""
    return {
        "path": entry.path,
        "kind": entry.kind,
        "size_bytes": entry.size_bytes,
        "executable": entry.executable,
        "blake3": entry.blake3,
        "sha256": entry.sha256,
        "target": entry.target,
        "format": entry.format,
        "chunk_count": entry.chunk_count,
        "tensor_count": entry.tensor_count,
    }


def files_table(entries: Iterable[FileEntry]) -> str:
    """Return files one a line: size, format, tensors, path."""
    rows = [
        (
            size(entry.size_bytes) if entry.kind == "file" else str(entry.kind),
            entry.format if entry.kind == "file" else "",
            count(entry.tensor_count, "tensor") if entry.tensor_count else "",
            one_line(entry.path) + _mark(entry),
        )
        for entry in entries
    ]
    width = max((len(row[0]) for row in rows), default=0)
    return table((f"  {row[0].rjust(width)}", *row[1:]) for row in rows)


def _mark(entry: FileEntry) -> str:
    if entry.kind == "symlink":
        return f" -> {one_line(entry.target)}"
    return "*" if entry.executable else ("/" if entry.kind == "directory" else "")


# ---- refs ----


def ref_object(ref: Ref) -> JsonObject:
    """Return a branch, tag or channel as JSON."""
    return {
        "model": ref.model,
        "kind": ref.kind,
        "name": ref.name,
        "reference": f"{ref.model}@{ref.kind}:{ref.name}",
        "version": ref.version,
        "number": ref.number,
        "id": ref.version_id,
        "generation": ref.generation,
        "actor": ref.actor,
        "reason": ref.reason,
        "moved_at": timestamp(ref.moved_at_ms),
        "moved_at_ms": ref.moved_at_ms,
        "protection": ref.protection,
        "frozen": ref.frozen,
        "pending": ref.pending,
    }


def ref_row(ref: Ref) -> tuple[str, ...]:
    """Return a ref as the cells of a list."""
    guards = [f"[protected: {protection_text(ref.protection)}]"] if ref.protection else []
    if ref.frozen:
        guards.append(f"[frozen ({ref.frozen['level']}) by {one_line(str(ref.frozen['actor']))}]")
    if ref.pending:
        asked_by = one_line(str(ref.pending["actor"]))
        guards.append(f"[waits for approval: v{ref.pending['number']}, asked for by {asked_by}]")
    return (
        ref.name,
        ref.version,
        ref.version_id[:ID_CHARACTERS_SHOWN],
        moment(ref.moved_at_ms),
        one_line(ref.actor),
        "  ".join(part for part in (one_line(ref.reason), *guards) if part),
    )


def protection_text(rules: Mapping[str, JsonValue]) -> str:
    """Return rules as `actors=a,b; branch=main`, the form in which they are given."""
    return "; ".join(
        f"{rule}={','.join(map(str, value)) if isinstance(value, list | tuple) else value}"
        for rule, value in rules.items()
    )


def move_object(model: str, kind: RefKind, name: str, move: RefMove) -> JsonObject:
    """Return one move of a ref as JSON; `version` and `id` are null where the name was deleted."""
    return {
        "model": model,
        "kind": kind,
        "name": name,
        "version": f"v{move.number}" if move.number else None,
        "number": move.number,
        "id": move.version_id or None,
        "generation": move.generation,
        "verb": move.verb,
        "actor": move.actor,
        "reason": move.reason,
        "moved_at": timestamp(move.at_ms),
        "moved_at_ms": move.at_ms,
        "log_index": move.log_index,
        "evidence": move.evidence,
    }


def move_row(move: RefMove) -> tuple[str, ...]:
    """Return a move as the cells of a history."""
    return (
        f"#{move.generation}",
        f"v{move.number}" if move.number else "-",
        moment(move.at_ms),
        move.verb,
        one_line(move.actor),
        one_line(move.reason),
    )


# ---- metrics ----


def report_object(model: str, report: MetricReport) -> JsonObject:
    """Return a report of metrics as JSON."""
    return {
        "reference": f"{model}@v{report.number}",
        "model": model,
        "version": f"v{report.number}",
        "metrics": report.values,
        "channel": report.channel,
        "principal": report.principal,
        "reported_at": timestamp(report.at_ms),
        "reported_at_ms": report.at_ms,
    }


def report_row(report: MetricReport) -> tuple[str, ...]:
    """Return a report of metrics as the cells of a list."""
    return (
        moment(report.at_ms),
        one_line(report.principal),
        one_line(report.channel) or "-",
        " ".join(f"{one_line(name)}={number(value)}" for name, value in report.values.items()),
    )
