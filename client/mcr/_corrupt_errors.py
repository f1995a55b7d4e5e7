"""Errors about bytes that are damaged or gone; part of `mcr.errors`, where to import them from."""

from mcr._mcr_error import CorruptError
from mcr.values import dataclass


@dataclass(eq=False)
class CorruptChunkError(CorruptError):
    """A chunk's bytes do not hash to its id."""

    chunk_id: str
    reason: str
    code = "corrupt_chunk"
    template = "chunk {chunk_id} is damaged: {reason}"
    hint_template = "run mcr doctor; committing the same files again stores a good copy"


@dataclass(eq=False)
class MissingChunkError(CorruptError):
    """A chunk that is needed is not held."""

    chunk_id: str
    code = "missing_chunk"
    template = "chunk {chunk_id} is not in the store"
    hint_template = "mcr doctor or mcr repair status names who needs it; committing the files again stores it"


@dataclass(eq=False)
class LostChunkError(MissingChunkError):
    """A chunk is damaged or gone wherever it was, and it is known who needs it."""

    files: str
    versions: str
    code = "lost_chunk"
    template = "chunk {chunk_id} is damaged or gone on every node; it is needed by {files} of {versions}"
    hint_template = "committing the same files again stores it; else restore it from a backup"


@dataclass(eq=False)
class CorruptStoreError(CorruptError):
    """A log, index or state file is damaged, and going on could lose or invent data."""

    path: str
    reason: str
    code = "corrupt_store"
    template = "{path} is damaged: {reason}"
    hint_template = "keep a copy of the folder as it is, then restore it from a backup or another node"
