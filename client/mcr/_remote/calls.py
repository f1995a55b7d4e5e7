"""One call: on the nearest node, with a deadline, again when what failed may pass, by the same request id."""

import asyncio
import getpass
import os
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from mcr._remote.carrying import ACCOUNT_KEY
from mcr._remote.nodes import Nodes, Way, blame
from mcr._remote.status import TransientError, raise_for
from mcr.addresses import Address
from mcr.errors import DeadlineError, FailedError, NoQuorumError

# How long a call goes on trying when nobody said. A node restarts, or a cluster elects, in a few seconds.
PATIENCE_S = 30.0
# A node says that there is no quorum only after it waited for some elections, so this is beyond any ordinary
# failover; a script that writes to a minority shall learn it soon.
NO_QUORUM_PATIENCE_S = 8.0
# Before the first node was ever reached an address is more likely wrong than a node restarting.
CONNECT_PATIENCE_S = 5.0
# Full jitter (Brooker, "Exponential Backoff and Jitter", AWS 2015): clients that lost the same node do not
# all come back at the same moment.
BACKOFF_S_MIN, BACKOFF_S_MAX = 0.1, 2.0
# One try of an ordinary call.
CALL_S = 20.0
# One try of a call that reads or syncs a whole model on the node.
LONG_CALL_S = 600.0

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)
Result = TypeVar("Result")
Rpc = Callable[[Way], "grpc.aio.UnaryUnaryMultiCallable[Request, Response]"]


class _Patience:
    """When to try no more."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def __call__(self, state: RetryCallState) -> bool:
        assert state.outcome is not None
        failure = state.outcome.exception()
        no_quorum = isinstance(failure, TransientError) and isinstance(failure.error, NoQuorumError)
        limit_s = min(self._seconds, NO_QUORUM_PATIENCE_S) if no_quorum else self._seconds
        return (state.seconds_since_start or 0.0) >= limit_s


class Calls:
    """Makes the calls of one client. Used on one event loop, in the process that made it."""

    def __init__(
        self, addresses: Sequence[Address], *, timeout_s: float | None, patience_s: float = PATIENCE_S
    ) -> None:
        self.nodes = Nodes(addresses)
        self._timeout_s = timeout_s
        self._patience_s = patience_s
        self._process_id = os.getpid()
        self.metadata = ((ACCOUNT_KEY, getpass.getuser().encode()),)

    async def start(self) -> None:
        """Find a node.

        Raises:
            UnavailableError: none answers.
            DeadlineError: none did before the client's timeout.
        """

        async def reach(_: Way) -> None:
            return

        await self.run("connect", reach, patience_s=CONNECT_PATIENCE_S)

    async def unary(
        self, rpc: "Rpc[Request, Response]", request: Request, *, try_s: float = CALL_S
    ) -> Response:
        """Make a call of one request and one response.

        Args:
            rpc: picks the call from the stubs of a node.
            request: writes carry a request id, so a repeated one does not act twice.
            try_s: bound on each try.

        Raises:
            UnavailableError, NoQuorumError, NodeBusyError, DeadlineError: tried again until the time was up.
            McrError: the node refused.
        """
        what = type(request).__name__.removesuffix("Request")

        async def once(way: Way) -> Response:
            try:
                return await rpc(way)(request, timeout=try_s, metadata=self.metadata)
            except grpc.aio.AioRpcError as error:
                raise_for(error, address=way.address, what=what, seconds=try_s)
                raise

        return await self.run(what, once)

    async def run(
        self,
        what: str,
        once: Callable[[Way], Awaitable[Result]],
        *,
        patience_s: float | None = None,
        choose: Callable[[Sequence[Way]], Way] | None = None,
    ) -> Result:
        """Do something with a node, and again with this or another one while it fails in ways that may pass.

        Args:
            what: is done; for messages.
            once: one try; raises TransientError when another may help.
            patience_s: how long to go on without any success; None = as long as this client usually does.
            choose: picks one of several nodes that are as near; None = the nearest.
        """
        if os.getpid() != self._process_id:
            raise FailedError(
                what, "this client belongs to the process that forked; connect again in the child"
            )
        begun_s = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(self._timeout_s):
                try:
                    return await self._try(once, choose)
                except TransientError as failure:
                    # Only now, for what tries again costs a tenth of a millisecond to make.
                    left_s = self._patience_s if patience_s is None else patience_s
                    left_s -= asyncio.get_running_loop().time() - begun_s
                    return await self._again(failure, once, choose, left_s)
        except TransientError as failure:
            raise blame(failure.error, self.nodes) from failure
        except TimeoutError as error:
            raise DeadlineError(f"{self._timeout_s:g}", what) from error

    async def _again(
        self,
        failure: TransientError,
        once: Callable[[Way], Awaitable[Result]],
        choose: Callable[[Sequence[Way]], Way] | None,
        patience_s: float,
    ) -> Result:
        """Go on after a first try that failed."""
        retrying = AsyncRetrying(
            stop=_Patience(patience_s),
            wait=wait_random_exponential(multiplier=BACKOFF_S_MIN, max=BACKOFF_S_MAX),
            retry=retry_if_exception_type(TransientError),
            reraise=True,
        )
        first = [failure]

        async def next_try() -> Result:
            if first:
                raise first.pop()
            return await self._try(once, choose)

        return await retrying(next_try)

    async def _try(
        self, once: Callable[[Way], Awaitable[Result]], choose: Callable[[Sequence[Way]], Way] | None
    ) -> Result:
        way = await self.nodes.way() if choose is None else choose(await self.nodes.near())
        try:
            return await once(way)
        except TransientError:
            self.nodes.failed(way)
            raise

    async def close(self) -> None:
        """Close the connections."""
        await self.nodes.close()
