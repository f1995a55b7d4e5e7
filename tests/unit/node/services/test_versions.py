"""The versions service over a log without consensus: how fresh an answer is, and that it says so."""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from mcr._wire import error_from_wire, version_of
from mcr.bases import BaseVersion
from mcr.errors import (
    FailedError,
    InvalidArgumentError,
    ModelNotFoundError,
    NoQuorumError,
    ReferenceNotFoundError,
)
from mcr.manifest import ManifestBuilder
from mcr.model import Chunk, LogIndex
from mcr.v1 import versions_pb2 as pb
from mcr_node.services.availability import Availability
from mcr_node.services.chunks import LocalChunks
from mcr_node.services.reporting import REPORTS_MAX
from mcr_node.services.versions import VersionsService
from tests.conformance.memory_chunk_store import MemoryChunkStore
from tests.support.log_clusters import member
from tests.support.memory_log import MemoryLog, SharedLog
from tests.unit.node.runtime.test_runner import commit

STORY_S_MAX = 30.0
STALE = pb.ListModelsRequest(limit=1, read=pb.ReadOptions(stale_ok=True))
FRESH = pb.ListModelsRequest(limit=1)


async def pair() -> tuple[MemoryLog, MemoryLog]:
    """Return a leader and another voter that has heard all."""
    shared = SharedLog(member(1))
    leader, other = shared.open(1), shared.open(2)
    await leader.wait_applied(leader.commit)
    await leader.members.add(member(2))
    await leader.members.promote(2)
    await other.wait_applied(leader.commit)
    return leader, other


def nowhere(log: MemoryLog, chunks: LocalChunks) -> Availability:
    """Look where chunks are in a cluster whose nodes stand nowhere."""
    return Availability(log, chunks, None, lambda: member(1), list)


def tell(story: Callable[[Callable[[MemoryLog], VersionsService]], Awaitable[None]]) -> None:
    async def told() -> None:
        with ThreadPoolExecutor(1) as executor:
            chunks = LocalChunks(MemoryChunkStore(), executor)
            async with asyncio.timeout(STORY_S_MAX):
                await story(lambda log: VersionsService(log, chunks, nowhere(log, chunks), "test"))

    asyncio.run(told())


def test_a_stale_answer_says_how_old_it_can_be_once_that_is_known() -> None:
    async def story(over: Callable[[MemoryLog], VersionsService]) -> None:
        leader, other = await pair()
        service = over(other)
        assert not (await service.list_models(STALE)).HasField("age_max_ms")
        fresh = await service.list_models(FRESH)
        assert fresh.log_index == leader.applied
        assert not fresh.HasField("age_max_ms")
        other.clock.ms += 2_500
        assert (await service.list_models(STALE)).age_max_ms == 2_500

    tell(story)


def test_a_node_that_decides_alone_is_never_behind() -> None:
    async def story(over: Callable[[MemoryLog], VersionsService]) -> None:
        leader, _ = await pair()
        await leader.members.remove(2)
        answer = await over(leader).list_models(STALE)
        assert answer.HasField("age_max_ms")
        assert answer.age_max_ms == 0

    tell(story)


def test_an_own_write_is_waited_for_where_it_has_not_arrived() -> None:
    async def story(over: Callable[[MemoryLog], VersionsService]) -> None:
        leader, other = await pair()
        leader.shared.cut(2)
        header = pb.WriteHeader(request_id=b"1")
        protect = pb.ProtectChannelRequest(header=header, model="a/b", channel="production")
        with pytest.raises(ModelNotFoundError):
            # Refused, but it has its place in the log.
            await over(leader).protect_channel(protect)
        wanted = pb.ListModelsRequest(limit=1, read=pb.ReadOptions(at_least_index=leader.applied))
        read = asyncio.create_task(over(other).list_models(wanted))
        await asyncio.sleep(0)
        assert not read.done()
        assert other.applied < leader.applied
        leader.shared.mend(2)
        assert (await read).log_index == leader.applied

    tell(story)


def test_a_failed_node_refuses_reads_that_must_be_fresh_and_still_gives_stale_ones() -> None:
    async def story(over: Callable[[MemoryLog], VersionsService]) -> None:
        leader, _ = await pair()
        await leader.close()
        with pytest.raises(FailedError, match="closed"):
            await over(leader).list_models(FRESH)
        assert (await over(leader).list_models(STALE)).log_index == leader.applied

    tell(story)


