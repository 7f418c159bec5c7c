"""An ERP of a test's own making, with listener's schema beside it: what do its triggers capture?

erp = await open_erp(listener_database)
await erp.run("CREATE TABLE public.t (id int PRIMARY KEY, v text)")
await erp.watch(table="public.t", columns=["v"])
await erp.run("INSERT INTO public.t VALUES (1, 'a'); UPDATE public.t SET v = 'b'")
assert await erp.captured() == [("update", "1", {"id": 1, "v": "a"}, {"id": 1, "v": "b"})]
"""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg

from listener import capture
from listener.database import Connection, connect
from listener.rules import Watch
from listener.settings import Settings

# op, key, old and new of one captured change
Captured = tuple[str, str, dict[str, Any] | None, dict[str, Any] | None]


@dataclass(slots=True)
class Erp:
    """`db` is the superuser's connection."""

    settings: Settings
    db: Connection
    captures: dict[str, capture.Capture] = field(default_factory=dict)

    async def run(self, statements: str) -> None:
        """SQL as the superuser; each call is a transaction unless it says otherwise."""
        await self.db.execute(statements.encode(), prepare=False)

    async def value(self, query: str) -> Any:
        """The only value of the only row."""
        row = await (await self.db.execute(query.encode())).fetchone()
        assert row is not None
        (value,) = row.values()
        return value

    async def watch(
        self, name: str = "w", *, used: Iterable[str] | None = None, doorbell: bool = False, **words: Any
    ) -> capture.Capture:
        """Installs a watch of these words beside those there are; `used` are the columns written, by default all."""
        wanted = await capture.wanted(self.db, name, Watch(**words), used, doorbell=doorbell)
        self.captures[name] = wanted
        await capture.apply(self.db, await self.differences(), lambda _: None)
        assert await self.differences() == []
        return wanted

    async def differences(self) -> list[capture.Difference]:
        """What `db verify` would find, with the watches as they were when installed."""
        return await capture.differences(self.db, list(self.captures.values()))

    async def captured(self) -> list[Captured]:
        """All changes captured since the last call, oldest first, whatever their watch."""
        return [row[1:] for row in await self.captured_by_watch()]

    async def captured_by_watch(self) -> "list[tuple[str, str, str, Any, Any]]":
        """As `captured`, the name of the watch first."""
        query = b"""WITH gone AS (DELETE FROM listener.outbox RETURNING *)
                    SELECT watch, op, key, old, new FROM gone ORDER BY id"""
        rows = await (await self.db.execute(query)).fetchall()
        return [(row["watch"], row["op"], row["key"], row["old"], row["new"]) for row in rows]

    async def muted(self) -> "list[tuple[str, str, str, Any, Any]]":
        """Reason, op, key, old and new of all that was kept aside since the last call."""
        query = b"""WITH gone AS (DELETE FROM listener.muted RETURNING *)
                    SELECT reason, op, key, old, new FROM gone ORDER BY id"""
        rows = await (await self.db.execute(query)).fetchall()
        return [(row["reason"], row["op"], row["key"], row["old"], row["new"]) for row in rows]

    async def failures(self) -> int:
        """Captures that failed so far."""
        query = "SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM listener.capture_failures"
        return int(await self.value(query))

    @asynccontextmanager
    async def session(self, role: str | None = None) -> AsyncIterator[Connection]:
        """One more connection of the ERP, autocommit, as `role` if given; the role is made when it is not there."""
        conninfo = self.settings.database_url
        if role is not None:
            await self.run(f"DO $$ BEGIN CREATE ROLE {role} LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$")
            conninfo = psycopg.conninfo.make_conninfo(conninfo, user=role)
        async with await psycopg.AsyncConnection.connect(
            conninfo, autocommit=True, row_factory=psycopg.rows.dict_row
        ) as conn:
            yield conn


@asynccontextmanager
async def open_erp(database_url: str) -> AsyncIterator[Erp]:
    """An ERP on a database that has listener's schema (the fixture `listener_database`)."""
    settings = Settings(database_url=database_url)
    async with await connect(settings, "test") as db:
        yield Erp(settings=settings, db=db)
