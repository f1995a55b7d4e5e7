"""Quotas: how many bytes the versions of a model, or of all models of a namespace, may have together.

What counts is the size of the files of each version, as its record says: the same on every node and for ever,
whatever the nodes hold in how many copies, encoded or shared. A rollback makes a version of bytes that are
there, so it counts nothing, and no quota prevents it. A version counts until it is given up for good.

Laws:
    A model without a quota costs two point reads a commit, and its state is what it always was.
    What was there when a quota is set is counted some versions at a time, by every commit in its scope and by
    `CountQuota`; each version once: behind the cursor by the count, before it by the commit that makes it.
"""

from dataclasses import replace
from itertools import islice

from mcr.errors import QuotaExceededError
from mcr.model import VersionKind
from mcr.record import Record, decode_record
from mcr_node.core.state import deletions, keys, space_keys
from mcr_node.core.state.outcomes import CountResult
from mcr_node.core.state.records import read
from mcr_node.core.state.space_commands import CountQuota, SetQuota
from mcr_node.core.state.space_records import QuotaRow
from mcr_node.core.state.step import Step
from mcr_node.core.state.trash_keys import Trashed
from mcr_node.core.state.view import View

# Records read by one commit for the count, and by one CountQuota: some tens of milliseconds at most.
COUNTED_PER_COMMIT = 64
COUNTED_PER_COMMAND = 1024


def scopes_of(model: str) -> tuple[str, str]:
    """Return what may have a quota that a model counts against: the model, and its namespace."""
    return model, model.partition("/")[0]


def set_quota(step: Step, command: SetQuota) -> CountResult:
    """Set, change or clear a quota; `more` says that it is still being counted.

    One that is below what is used refuses what comes, and takes nothing away.
    """
    key = space_keys.quota(command.scope)
    row = read(step.overlay, key, QuotaRow)
    if command.bytes_max is None:
        if row is not None:
            step.overlay.delete(key)
        return CountResult(int(row is not None))
    if row is None:
        row = QuotaRow(
            bytes_max=0,
            bytes_used=0,
            bytes_counted=0,
            cursor=b"",
            is_counting=True,
            set_by="",
            set_at_ms=0,
        )
    row = replace(row, bytes_max=command.bytes_max, set_by=step.principal, set_at_ms=step.at_ms)
    row = _counted(step.overlay, command.scope, row, COUNTED_PER_COMMAND)
    step.overlay.put(key, row.pack())
    return CountResult(1, more=row.is_counting)


def count(step: Step, command: CountQuota) -> CountResult:
    """Go on counting; there is nothing to do where no quota is, or all is counted."""
    key = space_keys.quota(command.scope)
    row = read(step.overlay, key, QuotaRow)
    if row is None or not row.is_counting:
        return CountResult(0)
    row = _counted(step.overlay, command.scope, row, COUNTED_PER_COMMAND)
    step.overlay.put(key, row.pack())
    return CountResult(1, more=row.is_counting)


def charge(step: Step, record: Record) -> None:
    """Count a version that is about to be made.

    Raises:
        QuotaExceededError: it does not fit.
    """
    if record.kind is VersionKind.ROLLBACK:
        return
    made = keys.version(record.model, record.number)
    for scope in scopes_of(record.model):
        key = space_keys.quota(scope)
        row = read(step.overlay, key, QuotaRow)
        if row is None:
            continue
        row = _counted(step.overlay, scope, row, COUNTED_PER_COMMIT)
        if row.bytes_used + record.bytes_total > row.bytes_max:
            raise QuotaExceededError(scope, row.bytes_used, record.bytes_total, row.bytes_max)
        step.overlay.put(key, _changed(row, made, record.bytes_total).pack())


def release(step: Step, of: Trashed) -> None:
    """Count no more what is about to be given up for good: a version, or all of a model up to one."""
    for scope in scopes_of(of.model):
        key = space_keys.quota(scope)
        row = read(step.overlay, key, QuotaRow)
        if row is None:
            continue
        if of.whole_model:
            # There may be any number of them: all is counted again, and until that is done it stays as it is.
            row = replace(row, bytes_counted=0, cursor=b"", is_counting=True)
        elif not _is_given_up(step.overlay, of.model, of.number):
            data = step.overlay.get(keys.version(of.model, of.number))
            assert data is not None, "what is in the trash was made"
            record = decode_record(data)
            if record.kind is not VersionKind.ROLLBACK:
                row = _changed(row, keys.version(of.model, of.number), -record.bytes_total)
        step.overlay.put(key, row.pack())


def _changed(row: QuotaRow, version: bytes, length_bytes: int) -> QuotaRow:
    is_behind = row.is_counting and version <= row.cursor
    return replace(
        row,
        bytes_used=max(0, row.bytes_used + length_bytes),
        bytes_counted=row.bytes_counted + length_bytes * is_behind,
    )


def _counted(view: View, scope: str, row: QuotaRow, count_max: int) -> QuotaRow:
    """Return the row after the count has passed some more versions."""
    if not row.is_counting:
        return row
    counted, cursor, passed = row.bytes_counted, row.cursor, 0
    for key, data in islice(view.scan(*space_keys.versions_in(scope, cursor)), count_max):
        record = decode_record(data)
        if record.kind is not VersionKind.ROLLBACK and not _is_given_up(view, record.model, record.number):
            counted += record.bytes_total
        cursor, passed = key, passed + 1
    if passed < count_max:
        return replace(row, bytes_used=counted, bytes_counted=0, cursor=b"", is_counting=False)
    return replace(row, bytes_used=max(row.bytes_used, counted), bytes_counted=counted, cursor=cursor)


def _is_given_up(view: View, model: str, number: int) -> bool:
    found = deletions.deletion_of(view, model, number)
    return found is not None and found.row.is_purged
