"""One listening port: bound for the gateway's whole life, open or refusing."""

import asyncio
import socket
from collections.abc import Awaitable, Callable

from aiohttp import web

from listener.errors import UsageError

HOST = "127.0.0.1"
_BACKLOG = 1024

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class _Connections(web.Server):
    """aiohttp's server, which also tells when a connection is lost and how often it was used."""

    def __init__(self, handler: Handler) -> None:
        super().__init__(handler, access_log=None)
        self.used: set[web.RequestHandler] = set()
        self.busy: set[web.RequestHandler] = set()
        self._farewells: dict[web.RequestHandler, asyncio.Future[None]] = {}

    def connection_lost(self, handler: web.RequestHandler, exc: BaseException | None = None) -> None:
        super().connection_lost(handler, exc)
        self.used.discard(handler)
        farewell = self._farewells.pop(handler, None)
        if farewell is not None and not farewell.done():
            farewell.set_result(None)

    async def lost(self, handler: web.RequestHandler) -> None:
        """Returns once the connection is gone."""
        if handler.connected:
            await self._farewells.setdefault(handler, asyncio.get_running_loop().create_future())


class Door:
    """Binds on creation, so that the port is known and stays ours even while it refuses.

    Raises UsageError when the port is taken.
    """

    def __init__(self, port: int, handler: Handler) -> None:
        self._http = _Connections(handler)
        self._socket = _bound(port)
        self._listener: asyncio.Server | None = None
        self.port: int = self._socket.getsockname()[1]
        self._reopening: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """Without a slash at its end."""
        return f"http://{HOST}:{self.port}"

    async def open(self) -> None:
        """Accepts connections; does nothing when open."""
        if self._listener is None:
            loop = asyncio.get_running_loop()
            self._listener = await loop.create_server(
                self._http, sock=self._socket, backlog=_BACKLOG, start_serving=False
            )
            await self._listener.start_serving()

    def refuse(self, seconds: float | None = None) -> None:
        """Refuses new connections, for `seconds` or until opened; idle ones end now, busy ones after their answer."""
        self._forget_reopening()
        if self._listener is not None:
            self._listener.close()
            self._listener = None
            # A socket that is bound and does not listen refuses, and no other program can take the port.
            self._socket = _bound(self.port)
        for connection in self._http.connections:
            if connection in self._http.busy:
                connection.close()
            else:
                connection.force_close()
        if seconds is not None:
            self._reopening = asyncio.create_task(self._open_after(seconds), name=f"reopen {self.port}")

    async def close(self) -> None:
        """Frees the port and cuts every connection; waits for no handler."""
        self._forget_reopening()
        if self._listener is not None:
            self._listener.close()
        self._socket.close()
        await self._http.shutdown(timeout=0.1)

    def enter(self, request: web.BaseRequest) -> bool:
        """Marks the request's connection busy; True when it carried a request before."""
        connection = request.protocol
        reused = connection in self._http.used
        self._http.used.add(connection)
        self._http.busy.add(connection)
        return reused

    def leave(self, request: web.BaseRequest) -> None:
        """Marks the request's connection idle."""
        self._http.busy.discard(request.protocol)

    async def lost(self, request: web.BaseRequest) -> None:
        """Returns once the request's connection is gone."""
        await self._http.lost(request.protocol)

    async def _open_after(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await self.open()

    def _forget_reopening(self) -> None:
        if self._reopening is not None:
            self._reopening.cancel()
            self._reopening = None


def _bound(port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((HOST, port))
    except OSError as exc:
        sock.close()
        raise UsageError(f"cannot listen on {HOST}:{port}: {exc.strerror}; choose another port") from exc
    return sock
