"""The blocking client: the flows of `mcr.aio`, run on one private event-loop thread.

    with mcr.connect("models.mcr") as client:
        version = client.model("vision/resnet50").commit("ckpt/", message="epoch 3")

Methods have the names, arguments and errors of the asyncio ones. A client belongs to the process that made
it: its thread and its connections do not survive `os.fork`, so a child connects anew, and a program that
forks workers (`torch.utils.data.DataLoader`, `multiprocessing`) does so before it connects, or uses the start
method `spawn`. `close` has nothing to save: what a call returned was durable then.
"""

from __future__ import annotations

import io
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar, cast

from mcr import aio
from mcr._client_finding import BlockingFinding
from mcr._client_following import BlockingFollowing
from mcr._client_merges import BlockingMerges
from mcr._client_policies import BlockingGuards, BlockingPolicies
from mcr._client_receipts import BlockingReceipts
from mcr._client_retention import BlockingRetention
from mcr._client_signatures import BlockingSignatures
from mcr._client_trash import BlockingTrash, BlockingTrashOfAll
from mcr.blocking_sessions import Session
from mcr.files import RangeFile
from mcr.layout_blocking import BlockingLayout
from mcr.loop_thread import LoopThread
from mcr.model import (
    CheckReport,
    ClusterStatus,
    CommitResult,
    Event,
    FileEntry,
    MetricReport,
    ModelSummary,
    Parameters,
    Ref,
    RefKind,
    RefMove,
    RepairPlan,
    StorageSummary,
    StoreStatus,
    Tensor,
    Version,
    WorkersAsked,
    WorkersReport,
)
from mcr.reading import PAGE_MAX
from mcr.references import DEFAULT_BRANCH
from mcr.sessions import LIFETIME_S

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mcr._session_wire import SessionStatus
    from mcr.arrangement import DrainProgress
    from mcr.checkout import CheckoutProgress, CheckoutResult
    from mcr.committing import CommitProgress
    from mcr.comparing import Diff, DiffProgress

Result = TypeVar("Result")
_BUFFER_BYTES = 1024 * 1024


def connect(where: str | Path, *, timeout_s: float | None = None, stale_ok: bool = False) -> Client:
    """Connect to a cluster, or open an embedded store, and return a blocking client of it.

    Args:
        where: addresses of nodes, `host:port,host:port`, or the folder of a store; see `mcr.aio.connect`.
        timeout_s: bound on each call, and on waiting for another process that has the store open; None =
            calls take as long as they take, and a store in use is refused at once.
        stale_ok: see `mcr.aio.connect`.

    Raises:
        UnavailableError, DeadlineError: no node answers.
        StoreNotFoundError, StoreBusyError, StoreFormatError, CorruptStoreError: see `mcr.errors`.
        MissingExtraError: the node part is not installed, which an embedded store needs.
    """
    loop = LoopThread(timeout_s)
    try:
        opening = aio.connect(where, timeout_s=timeout_s, stale_ok=stale_ok)
        return Client(loop.run(opening, "connect"), loop)
    except BaseException:
        loop.close()
        raise


async def _next(events: AsyncGenerator[Event]) -> Event | None:
    return await anext(events, None)


