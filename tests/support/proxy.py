"""A TCP proxy for a database or a gateway that misbehaves on demand, each direction by itself.

    async with Proxy.to_database(dsn) as proxy:
        settings = Settings(database_url=proxy.dsn)
        lost = proxy.lose_answer(COMMITTED, of="listener lease")
        ...
        await lost.wait()
        proxy.switch(Mode.PASS)

It runs in the test's own event loop, so only asynchronous clients and other processes may use it.
"""

import asyncio
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Self

from psycopg.conninfo import conninfo_to_dict, make_conninfo

# what PostgreSQL says of a transaction that is now durable, and of one that is now undone
COMMITTED = b"COMMIT\x00"
ROLLED_BACK = b"ROLLBACK\x00"
_CHUNK = 65536

Address = tuple[str, int] | str
"""Host and port, or the path of a Unix socket."""


class Direction(StrEnum):
    """Seen from the client."""

    UP = "up"
    DOWN = "down"


class Mode(StrEnum):
    PASS = "pass"
    # nothing is read any more and the sockets stay open: the peer sees a network that swallows everything
    HOLD = "hold"
    # read and thrown away
    DROP = "drop"
    # the next bytes end the connection, with a reset or orderly
    RESET = "reset"
    CLOSE = "close"


@dataclass(eq=False)
class Connection:
    """One client and its connection to the target."""

    client: asyncio.StreamWriter
    target: asyncio.StreamWriter
    modes: dict[Direction, Mode]
    # the client's first bytes: a PostgreSQL client says here who it is
    greeting: bytes = b""
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def switch(self, mode: Mode, *directions: Direction) -> None:
        """Changes this connection alone; both directions unless said."""
        for direction in directions or tuple(Direction):
            self.modes[direction] = mode
        self.changed.set()

    def end(self, *, reset: bool) -> None:
        """Ends both sockets at once."""
        for writer in (self.client, self.target):
            sock = writer.get_extra_info("socket")
            if reset and sock is not None and sock.family == socket.AF_INET and sock.fileno() >= 0:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            if reset:
                writer.transport.abort()
            else:
                writer.close()


Watch = Callable[[Connection, Direction, bytes], None]
"""Called with bytes before they go on; what it switches concerns these very bytes."""


class Proxy:
    """Listens on loopback and connects to `target`; every connection begins in the modes that are set then."""

    def __init__(self, target: Address, dsn: str = "") -> None:
        self.target = target
        self.connections: set[Connection] = set()
        # connections ever accepted
        self.accepted = 0
        # accepts and closes at once, as a server that is down behind a balancer
        self.refusing = False
        self._dsn = dsn
        self._modes = dict.fromkeys(Direction, Mode.PASS)
        self._watches: list[Watch] = []
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @classmethod
    def to_database(cls, dsn: str) -> Self:
        """A proxy before the server that `dsn` names."""
        return cls(address_of(dsn), dsn)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for connection in list(self.connections):
            connection.end(reset=True)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def dsn(self) -> str:
        """The database's connection string, by way of the proxy."""
        return make_conninfo(self._dsn, host="127.0.0.1", port=self.port, sslmode="disable", gssencmode="disable")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def switch(self, mode: Mode, *directions: Direction, of: str = "") -> None:
        """Changes what is and what comes; with `of` (a part of the greeting) only the connections that said so."""
        if not of:
            for direction in directions or tuple(Direction):
                self._modes[direction] = mode
        for connection in self.named(of):
            connection.switch(mode, *directions)

    def cut(self, of: str = "", *, reset: bool = True) -> int:
        """Ends connections now; how many."""
        chosen = self.named(of)
        for connection in chosen:
            connection.end(reset=reset)
        return len(chosen)

    def named(self, of: str = "") -> list[Connection]:
        """The connections whose greeting holds `of`, such as an application_name."""
        return [c for c in self.connections if of.encode() in c.greeting]

    def watch(self, watch: Watch) -> None:
        """Shows `watch` everything that passes from now on."""
        self._watches.append(watch)

    def lose_answer(self, marker: bytes, of: str) -> asyncio.Event:
        """The target's next bytes that hold `marker` get lost, with all that follow, on a connection whose greeting
        holds `of`; it ends a moment later.

        Returns an event that is set when it has happened. (A marker in two chunks is not seen; the answers of one
        transaction are far smaller than a chunk.)
        """
        lost = asyncio.Event()

        def look(connection: Connection, direction: Direction, data: bytes) -> None:
            if lost.is_set() or direction is Direction.UP or marker not in data:
                return
            if of.encode() in connection.greeting:
                connection.switch(Mode.DROP, Direction.DOWN)
                asyncio.get_running_loop().call_later(0.02, lambda: connection.end(reset=True))
                lost.set()

        self.watch(look)
        return lost

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.accepted += 1
        try:
            if self.refusing:
                writer.transport.abort()
                return
            await self._serve(reader, writer)
        except asyncio.CancelledError:
            # The proxy is closing; asyncio's streams would make an error of it.
            pass
        finally:
            self._tasks.discard(task)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            target_reader, target_writer = await _open(self.target)
        except OSError:
            writer.transport.abort()
            return
        connection = Connection(client=writer, target=target_writer, modes=dict(self._modes))
        self.connections.add(connection)
        try:
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._pump(connection, Direction.UP, reader, target_writer))
                pumps.create_task(self._pump(connection, Direction.DOWN, target_reader, writer))
        finally:
            self.connections.discard(connection)
            connection.end(reset=False)

    async def _pump(
        self, connection: Connection, direction: Direction, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Carries bytes one way until either side ends; an end is passed on like a byte."""
        try:
            while True:
                await _until_not_held(connection, direction)
                data = await reader.read(_CHUNK)
                if direction is Direction.UP and len(connection.greeting) < 1024:
                    connection.greeting += data
                if data:
                    for watch in self._watches:
                        watch(connection, direction, data)
                await _until_not_held(connection, direction)
                match connection.modes[direction]:
                    case Mode.RESET | Mode.CLOSE as mode:
                        connection.end(reset=mode is Mode.RESET)
                        return
                    case Mode.DROP:
                        if not data:
                            return
                        continue
                    case _ if not data:
                        writer.close()
                        return
                writer.write(data)
                await writer.drain()
        except OSError:
            connection.end(reset=True)


async def _until_not_held(connection: Connection, direction: Direction) -> None:
    while connection.modes[direction] is Mode.HOLD:
        connection.changed.clear()
        await connection.changed.wait()


async def _open(target: Address) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if isinstance(target, str):
        return await asyncio.open_unix_connection(target)
    return await asyncio.open_connection(*target)


def address_of(dsn: str) -> Address:
    """Where the server that `dsn` names listens."""
    parts = conninfo_to_dict(dsn)
    host, port = str(parts.get("host") or "127.0.0.1"), int(str(parts.get("port") or 5432))
    return f"{host}/.s.PGSQL.{port}" if host.startswith("/") else (host, port)
