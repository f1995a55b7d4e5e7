"""Merging one branch into another, and deciding what a merge left open."""

from collections.abc import Awaitable, Mapping, Sequence
from functools import partial
from pathlib import Path

from mcr import _wire
from mcr.blocking import decided, run_blocking
from mcr.committing import Uploaded, Uploader
from mcr.durability import parse_durability
from mcr.errors import ConflictsLeftError, HeadMovedError, InvalidArgumentError, ReplayDiffersError
from mcr.leasing import UploadLease, upload_and_enter
from mcr.manifest import FileRow
from mcr.merging.choices import (
    Choice,
    Conflict,
    Given,
    Judge,
    Rule,
    choice_text,
    known_choice,
    parse_choice,
    parse_rule,
)
from mcr.merging.document import (
    Document,
    Input,
    NamedChoice,
    code_version,
    decided_by_rules,
    decode,
    decode_conflict,
    encode,
    encode_conflict,
)
from mcr.merging.planning import Plan, plan
from mcr.merging.trees import merge_parameters
from mcr.merging.waiting import MergeOutcome, OpenConflict, WaitingMerge, waiting_from_wire
from mcr.merging.writing import Merged, Progress, Sink, StoreSink, Writer
from mcr.model import Parameters, Version
from mcr.reading import PAGE_MAX, ModelReader
from mcr.references import DEFAULT_BRANCH
from mcr.reporting import write_header
from mcr.scanning import scan
from mcr.v1 import merges_pb2 as pb
from mcr.v1 import versions_pb2
from mcr.values import dataclass

GIVEN_BRANCH = "resolutions"
"""Where files are committed that somebody chose for a conflict: content stands in versions, so that it is
kept, copied, and found again when the merge is computed again."""


@dataclass(frozen=True, slots=True)
class _Inputs:
    """The versions of a merge; base None = they have nothing in common."""

    base: Version | None
    ours: Version
    theirs: Version


@dataclass(frozen=True, slots=True)
class _Planned:
    plan: Plan
    parameters: Parameters
    judge: Judge


