"""One RocksDB database as an ordered map of bytes, with the traps of engine and binding closed.

What this module guards against was seen to happen; `tests/unit/node/storage/test_rocksdict_traps.py` shows it
on the bare binding:

* A reader that meets a damaged block ends as if the data did: `scan` asks for the status at its end.
* Damage in the middle of the write-ahead log silently drops what came after it: the recovery mode refuses
  that, and still tolerates the torn tail which any crash leaves.
* A folder whose CURRENT file is gone is taken for a new database, and its tables are deleted: `open` creates
  only where nothing is, under another name, and renames when the database is complete.
* A write-ahead log that was deleted is not missed: every database has one, so `open` refuses those without.
* After a failed write the engine refuses all others, yet a sync may report success: the first failure is
  kept and answers every later write and sync.
* An empty or reversed `delete_range` fails *after* it went into the write-ahead log, so the database can
  never be opened again: it does not get that far.
* Closing does nothing while an iterator lives: `close` takes the iterators from their scans first.

`WriteOptions.sync` is never used: it syncs with the interpreter lock held, and so serves one thread a sync.
"""

import errno
import os
import shutil
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from rocksdict import (
    BlockBasedOptions,
    Cache,
    Checkpoint,
    DBRecoveryMode,
    Options,
    Rdict,
    RdictIter,
    WriteBatch,
)

from mcr.errors import CorruptStoreError, FailedError, McrError, OutOfSpaceError, StoreBusyError
from mcr.model import KIB, MIB
from mcr_node.storage.disk import StorageFailure
from mcr_node.storage.group_commit import GroupCommit
from mcr_node.storage.manifest_tail import check_manifest

# At most two write buffers and the cache are held, whatever the database grows to; the buffers are also the
# most that a start after a crash replays.
WRITE_BUFFER_BYTES: Final = 16 * MIB
BLOCK_CACHE_BYTES: Final = 16 * MIB
# Small tables, so that what grows at its end only, as a log does, rewrites its last table and not itself.
TABLE_BYTES: Final = 8 * MIB
# Each copy of a state writes out what is in memory: one more file. So many are merged with all else, which
# for 100,000 versions takes 0.8 s of a processor, where it was copied and where the copy arrived.
COMPACTED_FILES: Final = 8
# A quarter of them is opened at once when the database is, at about 50 us each.
OPEN_FILES_MAX: Final = 256
# RocksDB's own choice of bits for 1 % false positives: most lookups of chunk ids ask for what is not there.
BLOOM_BITS_PER_KEY: Final = 10
# The engine's diary and its list of tables; both are begun anew beyond these sizes.
DIARY_BYTES_MAX: Final = 1 * MIB
MANIFEST_BYTES_MAX: Final = 4 * MIB
# Its default of 4 MiB is more than most embedded stores ever hold.
MANIFEST_PREALLOCATION_BYTES: Final = 64 * KIB

_CREATING_SUFFIX: Final = ".creating"
_NO_SPACE: Final = frozenset((errno.ENOSPC, errno.EDQUOT))
# The binding's exceptions have no types, only these words.
_NO_SPACE_WORDS: Final = ("No space left on device", "Disk quota exceeded")
_LOCKED_WORDS: Final = ("lock hold by current process", "While lock file")
_UNREADABLE_WORDS: Final = "Input/output error"
# A missing table or an unreadable sector is damage too, though RocksDB says "IO error" to it.
_DAMAGE_WORDS: Final = ("IO error: No such file or directory", _UNREADABLE_WORDS)

Changes = Sequence[tuple[bytes, bytes | None]]


