"""Seeded defects of the chunk plane, each by text in one function, and how many of them the worlds find.

`make mutants-chunks`, `python -m tests.simulation.chunks.defects`; one of them: `--only seal`.
"""

import argparse
import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial

from tests.mutation.patching import TextDefect
from tests.simulation.chunks.simulation import SeedFailed, Simulation

SEEDS = 40
_service = partial(TextDefect, root="mcr_node.services")
_core = partial(TextDefect, root="mcr_node.core")
# What a store of production could do, done to the one in memory.
_disk = partial(TextDefect, root="tests.simulation.chunks")
_memory = partial(TextDefect, root="tests.conformance")

DEFECTS: tuple[TextDefect, ...] = (
    # ---- sealing ----
    _service(
        "commit_is_not_sealed",
        "sealed:seal_and_enter",
        "content = await chunks.seal(manifest, durability=durability)",
        "content = await chunks.check_held(manifest)",
    ),
    _service(
        "seal_is_content_with_one_copy",
        "copies:Sealing._choose",
        "if is_met_by(self._durability, held):",
        "if held:",
    ),
    _service(
        "seal_looks_at_nothing", "cluster_chunks:ClusterChunks.seal", "await sealing.run(", "(lambda _: 0)("
    ),
    _service(
        "seal_syncs_no_other_disk",
        "copies:Sealing._sync",
        "[one for one in self._others if one.node_id in self._counted]",
        "[]",
    ),
    _service(
        "seal_does_not_sync_its_own_disk", "copies:Sealing._sync", "self._here.sync()", "asyncio.sleep(0)"
    ),
    _service(
        "seal_counts_on_who_failed_after",
        "copies:Sealing.run",
        "if not self._is_doubtful and not self._counted.keys() & self._failed.keys():",
        "if True:",
    ),
    _service(
        "seal_does_not_notice_a_restart",
        "lives:Lives.check",
        "if self._first.setdefault(member.node_id, life) != life:",
        "if False:",
    ),
    _service(
        "seal_sends_nothing",
        "copies:Sealing._send",
        "self._holders.put(member.address, chunks)",
        "self._holders.wait_reachable(member.address)",
    ),
    _service(
        "missing_says_nothing_is",
        "chunks:LocalChunks.missing",
        "await self._run(lambda: self._store.missing(ids))",
        "set()",
    ),
    _core(
        "sites_do_not_count",
        "placement.ring:is_met_by",
        " and len(set(sites.values())) >= durability.sites",
        "",
    ),
    _core(
        "placement_names_one_too_few",
        "placement.ring:chosen",
        "elif len(taken) < durability.copies:",
        "elif len(taken) + 1 < durability.copies:",
    ),
    _service("one_copy_is_usual", "copies:usual", "Durability(min(COPIES, count))", "Durability(1)"),
    # ---- sessions ----
    _service(
        "part_is_not_sealed",
        "sessions:SessionsService.put_part",
        "content = await self._chunks.seal(manifest)",
        # It is sealed once more when it is entered.
        "content = await self._chunks.check_held(manifest); "
        "seal_and_enter = lambda chunks, manifest, enter: enter(content)",
    ),
    _service(
        "manifest_of_a_session_is_not_sealed",
        "sessions:SessionsService._seal",
        "content = await self._held(manifest, durability)",
        "content = await self._chunks.check_held(manifest)",
    ),
    _service(
        "seal_of_a_session_leaves_the_last_part_out",
        "sessions:SessionsService._build",
        "some = parts[start : start + PARTS_AT_ONCE]",
        "some = parts[start : start + PARTS_AT_ONCE][: len(parts) - 1 or 1]",
    ),
    _core(
        "part_that_came_meanwhile_is_forgotten",
        "state.sessions:_seal",
        "if progress.generation != command.generation:",
        "if False:",
    ),
    _core(
        "sealed_session_is_sealed_again",
        "state.sessions:_seal",
        'if progress.state == "sealed":',
        "if False:",
    ),
    _service(
        "parts_of_sessions_are_not_looked_after",
        "walking:all_models",
        'found[f"{one.model}{_SESSION}{one.session}"] = one.part_count',
        "pass",
    ),
    # ---- what is stored and given ----
    _service(
        "received_bytes_are_believed",
        "chunks:LocalChunks.verify",
        "verified(chunk.id, chunk.data, element_bytes=chunk.element_bytes)",
        "Chunk(chunk.id, chunk.data)",
    ),
    _service(
        "fetched_bytes_are_believed",
        "cluster_chunks:ClusterChunks._accept",
        "verified(received.id, bytes(received.data))",
        "Chunk(received.id, bytes(received.data))",
    ),
    _memory(
        "store_gives_what_went_bad",
        "memory_chunk_store:MemoryChunkStore.get",
        "if digest(data) != chunk_id:",
        "if False:",
    ),
    _memory(
        "store_syncs_nothing",
        "memory_chunk_store:MemoryChunkStore.sync",
        "dict(self._chunks)",
        "self.durable",
    ),
    _service(
        "frame_begins_with_the_last_one",
        "cluster_chunks:ClusterChunks._arrived",
        "chunks.append(Chunk(chunk_id, data))",
        "chunks.append(Chunk(chunk_id, data[::-1]))",
    ),
    _service(
        "received_frame_is_kept_in_part",
        "chunks:LocalChunks.store",
        "self._store.put(chunks)",
        "self._store.put(chunks[:1])",
    ),
    # ---- garbage ----
    _service(
        "sweep_takes_what_was_promised_meanwhile",
        "promises:Promises.sweep",
        "[one for one in ids if one not in recent]",
        "list(ids)",
    ),
    _service(
        "sweep_forgets_what_was_touched",
        "collecting:Collector._collect",
        "await self._note_touched(since, keep)",
        "pass",
    ),
    _service(
        "parts_are_no_roots",
        "collecting:Collector._note_roots",
        "list(sessions.roots(self._log.view()))",
        "[]",
    ),
    _service("versions_are_no_roots", "collecting:Collector._note_roots", "if content.is_root:", "if False:"),
    _service(
        "round_before_a_restart_is_swept",
        "collecting:Collector._may_sweep",
        "self._floor is not None and row.index > self._floor",
        "True",
    ),
    _core(
        "round_of_a_seal_does_not_matter",
        "state.collecting:check_round",
        "if sealed_round is not None and sealed_round != present:",
        "if False:",
    ),
    _service(
        "surplus_goes_although_others_lack_it",
        "surplus:Surplus._leave_held",
        "lacking = await ask(member, ids)",
        "lacking = set()",
    ),
    _service(
        "surplus_goes_wherever_placement_has_it",
        "surplus:Surplus._placed_elsewhere",
        "if myself not in named and is_met_by(wanted, named):",
        "if named := tuple(one for one in named if one != myself):",
    ),
    # ---- repair, scrub, draining ----
    _service(
        "repair_is_content_with_one_copy",
        "repair:Repair._begin",
        "self._wanted = min(COPIES, len(staying) + 1)",
        "self._wanted = 1",
    ),
    _service(
        "repair_copies_nothing",
        "repair:Repair._copy_all",
        "for _, group in groupby(todo, key=way_of):",
        "for _, group in ():",
    ),
    _service(
        "repair_looks_at_no_old_version",
        "repair:Repair.run",
        "again = asked or self._is_unsure or found.among != self._last_among or self._short > 0",
        "again = False",
    ),
    _service(
        "repair_forgets_who_came_and_went",
        "repair:Repair.is_due",
        "self._is_unsure = self._is_unsure or found.among != self._last_among",
        "self._is_unsure = False",
    ),
    _service(
        "repair_believes_a_copy_that_was_refused",
        "repair:Repair._copy",
        "return max(1, sent_bytes) if len(part[0].holders) >= found.wanted else 0",
        "return 1",
    ),
    _service(
        "repair_does_not_count_who_has_it",
        "census:Census._count",
        "if chunk_id not in missing",
        "if True",
    ),
    _service("scrub_reads_nothing", "scrub:Scrub.run", "await self._chunks.run(lambda: _some(frames))", "[]"),
    _service(
        "census_counts_who_leaves",
        "census:Census._count",
        "holders = tuple(node_id for node_id in having if node_id not in self._leaving)",
        "holders = tuple(having)",
    ),
    _service("drain_reads_no_copy", "draining:Draining.run", "proves=True", "proves=False"),
    _service(
        "member_is_drained_at_once",
        "draining:Draining.is_drained",
        " and self._drained_epoch == membership.epoch",
        "",
    ),
)
ALL: dict[str, Callable[[], AbstractContextManager[object]]] = {each.name: each for each in DEFECTS}


