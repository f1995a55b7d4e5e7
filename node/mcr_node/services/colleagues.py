"""The public edges of the other nodes, as the services of this one use them."""

from typing import Protocol, TypeVar

from google.protobuf.message import Message

from mcr.v1 import admin_pb2 as pb

Response = TypeVar("Response", bound=Message)


class Colleagues(Protocol):
    """The public edges of the other nodes."""

    async def admin(
        self,
        address: str,
        rpc: str,
        request: Message,
        kind: type[Response],
        *,
        timeout_s: float | None = None,
    ) -> Response:
        """Call mcr.v1.AdminService of a node, or, by `Service/Rpc`, another service of mcr.v1.

        Without a timeout it may take as long as an ordinary call.

        Raises:
            McrError: it refused, or cannot be reached.
        """

    async def store_status(self, address: str) -> pb.GetStoreStatusResponse:
        """Ask how a node does, also one that takes no work now.

        Raises:
            McrError: it refused, or cannot be reached.
        """
