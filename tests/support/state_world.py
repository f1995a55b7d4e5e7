"""A replicated state to play with: commands go in, outcomes come out, time is a field."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from mcr import canonical
from mcr.bases import BaseVersion
from mcr.errors import FieldValue
from mcr.model import ChunkId, LogIndex, Parameters, ParameterValue, Ref, RequestId
from mcr_node.core.state.apply import apply
from mcr_node.core.state.commands import (
    Acknowledge,
    ApproveMove,
    Command,
    CommitVersion,
    CreateBranch,
    CreateTag,
    DeleteBranch,
    DeletePolicy,
    FreezeChannel,
    MoveChannel,
    NumberTarget,
    PreviousTarget,
    ProtectChannel,
    ReportMany,
    ReportMetrics,
    RollbackBranch,
    RollbackChannel,
    SetPolicy,
    Settle,
    Target,
)
from mcr_node.core.state.digest import DIGEST_START, next_digest
from mcr_node.core.state.memory import MemoryView
from mcr_node.core.state.outcomes import (
    Accepted,
    Outcome,
    RefResult,
    Rejected,
    ReportResult,
    ReportsResult,
    Result,
    VersionResult,
)
from mcr_node.core.state.view import View

MODEL = "vision/resnet50"
START_MS = 1_700_000_000_000
PREVIOUS = PreviousTarget()

# Families of `keys` whose values are plain bytes.
_PLAIN_FAMILIES = (b"a",)

SomeResult = TypeVar("SomeResult", bound=Result)


class WritableView(View, Protocol):
    def write(self, changes: Sequence[tuple[bytes, bytes | None]]) -> None: ...


@dataclass
class StateWorld:
    """One state machine. Each command gets a new request id and a second more on the clock, unless told."""

    view: WritableView = field(default_factory=MemoryView)
    index: int = 0
    at_ms: int = START_MS
    digest: bytes = DIGEST_START
    principal: str = "alice"
    model: str = MODEL
    next_request: bytes = b""
    request_count: int = 0
    changes: list[tuple[bytes, bytes | None]] = field(default_factory=list)

    def apply(self, command: Command) -> Outcome:
        self.index += 1
        outcome, self.changes = apply(self.view, LogIndex(self.index), command)
        for key, value in self.changes:
            if value is not None and key[:1] not in _PLAIN_FAMILIES:
                # Refuses what is not in canonical form, however it was written.
                canonical.decode(value)
        self.view.write(self.changes)
        self.digest = next_digest(self.digest, LogIndex(self.index), self.changes)
        return outcome

    def accept(self, command: Command, result: type[SomeResult]) -> SomeResult:
        outcome = self.apply(command)
        assert isinstance(outcome, Accepted), outcome
        assert isinstance(outcome.result, result)
        return outcome.result

    def accept_any(self, command: ReportMany) -> ReportsResult:
        """Apply several reports, whatever becomes of each."""
        outcome = self.apply(command)
        assert isinstance(outcome, Accepted), outcome
        assert isinstance(outcome.result, ReportsResult)
        return outcome.result

    def reject(self, command: Command) -> tuple[str, Mapping[str, FieldValue]]:
        """Apply a command that must be rejected, and return code and fields."""
        outcome = self.apply(command)
        assert isinstance(outcome, Rejected), outcome
        assert self.changes == []
        assert outcome.error().code == outcome.code
        return outcome.code, outcome.fields

    def request_id(self) -> RequestId:
        if self.next_request:
            chosen, self.next_request = self.next_request, b""
            return RequestId(chosen)
        self.at_ms += 1000
        self.request_count += 1
        return RequestId(f"request {self.request_count}".encode())

    # Commands, with what a test does not care about filled in.

    def commit(
        self,
        branch: str = "main",
        *,
        expected_head: int | None = None,
        parent: int | None = None,
        description: str = "",
        parameters: Parameters | None = None,
        metrics: Mapping[str, float] | None = None,
        content: int | None = None,
        allow_non_finite: bool = False,
        base: BaseVersion | None = None,
    ) -> CommitVersion:
        request_id = self.request_id()
        number = self.index if content is None else content
        return CommitVersion(
            request_id=request_id,
            principal=self.principal,
            at_ms=self.at_ms,
            model=self.model,
            branch=branch,
            expected_head=expected_head,
            parent=parent,
            description=description,
            parameters={} if parameters is None else parameters,
            manifest=ChunkId(number.to_bytes(32, "big")),
            bytes_total=100 + number,
            file_count=1,
            chunk_count=2,
            metrics={} if metrics is None else metrics,
            allow_non_finite=allow_non_finite,
            base=base,
        )

    def roll_back_branch(
        self, branch: str = "main", target: Target = PREVIOUS, reason: str = "", description: str = ""
    ) -> RollbackBranch:
        return RollbackBranch(
            request_id=self.request_id(),
            principal=self.principal,
            at_ms=self.at_ms,
            model=self.model,
            branch=branch,
            target=target,
            reason=reason,
            description=description,
        )

    def create_branch(self, name: str, number: int) -> CreateBranch:
        return CreateBranch(
            request_id=self.request_id(),
            principal=self.principal,
            at_ms=self.at_ms,
            model=self.model,
            name=name,
            number=number,
        )

    def delete_branch(self, name: str, reason: str = "") -> DeleteBranch:
        return DeleteBranch(
            request_id=self.request_id(),
            principal=self.principal,
            at_ms=self.at_ms,
            model=self.model,
            name=name,
            reason=reason,
        )

    def create_tag(self, name: str, number: int) -> CreateTag:
        return CreateTag(
            request_id=self.request_id(),
            principal=self.principal,
            at_ms=self.at_ms,
            model=self.model,
            name=name,
            number=number,
        )

    def set_channel(
        self, number: int, channel: str = "production", *, expected: int | None = None, reason: str = ""
    ) -> MoveChannel:
        return MoveChannel(
            request_id=self.request_id(),
            principal=self.principal,
            at_ms=self.at_ms,
            model=self.model,
            channel=channel,
            number=number,
            expected_generation=expected,
            reason=reason,
        )

    def roll_back_channel(
        self, target: Target | int = PREVIOUS, channel: str = "production", reason: str = ""
    ) -> RollbackChannel:
        return RollbackChannel(
            request_id=self.request_id(),
            principal=self.principal,
            at_ms=self.at_ms,
            model=self.model,
            channel=channel,
            target=NumberTarget(target) if isinstance(target, int) else target,
            reason=reason,
        )

    def protect(
        self, protection: Mapping[str, ParameterValue], channel: str = "production"
    ) -> ProtectChannel:
        return ProtectChannel(
            request_id=self.request_id(),
            principal=self.principal,
            at_ms=self.at_ms,
            model=self.model,
            channel=channel,
            protection=protection,
        )

    def report(
        self,
        number: int,
        values: Mapping[str, float],
        channel: str = "",
        *,
        allow_non_finite: bool = False,
        generation: int = 0,
    ) -> ReportMetrics:
        return ReportMetrics(
            request_id=self.request_id(),
            principal=self.principal,
            at_ms=self.at_ms,
            model=self.model,
            number=number,
            values=values,
            channel=channel,
            allow_non_finite=allow_non_finite,
            generation=generation,
        )

    def acknowledge(
        self,
        number: int,
        consumer: str = "gpu-1",
        state: str = "loaded",
        *,
        rank: int = 0,
        channel: str = "",
        generation: int = 0,
    ) -> Acknowledge:
        return Acknowledge(
            request_id=self.request_id(),
            principal=self.principal,
            at_ms=self.at_ms,
            model=self.model,
            number=number,
            channel=channel,
            generation=generation,
            consumer=consumer,
            rank=rank,
            state=state,
        )

    def set_policy(self, name: str, rules: Mapping[str, ParameterValue]) -> SetPolicy:
        return SetPolicy(
            request_id=self.request_id(),
            principal=self.principal,
            at_ms=self.at_ms,
            model=self.model,
            name=name,
            rules=rules,
        )

    def delete_policy(self, name: str) -> DeletePolicy:
        return DeletePolicy(
            request_id=self.request_id(),
            principal=self.principal,
            at_ms=self.at_ms,
            model=self.model,
            name=name,
        )

    def freeze(self, level: str, channel: str = "production", reason: str = "") -> FreezeChannel:
        return FreezeChannel(
            request_id=self.request_id(),
            principal=self.principal,
            at_ms=self.at_ms,
            model=self.model,
            channel=channel,
            level=level,
            reason=reason,
        )

    def approve(
        self,
        request: int,
        channel: str = "production",
        *,
        available: tuple[str, ...] = (),
        withdraw: bool = False,
    ) -> ApproveMove:
        return ApproveMove(
            request_id=self.request_id(),
            principal=self.principal,
            at_ms=self.at_ms,
            model=self.model,
            channel=channel,
            request=request,
            available=available,
            withdraw=withdraw,
        )

    def settle(self, policy: str, generation: int) -> Settle:
        return Settle(
            request_id=self.request_id(),
            principal=self.principal,
            at_ms=self.at_ms,
            model=self.model,
            policy=policy,
            generation=generation,
        )

    # Commands that must be accepted.

    def commits(self, count: int, branch: str = "main") -> None:
        for _ in range(count):
            self.accept(self.commit(branch), VersionResult)

    def channel_set(self, *numbers: int, channel: str = "production") -> Ref:
        for number in numbers:
            ref = self.accept(self.set_channel(number, channel), RefResult).ref
        return ref

    def channel_back(self, target: Target | int = PREVIOUS, channel: str = "production") -> Ref:
        return self.accept(self.roll_back_channel(target, channel), RefResult).ref

    def reported(self, number: int, values: Mapping[str, float]) -> ReportResult:
        return self.accept(self.report(number, values, allow_non_finite=True), ReportResult)
