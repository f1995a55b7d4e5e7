"""What a node counts, for `/metrics`; and where it says that it met a bug."""

import logging
from collections.abc import Iterable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from mcr.v1 import admin_pb2 as admin

NS_PER_S = 1e9
# From a read in memory to the deadline of a long commit.
_BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 300)
_log = logging.getLogger("mcr.node")


class _StoreGauges(Collector):
    """Totals of the store as of the last scrape."""

    def __init__(self) -> None:
        self.status: admin.GetStoreStatusResponse | None = None
        self.ready = False

    def collect(self) -> Iterable[Metric]:
        yield GaugeMetricFamily("mcr_ready", "1 while this node takes work.", value=self.ready)
        status = self.status
        if status is None:
            return
        gauges = {
            "mcr_applied_index": ("Last log entry applied.", status.applied_index),
            "mcr_log_entries": ("Log entries held.", status.log_entry_count),
            "mcr_chunks": ("Chunks held.", status.chunk_count),
            "mcr_chunk_bytes_plain": ("Bytes of the chunks held, before encoding.", status.chunk_bytes_plain),
            "mcr_chunk_bytes_live": ("Bytes of the chunks held, as encoded.", status.chunk_bytes_live),
            "mcr_chunk_bytes_used": ("Bytes of the chunk files.", status.chunk_bytes_used),
            "mcr_chunks_quarantined": ("Frames found damaged and set aside.", status.chunks_quarantined),
            "mcr_chunks_under_replicated": (
                "Chunks looked after by this node with fewer copies than they should have.",
                status.chunks_under_replicated,
            ),
            "mcr_chunks_lost": (
                "Chunks looked after by this node that no node has which answers.",
                status.chunks_lost,
            ),
            "mcr_chunks_unhealed": ("Damaged chunks that still lack.", status.chunks_unhealed),
            "mcr_cache_bytes_used": ("Bytes of chunks kept that were fetched.", status.cache_bytes_used),
            "mcr_cache_bytes_max": ("What they may take now.", status.cache_bytes_max),
            "mcr_chunk_bytes_dead": (
                "Bytes of the chunk files that are no chunk any more.",
                max(0, status.chunk_bytes_used - status.chunk_bytes_live),
            ),
            "mcr_gc_round": ("Marks of garbage so far.", status.gc_round),
            "mcr_bytes_free": ("Bytes that this node can still take.", status.bytes_free),
        }
        for name, (text, value) in gauges.items():
            yield GaugeMetricFamily(name, text, value=value)
        counters = {
            "mcr_chunks_damaged": ("Chunks met damaged and set aside.", status.chunks_damaged),
            "mcr_chunks_healed": ("Damaged chunks that were stored anew.", status.chunks_healed),
            "mcr_repair_copies": ("Copies of chunks made by repair.", status.chunks_copied),
            "mcr_repair_bytes": ("Bytes of those copies, before encoding.", status.bytes_copied),
            "mcr_fetched_near_bytes": (
                "Bytes fetched for readers from nodes of this site.",
                status.bytes_fetched_near,
            ),
            "mcr_fetched_far_bytes": (
                "Bytes fetched for readers from nodes of other sites.",
                status.bytes_fetched_far,
            ),
            "mcr_gc_swept": ("Chunks that no version needed, forgotten.", status.chunks_swept),
            "mcr_gc_swept_bytes": ("What they took on disk.", status.bytes_swept),
            "mcr_gc_given_back_bytes": (
                "Bytes given back by rewriting chunk files.",
                status.bytes_given_back,
            ),
            "mcr_given_bytes": ("Bytes given to other nodes for their readers.", status.bytes_given),
            "mcr_chunks_hedged": (
                "Chunks asked of a second node because the first took too long.",
                status.chunks_hedged,
            ),
        }
        for name, (text, value) in counters.items():
            yield CounterMetricFamily(name, text, value=value)


class Telemetry:
    """The counters of one node."""

    def __init__(self) -> None:
        # When a series began is of no use here, and doubles their number.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = CollectorRegistry()
        self._store = _StoreGauges()
        self._registry.register(self._store)
        self._calls = Counter(
            "mcr_calls",
            "Calls answered, by rpc and gRPC status.",
            ("method", "status"),
            registry=self._registry,
        )
        self._seconds = Histogram(
            "mcr_call_seconds",
            "Time to answer, by rpc.",
            ("method",),
            buckets=_BUCKETS_S,
            registry=self._registry,
        )
        self._observed: dict[tuple[str, str], tuple[Counter, Histogram]] = {}
        self.bytes_received = Counter(
            "mcr_chunk_bytes_received", "Bytes of chunk messages from clients.", registry=self._registry
        )
        self.bytes_sent = Counter(
            "mcr_chunk_bytes_sent", "Bytes of chunk messages to clients.", registry=self._registry
        )

    def observe(self, method: str, status: str, length_ns: int) -> None:
        """Count a call that ended."""
        # Looking a label up costs more than counting, and there are few of them: rpcs and statuses.
        found = self._observed.get((method, status))
        if found is None:
            found = (self._calls.labels(method, status), self._seconds.labels(method))
            self._observed[method, status] = found
        calls, seconds = found
        calls.inc()
        seconds.observe(length_ns / NS_PER_S)

    def bug(self, method: str, error: Exception) -> None:
        """Say that a call met a bug; its caller is told no more than that."""
        _log.error("bug in %s", method, exc_info=error)

    def render(self, status: admin.GetStoreStatusResponse, *, ready: bool) -> bytes:
        """Return all counters as Prometheus text."""
        self._store.status, self._store.ready = status, ready
        return generate_latest(self._registry)
