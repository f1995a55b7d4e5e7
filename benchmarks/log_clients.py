"""One client process against a cluster, of mcr or of etcd: called by `log_beside_etcd`, prints JSON.

    python -m benchmarks.log_clients mcr put 127.0.0.1:7101 --clients 64 --seconds 5

Both systems are spoken to alike: grpc.aio, one connection for eight clients, requests serialised here,
answers hardly looked at. Each client waits for its answer before it asks again.
"""

import argparse
import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Protocol

import grpc
import grpc.aio

from mcr._records import Place
from mcr._remote.carrying import CarryingChannel
from mcr.v1 import versions_pb2 as pb
from mcr.v1.admin_pb2 import PingRequest
from mcr.v1.admin_pb2_grpc import AdminServiceStub

CLIENTS_PER_CONNECTION = 8
VALUE_BYTES = 256
WARM_UP_S = 0.5
# Reports in one call.
BATCH = 64
VERSIONS = "/mcr.v1.VersionsService/"
ETCD_KV = "/etcdserverpb.KV/"
DEADLINE_S = 30.0


def varint(value: int) -> bytes:
    """Return a protobuf varint."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def bytes_field(number: int, value: bytes) -> bytes:
    """Return a length-delimited protobuf field."""
    return varint(number << 3 | 2) + varint(len(value)) + value


def unary(channel: Any, method: str) -> Callable[..., Any]:  # noqa: ANN401 (aio or not)
    """Return a call whose messages are bytes; the types of grpc know only typed messages."""
    call: Callable[..., Any] = channel.unary_unary(method)
    return call


class Target(Protocol):
    """What is asked of one connection."""

    async def start(self) -> None:
        """Do what comes before the first request."""

    async def put(self, client: int, number: int) -> None:
        """Write durably."""

    async def read(self, client: int, number: int) -> None:
        """Read what is current."""

    async def watch(self) -> "Watching":
        """Begin to hear of writes of client 0."""

    async def close(self) -> None:
        """End what is kept open on the connection."""


class Watching(Protocol):
    """A stream of changes."""

    async def next(self) -> None:
        """Wait for the next change."""


class Etcd:
    """etcd v3: a put of 256 bytes to a key, a range over one key."""

    def __init__(self, channel: grpc.aio.Channel, _: str, options: argparse.Namespace) -> None:
        self._channel: Any = channel
        self._put = unary(channel, ETCD_KV + "Put")
        self._txn = unary(channel, ETCD_KV + "Txn")
        # What waits to share a transaction, where that is wanted.
        self._shared: list[tuple[bytes, asyncio.Future[None]]] | None = (
            [] if options.way == "together" else None
        )
        self._sending: set[asyncio.Task[None]] = set()
        self._range = unary(channel, ETCD_KV + "Range")
        self._value = os.urandom(VALUE_BYTES)

    async def start(self) -> None:
        """See Target."""

    def _request(self, client: int, number: int) -> bytes:
        return bytes_field(1, b"bench/%d/%d" % (client, number % 1000)) + bytes_field(2, self._value)

    async def put(self, client: int, number: int) -> None:
        """See Target."""
        request = self._request(client, number)
        if self._shared is None:
            await self._put(request, timeout=DEADLINE_S)
        else:
            await self._together(bytes_field(2, request))

    async def read(self, client: int, number: int) -> None:
        """See Target."""
        request = bytes_field(1, b"bench/0/0")
        if self._shared is None:
            await self._range(request, timeout=DEADLINE_S)
        else:
            await self._together(bytes_field(1, request))

    async def _together(self, operation: bytes) -> None:
        """Do an operation in one transaction with those that are asked for in this turn of the loop."""
        assert self._shared is not None
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        self._shared.append((operation, done))
        if len(self._shared) == 1:
            loop.call_soon(self._begin)
        await done

    def _begin(self) -> None:
        assert self._shared is not None
        shared, self._shared = self._shared, []
        task = asyncio.create_task(self._send(shared))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def _send(self, shared: list[tuple[bytes, asyncio.Future[None]]]) -> None:
        request = b"".join(bytes_field(2, operation) for operation, _ in shared)
        await self._txn(request, timeout=DEADLINE_S)
        for _, done in shared:
            done.set_result(None)

    async def close(self) -> None:
        """See Target."""

    async def watch(self) -> Watching:
        """See Target."""
        call = self._channel.stream_stream("/etcdserverpb.Watch/Watch")()
        await call.write(bytes_field(1, bytes_field(1, b"bench/0/") + bytes_field(2, b"bench/00")))
        await call.read()
        return _Stream(call)


class Mcr:
    """mcr: a commit of a manifest that is stored, without new bytes; a look at the head of a branch."""

    def __init__(self, channel: grpc.aio.Channel, address: str, options: argparse.Namespace) -> None:
        self._channel: Any = channel
        self._carrying = CarryingChannel(channel, address) if options.way == "together" else None
        self._manifest = bytes.fromhex(options.manifest)
        self._commit = self._call("CommitVersion")
        self._report = self._call("ReportMetrics")
        self._report_many = self._call("BatchReportMetrics")
        self._get = self._call("GetVersion")

    def _call(self, method: str) -> Callable[..., Any]:
        if self._carrying is None:
            return unary(self._channel, VERSIONS + method)
        # As the client library does it, but for messages that are bytes already.
        as_is: Any = bytes
        return partial(self._carrying.unary_unary(VERSIONS + method, as_is, as_is), metadata=())

    async def start(self) -> None:
        """See Target: asks what the client library asks."""
        if self._carrying is not None:
            stub: Any = AdminServiceStub(self._channel)
            answer = await stub.Ping(PingRequest())
            self._carrying.offer(Place(answer.call_port, answer.call_key))

    async def close(self) -> None:
        """See Target."""
        if self._carrying is not None:
            await self._carrying.end()

    async def put(self, client: int, number: int) -> None:
        """See Target."""
        request = pb.CommitVersionRequest(
            header=pb.WriteHeader(request_id=os.urandom(16)),
            model=f"bench/c{client}",
            branch="main",
            description="x" * 64,
            manifest=self._manifest,
        )
        await self._commit(request.SerializeToString(), timeout=DEADLINE_S)

    async def report(self, client: int, number: int) -> None:
        """Report a metric of the first version."""
        request = pb.ReportMetricsRequest(
            header=pb.WriteHeader(request_id=os.urandom(16)),
            model="bench/start",
            number=1,
            metrics=[pb.Metric(name="loss", value=number)],
        )
        await self._report(request.SerializeToString(), timeout=DEADLINE_S)

    async def report_many(self, client: int, number: int) -> None:
        """Report BATCH metrics with one call."""
        request = pb.BatchReportMetricsRequest(
            reports=[
                pb.ReportMetricsRequest(
                    header=pb.WriteHeader(request_id=os.urandom(16)),
                    model="bench/start",
                    number=1,
                    metrics=[pb.Metric(name="loss", value=number)],
                )
                for _ in range(BATCH)
            ]
        )
        await self._report_many(request.SerializeToString(), timeout=DEADLINE_S)

    async def read(self, client: int, number: int) -> None:
        """See Target."""
        await self._get(
            pb.GetVersionRequest(reference="bench/start@main").SerializeToString(), timeout=DEADLINE_S
        )

    async def watch(self) -> Watching:
        """See Target."""
        call = self._channel.unary_stream(VERSIONS + "WatchEvents")(
            pb.WatchEventsRequest(model="bench/c0").SerializeToString()
        )
        await call.read()
        return _Stream(call)


class _Stream:
    """Answers of which each tells at least one change, but for mcr's signs of life."""

    def __init__(self, call: Any) -> None:  # noqa: ANN401 (as above)
        self._call = call

    async def next(self) -> None:
        """See Watching."""
        while True:
            answer = await self._call.read()
            assert isinstance(answer, bytes), "the stream ended"
            if len(answer) > 32:
                return


