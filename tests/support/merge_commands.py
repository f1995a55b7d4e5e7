"""Commands about merges, made and drawn, and what holds of merges in every state."""

from collections.abc import Mapping, Sequence
from typing import Any

from hypothesis import strategies as st

from mcr.model import ChunkId, digest
from mcr.record import decode_record
from mcr_node.core.state import collecting, keys
from mcr_node.core.state.merge_commands import (
    CommitMerge,
    DropMerge,
    MergeCommand,
    OpenMerge,
    ResolveConflicts,
)
from mcr_node.core.state.records import ConflictRow, DocumentRow, MergesRow, WaitingRow
from mcr_node.core.state.view import View, prefix_end
from tests.support.state_world import StateWorld


def merge(
    world: StateWorld,
    ours: int,
    theirs: int,
    branch: str = "main",
    *,
    merge: int = 0,
    document: bytes = b"how",
) -> CommitMerge:
    return CommitMerge(
        request_id=world.request_id(),
        principal=world.principal,
        at_ms=world.at_ms,
        model=world.model,
        branch=branch,
        ours=ours,
        theirs=theirs,
        merge=merge,
        document=document,
        description="",
        parameters={},
        manifest=ChunkId(world.index.to_bytes(32, "big")),
        bytes_total=100 + world.index,
        file_count=1,
        chunk_count=2,
        gc_round=collecting.round_of(world.view),
    )


def open_merge(
    world: StateWorld,
    ours: int,
    theirs: int,
    branch: str = "main",
    *,
    base: int = 0,
    names: Sequence[str] = ("w",),
) -> OpenMerge:
    return OpenMerge(
        request_id=world.request_id(),
        principal=world.principal,
        at_ms=world.at_ms,
        model=world.model,
        branch=branch,
        ours=ours,
        theirs=theirs,
        base=base,
        document=b"asked",
        conflicts=tuple((name, b"detail") for name in names),
    )


def resolve(world: StateWorld, merge: int, choices: Mapping[str, str]) -> ResolveConflicts:
    return ResolveConflicts(
        request_id=world.request_id(),
        principal=world.principal,
        at_ms=world.at_ms,
        model=world.model,
        merge=merge,
        choices=tuple(choices.items()),
    )


def drop(world: StateWorld, merge: int) -> DropMerge:
    return DropMerge(
        request_id=world.request_id(),
        principal=world.principal,
        at_ms=world.at_ms,
        model=world.model,
        merge=merge,
    )


def drawn(envelope: Mapping[str, Any], branches: st.SearchStrategy[str]) -> st.SearchStrategy[MergeCommand]:
    """Return commands over few merges and few conflicts, good and bad."""
    numbers = st.integers(1, 6)
    names = st.lists(st.sampled_from(["w", "w.2", "b"]), min_size=1, max_size=3, unique=True)
    return st.one_of(
        st.builds(
            CommitMerge,
            branch=branches,
            ours=numbers,
            theirs=numbers,
            merge=st.sampled_from([0, 0, 0, 1, 2]),
            document=st.binary(max_size=2),
            description=st.just(""),
            parameters=st.just({}),
            manifest=st.just(ChunkId(bytes(32))),
            bytes_total=st.just(1),
            file_count=st.just(1),
            chunk_count=st.just(1),
            gc_round=st.none(),
            **envelope,
        ),
        st.builds(
            OpenMerge,
            branch=branches,
            ours=numbers,
            theirs=numbers,
            base=st.integers(0, 6),
            document=st.just(b"asked"),
            conflicts=names.map(lambda found: tuple((name, b"detail") for name in found)),
            **envelope,
        ),
        st.builds(
            ResolveConflicts,
            merge=st.integers(0, 3),
            choices=names.map(lambda found: tuple((name, "ours") for name in found)),
            **envelope,
        ),
        st.builds(DropMerge, merge=st.integers(0, 3), **envelope),
    )


def _rows(view: View, prefix: bytes) -> list[tuple[bytes, bytes]]:
    return list(view.scan(prefix, prefix_end(prefix)))


def check_merges(view: View) -> None:
    """Exactly the merges that wait have conflicts, and know how many of them are open."""
    conflicts: dict[bytes, list[ConflictRow]] = {}
    for key, value in _rows(view, b"Y"):
        of = key[1 : key.index(b"\x00") + 9]
        conflicts.setdefault(of, []).append(ConflictRow.unpack(value))
    waiting: dict[bytes, WaitingRow] = {}
    totals: dict[bytes, MergesRow] = {}
    for key, value in _rows(view, b"X"):
        if keys.number_in(key):
            waiting[key[1:]] = WaitingRow.unpack(value)
        else:
            totals[key[1:-8]] = MergesRow.unpack(value)
    assert waiting.keys() == conflicts.keys()
    for of, row in waiting.items():
        assert row.conflict_count == len(conflicts[of])
        assert row.open_count == sum(not conflict.choice for conflict in conflicts[of])
        assert keys.number_in(of) <= totals[of[:-8]].last
    for model, total in totals.items():
        assert total.count == sum(of[:-8] == model for of in waiting)
    for key, value in _rows(view, b"Z"):
        data = view.get(b"v" + key[1:])
        if data is not None:
            record = decode_record(data)
            assert record.merge_document == digest(DocumentRow.unpack(value).document)
            assert len(record.parents) == 2
