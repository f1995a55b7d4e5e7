"""What services of the replicated log share: proposing for somebody, and reading as fresh as was asked."""

from collections.abc import Callable
from typing import TypedDict, TypeVar

from mcr.errors import InvalidArgumentError
from mcr.model import REQUEST_ID_BYTES_MAX, LogIndex, RequestId
from mcr.v1 import versions_pb2 as pb
from mcr_node.core.state.commands import Command
from mcr_node.core.state.outcomes import Accepted, Rejected
from mcr_node.core.state.view import View
from mcr_node.ports_log import ReplicatedLog

NS_PER_MS = 1_000_000

Result = TypeVar("Result")


class Envelope(TypedDict):
    """What every command carries."""

    request_id: RequestId
    principal: str
    at_ms: int


class LogCalls:
    """The base of a service for one principal, as authenticated at the edge."""

    def __init__(self, log: ReplicatedLog, principal: str) -> None:
        self._log = log
        self._principal = principal

    def _envelope(self, header: pb.WriteHeader) -> Envelope:
        return Envelope(
            request_id=request_id_of(header),
            principal=self._principal,
            at_ms=self._log.clock.now_ms(),
        )

    async def _propose(self, command: Command) -> Accepted:
        outcome = await self._log.propose(command)
        match outcome:
            case Rejected():
                raise outcome.error()
            case Accepted():
                return outcome

    async def _fresh(self, options: pb.ReadOptions) -> LogIndex:
        at_least = LogIndex(options.at_least_index) if options.HasField("at_least_index") else None
        return await self._log.read_index(at_least=at_least, stale_ok=options.stale_ok)

    def _age(self, options: pb.ReadOptions) -> int | None:
        """Return how old a stale answer can be, None when nobody asked or nobody knows."""
        log = self._log
        if not options.stale_ok:
            return None
        if log.membership.decides_alone(log.node_id):
            # A node that decides alone is never behind.
            return 0
        if log.confirmed_ns is None:
            return None
        return (log.clock.monotonic_ns() - log.confirmed_ns) // NS_PER_MS

    async def _read(self, work: Callable[[View], Result]) -> Result:
        return await self._log.run(lambda: work(self._log.view()))

    def _look(self, work: Callable[[View], Result]) -> Result:
        """Do a few point reads here and now.

        The database's binding holds the interpreter's lock while it reads, so on a thread they would hold up
        the event loop as long, and the way there and back takes longer than they do.
        """
        return work(self._log.view())


def request_id_of(header: pb.WriteHeader) -> RequestId:
    """Return the request id that a write carries.

    Raises:
        InvalidArgumentError: it has none, or one that is too long.
    """
    if not 0 < len(header.request_id) <= REQUEST_ID_BYTES_MAX:
        raise InvalidArgumentError(
            "request_id", f"it has {len(header.request_id)} bytes, 1 to {REQUEST_ID_BYTES_MAX} allowed"
        )
    return RequestId(header.request_id)