class Merges(ModelReader):
    """What `mcr.merge_calls` hands on; the arguments and errors of each are told there."""

    async def merge(
        self,
        source: str,
        *,
        into: str = DEFAULT_BRANCH,
        strategies: Sequence[str] = (),
        choices: Mapping[str, str | Path] | None = None,
        message: str | None = None,
        durability: str | int | None = None,
        request_id: str | None = None,
        progress: Progress | None = None,
    ) -> MergeOutcome:
        """See `AsyncModel.merge`."""
        rules = tuple(parse_rule(text) for text in strategies)
        inputs, base = await self._inputs(source, into)
        if base == inputs.theirs.number:
            return MergeOutcome(inputs.ours, made=False)
        named = await self._named(choices or {})
        document = Document(
            base=Input(0, "") if inputs.base is None else Input(inputs.base.number, inputs.base.id),
            ours=Input(inputs.ours.number, inputs.ours.id),
            theirs=Input(inputs.theirs.number, inputs.theirs.id),
            rules=rules,
            choices=tuple(NamedChoice(name, choice_text(choice)) for name, choice in sorted(named.items())),
            code=code_version(),
        )
        planned = await self._plan(inputs, rules, named)
        if planned.judge.open:
            raise await self._open(into, document, planned.judge.open, request_id)
        request = pb.CommitMergeRequest(
            header=write_header(request_id),
            branch=into,
            description=message or f"merge {source} (v{inputs.theirs.number}) into {into}",
        )
        _ask_durability(request, durability)
        return await self._publish(request, inputs, document, planned, progress)

    async def merges(self) -> list[WaitingMerge]:
        """See `AsyncModel.merges`."""
        found: list[WaitingMerge] = []
        while True:
            after = found[-1].merge if found else 0
            answer = await self._connection.merges.list_merges(
                pb.ListMergesRequest(model=self.name, after=after, limit=PAGE_MAX)
            )
            found += [waiting_from_wire(each) for each in answer.merges]
            if len(answer.merges) < PAGE_MAX:
                return found

    async def conflicts(self, merge: int) -> WaitingMerge:
        """See `AsyncModel.conflicts`."""
        waiting, conflicts, _ = await self._conflicts(merge)
        return waiting_from_wire(waiting, conflicts)

    async def resolve(
        self,
        merge: int,
        choices: Mapping[str, str | Path],
        *,
        durability: str | int | None = None,
        progress: Progress | None = None,
    ) -> MergeOutcome | None:
        """See `AsyncModel.resolve`."""
        waiting, conflicts, _ = await self._conflicts(merge)
        open_count = waiting.open_count
        if choices:
            by_name = {each.conflict.name: each.conflict for each in conflicts}
            named = await self._named(choices, by_name)
            answer = await decided(
                self._connection.merges.resolve_conflicts(
                    pb.ResolveConflictsRequest(
                        header=write_header(None),
                        model=self.name,
                        merge=merge,
                        choices=[
                            pb.Conflict(name=name, choice=choice_text(choice))
                            for name, choice in sorted(named.items())
                        ],
                    )
                )
            )
            open_count = answer.open_count
        if open_count:
            return None
        return await self._finish(merge, durability, progress)

    async def drop_merge(self, merge: int) -> None:
        """See `AsyncModel.drop_merge`."""
        await decided(
            self._connection.merges.drop_merge(
                pb.DropMergeRequest(header=write_header(None), model=self.name, merge=merge)
            )
        )

    async def merge_document(self, ref: str) -> Document:
        """See `AsyncModel.merge_document`."""
        answer = await self._connection.merges.get_merge_document(
            pb.GetMergeDocumentRequest(model=self.name, number=await self._number(ref))
        )
        return decode(answer.document)

    async def replay(self, ref: str, *, progress: Progress | None = None) -> Version:
        """See `AsyncModel.replay`."""
        version = await self._version(ref)
        document = await self.merge_document(version.name)
        inputs = await self._inputs_of(document)
        named = {each.name: known_choice(each.choice) for each in document.choices}
        planned = await self._plan(inputs, document.rules, named)
        if planned.judge.open:
            found = f"{len(planned.judge.open)} conflicts are open"
            raise ReplayDiffersError(version.reference, version.manifest.hex(), found)
        merged = await self._write(inputs.ours, planned.plan, Sink(), progress)
        again = merged.manifest.root
        if again != version.manifest:
            raise ReplayDiffersError(version.reference, version.manifest.hex(), again.hex())
        if planned.parameters != version.parameters:
            raise ReplayDiffersError(version.reference, "its parameters", "other parameters")
        return version

    # ---- steps ----

    async def _inputs(self, source: str, into: str) -> tuple[_Inputs, int]:
        theirs, ours = await self._version(source), await self._version(f"branch:{into}")
        answer = await self._connection.merges.find_merge_base(
            pb.FindMergeBaseRequest(model=self.name, ours=ours.number, theirs=theirs.number)
        )
        base = await self._version(f"v{answer.base}") if answer.base else None
        return _Inputs(base, ours, theirs), answer.base

    async def _inputs_of(self, document: Document) -> _Inputs:
        found: list[Version | None] = []
        for each in (document.base, document.ours, document.theirs):
            version = await self._version(f"v{each.number}") if each.number else None
            if version is not None and version.id != each.id:
                raise ReplayDiffersError(version.reference, each.id, version.id)
            found.append(version)
        base, ours, theirs = found
        assert ours is not None, "a merge has two sides"
        assert theirs is not None, "a merge has two sides"
        return _Inputs(base, ours, theirs)

    async def _plan(self, inputs: _Inputs, rules: Sequence[Rule], choices: Mapping[str, Choice]) -> _Planned:
        judge = Judge(rules, choices)
        base, ours, theirs = inputs.base, inputs.ours, inputs.theirs
        of_base = {} if base is None else base.parameters
        parameters = merge_parameters(of_base, ours.parameters, theirs.parameters, judge)
        made = await plan(
            self._connection.chunks.get,
            base=None if base is None else base.manifest,
            ours=ours.manifest,
            theirs=theirs.manifest,
            judge=judge,
            find_given=self._find_given,
        )
        return _Planned(made, parameters, judge)

    async def _find_given(self, given: Given) -> FileRow:
        return await self._row(f"v{given.number}", given.path)

    async def _named(
        self, choices: Mapping[str, str | Path], conflicts: Mapping[str, Conflict] | None = None
    ) -> dict[str, Choice]:
        """Return choices as they are kept; files among them are committed first."""
        named: dict[str, Choice] = {}
        files: list[tuple[str, Path]] = []
        for name, text in choices.items():
            choice = None if isinstance(text, Path) else parse_choice(text)
            if conflicts is not None:
                if name not in conflicts:
                    raise InvalidArgumentError("conflict", f"there is none called {name[:200]!r}")
                fault = conflicts[name].fault_of(Given(1, "") if choice is None else choice)
                if fault:
                    raise InvalidArgumentError("conflict", f"{name}: {fault}")
            if choice is None:
                files.append((name, Path(text)))
            else:
                named[name] = choice
        for name, path in files:
            named[name] = await self._give(name, path)
        return named

    async def _give(self, name: str, path: Path) -> Given:
        sources = await run_blocking(self._executor, partial(scan, path))
        if len(sources) != 1 or sources[0].path != path.name:
            raise InvalidArgumentError("choice", f"{str(path)!r} is not one file")
        request = versions_pb2.CommitVersionRequest(
            header=write_header(None),
            model=self.name,
            branch=GIVEN_BRANCH,
            description=f"given for {name}",
            parameters=_wire.mapping_to_wire({}),
        )

        def upload() -> Awaitable[Uploaded]:
            return Uploader(self._connection.chunks, self._executor, None).upload(sources, None)

        async with UploadLease(self._connection.trash) as lease:

            def enter(uploaded: Uploaded) -> Awaitable[versions_pb2.CommitVersionResponse]:
                request.manifest, request.lease = uploaded.manifest.root, lease.name
                return decided(self._connection.versions.commit_version(request))

            _, answer = await upload_and_enter(upload, enter)
        return Given(_wire.version_from_wire(answer.version, with_metrics=False).number, sources[0].path)

    async def _open(
        self, into: str, document: Document, conflicts: Sequence[Conflict], request_id: str | None
    ) -> ConflictsLeftError:
        answer = await decided(
            self._connection.merges.open_merge(
                pb.OpenMergeRequest(
                    header=write_header(request_id),
                    model=self.name,
                    branch=into,
                    ours=document.ours.number,
                    theirs=document.theirs.number,
                    base=document.base.number,
                    document=encode(document),
                    conflicts=[
                        pb.Conflict(name=each.name, detail=encode_conflict(each)) for each in conflicts
                    ],
                )
            )
        )
        return ConflictsLeftError(self.name, answer.merge, len(conflicts))

    async def _conflicts(self, merge: int) -> tuple[pb.Merge, list[OpenConflict], bytes]:
        found: list[OpenConflict] = []
        after = ""
        while True:
            answer = await self._connection.merges.list_conflicts(
                pb.ListConflictsRequest(model=self.name, merge=merge, after=after, limit=PAGE_MAX)
            )
            for each in answer.conflicts:
                conflict = decode_conflict(each.detail)
                found.append(OpenConflict(conflict, each.choice, each.decider, each.at_ms))
                after = each.name
            if not answer.more:
                return answer.merge, found, answer.merge.document

    async def _finish(
        self, merge: int, durability: str | int | None, progress: Progress | None
    ) -> MergeOutcome:
        """Publish a merge whose conflicts are all decided."""
        waiting, conflicts, data = await self._conflicts(merge)
        if waiting.open_count:
            raise ConflictsLeftError(self.name, merge, waiting.open_count)
        asked = decode(data)
        inputs = await self._inputs_of(asked)
        head = await self._version(f"branch:{waiting.branch}")
        if head.number != waiting.ours:
            # Said before hours of computing rather than after.
            raise HeadMovedError(f"v{waiting.ours}", head.name, f"branch:{waiting.branch}")
        by_name = {each.name: NamedChoice(each.name, each.choice, waiting.creator) for each in asked.choices}
        for each in conflicts:
            name = each.conflict.name
            by_name[name] = NamedChoice(name, each.choice, each.decider)
        document = Document(
            base=asked.base,
            ours=asked.ours,
            theirs=asked.theirs,
            rules=asked.rules,
            choices=tuple(by_name[name] for name in sorted(by_name)),
            asked_by=waiting.creator,
            code=code_version(),
        )
        named = {each.name: known_choice(each.choice) for each in document.choices}
        planned = await self._plan(inputs, asked.rules, named)
        if planned.judge.open:
            # Only where another release sees conflicts that the one which opened the merge did not.
            raise ConflictsLeftError(self.name, merge, len(planned.judge.open))
        request = pb.CommitMergeRequest(
            header=write_header(None),
            branch=waiting.branch,
            merge=merge,
            description=f"merge v{waiting.theirs} into {waiting.branch}, decided as merge {merge}",
        )
        _ask_durability(request, durability)
        return await self._publish(request, inputs, document, planned, progress)

    async def _publish(
        self,
        request: pb.CommitMergeRequest,
        inputs: _Inputs,
        document: Document,
        planned: _Planned,
        progress: Progress | None,
    ) -> MergeOutcome:
        by_rules, omitted = decided_by_rules(planned.judge.decided)
        request.model = self.name
        request.ours, request.theirs = inputs.ours.number, inputs.theirs.number
        request.document = encode(
            Document(
                base=document.base,
                ours=document.ours,
                theirs=document.theirs,
                rules=document.rules,
                choices=document.choices,
                asked_by=document.asked_by,
                decided=by_rules,
                omitted=omitted,
                code=document.code,
            )
        )
        request.parameters = _wire.mapping_to_wire(planned.parameters)

        def compute() -> Awaitable[Merged]:
            sink = StoreSink(self._connection.chunks)
            return self._write(inputs.ours, planned.plan, sink, progress)

        def enter(merged: Merged) -> Awaitable[pb.CommitMergeResponse]:
            request.manifest = merged.manifest.root
            return decided(self._connection.merges.commit_merge(request))

        async with UploadLease(self._connection.trash) as lease:
            merged, answer = await upload_and_enter(compute, enter)
            await lease.give_back()
        version = await self._with_files(_wire.version_from_wire(answer.version, with_metrics=True))
        return MergeOutcome(
            version,
            made=True,
            decided=len(planned.judge.decided),
            bytes_sent=merged.stored.bytes_new,
            bytes_stored=merged.stored.bytes_stored,
            chunks_new=merged.stored.chunks_new,
        )

    async def _write(self, ours: Version, planned: Plan, sink: Sink, progress: Progress | None) -> Merged:
        writer = Writer(self._connection.chunks, self._executor, sink, progress)
        return await writer.write(ours.manifest, planned)


def _ask_durability(request: pb.CommitMergeRequest, durability: str | int | None) -> None:
    asked = parse_durability(durability)
    if asked is not None:
        request.durability.copies_min, request.durability.sites_min = asked.copies, asked.sites
