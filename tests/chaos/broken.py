"""Nodes that are broken on purpose: `broken.py DEFECT node start …` instead of `mcr node start …`.

A run that finds nothing proves something only if it finds these (`test_broken.py`). Each is a few lines over
the product, put in place before the node starts, in its process only.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from mcr.cli.main import main
from mcr.durability import Durability
from mcr.model import LogIndex
from mcr_node.core.raft import tracker
from mcr_node.core.state import requests
from mcr_node.runtime.runner import Runner
from mcr_node.services import cluster_chunks, copies
from mcr_node.storage import frames, segment_scan
from mcr_node.storage.disk import Disk


def _replace(where: object, **made: Callable[..., object]) -> None:
    """Put these in the place of what has their names, which must be there."""
    for name, function in made.items():
        assert hasattr(where, name), f"{where} has no {name}"
        setattr(where, name, function)


def _reads_what_it_has() -> None:
    """Reads do not ask whether there is a newer leader, nor wait for what others were told."""

    async def read_index(runner: Runner, *, at_least: LogIndex | None, stale_ok: bool) -> LogIndex:
        return runner.applied

    _replace(Runner, read_index=read_index)


def _forgets_requests() -> None:
    """A commit that is repeated under its request id is made again."""
    _replace(requests, recall=lambda view, request_id, content: None)


def _answers_before_it_is_replicated() -> None:
    """What the leader has counts as committed."""

    def farthest(indexes: Sequence[int]) -> int:
        return max(indexes, default=0)

    _replace(tracker, majority_index=farthest)


def _serves_unverified_bytes() -> None:
    """Chunks go out as the disk gives them."""
    _replace(frames, check_payload=lambda header, payload: None, _check_id=lambda header, plain: None)
    _replace(segment_scan, check_payload=lambda header, payload: None)


def _acknowledges_before_sync() -> None:
    """Nothing is synced: the log, the state, the chunks."""
    _replace(Disk, fdatasync=lambda disk, handle: None)


def _seals_too_early() -> None:
    """One copy is enough for a version to be visible."""
    for module in (copies, cluster_chunks):
        _replace(module, usual=lambda count: Durability(1))


DEFECTS: dict[str, Callable[[], None]] = {
    "reads_what_it_has": _reads_what_it_has,
    "forgets_requests": _forgets_requests,
    "answers_before_it_is_replicated": _answers_before_it_is_replicated,
    "serves_unverified_bytes": _serves_unverified_bytes,
    "acknowledges_before_sync": _acknowledges_before_sync,
    "seals_too_early": _seals_too_early,
}


def program(defect: str) -> tuple[str, ...]:
    """Return what an interpreter is to run as `mcr`."""
    assert defect in DEFECTS, defect
    return (str(Path(__file__).resolve()), defect)


if __name__ == "__main__":
    DEFECTS[sys.argv.pop(1)]()
    sys.exit(main())