class Client(BlockingLayout, BlockingTrashOfAll):
    """A connection to a store. Make one with `connect`; close it, or use it as a context manager."""

    def __init__(self, client: aio.AsyncClient, loop: LoopThread) -> None:
        self._client = client
        self._loop = loop
        self._closed = False

    @property
    def location(self) -> str:
        """Where the store is."""
        return self._client.location

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Make everything durable and release the store. May be called twice."""
        if not self._closed:
            self._closed = True
            try:
                self._loop.run(self._client.close(), "close", bounded=False)
            finally:
                self._loop.close()

    def model(self, name: str) -> Model:
        """See `AsyncClient.model`."""
        return Model(self._client.model(name), self._loop)

    def models(self, *, after: str = "", limit: int = PAGE_MAX) -> list[ModelSummary]:
        """See `AsyncClient.models`."""
        return self._loop.run(self._client.models(after=after, limit=limit), "ls")

    def status(self) -> StoreStatus:
        """See `AsyncClient.status`."""
        return self._loop.run(self._client.status(), "status")

    def cluster_status(self) -> ClusterStatus:
        """See `AsyncClient.cluster_status`."""
        return self._loop.run(self._client.cluster_status(), "cluster status")

    def add_member(self, name: str, address: str, *, site: str = "") -> None:
        """See `AsyncClient.add_member`."""
        self._loop.run(self._client.add_member(name, address, site=site), "cluster add")

    def replace_member(self, old: str, new: str, *, patience_s: float = 0) -> None:
        """See `AsyncClient.replace_member`."""
        self._loop.run(self._client.replace_member(old, new, patience_s=patience_s), "cluster replace")

    def remove_member(
        self,
        name: str,
        *,
        force: bool = False,
        accept_loss: bool = False,
        progress: Callable[[DrainProgress], None] | None = None,
    ) -> None:
        """See `AsyncClient.remove_member`."""
        removed = self._client.remove_member(name, force=force, accept_loss=accept_loss, progress=progress)
        self._loop.run(removed, "cluster remove")

    def promote_member(self, name: str) -> None:
        """See `AsyncClient.promote_member`."""
        self._loop.run(self._client.promote_member(name), "cluster promote")

    def transfer_leadership(self, name: str = "") -> str:
        """See `AsyncClient.transfer_leadership`."""
        return self._loop.run(self._client.transfer_leadership(name), "cluster transfer-leader")

    def workers(self, name: str = "", *, member: str = "") -> WorkersReport:
        """See `AsyncClient.workers`."""
        return self._loop.run(self._client.workers(name, member=member), "status of workers")

    def start_worker(self, name: str, *, member: str = "", at_full_speed: bool = False) -> WorkersAsked:
        """See `AsyncClient.start_worker`."""
        asked = self._client.start_worker(name, member=member, at_full_speed=at_full_speed)
        return self._loop.run(asked, f"{name} start")

    def pause_worker(self, name: str, *, member: str = "") -> WorkersAsked:
        """See `AsyncClient.pause_worker`."""
        return self._loop.run(self._client.pause_worker(name, member=member), f"{name} pause")

    def plan_repair(self, *, member: str = "") -> RepairPlan:
        """See `AsyncClient.plan_repair`."""
        return self._loop.run(self._client.plan_repair(member=member), "repair --dry-run")

    def check(self, *, deep: bool = True, progress: Callable[[int, int], None] | None = None) -> CheckReport:
        """See `AsyncClient.check`."""
        return self._loop.run(self._client.check(deep=deep, progress=progress), "check")


class TensorMap(Mapping[str, "NDArray[Any]"]):
    """The tensors of a version by name; each is fetched when it is asked for."""

    def __init__(self, model: Model, ref: str) -> None:
        self._model = model
        self._ref = ref
        self._names = dict.fromkeys(tensor.name for _, tensor in model.tensors_of(ref))

    def __getitem__(self, name: str) -> NDArray[Any]:
        if name not in self._names:
            raise KeyError(name)
        return self._model.tensor(self._ref, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class Model(
    BlockingReceipts,
    BlockingTrash,
    BlockingFollowing,
    BlockingRetention,
    BlockingMerges,
    BlockingPolicies,
    BlockingFinding,
    BlockingSignatures,
):
    """One model of a store."""

    def __init__(self, model: aio.AsyncModel, loop: LoopThread) -> None:
        self._model = model
        self._loop = loop

    @property
    def name(self) -> str:
        """`namespace/name`."""
        return self._model.name

    def commit(
        self,
        path: str | Path,
        *,
        message: str = "",
        branch: str = DEFAULT_BRANCH,
        expect: str | None = None,
        params: Parameters | None = None,
        metrics: Mapping[str, float] | None = None,
        parent: str | None = None,
        base: str | None = None,
        request_id: str | None = None,
        allow_non_finite: bool = False,
        durability: str | int | None = None,
        exclude: Sequence[str] = (),
        reread: bool = False,
        progress: Callable[[CommitProgress], None] | None = None,
    ) -> CommitResult:
        """See `AsyncModel.commit`; `progress` is called from another thread."""
        work = self._model.commit(
            path,
            message=message,
            branch=branch,
            expect=expect,
            params=params,
            metrics=metrics,
            parent=parent,
            base=base,
            request_id=request_id,
            allow_non_finite=allow_non_finite,
            durability=durability,
            exclude=exclude,
            reread=reread,
            progress=progress,
        )
        return self._loop.run(work, "commit")

    def session(
        self,
        name: str | None = None,
        *,
        branch: str = DEFAULT_BRANCH,
        message: str = "",
        expect: str | None = None,
        params: Parameters | None = None,
        parent: str | None = None,
        base: str | None = None,
        lifetime_s: float = LIFETIME_S,
        expected: Sequence[str] = (),
        seal: bool = True,
        wait_s: float = 0.0,
        durability: str | int | None = None,
    ) -> Session:
        """See `AsyncModel.session`."""
        session = self._model.session(
            name,
            branch=branch,
            message=message,
            expect=expect,
            params=params,
            parent=parent,
            base=base,
            lifetime_s=lifetime_s,
            expected=expected,
            seal=seal,
            wait_s=wait_s,
            durability=durability,
        )
        return Session(session, self._loop)

    def sessions(self, *, ended: bool = False) -> list[SessionStatus]:
        """See `AsyncModel.sessions`."""
        return self._loop.run(self._model.sessions(ended=ended), "session")

    def watch(self, *, since: int | None = None) -> Generator[Event]:
        """See `AsyncModel.watch`; end it by closing the generator, or by an interruption."""
        events = self._model.watch(since=since)
        try:
            while (event := self._loop.run(_next(events), "watch", bounded=False)) is not None:
                yield event
        finally:
            self._loop.run(events.aclose(), "watch", bounded=False)

    def create_branch(self, name: str, *, at: str | None = None) -> Ref:
        """See `AsyncModel.create_branch`."""
        return self._loop.run(self._model.create_branch(name, at=at), "branch")

    def create_tag(self, name: str, ref: str | None = None) -> Ref:
        """See `AsyncModel.create_tag`."""
        return self._loop.run(self._model.create_tag(name, ref), "tag")

    def delete_branch(self, name: str, *, reason: str = "") -> None:
        """See `AsyncModel.delete_branch`."""
        self._loop.run(self._model.delete_branch(name, reason=reason), "branch")

    def rollback(self, *, branch: str = DEFAULT_BRANCH, to: str = aio.PREVIOUS, reason: str = "") -> Version:
        """See `AsyncModel.rollback`."""
        return self._loop.run(self._model.rollback(branch=branch, to=to, reason=reason), "rollback")

    def report(
        self,
        ref: str,
        values: Mapping[str, float],
        *,
        channel: str = "",
        generation: int = 0,
        allow_non_finite: bool = False,
    ) -> str:
        """See `AsyncModel.report`."""
        work = self._model.report(
            ref, values, channel=channel, generation=generation, allow_non_finite=allow_non_finite
        )
        return self._loop.run(work, "report")

    def report_many(
        self,
        ref: str,
        reports: Sequence[Mapping[str, float]],
        *,
        channel: str = "",
        allow_non_finite: bool = False,
    ) -> None:
        """See `AsyncModel.report_many`."""
        work = self._model.report_many(ref, reports, channel=channel, allow_non_finite=allow_non_finite)
        self._loop.run(work, "report")

    def channel(self, name: str) -> Channel:
        """See `AsyncModel.channel`."""
        return Channel(self._model.channel(name), self._loop)

    def log(self, *, ref: str | None = None, limit: int = 20, before: int = 0) -> list[Version]:
        """See `AsyncModel.log`."""
        return self._loop.run(self._model.log(ref=ref, limit=limit, before=before), "log")

    def all_versions(self) -> Iterator[Version]:
        """See `AsyncModel.all_versions`."""
        before = 0
        while page := self.log(limit=PAGE_MAX, before=before):
            yield from page
            before = page[-1].number
            if before == 1:
                return

    def show(self, ref: str = DEFAULT_BRANCH) -> Version:
        """See `AsyncModel.show`."""
        return self._loop.run(self._model.show(ref), "show")

    def files(self, ref: str = DEFAULT_BRANCH, path: str = "") -> list[FileEntry]:
        """See `AsyncModel.files`."""
        return self._loop.run(self._model.files(ref, path), "ls")

    def tensors_of(self, ref: str = DEFAULT_BRANCH, path: str = "") -> list[tuple[str, Tensor]]:
        """See `AsyncModel.tensors_of`."""
        return self._loop.run(self._model.tensors_of(ref, path), "tensors")

    def tensor(self, ref: str, name: str) -> NDArray[Any]:
        """See `AsyncModel.tensor`."""
        return self._loop.run(self._model.tensor(ref, name), "tensor")

    def tensors(self, ref: str = DEFAULT_BRANCH) -> TensorMap:
        """Return the tensors of a version as a mapping from name to NumPy array, fetched lazily."""
        return TensorMap(self, ref)

    def storage(self, ref: str = DEFAULT_BRANCH) -> StorageSummary:
        """See `AsyncModel.storage`."""
        return self._loop.run(self._model.storage(ref), "storage")

    def open(self, ref: str, path: str) -> BinaryIO:
        """Open a file of a version as a seekable binary file; ranges are read lazily.

        Raises:
            PathNotFoundError: no such file.
        """
        file = self._loop.run(self._model.open(ref, path), "open")

        def read_at(offset_bytes: int, length_bytes: int) -> bytes:
            return self._loop.run(file.read_at(offset_bytes, length_bytes), "read")

        raw = RangeFile(file.entry.size_bytes, read_at, path)
        return cast("BinaryIO", io.BufferedReader(raw, _BUFFER_BYTES))

    def checkout(
        self,
        ref: str,
        destination: str | Path,
        *,
        include: Sequence[str] = (),
        verify: bool = False,
        delete: bool = False,
        sync: bool = False,
        progress: Callable[[CheckoutProgress], None] | None = None,
    ) -> CheckoutResult:
        """See `AsyncModel.checkout`; `progress` is called from another thread."""
        work = self._model.checkout(
            ref, destination, include=include, verify=verify, delete=delete, sync=sync, progress=progress
        )
        return self._loop.run(work, "checkout")

    def diff(
        self,
        a: str,
        b: str,
        *,
        tensors: bool = False,
        progress: Callable[[DiffProgress], None] | None = None,
    ) -> Diff:
        """See `AsyncModel.diff`."""
        return self._loop.run(self._model.diff(a, b, tensors=tensors, progress=progress), "diff")

    def refs(self, kind: RefKind) -> list[Ref]:
        """See `AsyncModel.refs`."""
        return self._loop.run(self._model.refs(kind), "refs")

    def history(self, kind: RefKind, name: str, *, limit: int = 100) -> list[RefMove]:
        """See `AsyncModel.history`."""
        return self._loop.run(self._model.history(kind, name, limit=limit), "history")

    def ref_at(self, kind: RefKind, name: str, at: datetime) -> RefMove | None:
        """See `AsyncModel.ref_at`."""
        return self._loop.run(self._model.ref_at(kind, name, at), "history")

    def metrics(self, ref: str = DEFAULT_BRANCH, *, limit: int = 100) -> list[MetricReport]:
        """See `AsyncModel.metrics`."""
        return self._loop.run(self._model.metrics(ref, limit=limit), "metrics")


class Channel(BlockingGuards):
    """One channel of a model: what a fleet should be running."""

    def __init__(self, channel: aio.AsyncChannel, loop: LoopThread) -> None:
        self._channel = channel
        self._loop = loop

    @property
    def name(self) -> str:
        """The channel's name."""
        return self._channel.name

    def get(self) -> Ref:
        """See `AsyncChannel.get`."""
        return self._loop.run(self._channel.get(), "channel")

    def set(self, ref: str, *, reason: str = "", expected_generation: int | None = None) -> Ref:
        """See `AsyncChannel.set`."""
        work = self._channel.set(ref, reason=reason, expected_generation=expected_generation)
        return self._loop.run(work, "channel")

    def rollback(self, *, to: str = aio.PREVIOUS, reason: str = "") -> Ref:
        """See `AsyncChannel.rollback`."""
        return self._loop.run(self._channel.rollback(to=to, reason=reason), "rollback")

    def history(self, *, limit: int = 100) -> list[RefMove]:
        """See `AsyncChannel.history`."""
        return self._loop.run(self._channel.history(limit=limit), "history")

    def at(self, time: datetime) -> RefMove | None:
        """See `AsyncChannel.at`."""
        return self._loop.run(self._channel.at(time), "history")

    def protect(self, rules: Parameters) -> Ref:
        """See `AsyncChannel.protect`."""
        return self._loop.run(self._channel.protect(rules), "protect")
