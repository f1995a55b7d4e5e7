"""The immutable record of a version, its canonical bytes, and the id they give.

The id of a version is the BLAKE3 digest of its canonical record. The record holds the ids of its parents and
the root of its manifest, so an id vouches for all bytes and all history behind it, as in a Merkle tree.
"""

from typing import cast

import blake3

from mcr.bases import BaseVersion
from mcr.canonical import CanonicalError, CanonicalValue, decode, encode_ordered, ordered
from mcr.model import ChunkId, Parameters, ParameterValue, VersionId, VersionKind
from mcr.values import dataclass

RECORD_FORMAT = 1
# Domain separation: no other digest in the system can be taken for a version id.
_CONTEXT = b"mcr version record 1\x00"


@dataclass(frozen=True, slots=True)
class Record:
    """The six fields of a Model Change Record, and where it hangs.

    Attributes: as `mcr.model.Version`, without what stands beside a record.
    """

    model: str
    number: int
    created_at_ms: int
    creator: str
    description: str
    parameters: Parameters
    branch: str
    kind: VersionKind
    parents: tuple[int, ...]
    parent_ids: tuple[VersionId, ...]
    target_number: int
    manifest: ChunkId
    bytes_total: int
    file_count: int
    chunk_count: int
    merge_document: bytes = b""
    base: BaseVersion | None = None


def encode_record(record: Record) -> bytes:
    """Return the canonical bytes of a record.

    Raises:
        CanonicalError: a parameter has no canonical form, or is not finite.
    """
    # Only what has them names them, so the records of all others have the bytes that they always had.
    base = {} if record.base is None else {"base": _base_value(record.base)}
    merge = {"merge_document": record.merge_document} if record.merge_document else {}
    # In canonical order: the shorter name first. Every commit passes through here, on every node.
    return encode_ordered(
        {
            **base,
            "kind": record.kind.value,
            "model": record.model,
            "branch": record.branch,
            "format": RECORD_FORMAT,
            "number": record.number,
            "creator": record.creator,
            "parents": record.parents,
            "manifest": record.manifest,
            "file_count": record.file_count,
            "parameters": ordered(record.parameters) if record.parameters else {},
            "parent_ids": record.parent_ids,
            "bytes_total": record.bytes_total,
            "chunk_count": record.chunk_count,
            "description": record.description,
            "created_at_ms": record.created_at_ms,
            "target_number": record.target_number,
            **merge,
        }
    )


def version_id(record_bytes: bytes) -> VersionId:
    """Return the id of the version whose canonical record is `record_bytes`."""
    return VersionId(blake3.blake3(_CONTEXT + record_bytes).digest())


def decode_record(record_bytes: bytes) -> Record:
    """Read a canonical record.

    Raises:
        CanonicalError: the bytes are no record of a format this release knows.
    """
    value = decode(record_bytes)
    if not isinstance(value, dict) or value.get("format") != RECORD_FORMAT:
        raise CanonicalError("not a version record, or of a newer format")
    try:
        return Record(
            model=_text(value["model"]),
            number=_integer(value["number"]),
            created_at_ms=_integer(value["created_at_ms"]),
            creator=_text(value["creator"]),
            description=_text(value["description"]),
            parameters=cast("dict[str, ParameterValue]", value["parameters"]),
            branch=_text(value["branch"]),
            kind=VersionKind(_text(value["kind"])),
            parents=tuple(_integer(n) for n in cast("list[CanonicalValue]", value["parents"])),
            parent_ids=tuple(VersionId(_data(i)) for i in cast("list[CanonicalValue]", value["parent_ids"])),
            target_number=_integer(value["target_number"]),
            manifest=ChunkId(_data(value["manifest"])),
            bytes_total=_integer(value["bytes_total"]),
            file_count=_integer(value["file_count"]),
            chunk_count=_integer(value["chunk_count"]),
            merge_document=_data(value.get("merge_document", b"")),
            base=_base(value["base"]) if "base" in value else None,
        )
    except (KeyError, ValueError) as error:
        raise CanonicalError(f"a field of the record is missing or wrong: {error}") from error


def _base_value(base: BaseVersion) -> dict[str, CanonicalValue]:
    # In canonical order, as all that `encode_record` writes.
    return {"id": bytes.fromhex(base.id), "model": base.model, "number": base.number}


def _base(value: CanonicalValue) -> BaseVersion:
    if not isinstance(value, dict):
        raise CanonicalError("a field that should be a mapping is not")
    return BaseVersion(_text(value["model"]), _integer(value["number"]), _data(value["id"]).hex())


def _text(value: CanonicalValue) -> str:
    if not isinstance(value, str):
        raise CanonicalError("a field that should be text is not")
    return value


def _integer(value: CanonicalValue) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise CanonicalError("a field that should be an integer is not")
    return value


def _data(value: CanonicalValue) -> bytes:
    if not isinstance(value, bytes):
        raise CanonicalError("a field that should be bytes is not")
    return value
