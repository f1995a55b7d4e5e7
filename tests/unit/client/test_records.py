"""Lines leave no connection behind, however their end and a dial meet."""

import asyncio
import gc
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import pytest

from mcr._records import CALL_WORD, Incoming, Listener, Place, RecordError, dialled

KEY = b"k" * 16
GREETING = CALL_WORD + KEY
PATIENCE_S = 30.0
TURNS_MAX = 6
TOGETHER = 3


class Silent(Incoming):
    """Serves nothing."""

    def took(self, record: bytes) -> None:
        raise RecordError("nothing is served here")


def silent(greeting: bytes, others: set[Incoming]) -> Incoming:
    return Silent(greeting, others, lines_max=8, record_bytes_max=8, greet_s=PATIENCE_S)


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(PATIENCE_S)
        yield server


def greeted(listening: socket.socket, held: ExitStack) -> socket.socket:
    """Take a connection, and read its greeting without answering it."""
    connection, _ = listening.accept()
    held.enter_context(connection)
    connection.settimeout(PATIENCE_S)
    assert connection.recv(len(GREETING), socket.MSG_WAITALL) == GREETING
    return connection


def is_ended(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


class Attached(asyncio.Protocol):
    """Cancels whoever dials as soon as it has the connection."""

    dialling: "asyncio.Task[Attached] | None" = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert self.dialling is not None
        self.dialling.cancel()


def test_a_dial_given_up_when_its_connection_stands_is_closed(listening: socket.socket) -> None:
    async def scene(held: ExitStack) -> socket.socket:
        made = Attached()
        place = Place(listening.getsockname()[1], KEY)
        made.dialling = asyncio.create_task(dialled("127.0.0.1:1", place, CALL_WORD, made))
        connection = await asyncio.to_thread(greeted, listening, held)
        connection.sendall(GREETING)
        with pytest.raises(asyncio.CancelledError):
            await made.dialling
        return connection

    with ExitStack() as held:
        assert is_ended(asyncio.run(scene(held)))
    gc.collect()


def test_a_dial_that_outlives_its_loop_is_closed_by_its_thread(listening: socket.socket) -> None:
    loop = asyncio.new_event_loop()
    with ExitStack() as held:
        place = Place(listening.getsockname()[1], KEY)
        dialling = loop.create_task(dialled("127.0.0.1:1", place, CALL_WORD, asyncio.Protocol()))
        loop.run_until_complete(asyncio.sleep(0))
        connection = greeted(listening, held)
        dialling.cancel()
        with suppress(asyncio.CancelledError):
            loop.run_until_complete(dialling)
        # It waits for no thread.
        loop.close()
        connection.sendall(GREETING)
        assert is_ended(connection)
    gc.collect()


@pytest.mark.parametrize("turns", range(TURNS_MAX))
def test_a_connection_that_comes_while_a_listener_closes_is_closed_too(turns: int) -> None:
    async def scene(held: ExitStack) -> list[socket.socket]:
        listener = Listener(CALL_WORD, silent)
        await listener.listen("127.0.0.1")
        where = ("127.0.0.1", listener.place.port)
        dialled = [held.enter_context(socket.create_connection(where, PATIENCE_S)) for _ in range(TOGETHER)]
        for _ in range(turns):
            await asyncio.sleep(0)
        await listener.close()
        return dialled

    loop = asyncio.new_event_loop()
    with ExitStack() as held:
        dialled = loop.run_until_complete(scene(held))
        loop.close()
        assert all(is_ended(each) for each in dialled)
    gc.collect()