def test_a_node_that_knows_no_leader_says_that_the_cluster_cannot_decide() -> None:
    async def story(over: Callable[[MemoryLog], VersionsService]) -> None:
        leader, _ = await pair()
        stranger = leader.shared.open(3)
        assert stranger.applied == LogIndex(0)
        with pytest.raises(NoQuorumError):
            await over(stranger).list_models(FRESH)

    tell(story)


def test_many_reports_in_one_call_stand_alone_and_keep_their_order() -> None:
    async def story(over: Callable[[MemoryLog], VersionsService]) -> None:
        leader, other = await pair()
        await leader.propose(commit(1))

        def report(number: int, name: str, value: float, request_id: bytes) -> pb.ReportMetricsRequest:
            return pb.ReportMetricsRequest(
                header=pb.WriteHeader(request_id=request_id),
                model="a/b",
                number=number,
                metrics=[pb.Metric(name=name, value=value)],
            )

        reports = [report(1, "loss", float(step), b"step %d" % step) for step in range(5)]
        request = pb.BatchReportMetricsRequest(
            reports=[*reports[:2], report(9, "loss", 0.0, b"no such version"), *reports[2:]]
        )
        first = (await over(other).batch_report_metrics(request)).results
        # The whole call again, as after a lost answer: nothing is recorded twice.
        again = (await over(leader).batch_report_metrics(request)).results

        assert isinstance(error_from_wire(first[2].error), ReferenceNotFoundError)
        indexes = [result.log_index for result in first if not result.error]
        assert indexes == sorted(indexes)
        assert len(indexes) == 5
        assert [result.log_index for result in again if not result.error] == indexes
        listed = await over(leader).list_metric_reports(
            pb.ListMetricReportsRequest(model="a/b", number=1, limit=10)
        )
        assert [each.metrics[0].value for each in listed.reports] == [4.0, 3.0, 2.0, 1.0, 0.0]

    tell(story)


@pytest.mark.parametrize("count", [0, REPORTS_MAX + 1])
def test_a_batch_of_nothing_or_too_much_is_refused(count: int) -> None:
    async def story(over: Callable[[MemoryLog], VersionsService]) -> None:
        leader, _ = await pair()
        request = pb.BatchReportMetricsRequest(reports=[pb.ReportMetricsRequest()] * count)
        with pytest.raises(InvalidArgumentError):
            await over(leader).batch_report_metrics(request)

    tell(story)


def test_a_commit_is_answered_with_what_a_look_at_it_shows_and_so_is_its_retry() -> None:
    async def told() -> None:
        made: list[Chunk] = []
        root = ManifestBuilder(made.append).finish().root
        with ThreadPoolExecutor(1) as executor:
            store = MemoryChunkStore()
            store.put(made)
            store.sync()
            chunks = LocalChunks(store, executor)
            leader, _ = await pair()
            service = VersionsService(leader, chunks, nowhere(leader, chunks), "test")
            request = pb.CommitVersionRequest(
                header=pb.WriteHeader(request_id=b"one"),
                model="vision/net",
                branch="main",
                manifest=root,
                metrics=[pb.Metric(name="loss", value=0.5), pb.Metric(name="accuracy", value=0.9)],
            )
            answer = await service.commit_version(request)
            seen = await service.get_version(pb.GetVersionRequest(reference="vision/net@main"))
            assert answer.version == seen.version
            assert list(answer.version.refs) == ["branch:main"]
            again = await service.commit_version(request)
            assert again.already_applied
            assert again.version == answer.version

    asyncio.run(told())


def test_lineage_is_answered_in_pages_and_shows_a_base_that_was_deleted() -> None:
    async def story(over: Callable[[MemoryLog], VersionsService]) -> None:
        leader, other = await pair()
        first = await leader.propose(commit(1))
        foundation = (await over(other).get_version(pb.GetVersionRequest(reference="a/b@v1"))).version
        base = BaseVersion("a/b", 1, version_of(foundation.record).id)
        for number in range(2, 5):
            await leader.propose(replace(commit(number), model="a/tuned", base=base))
        request = pb.GetLineageRequest(reference="a/b@v1", limit=2)

        page = await over(leader).get_lineage(request)
        request.after_model, request.after_number = "a/tuned", 2
        rest = await over(leader).get_lineage(request)
        request = pb.GetLineageRequest(reference="a/tuned@v1", limit=2)
        tuned = await over(other).get_lineage(request)

        assert first.index < page.log_index
        assert [version_of(each.record).number for each in page.derived] == [1, 2]
        assert [version_of(each.record).number for each in rest.derived] == [3]
        assert (page.more, rest.more, page.HasField("base")) == (True, False, False)
        assert tuned.base.record == foundation.record
        assert not tuned.derived

    tell(story)
