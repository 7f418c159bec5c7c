"""Server-sent events: one word, `moved`, whenever something that the page shows has changed.

The page then fetches its live part anew; so a lost event is only a late look. One question a second is asked for all
who look, none while nobody does.
"""

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator
from contextlib import suppress

import psycopg
import structlog
from aiohttp import web

from listener.errors import OutOfReachError, describe
from listener.web import store
from listener.web.access import SESSION, Session
from listener.web.store import Store

log = structlog.get_logger()

_EVERY = 1.0
# A page is drawn before its stream is open: what moved so short a time ago it may not show, and nobody will tell it.
_JUST_NOW = 30.0
# a sign of life, so that proxies and browsers see a stream that is cut; seconds
_STILL_HERE = 15.0
_MOST = 200
# A browser has six connections to an address for all of its windows: more streams than these would keep its other
# requests waiting for good. Windows beyond look by themselves.
_MOST_OF_ONE = 4


class Live:
    """All open streams of this process."""

    def __init__(self, store: Store) -> None:
        self._store = store
        # how each is told, and by which request it was opened
        self._streams: dict[asyncio.Event, web.Request] = {}
        self._somebody = asyncio.Event()
        self._moved_at = float("-inf")
        self._closing = False

    async def run(self, _app: web.Application) -> AsyncIterator[None]:
        """For `cleanup_ctx`: watches while the application runs."""
        watching = asyncio.create_task(self._watch(), name="page live")
        yield
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching

    async def close(self, _app: web.Application) -> None:
        """For `on_shutdown`: ends every stream, or the server would wait for them."""
        self._closing = True
        for moved in self._streams:
            moved.set()

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """One reader's stream; it ends with the session."""
        session = request[SESSION]
        if session is None:
            raise web.HTTPForbidden
        if len(self._streams) >= _MOST or self._open(session) >= _MOST_OF_ONE:
            return web.Response(status=204)
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream", "X-Accel-Buffering": "no"})
        await answer.prepare(request)
        moved = asyncio.Event()
        if time.monotonic() - self._moved_at < _JUST_NOW:
            moved.set()
        self._streams[moved] = request
        self._somebody.set()
        try:
            await answer.write(b"retry: 2000\n\n")
            while not self._closing and time.time() < session.ends:
                with suppress(TimeoutError):
                    async with asyncio.timeout(_STILL_HERE):
                        await moved.wait()
                await answer.write(b"event: moved\ndata:\n\n" if moved.is_set() else b": still here\n\n")
                moved.clear()
        except ConnectionError:
            pass
        finally:
            del self._streams[moved]
            if not self._streams:
                self._somebody.clear()
        return answer

    def _open(self, session: Session) -> int:
        """How many streams a session has; those whose window is gone are told, and end."""
        mine = 0
        for moved, request in self._streams.items():
            if request.transport is None or request.transport.is_closing():
                moved.set()
            elif request[SESSION] == session:
                mine += 1
        return mine

    async def _watch(self) -> None:
        last = ""
        lost = 0
        while True:
            await self._somebody.wait()
            try:
                async with self._store.reading() as conn:
                    pulse = await store.first(conn, "pulse")
                lost = 0
            except (psycopg.Error, OutOfReachError) as error:
                # The page says so itself when it looks; here once is enough.
                if not lost:
                    log.warning("page_not_live", error=describe(error))
                # Told once more: the first look may have been answered with figures of a moment ago.
                lost = min(lost + 1, 2)
                pulse = {"lost": lost}
            now = hashlib.sha256(json.dumps(pulse, default=str, sort_keys=True).encode()).hexdigest()
            if now != last:
                last, self._moved_at = now, time.monotonic()
                for moved in self._streams:
                    moved.set()
            await asyncio.sleep(_EVERY)
