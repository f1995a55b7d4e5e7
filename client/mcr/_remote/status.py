"""gRPC status and detail back to errors of `mcr.errors`. The way there is the node's: services/errors.py."""

import grpc
import grpc.aio

from mcr._wire import error_from_wire
from mcr.errors import (
    DeadlineError,
    FailedError,
    McrError,
    NodeBusyError,
    NoQuorumError,
    UnavailableError,
)

METADATA_KEY = "mcr-error-bin"
# What another try, perhaps on another node, may cure by itself.
TRANSIENT = (UnavailableError, NoQuorumError, NodeBusyError)
# What gRPC's Python says when a stream ended, for whatever reason, just while a message was handed to it; the
# reason itself is lost then (about one time in thirty, measured with 1.85), but another try meets it again.
_LOST_WHILE_SENDING = "Internal error from Core"


class TransientError(Exception):
    """A call failed in a way that may pass; `error` is what to raise when it does not."""

    def __init__(self, error: McrError) -> None:
        super().__init__(error.message)
        self.error = error


def raise_for(error: grpc.aio.AioRpcError, *, address: str, what: str, seconds: float) -> None:
    """Raise what a failed call means.

    Args:
        error: the failure.
        address: of the node that was called.
        what: was called.
        seconds: how long it was given.

    Raises:
        TransientError: try again.
        McrError: the node refused.
    """
    told = _told(error)
    if told is not None:
        if isinstance(told, TRANSIENT):
            raise TransientError(told) from error
        raise told from error
    reason = error.details() or error.code().name
    match error.code():
        case grpc.StatusCode.UNAVAILABLE | grpc.StatusCode.CANCELLED:
            # Without a detail it was not a node that spoke, but the connection to it.
            raise TransientError(UnavailableError(address, reason)) from error
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            raise TransientError(DeadlineError(f"{seconds:g}", what)) from error
        case grpc.StatusCode.INTERNAL if reason.startswith(_LOST_WHILE_SENDING):
            raise TransientError(
                UnavailableError(address, "the stream ended while it was written to")
            ) from error
        case grpc.StatusCode.RESOURCE_EXHAUSTED if "Concurrent RPC limit" in reason:
            raise TransientError(UnavailableError(address, reason)) from error
        case grpc.StatusCode.UNIMPLEMENTED:
            raise FailedError(what, f"the node at {address} does not know it: {reason}") from error
        case _:
            raise FailedError(what, f"{error.code().name} from {address}: {reason}") from error


def _told(error: grpc.aio.AioRpcError) -> McrError | None:
    for key, value in error.trailing_metadata() or ():
        if key == METADATA_KEY and isinstance(value, bytes):
            return error_from_wire(value)
    return None