class Database:
    """An ordered map from bytes to bytes in one folder. All methods block; any thread may call them."""

    def __init__(self, path: Path, rdict: Rdict) -> None:
        self.path = path
        self._rdict: Rdict | None = rdict
        self._scans: weakref.WeakSet[_Scan] = weakref.WeakSet()
        self._commits = GroupCommit(self._flush)
        # Guards the counter below; `close` waits on it for calls that run without the interpreter lock, under
        # which the engine must not be closed.
        self._changed = threading.Condition()
        self._calls_running = 0
        # Whether something was written that no sync has covered; only `close` asks.
        self._dirty = False
        # Set once, by the first write or sync that fails; makes the error that all later ones raise.
        self._refusal: Callable[[], Exception] | None = None

    @staticmethod
    def open(path: Path, *, founding: Changes = ()) -> "Database":
        """Open the database in the folder `path`; create it where there is nothing or an empty folder.

        Creation is atomic: after a crash there is a database that holds `founding`, or none.

        Args:
            path: the database's own folder.
            founding: what a new database holds from the start, such as whose it is; not looked at otherwise.

        Raises:
            CorruptStoreError: damaged beyond a torn tail of the write-ahead log, or files are missing.
            OutOfSpaceError: opening writes a few KiB and needs them; free space.
            StoreBusyError: it is open already, here or in another process.
            FailedError: any other reason, such as missing permission.
        """
        try:
            if not path.exists() or (path.is_dir() and not os.listdir(path)):
                _create(path, founding)
            elif not (path / "CURRENT").is_file():
                raise CorruptStoreError(str(path), "not a database: it has no file named CURRENT")
            elif not any(path.glob("*.log")):
                raise CorruptStoreError(str(path), "its write-ahead log is gone, and with it what was synced")
            else:
                check_manifest(path)
        except OSError as error:
            reason = error.strerror or str(error)
            if error.errno in _NO_SPACE:
                raise OutOfSpaceError(str(path), reason) from error
            raise FailedError(str(path), reason) from error
        return Database(path, _open(path, create=False))

    def get(self, key: bytes) -> bytes | None:
        """Return the value at `key`, or None.

        Raises:
            CorruptStoreError: the block that should hold it is damaged.
        """
        rdict = self._opened()
        try:
            value: bytes | None = rdict.get(key)
        except Exception as error:
            raise _translated(str(error), self.path) from error
        return value

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the value or None for each key, in their order; other threads run meanwhile.

        Raises:
            CorruptStoreError: a block that should hold one is damaged.
        """
        with self._running() as rdict, _reading(self.path):
            values: list[bytes | None] | None = rdict.get(list(keys))
        assert values is not None
        return values

    def write(self, changes: Changes) -> None:
        """Put (or, with None, delete) keys, all or none; visible when it returns, durable after `sync`.

        Raises:
            OutOfSpaceError: nothing of it is visible, nor will be. All later writes and syncs raise the same;
                free space, close and open again.
            StorageFailure: the medium failed; the process must end.
            CorruptStoreError: damage was found meanwhile; the database takes no more writes.
        """
        batch = _batch(changes)
        with self._writing() as rdict:
            rdict.write(batch)

    def delete_range(self, start: bytes, end: bytes) -> None:
        """Delete all keys with start <= key < end; visible when it returns, durable after `sync`.

        Raises: as `write`.
        """
        if start < end:
            with self._writing() as rdict:
                rdict.delete_range(start, end)

    def sync(self) -> None:
        """Make everything written before, by any thread, durable. One disk sync serves all who wait for it.

        Raises:
            StorageFailure: it may or may not be durable, and nothing can tell; the process must end.
            OutOfSpaceError, CorruptStoreError: a write failed earlier; see `write`.
        """
        with self._running():
            self._commits.run()
            # What failed while others synced for us leaves in doubt what they covered.
            self._refuse_after_failure()

    def _flush(self) -> None:
        self._refuse_after_failure()
        rdict = self._opened()
        self._dirty = False
        try:
            rdict.flush_wal(True)
        except Exception as error:
            message = f"{self.path}: {error}"
            self._refusal = self._refusal or (lambda: StorageFailure(message))
            raise StorageFailure(message) from error

    def scan(self, start: bytes, end: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        """Return (key, value) for start <= key < end, in key order or against it.

        Lazy, and consistent: it sees the database as it was when `scan` was called. A scan that is kept also
        keeps obsolete files on disk, so drop it or take it to its end.

        Raises:
            CorruptStoreError: (while iterating) a block is damaged; what came before is sound.
        """
        if start >= end:
            return iter(())
        with self._running() as rdict, _reading(self.path):
            # Not by iterate bounds: the binding lets go of their bytes while the engine still reads them, and
            # the scan then runs past its ends (rocksdict 0.3.29).
            scan = _Scan(self.path, rdict.iter(), start, end, reverse=reverse)
            self._scans.add(scan)
        return scan

    def flush(self) -> None:
        """Write what is in memory only into tables; takes as long as the disk does, other calls go on.

        Raises:
            OutOfSpaceError, CorruptStoreError, FailedError: as `checkpoint`.
        """
        with self._running() as rdict, _reading(self.path):
            rdict.flush(True)

    def checkpoint(self, path: Path) -> None:
        """Make a copy as of now in the folder `path`, which must not exist; cheap, for tables are hard links.

        What is in memory only becomes a table first, and all the while the binding holds the interpreter's
        lock: the whole process stands still, some 200 ms for 20 MB (rocksdict 0.3.29). So `flush` before.

        Raises:
            OutOfSpaceError, CorruptStoreError: there is no usable copy.
            FailedError: any other reason, such as that `path` exists.
        """
        with self._running() as rdict, _reading(path):
            Checkpoint(rdict).create_checkpoint(str(path))

    def close(self) -> None:
        """Sync, then release the files; may be called twice. Scans that are still held cannot go on.

        Raises:
            StorageFailure: the last writes may be lost; the process must end. The files are released.
        """
        with self._changed:
            while self._calls_running:
                self._changed.wait()
            rdict = self._rdict
            if rdict is None:
                return
            for scan in list(self._scans):
                scan.release()
            try:
                if self._dirty and self._refusal is None:
                    self._flush()
            finally:
                self._rdict = None
                try:
                    rdict.close()
                except Exception as error:
                    # After a failed write, closing repeats its error; whoever wrote has it.
                    if self._refusal is None:
                        raise _translated(str(error), self.path) from error

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._rdict is None

    def _opened(self) -> Rdict:
        rdict = self._rdict
        assert rdict is not None, "used after close"
        return rdict

    @contextmanager
    def _running(self) -> Iterator[Rdict]:
        """Hold off `close` during a call that may give up the interpreter lock."""
        with self._changed:
            rdict = self._opened()
            self._calls_running += 1
        try:
            yield rdict
        finally:
            with self._changed:
                self._calls_running -= 1
                self._changed.notify_all()

    @contextmanager
    def _writing(self) -> Iterator[Rdict]:
        """Run one write; if it fails, it is the last thing this instance does."""
        with self._running() as rdict:
            self._refuse_after_failure()
            self._dirty = True
            try:
                yield rdict
            except Exception as error:
                message = str(error)
                self._refusal = self._refusal or (lambda: _refused(message, self.path))
                raise _translated_write(message, self.path) from error

    def _refuse_after_failure(self) -> None:
        if self._refusal is not None:
            raise self._refusal()


class _Scan(Iterator[tuple[bytes, bytes]]):
    """A bounded walk over one iterator, which can be taken away at any time.

    No local variable ever holds the iterator: a traceback that somebody keeps would keep it too, and with it
    the lock on the files.
    """

    def __init__(self, path: Path, steps: RdictIter, start: bytes, end: bytes, *, reverse: bool) -> None:
        self._path = path
        self._start = start
        self._end = end
        self._steps: RdictIter | None = steps
        self._reverse = reverse
        self._positioned = False
        self._released = False
        self._lock = threading.Lock()

    def __next__(self) -> tuple[bytes, bytes]:
        with self._lock:
            if self._steps is None:
                if self._released:
                    # Ending quietly would look as if there were no more rows.
                    raise FailedError(str(self._path), "it was closed or replaced during a scan")
                raise StopIteration
            try:
                self._advance()
                if self._steps.valid():
                    key = self._steps.key()
                    if self._start <= key < self._end:
                        return key, self._steps.value()
                # An iterator also becomes invalid at a damaged block; only its status tells.
                self._steps.status()
            except Exception as error:
                self._steps = None
                raise _translated(str(error), self._path) from error
            self._steps = None
            raise StopIteration

    def _advance(self) -> None:
        assert self._steps is not None
        if not self._positioned:
            self._positioned = True
            if self._reverse:
                self._steps.seek_for_prev(self._end)
                if self._steps.valid() and self._steps.key() == self._end:
                    self._steps.prev()
            else:
                self._steps.seek(self._start)
        elif self._reverse:
            self._steps.prev()
        else:
            self._steps.next()

    def release(self) -> None:
        """Let go of the iterator, so that the database can be closed."""
        with self._lock:
            self._released = self._steps is not None
            self._steps = None


def _options(*, create: bool) -> Options:
    tables = BlockBasedOptions()
    tables.set_block_cache(Cache(BLOCK_CACHE_BYTES))
    tables.set_bloom_filter(BLOOM_BITS_PER_KEY, False)
    # Else indexes and filters of all open tables stay in memory, outside any limit.
    tables.set_cache_index_and_filter_blocks(True)
    tables.set_pin_l0_filter_and_index_blocks_in_cache(True)
    options = Options(raw_mode=True)
    options.create_if_missing(create)
    options.set_wal_recovery_mode(DBRecoveryMode.tolerate_corrupted_tail_records())
    options.set_block_based_table_factory(tables)
    options.set_write_buffer_size(WRITE_BUFFER_BYTES)
    options.set_max_write_buffer_number(2)
    options.set_target_file_size_base(TABLE_BYTES)
    options.set_max_open_files(OPEN_FILES_MAX)
    options.set_max_background_jobs(2)
    options.set_level_zero_file_num_compaction_trigger(COMPACTED_FILES)
    # One open is one command of a user: what only serves statistics is left out.
    options.set_skip_stats_update_on_db_open(True)
    options.set_stats_dump_period_sec(0)
    options.set_stats_persist_period_sec(0)
    options.set_keep_log_file_num(1)
    options.set_max_log_file_size(DIARY_BYTES_MAX)
    options.set_max_manifest_file_size(MANIFEST_BYTES_MAX)
    options.set_manifest_preallocation_size(MANIFEST_PREALLOCATION_BYTES)
    return options


def _open(path: Path, *, create: bool) -> Rdict:
    try:
        return Rdict(str(path), _options(create=create))
    except Exception as error:
        raise _translated(str(error), path) from error


def _create(path: Path, founding: Changes) -> None:
    """Make a database at `path` by one rename, so that a folder there is always a whole database."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + _CREATING_SUFFIX)
    if draft.exists():
        shutil.rmtree(draft)
    rdict = _open(draft, create=True)
    try:
        if founding:
            rdict.write(_batch(founding))
            rdict.flush_wal(True)
        rdict.close()
    except Exception as error:
        raise _translated_write(str(error), path) from error
    draft.rename(path)
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        raise StorageFailure(f"{path.parent}: {error.strerror}") from error
    finally:
        os.close(descriptor)


