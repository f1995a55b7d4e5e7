"""The network between the nodes of a `LocalCluster`: each reaches the others through a proxy of its own.

gRPC sends what a process dials through the HTTP proxy that `grpc_proxy` names, and tells it where to; so does
`mcr._dialling` for all other connections. So who speaks to whom is known for each of them, and any pair can
be cut, without root or the node's help.

A pair that is cut loses nothing and answers nothing: bytes wait, connections stay open and new ones get no
answer, as on a network whose packets are lost. Once healed everything goes on, if nobody gave up meanwhile.
"""

import asyncio
import secrets
import socket
import threading
from collections.abc import Coroutine, Iterable, Mapping
from contextlib import ExitStack, suppress
from math import inf
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakSet

from mcr._dialling import NODE_HEADER, PROXY_VARIABLE
from mcr._records import closed
from mcr.errors import FailedError

Result = TypeVar("Result")

_LOOPBACK = "127.0.0.1"
# Where Linux says which ports it gives to whoever asks for any.
_PORTS_GIVEN = Path("/proc/sys/net/ipv4/ip_local_port_range")
_PORT_FIRST, _PORT_LIMIT = 15_000, 32_768
_PORT_TRIES_MAX = 1_000
_PART_BYTES = 256 << 10
_HEAD_BYTES_MAX = 16 << 10
# Of the network's own thread; nothing it does takes long.
_CALL_S = 10.0
# How often it is looked, at its end, whether a connection came that nobody was told of yet.
_LOOK_S = 0.02
_ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"


