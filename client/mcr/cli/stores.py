"""Commands about a whole store: init, doctor."""

import importlib.util
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from mcr.cli.forms import count, size
from mcr.cli.options import command, with_session
from mcr.cli.output import JsonValue, Output
from mcr.cli.session import Session
from mcr.cli.settings import STORE_FOLDER_NAME
from mcr.errors import CorruptChunkError, CorruptStoreError

if TYPE_CHECKING:
    from mcr.model import CheckReport, StoreStatus

# Below this a commit of a small model may already fail; the log and the index need a little as well.
BYTES_FREE_LOW = 1_000_000_000
_EXTRAS = (
    ("numpy", "tensors, and encodings of new chunks"),
    ("rocksdict", "stores"),
    ("zstandard", "stores"),
)
_CHUNKS_NAMED_MAX = 3


@command(
    "init",
    examples="""
    mcr init .mcr                    # found by itself from this folder and those below it
    mcr init /srv/models --encoding raw
    """,
)
@click.argument("path", type=click.Path(path_type=Path))
@click.option(
    "--encoding",
    type=click.Choice(["auto", "raw"]),
    default="auto",
    show_default=True,
    help="auto: each chunk in its smallest encoding. raw: faster to write, takes more space.",
)
@with_session
def init(session: Session, path: Path, encoding: Literal["raw", "auto"]) -> None:
    """Make an embedded store.

    PATH is a folder that does not exist yet, or is empty.
    """
    # Imported late: it brings the node's code along.
    import mcr

    mcr.init(path, encoding=encoding)
    session.output.data({"path": str(path.absolute()), "encoding": encoding}, "")
    session.output.talk(f"made an embedded store at {path.absolute()}")
    if path.name != STORE_FOLDER_NAME:
        session.output.talk(f"use it with: --cluster {path}, or MCR_CLUSTER={path.absolute()}")


@command(
    "doctor",
    examples="""
    mcr doctor                       # reads and verifies every chunk
    mcr doctor --quick               # only looks that every chunk is there
    mcr doctor --json | jq 'select(.status != "ok")'
    """,
)
@click.option("--quick", is_flag=True, help="Do not read the chunks, only look that they are there.")
@with_session
def doctor(session: Session, quick: bool) -> None:
    """Check the installation and the store.

    Prints one line a finding: ok, warning or damaged. Exits with 13 when something is damaged, and names the
    versions that need it.
    """
    findings = _Findings(session.output)
    _check_installation(findings)
    with session.connect() as client:
        status = client.status()
        _describe_store(findings, client.location, status)
        with session.output.bar(unit=" versions") as tick:
            report = client.check(deep=not quick, progress=lambda done, total: tick("verifying", done, total))
        _describe_check(findings, report, deep=not quick)
        if report.chunks_damaged:
            named = ", ".join(report.chunks_damaged[:_CHUNKS_NAMED_MAX])
            more = len(report.chunks_damaged) - _CHUNKS_NAMED_MAX
            raise CorruptChunkError(
                named + (f" and {more} more" if more > 0 else ""),
                f"needed by {', '.join(report.versions_affected) or 'no version'}",
            )
        if report.problems:
            raise CorruptStoreError(client.location, "; ".join(report.problems))


class _Findings:
    """Prints findings as they are made: whoever waits for a long check sees the first ones at once."""

    def __init__(self, output: Output) -> None:
        self._output = output

    def add(self, status: str, check: str, detail: str, **fields: JsonValue) -> None:
        record: dict[str, JsonValue] = {"check": check, "status": status, "detail": detail}
        self._output.data(record | fields, f"{status:8}{check}: {detail}")


def _check_installation(findings: _Findings) -> None:
    version = platform.python_version()
    findings.add("ok", "python", f"{version} at {sys.executable}", version=version)
    for module, purpose in _EXTRAS:
        # Looked for without importing it: an import can take a second, and fail in ways of its own.
        if importlib.util.find_spec(module) is None:
            findings.add("warning", module, f"not installed; needed for {purpose}: mcr-store[node]")
        else:
            findings.add("ok", module, "installed")


def _describe_store(findings: _Findings, location: str, status: "StoreStatus") -> None:
    findings.add(
        "ok",
        "store",
        f"{location}, format {status.store_format}, id {status.store_id}, encoding {status.encoding}",
        location=location,
        store_format=status.store_format,
        store_id=status.store_id,
        encoding=status.encoding,
    )
    findings.add(
        "ok",
        "log",
        f"applied to index {status.applied_index}, log entries kept: {status.log_entry_count}",
        applied_index=status.applied_index,
        state_digest=status.state_digest,
        log_entry_count=status.log_entry_count,
    )
    findings.add(
        "ok",
        "chunks",
        f"{status.chunk_count} with {size(status.chunk_bytes_plain)} in {size(status.chunk_bytes_live)}; "
        f"files take {size(status.chunk_bytes_used)}",
        chunk_count=status.chunk_count,
        chunk_bytes_plain=status.chunk_bytes_plain,
        chunk_bytes_live=status.chunk_bytes_live,
        chunk_bytes_used=status.chunk_bytes_used,
    )
    low = status.bytes_free < BYTES_FREE_LOW
    findings.add(
        "warning" if low else "ok",
        "space",
        f"{size(status.bytes_free)} free" + ("; free some before the next commit" if low else ""),
        bytes_free=status.bytes_free,
    )
    if status.chunks_quarantined:
        findings.add(
            "warning",
            "quarantine",
            f"{count(status.chunks_quarantined, 'chunk')} set aside as damaged",
            chunks_quarantined=status.chunks_quarantined,
        )


def _describe_check(findings: _Findings, report: "CheckReport", *, deep: bool) -> None:
    how = "read and verified" if deep else "there (their bytes were not read)"
    if not (report.chunks_damaged or report.problems):
        findings.add(
            "ok",
            "content",
            f"{count(report.chunks_checked, 'chunk')} {how}",
            chunks_checked=report.chunks_checked,
        )
    for chunk_id in report.chunks_damaged:
        findings.add("damaged", "chunk", chunk_id, chunk_id=chunk_id)
    for reference in report.versions_affected:
        findings.add("damaged", "version", reference, reference=reference)
    for problem in report.problems:
        findings.add("damaged", "problem", problem)
