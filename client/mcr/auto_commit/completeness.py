"""Whether files are complete, as far as they say so themselves. Reads a little of each; blocks.

A quiet time says that nobody writes at present. These say that nobody stopped half way:

    *.safetensors            the header says how long the file is
    *.bin *.pt *.pth *.ckpt  as zip archives they end with their directory
    *.npz
    *.index.json             names the shards that must be there, complete

Names that programs give to what they have not finished are no content: `TEMPORARY`.
"""

import json
import os
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress

from mcr.manifest import PathPattern
from mcr.model import EntryKind
from mcr.scanning import Source

# What downloads, editors and training loops call a file, or a folder, until it is whole.
_SUFFIXES = (".tmp", ".temp", ".part", ".partial", ".incomplete", ".crdownload", ".swp", ".lock")
_PREFIXES = (".~", "~$", ".tmp", "tmp-", "tmp.")
TEMPORARY = tuple([f"**/*{suffix}" for suffix in _SUFFIXES] + [f"**/{prefix}*" for prefix in _PREFIXES])
_PATTERNS = tuple(PathPattern(text) for text in TEMPORARY)
_LENGTH_BYTES = 8
_HEADER_BYTES_MAX = 100_000_000
_ZIP_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".npz")
_ZIP_START = b"PK\x03\x04"
_INDEX_SUFFIX = ".index.json"
_INDEX_BYTES_MAX = 64 << 20


def is_temporary(path: str) -> bool:
    """Tell whether a name on the way to a file says that it is not finished."""
    return any(pattern.fits(path) for pattern in _PATTERNS)


def why_incomplete(sources: Sequence[Source]) -> str:
    """Return why the files of a candidate are not complete; "" when nothing says so.

    Raises:
        OSError: one of them cannot be read, perhaps as it was just replaced.
    """
    files = {source.path: source for source in sources if source.kind is EntryKind.FILE}
    if not files:
        return "there are no files yet"
    for path, source in files.items():
        reason = ""
        if path.endswith(".safetensors"):
            reason = _safetensors(source)
        elif path.endswith(_ZIP_SUFFIXES):
            reason = _zip(source)
        elif path.endswith(_INDEX_SUFFIX):
            reason = _index(source, files)
        if reason:
            return f"{path}: {reason}"
    return ""


def _safetensors(source: Source) -> str:
    with open(source.absolute, "rb") as file:
        length = file.read(_LENGTH_BYTES)
        header_bytes = int.from_bytes(length, "little")
        if len(length) < _LENGTH_BYTES:
            return f"it has only {len(length)} bytes"
        if header_bytes > _HEADER_BYTES_MAX:
            return "it has no header yet"
        header = file.read(header_bytes)
    try:
        tensors = json.loads(header)
        ends = [entry["data_offsets"][1] for name, entry in tensors.items() if name != "__metadata__"]
        expected = _LENGTH_BYTES + header_bytes + max(map(int, ends), default=0)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        return "its header is not whole"
    if source.size_bytes < expected:
        return f"it has {source.size_bytes} of {expected} bytes"
    return ""


def _zip(source: Source) -> str:
    with open(source.absolute, "rb") as file:
        if file.read(len(_ZIP_START)) != _ZIP_START:
            # Another format, which does not say how long it is.
            return ""
        return "" if zipfile.is_zipfile(file) else "the end of the archive is missing"


def _index(source: Source, files: Mapping[str, Source]) -> str:
    for shard in _shards(source):
        if shard not in files:
            return f"{shard} is not there yet"
    return ""


def _shards(source: Source) -> Iterable[str]:
    """Return the paths of the files that an index names; none when it is an index of something else."""
    if source.size_bytes > _INDEX_BYTES_MAX:
        return []
    with open(source.absolute, "rb") as file:
        data = file.read()
    try:
        named = json.loads(data)["weight_map"].values()
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return [f"{source.path} itself"] if not data.strip().endswith(b"}") else []
    folder = os.path.dirname(source.path)
    return sorted({os.path.join(folder, name) for name in named if isinstance(name, str)})


def metrics_of(path: str) -> dict[str, float]:
    """Return the numbers of a file of metrics: a JSON object, or the last line of a file of them.

    The log of a Hugging Face trainer (`trainer_state.json`) gives the latest value of each metric.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(_INDEX_BYTES_MAX)
    except OSError:
        return {}
    found: object = None
    with suppress(ValueError, RecursionError):
        found = json.loads(data)
    if found is None:
        lines = [line for line in data.splitlines() if line.strip()]
        with suppress(ValueError, RecursionError, IndexError):
            found = json.loads(lines[-1])
    if not isinstance(found, dict):
        return {}
    metrics: dict[str, float] = {}
    log = found.get("log_history")
    for each in [*(log if isinstance(log, list) else []), found]:
        if isinstance(each, dict):
            metrics |= {
                str(name): float(value)
                for name, value in each.items()
                if isinstance(value, int | float) and not isinstance(value, bool)
            }
    return metrics
