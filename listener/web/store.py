"""The page's own connections: a few that can only read, one that acts, none until somebody looks."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from psycopg import sql

from listener.database import Connection, Link
from listener.queries import load
from listener.settings import Settings

SQL = load("web")
_READERS = 3


class Store:
    """What the handlers ask. A question that takes longer than five seconds is given up."""

    def __init__(self, settings: Settings) -> None:
        limits = {
            "statement_timeout": "5s",
            "default_transaction_read_only": "on",
            # what is searched for differs too much from one time to the next for one plan to fit all
            "plan_cache_mode": "force_custom_plan",
        }
        self._readers = [Link(settings, "page", **limits) for _ in range(_READERS)]
        self._free: asyncio.LifoQueue[Link] = asyncio.LifoQueue()
        for link in self._readers:
            self._free.put_nowait(link)
        self._hand = Link(settings, "page act")

    async def close(self) -> None:
        for link in (*self._readers, self._hand):
            await link.close()

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[Connection]:
        """A connection that cannot write. Raises one of `LOST` or `OutOfReachError`."""
        link = await self._free.get()
        try:
            async with link.use() as conn:
                yield conn
        finally:
            self._free.put_nowait(link)

    @asynccontextmanager
    async def acting(self) -> AsyncIterator[Connection]:
        """The one connection that changes something. Raises as `reading`."""
        async with self._hand.use(60.0) as conn:
            yield conn

    async def rows(self, query: str | sql.Composed, args: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        """All rows of a statement of `sql/queries/web.sql`, or of a composed one."""
        async with self.reading() as conn:
            return await rows(conn, query, args)


async def rows(
    conn: Connection, query: str | sql.Composed, args: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    """As `Store.rows`, on a connection at hand."""
    statement = SQL[query] if isinstance(query, str) else query
    return await (await conn.execute(statement, args or {})).fetchall()


async def first(conn: Connection, query: str, args: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The only row of a statement that always has one."""
    found: Sequence[dict[str, Any]] = await rows(conn, query, args)
    return found[0]