class LocalNetwork:
    """Proxies in a thread of their own."""

    def __init__(self) -> None:
        """Start the thread."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="mcr-network", daemon=True)
        self._thread.start()
        self._servers: list[asyncio.Server] = []
        self._relays: set[asyncio.Task[None]] = set()
        self._transports: WeakSet[asyncio.WriteTransport] = WeakSet()
        self._owners: dict[str, str] = {}
        # By (who dialled, who was dialled); a pair without a gate is open.
        self._gates: dict[tuple[str, str], asyncio.Event] = {}
        # Of what a node says: bytes in a second, and seconds before each part; without, as fast as can be.
        self._rates: dict[str, tuple[float, float]] = {}

    def join(self, name: str, address: str) -> Mapping[str, str]:
        """Take a node into the network; return what its environment must say."""
        self._owners[address] = name
        port = self._call(self._serve(name))
        return {
            PROXY_VARIABLE: f"http://{_LOOPBACK}:{port}",
            "no_grpc_proxy": "",
            "no_proxy": "",
            # Else gRPC tells a node's log of every try to reach another one that does not run.
            "GRPC_VERBOSITY": "NONE",
        }

    def cut(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Cut exactly these pairs, each in both directions; all others are open then."""
        wanted = [pair for one, other in pairs for pair in ((one, other), (other, one))]
        self._call(self._set(wanted))

    def limit(self, name: str, bytes_per_s: float | None, *, delay_s: float = 0.0) -> None:
        """Let each connection of a node carry what it says so slowly and late; None = as fast as it can."""
        self._call(self._limit(name, bytes_per_s, delay_s))

    def close(self) -> None:
        """End all connections and the thread; may be called twice."""
        if self._loop.is_closed():
            return
        self._call(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_CALL_S)
        self._loop.close()

    def _call(self, work: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_CALL_S)

    async def _serve(self, name: str) -> int:
        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._relays.add(task)
            self._transports.add(writer.transport)
            try:
                with suppress(OSError, ValueError, asyncio.IncompleteReadError, asyncio.CancelledError):
                    await self._relay(name, reader, writer)
            finally:
                self._relays.discard(task)
                writer.close()

        server = await asyncio.start_server(accept, _LOOPBACK, 0, limit=_HEAD_BYTES_MAX)
        self._servers.append(server)
        return int(server.sockets[0].getsockname()[1])

    async def _set(self, pairs: list[tuple[str, str]]) -> None:
        for pair in pairs:
            self._gate(pair).clear()
        for pair, gate in self._gates.items():
            if pair not in pairs:
                gate.set()

    async def _limit(self, name: str, bytes_per_s: float | None, delay_s: float) -> None:
        self._rates.pop(name, None)
        if bytes_per_s is not None:
            self._rates[name] = bytes_per_s, delay_s

    def _gate(self, pair: tuple[str, str]) -> asyncio.Event:
        gate = self._gates.get(pair)
        if gate is None:
            gate = self._gates[pair] = asyncio.Event()
            gate.set()
        return gate

    async def _relay(self, name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        method, target, _ = head.split(b"\r\n", 1)[0].decode().split(" ")
        if method != "CONNECT":
            raise ValueError(f"{method}: nodes dial through here, and nothing else")
        host, _, port = target.rpartition(":")
        # An address that is no node's: whatever is there, nobody cuts it.
        owner = self._owners.get(_node_of(head) or target, target)
        gate = self._gate((name, owner))
        await gate.wait()
        far_reader, far_writer = await asyncio.open_connection(host, int(port))
        self._transports.add(far_writer.transport)
        try:
            writer.write(_ESTABLISHED)
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pump(name, reader, far_writer, gate))
                both.create_task(self._pump(owner, far_reader, writer, gate))
        except* OSError:
            # One side is gone; the other one is told by the end of its connection.
            pass
        finally:
            far_writer.close()

    async def _end(self) -> None:
        for server in self._servers:
            await closed(server)
        told: set[asyncio.Task[None]] = set()
        # One that was accepted just now has not begun, and cancelled before it begins it would close nothing.
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            for relay in self._relays - told:
                relay.cancel()
            told |= self._relays
            await asyncio.wait(others, timeout=_LOOK_S, return_when=asyncio.FIRST_COMPLETED)
        # One with bytes that nobody takes any more would stay open.
        for transport in list(self._transports):
            transport.abort()
        # The turn of the loop in which they close.
        await asyncio.sleep(0)

    async def _pump(
        self, name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, gate: asyncio.Event
    ) -> None:
        """Carry what `name` says."""
        while data := await reader.read(_PART_BYTES):
            bytes_per_s, delay_s = self._rates.get(name, (inf, 0.0))
            if delay_s:
                await asyncio.sleep(delay_s)
            await gate.wait()
            writer.write(data)
            await writer.drain()
            if bytes_per_s < inf:
                await asyncio.sleep(len(data) / bytes_per_s)
        await gate.wait()
        # Both directions end together: gRPC has no half-closed connections.
        raise ConnectionResetError


def _node_of(head: bytes) -> str:
    """Return whose connection it is, where the dialler says so."""
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.decode(errors="replace").partition(":")
        if name == NODE_HEADER:
            return value.strip()
    return ""


def free_addresses(count: int) -> list[str]:
    """Return addresses that were free a moment ago; a node that joins must name its port beforehand.

    Below those that the system gives to whoever asks for any: one of them would soon be the near end of some
    connection, and the node that was to listen there could not.
    """
    first_given = int(_PORTS_GIVEN.read_text().split()[0]) if _PORTS_GIVEN.exists() else _PORT_LIMIT
    ports = range(_PORT_FIRST, first_given) if first_given > 2 * _PORT_FIRST else range(1)
    found: list[str] = []
    with ExitStack() as held:
        # Held together, so that they differ.
        for _ in range(_PORT_TRIES_MAX):
            if len(found) == count:
                return found
            one = held.enter_context(socket.socket())
            with suppress(OSError):
                one.bind((_LOOPBACK, secrets.choice(ports)))
                found.append(f"{_LOOPBACK}:{one.getsockname()[1]}")
    raise FailedError("starting nodes", f"no free port in {_PORT_TRIES_MAX} tries")
