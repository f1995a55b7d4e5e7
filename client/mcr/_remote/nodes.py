"""Which node to talk to: the nearest healthy one of several addresses, another one when it fails."""

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from mcr._frames import MESSAGE_BYTES_MAX
from mcr._records import Place
from mcr._remote.carrying import CarryingChannel
from mcr._remote.status import TransientError
from mcr.addresses import Address
from mcr.blocking import settle
from mcr.errors import McrError, UnavailableError
from mcr.v1 import admin_pb2
from mcr.v1.admin_pb2_grpc import AdminServiceStub
from mcr.v1.chunks_pb2_grpc import ChunksServiceStub
from mcr.v1.merges_pb2_grpc import MergesServiceStub
from mcr.v1.policies_pb2_grpc import PoliciesServiceStub
from mcr.v1.receipts_pb2_grpc import ReceiptsServiceStub
from mcr.v1.retention_pb2_grpc import RetentionServiceStub
from mcr.v1.sessions_pb2_grpc import SessionsServiceStub
from mcr.v1.trash_pb2_grpc import TrashServiceStub
from mcr.v1.versions_pb2_grpc import VersionsServiceStub
from mcr.values import dataclass

if TYPE_CHECKING:
    # One class serves both kinds of channel; type checkers know them by two names.
    from mcr.v1.admin_pb2_grpc import AdminServiceAsyncStub
    from mcr.v1.chunks_pb2_grpc import ChunksServiceAsyncStub
    from mcr.v1.merges_pb2_grpc import MergesServiceAsyncStub
    from mcr.v1.policies_pb2_grpc import PoliciesServiceAsyncStub
    from mcr.v1.receipts_pb2_grpc import ReceiptsServiceAsyncStub
    from mcr.v1.retention_pb2_grpc import RetentionServiceAsyncStub
    from mcr.v1.sessions_pb2_grpc import SessionsServiceAsyncStub
    from mcr.v1.trash_pb2_grpc import TrashServiceAsyncStub
    from mcr.v1.versions_pb2_grpc import VersionsServiceAsyncStub

# A node that does not answer so soon is passed over, even across an ocean and with a busy disk.
PING_S = 2.0
# After the first answer the others get as long again, but at least so long: a node that is as near must not
# lose by a hair.
GRACE_S_MIN = 0.02
# A node that failed is chosen only when no other answers, until this has passed.
DISTRUST_S = 10.0
# Nodes of the site of the nearest one are as near as it, within this.
NEAR_FACTOR, NEAR_S = 2.0, 0.01
# How often the ways are measured anew, so that a client comes back to the nearest node.
REMEASURE_S = 60.0
# A connection on which a call waits and nothing comes is probed, and given up when the probe is not answered:
# so a node that was cut off or stopped is noticed long before the deadline of a long call.
KEEPALIVE_MS = 6_000
KEEPALIVE_TIMEOUT_MS = 4_000

