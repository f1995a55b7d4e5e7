"""Files of a version as file objects: only the chunks that a read touches are fetched."""

import io
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

from mcr.manifest import FileRow, drain_async, walk_chunks
from mcr.model import ChunkId, FileEntry

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

Get = Callable[[Sequence[ChunkId]], Awaitable[list[bytes]]]
# One fetch carries at most this many chunks (16 MiB of full blocks).
_CHUNKS_AT_ONCE = 16


class AsyncFile:
    """One file of a version, read only."""

    def __init__(self, row: FileRow, get: Get) -> None:
        self._row = row
        self._get = get

    @property
    def entry(self) -> FileEntry:
        """Path, size and digests."""
        return self._row.entry

    async def read_at(self, offset_bytes: int, length_bytes: int) -> bytes:
        """Return the bytes from an offset, fewer only at the end of the file."""
        stop = min(offset_bytes + length_bytes, self.entry.size_bytes)
        if offset_bytes >= stop:
            return b""
        out = bytearray(stop - offset_bytes)
        spans = drain_async(walk_chunks(self._row, start=offset_bytes, stop=stop), self._get)
        batch = []
        async for span in spans:
            batch.append(span)
            if len(batch) == _CHUNKS_AT_ONCE or span.offset_bytes + span.length_bytes >= stop:
                for part, data in zip(batch, await self._get([item.id for item in batch]), strict=True):
                    first = max(offset_bytes - part.offset_bytes, 0)
                    last = min(stop - part.offset_bytes, part.length_bytes)
                    at = part.offset_bytes + first - offset_bytes
                    out[at : at + last - first] = memoryview(data)[first:last]
                batch = []
        return bytes(out)


class RangeFile(io.RawIOBase):
    """A seekable, read-only raw file over a function that reads ranges; wrap it in io.BufferedReader."""

    def __init__(self, size_bytes: int, read_at: Callable[[int, int], bytes], name: str) -> None:
        super().__init__()
        self.name = name
        self._size_bytes = size_bytes
        self._read_at = read_at
        self._position = 0

    def readable(self) -> bool:
        """Always true."""
        return True

    def seekable(self) -> bool:
        """Always true."""
        return True

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Move the position; see io.IOBase.seek."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size_bytes}[whence]
        if base + offset < 0:
            raise ValueError("the position would be negative")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        """Fill a buffer from the position; 0 at the end."""
        view = memoryview(buffer).cast("B")
        data = self._read_at(self._position, len(view))
        view[: len(data)] = data
        self._position += len(data)
        return len(data)
