"""The network between the nodes of a `LocalCluster` leaves nothing open."""

import gc
import socket
import warnings
from contextlib import ExitStack

from mcr._dialling import PROXY_VARIABLE
from mcr._local_network import LocalNetwork

ROUNDS = 40
# More than the kernel takes for a reader that does not read.
UNREAD_BYTES = 64 << 20
PATIENCE_S = 30.0


def proxy(network: LocalNetwork, name: str, address: str) -> tuple[str, int]:
    host, _, port = network.join(name, address)[PROXY_VARIABLE].removeprefix("http://").rpartition(":")
    return host, int(port)


def test_a_connection_that_comes_while_it_ends_is_closed_too() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for each in range(ROUNDS):
            network = LocalNetwork()
            where = proxy(network, "n1", "127.0.0.1:1")
            with ExitStack() as held:
                for _ in range(each % 4 + 1):
                    held.enter_context(socket.create_connection(where, PATIENCE_S))
                network.close()
            del network
            gc.collect()


def test_a_connection_whose_bytes_nobody_takes_is_closed_too() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening, ExitStack() as held:
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        network = LocalNetwork()
        where = proxy(network, "n1", address)
        dialled = held.enter_context(socket.create_connection(where, PATIENCE_S))
        dialled.sendall(f"CONNECT {address} HTTP/1.1\r\n\r\n".encode())
        far = held.enter_context(listening.accept()[0])
        # It goes on to say this, and nobody reads what comes.
        far.settimeout(PATIENCE_S)
        far.setblocking(False)
        sent = 0
        part = bytes(1 << 20)
        while sent < UNREAD_BYTES:
            try:
                sent += far.send(part)
            except BlockingIOError:
                break
        network.close()
        del network
        gc.collect()
    assert sent > 0
