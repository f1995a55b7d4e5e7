"""Opening a plain TCP connection to a node as gRPC does: through the proxy that `grpc_proxy` names."""

import os
import socket
from contextlib import suppress
from urllib.parse import urlsplit

PROXY_VARIABLE = "grpc_proxy"
# Says to a proxy whose connection it is: the address by which the node is known. Other ports tell nothing.
NODE_HEADER = "Mcr-Node"
_HEAD_BYTES_MAX = 16 << 10
_PROXY_PORT = 80


def dial(host: str, port: int, *, node: str, timeout_s: float) -> socket.socket:
    """Return a connected socket; blocks, each step for `timeout_s` at most.

    Args:
        host: where to.
        port: of it.
        node: address of the node that listens there, `host:port` of its gRPC.
        timeout_s: also set on the socket.

    Raises:
        OSError: it could not be connected, or the proxy refused.
    """
    proxy = os.environ.get(PROXY_VARIABLE, "")
    if not proxy:
        return socket.create_connection((host, port), timeout_s)
    where = urlsplit(proxy)
    connection = socket.create_connection((where.hostname or "", where.port or _PROXY_PORT), timeout_s)
    try:
        far = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        connection.sendall(f"CONNECT {far} HTTP/1.1\r\nHost: {far}\r\n{NODE_HEADER}: {node}\r\n\r\n".encode())
        _check_established(connection)
    except BaseException:
        with suppress(OSError):
            connection.close()
        raise
    return connection


def _check_established(connection: socket.socket) -> None:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        # One byte at a time: what follows the head is not the proxy's. It is short, and read once.
        byte = connection.recv(1)
        if not byte or len(head) > _HEAD_BYTES_MAX:
            raise OSError("the proxy gave no answer")
        head += byte
    if head.split(b" ", 2)[1:2] != [b"200"]:
        raise OSError(f"the proxy refused: {head.splitlines()[0].decode(errors='replace')}")