def _batch(changes: Changes) -> WriteBatch:
    batch = WriteBatch(raw_mode=True)
    for key, value in changes:
        if value is None:
            batch.delete(key)
        else:
            batch.put(key, value)
    return batch


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Give the binding's untyped exceptions their types."""
    try:
        yield
    except Exception as error:
        raise _translated(str(error), path) from error


def _translated(message: str, path: Path) -> McrError:
    """Return what to raise when opening or reading failed with `message`."""
    if any(words in message for words in _NO_SPACE_WORDS):
        return OutOfSpaceError(str(path), message)
    if any(words in message for words in _LOCKED_WORDS):
        return StoreBusyError(str(path), 0)
    if message.startswith("Corruption") or any(words in message for words in _DAMAGE_WORDS):
        return CorruptStoreError(str(path), message)
    return FailedError(str(path), message)


def _translated_write(message: str, path: Path) -> Exception:
    """Return what to raise when a write failed with `message`."""
    translated = _translated(message, path)
    if isinstance(translated, OutOfSpaceError):
        return translated
    if isinstance(translated, CorruptStoreError) and _UNREADABLE_WORDS not in message:
        return translated
    return StorageFailure(f"{path}: {message}")


def _refused(message: str, path: Path) -> Exception:
    """Return what to raise for every write and sync after one failed with `message`."""
    translated = _translated_write(message, path)
    if isinstance(translated, OutOfSpaceError):
        return OutOfSpaceError(str(path), "an earlier write found none; free some, then open the store again")
    return translated