_OPTIONS = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    ("grpc.keepalive_time_ms", KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
    # The one that decides: without it a ping may take a minute, whatever the timeout of a keepalive (1.85).
    ("grpc.http2.ping_timeout_ms", KEEPALIVE_TIMEOUT_MS),
    ("grpc.http2.max_pings_without_data", 0),
    # Tries are ours: gRPC's own would hide from us which node fails, and wait longer between.
    ("grpc.enable_retries", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
)


def stub(kind: Callable[[Any], object], channel: grpc.aio.Channel | CarryingChannel) -> Any:  # noqa: ANN401 (see below)
    """Return the calls of a service over a channel.

    One generated class serves both kinds of channels, but its type is that for blocking callers; whoever
    keeps what this returns declares it as the asynchronous one.
    """
    return kind(channel)


@dataclass(slots=True, eq=False)
class Way:
    """An address, the channel to it, and what is known about it."""

    address: str
    channel: grpc.aio.Channel
    carrying: CarryingChannel
    versions: "VersionsServiceAsyncStub"
    chunks: "ChunksServiceAsyncStub"
    admin: "AdminServiceAsyncStub"
    receipts: "ReceiptsServiceAsyncStub"
    policies: "PoliciesServiceAsyncStub"
    sessions: "SessionsServiceAsyncStub"
    trash: "TrashServiceAsyncStub"
    retention: "RetentionServiceAsyncStub"
    merges: "MergesServiceAsyncStub"
    site: str = ""
    latency_s: float = 0.0
    # Where it takes chunks in bulk (`mcr._bulk`), as it said last; 0 = nowhere.
    bulk_port: int = 0
    bulk_key: bytes = b""
    # When it last answered that it takes work; None = it never did, or did not the last time.
    ready_at_s: float | None = None
    failed_at_s: float | None = None

    @staticmethod
    def to(address: Address) -> "Way":
        """Open a channel; nothing is sent before the first call."""
        channel = grpc.aio.insecure_channel(str(address), options=_OPTIONS)
        carrying = CarryingChannel(channel, str(address))
        return Way(
            str(address),
            channel,
            carrying,
            stub(VersionsServiceStub, carrying),
            stub(ChunksServiceStub, carrying),
            stub(AdminServiceStub, channel),
            stub(ReceiptsServiceStub, carrying),
            stub(PoliciesServiceStub, channel),
            stub(SessionsServiceStub, carrying),
            stub(TrashServiceStub, carrying),
            stub(RetentionServiceStub, channel),
            stub(MergesServiceStub, channel),
        )

    def told(self, answer: admin_pb2.PingResponse) -> None:
        """Know where else the node listens; other places after a restart."""
        self.bulk_port, self.bulk_key = answer.bulk_port, answer.bulk_key
        self.carrying.offer(Place(answer.call_port, answer.call_key))


class Nodes:
    """The ways to a cluster. Used on one event loop."""

    def __init__(self, addresses: Sequence[Address]) -> None:
        self._ways = [Way.to(address) for address in addresses]
        self._current: Way | None = None
        self._measured_at_s = 0.0
        self._measuring = asyncio.Lock()
        self._background: asyncio.Task[None] | None = None

    @property
    def location(self) -> str:
        """The addresses, as they were given."""
        return ",".join(way.address for way in self._ways)

    @property
    def are_more(self) -> bool:
        """Whether there is more than one to choose from."""
        return len(self._ways) > 1

    @property
    def sole(self) -> Way:
        """The way to the only address, whether or not that node takes work now."""
        assert len(self._ways) == 1
        return self._ways[0]

    async def way(self) -> Way:
        """Return the way to use now.

        Raises:
            TransientError: no node answers, or none is ready.
        """
        if self._current is None:
            async with self._measuring:
                # Another call may have found one meanwhile.
                if self._current is None:
                    self._current = await self._nearest()
            return self._current
        self._measure_again()
        return self._current

    async def near(self) -> list[Way]:
        """Return the way to use now, and those to nodes of the same site that are about as near and well.

        Raises:
            TransientError: no node answers, or none is ready.
        """
        nearest = await self.way()
        others = [
            way
            for way in self._ways
            if way is not nearest
            and way.ready_at_s is not None
            and way.site == nearest.site
            and way.latency_s <= NEAR_FACTOR * nearest.latency_s + NEAR_S
            and not self._distrusted(way)
        ]
        return [nearest, *others]

    def failed(self, way: Way) -> None:
        """Note that a call over `way` failed; the next call looks for another one."""
        way.failed_at_s = self._now_s()
        if self._current is way:
            self._current = None

    def look_again(self) -> None:
        """Let the next call ask the nodes anew what they offer: what was told may hold no more."""
        self._current = None

    async def close(self) -> None:
        """Close all channels; calls under way end."""
        if self._background is not None:
            await settle([self._background])
        for way in self._ways:
            await way.carrying.end()
            await way.channel.close()

    def _measure_again(self) -> None:
        due = len(self._ways) > 1 and self._now_s() - self._measured_at_s > REMEASURE_S
        if due and (self._background is None or self._background.done()):
            self._background = asyncio.create_task(self._come_back())

    async def _come_back(self) -> None:
        try:
            nearest = await self._nearest()
        except TransientError:
            # The present way may still do; its next call tells.
            return
        self._current = nearest

    async def _nearest(self) -> Way:
        self._measured_at_s = self._now_s()
        pings = {asyncio.create_task(self._ping(way)): way for way in self._ways}
        answered: list[Way] = []
        reasons: dict[str, str] = {}
        try:
            waiting = set(pings)
            give_up_s = self._measured_at_s + PING_S
            while waiting and (left_s := give_up_s - self._now_s()) > 0:
                done, waiting = await asyncio.wait(
                    waiting, timeout=left_s, return_when=asyncio.FIRST_COMPLETED
                )
                for ping in done:
                    reason = ping.result()
                    if reason is None:
                        answered.append(pings[ping])
                    else:
                        reasons[pings[ping].address] = reason
                if any(not self._distrusted(way) for way in answered):
                    elapsed_s = self._now_s() - self._measured_at_s
                    give_up_s = min(
                        give_up_s, self._measured_at_s + max(2 * elapsed_s, elapsed_s + GRACE_S_MIN)
                    )
        finally:
            await settle(pings)
        if not answered:
            reason = "; ".join(dict.fromkeys(reasons.values())) or f"no answer within {PING_S:g} s"
            raise TransientError(UnavailableError(self.location, reason))
        return min(answered, key=lambda way: (self._distrusted(way), way.latency_s))

    def _distrusted(self, way: Way) -> bool:
        return way.failed_at_s is not None and self._now_s() - way.failed_at_s < DISTRUST_S

    async def _ping(self, way: Way) -> str | None:
        """Measure a way; return why it will not do, or None."""
        start_s = self._now_s()
        try:
            answer = await way.admin.Ping(admin_pb2.PingRequest(), timeout=PING_S)
        except grpc.aio.AioRpcError as error:
            return error.details() or error.code().name
        now_s = self._now_s()
        way.latency_s, way.site = now_s - start_s, answer.site
        way.told(answer)
        way.ready_at_s = now_s if answer.ready else None
        return None if answer.ready else f"{answer.name} is not ready"

    @staticmethod
    def _now_s() -> float:
        return asyncio.get_running_loop().time()


def blame(error: McrError, nodes: Nodes) -> McrError:
    """Return an error about all addresses where several were tried."""
    return UnavailableError(nodes.location, error.reason) if type(error) is UnavailableError else error
