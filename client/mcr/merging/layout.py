"""What of a file is not tensors, and a new safetensors header where one is needed."""

import json
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence

from mcr.cutting.safetensors import HEADER_BYTES_MAX, LENGTH_BYTES
from mcr.errors import CorruptChunkError
from mcr.files import AsyncFile
from mcr.manifest import FileRow, drain_async, walk_tensors
from mcr.merging.choices import Form
from mcr.model import ChunkId, Tensor, digest
from mcr.values import dataclass

Get = Callable[[Sequence[ChunkId]], Awaitable[list[bytes]]]
SAFETENSORS = "safetensors"
_METADATA = "__metadata__"
# Tensors begin at a multiple of it, as the reference implementation writes them.
_ALIGNMENT_BYTES = 8


@dataclass(frozen=True, slots=True)
class TensorFile:
    """A file of a version with its tensors by name."""

    row: FileRow
    tensors: Mapping[str, Tensor]

    @property
    def forms(self) -> dict[str, Form]:
        """Type and shape of each tensor."""
        return {name: form_of(tensor) for name, tensor in self.tensors.items()}

    def in_order(self) -> list[Tensor]:
        """Return the tensors in file order."""
        return sorted(self.tensors.values(), key=lambda tensor: (tensor.offset_bytes, tensor.length_bytes))

    def gaps(self) -> Iterator[tuple[int, int]]:
        """Yield the stretches before, between and behind tensors as (start, stop); none is empty."""
        at = 0
        for tensor in self.in_order():
            if at < tensor.offset_bytes:
                yield at, tensor.offset_bytes
            at = tensor.offset_bytes + tensor.length_bytes
        if at < self.row.entry.size_bytes:
            yield at, self.row.entry.size_bytes


def form_of(tensor: Tensor) -> Form:
    """Return type and shape."""
    return tensor.dtype, tensor.shape


async def load(get: Get, row: FileRow) -> TensorFile:
    """Read the list of a file's tensors."""
    return TensorFile(row, {tensor.name: tensor async for tensor in drain_async(walk_tensors(row), get)})


async def container_print(get: Get, file: TensorFile) -> bytes:
    """Return a digest of all that is not tensors, and of where it stands."""
    reader = AsyncFile(file.row, get)
    parts = []
    for start, stop in file.gaps():
        parts += [start.to_bytes(8, "big"), digest(await reader.read_at(start, stop - start))]
    return digest(b"".join(parts))


async def read_metadata(get: Get, file: TensorFile) -> dict[str, str]:
    """Return the free metadata of a safetensors file.

    Raises:
        CorruptChunkError: the header is no longer the one that was cut by.
    """
    reader = AsyncFile(file.row, get)
    length_bytes = int.from_bytes(await reader.read_at(0, LENGTH_BYTES), "little")
    try:
        header = json.loads(await reader.read_at(LENGTH_BYTES, min(length_bytes, HEADER_BYTES_MAX)))
        metadata = header.get(_METADATA) or {}
        return {str(key): str(value) for key, value in metadata.items()}
    except (ValueError, AttributeError) as error:
        raise CorruptChunkError(file.row.entry.path, "its header is no safetensors header") from error


def safetensors_head(tensors: Sequence[tuple[str, Form, int]], metadata: Mapping[str, str]) -> bytes:
    """Return length and header of a safetensors file.

    Args:
        tensors: name, type and shape, and length in bytes, in the order in which they will stand.
        metadata: free texts.
    """
    header: dict[str, object] = {_METADATA: dict(metadata)} if metadata else {}
    at = 0
    for name, (dtype, shape), length_bytes in tensors:
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + length_bytes]}
        at += length_bytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNMENT_BYTES)
    return len(text).to_bytes(LENGTH_BYTES, "little") + text