def find(name: str, seeds: int, first: int = 1) -> str | None:
    """Return which seed finds a defect, and how; None if none does."""
    with ALL[name]():
        for count, seed in enumerate(range(first, first + seeds), 1):
            try:
                Simulation(seed).run()
            except SeedFailed as failure:
                why = f"{failure.cause}".splitlines() or [type(failure.cause).__name__]
                return f"seed {count}: {why[0][:90]}"
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="a part of the name")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="the most a defect")
    parser.add_argument("--first", type=int, default=1)
    options = parser.parse_args()
    if os.environ.get("PYTHONHASHSEED") != "0":
        arguments = [sys.executable, "-m", "tests.simulation.chunks.defects", *sys.argv[1:]]
        os.execve(sys.executable, arguments, {**os.environ, "PYTHONHASHSEED": "0"})
    missed: list[str] = []
    names = [name for name in ALL if options.only in name]
    for name in names:
        found = find(name, options.seeds, options.first)
        missed += [] if found else [name]
        sys.stdout.write(f"{name:45} {found or 'NOT FOUND'}\n")
        sys.stdout.flush()
    score = 100 * (len(names) - len(missed)) / max(1, len(names))
    sys.stdout.write(f"{len(names) - len(missed)} of {len(names)} found: {score:.0f} %\n")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