async def load(
    work: Callable[[Any, int, int], Awaitable[None]], targets: list[Any], clients: int, seconds: float
) -> dict[str, Any]:
    """Let `clients` work in closed loops; return operations a second and latencies in milliseconds."""
    latencies_ms: list[float] = []
    by_second = [0] * (int(seconds) + 1)
    begin_s = time.perf_counter() + WARM_UP_S
    end_s = begin_s + seconds

    async def one(client: int) -> None:
        number = 0
        while (start_s := time.perf_counter()) < end_s:
            await work(targets[client % len(targets)], client, number)
            number += 1
            if start_s >= begin_s:
                now_s = time.perf_counter()
                latencies_ms.append((now_s - start_s) * 1000)
                by_second[min(int(now_s - begin_s), int(seconds))] += 1

    each = BATCH if work is Mcr.report_many else 1
    cpu_s = time.process_time()
    await asyncio.gather(*(one(client) for client in range(clients)))
    elapsed_s = time.perf_counter() - begin_s
    latencies_ms.sort()
    return {
        "per_s": each * len(latencies_ms) / elapsed_s,
        "p50_ms": latencies_ms[len(latencies_ms) // 2],
        "p99_ms": latencies_ms[len(latencies_ms) * 99 // 100],
        "by_second": by_second,
        "client_cpu_ms": 1000 * (time.process_time() - cpu_s) / max(1, len(latencies_ms)),
    }


async def watch(writer: Target, watcher: Target, seconds: float) -> dict[str, float]:
    """Write at one node and listen at another; return the time from sending to hearing."""
    stream = await watcher.watch()
    latencies_ms: list[float] = []
    end_s = time.perf_counter() + seconds
    while (start_s := time.perf_counter()) < end_s:
        heard = asyncio.create_task(stream.next())
        await writer.put(0, len(latencies_ms))
        await heard
        latencies_ms.append((time.perf_counter() - start_s) * 1000)
    latencies_ms.sort()
    return {
        "p50_ms": latencies_ms[len(latencies_ms) // 2],
        "p99_ms": latencies_ms[len(latencies_ms) * 99 // 100],
    }


async def main(options: argparse.Namespace) -> dict[str, Any]:
    """Do what the command line asks for."""
    kind: Any = {"mcr": Mcr, "etcd": Etcd}[options.system]
    count = max(1, -(-options.clients // CLIENTS_PER_CONNECTION))
    addresses = options.addresses.split(",")
    own = [("grpc.use_local_subchannel_pool", 1)]
    channels = [grpc.aio.insecure_channel(addresses[i % len(addresses)], options=own) for i in range(count)]
    targets = [kind(channel, addresses[i % len(addresses)], options) for i, channel in enumerate(channels)]
    try:
        for target in targets:
            await target.start()
        if options.work == "watch":
            async with grpc.aio.insecure_channel(addresses[-1], options=own) as channel:
                return await watch(targets[0], kind(channel, addresses[-1], options), options.seconds)
        return await load(getattr(kind, options.work), targets, options.clients, options.seconds)
    finally:
        for target in targets:
            await target.close()
        for channel in channels:
            await channel.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("system", choices=("mcr", "etcd"))
    parser.add_argument("work", choices=("put", "report", "report_many", "read", "watch"))
    parser.add_argument("addresses", help="host:port[,...]; `watch` writes to the first, listens to the last")
    parser.add_argument("--clients", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--way", choices=("unary", "together"), default="unary", help="of small calls")
    parser.add_argument("--manifest", default="", help="mcr: of the version to commit, hexadecimal")
    sys.stdout.write(json.dumps(asyncio.run(main(parser.parse_args()))) + "\n")
