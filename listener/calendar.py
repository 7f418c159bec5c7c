"""Watches by date: a query that runs once a day and whose rows become changes, for birthdays and due dates.

Once a day whatever happens: the day is marked as done in the transaction that writes its changes into the outbox. A day
that was missed is made up for within `catch_up`, and what was due before the watch existed is not.
"""

import asyncio
from collections.abc import Sequence
from datetime import date, datetime, time, timedelta
from time import monotonic
from zoneinfo import ZoneInfo

import psycopg
import structlog
from psycopg import Column, sql

from listener.capture.columns import beside_parameters, joined, row_object
from listener.database import LOST, Connection, Link
from listener.errors import OutOfReachError, describe
from listener.queries import load, pieces
from listener.rulebook import Rulebook
from listener.rules import Watch, parameters
from listener.rules.references import DAY
from listener.rules.ruleset import RuleSet
from listener.settings import Settings
from listener.waiting import wait_for_any

log = structlog.get_logger()
SQL = load("calendar")
_INTO_OUTBOX = sql.SQL(pieces("calendar.sql")["into_outbox"])

POLL = 2.0
# seconds until a query that failed is tried again: it may be one that costs the ERP a minute each time
RETRY = 60.0
# how late a missed run is still made, unless the watch says otherwise
CATCH_UP = timedelta(hours=6)


def due_days(now: datetime, at: time, zone: ZoneInfo, last: date, catch_up: timedelta, *, each: bool) -> list[date]:
    """The days after `last` whose moment has come by `now`, at most `catch_up` ago; without `each` only the newest."""
    today = now.astimezone(zone).date()
    days = []
    day = max(last, today - timedelta(days=catch_up.days + 2)) + timedelta(days=1)
    while day <= today:
        moment = datetime.combine(day, at, tzinfo=zone)
        if moment <= now <= moment + catch_up:
            days.append(day)
        day += timedelta(days=1)
    return days if each else days[-1:]


def last_due(now: datetime, at: time, zone: ZoneInfo) -> date:
    """The newest day whose moment has come."""
    local = now.astimezone(zone)
    return local.date() if local.time() >= at else local.date() - timedelta(days=1)


class Calendar:
    """Runs the `select` of every watch by date when its time has come; several replicas do it once."""

    def __init__(self, settings: Settings, book: Rulebook) -> None:
        self._book = book
        self._link = Link(settings, "calendar")
        # watches whose query failed, and when it is tried again (monotonic)
        self._failing: dict[str, float] = {}

    async def close(self) -> None:
        await self._link.close()

    async def run(self, stopping: asyncio.Event) -> None:
        """A look every few seconds until `stopping`."""
        while not stopping.is_set():
            try:
                await self.look()
            except (*LOST, OutOfReachError) as error:
                log.error("calendar_failed", error=describe(error))
            await wait_for_any(stopping, seconds=POLL)

    async def look(self) -> None:
        """Runs whatever is due now; a query that fails, or takes too long, keeps no other one from its turn."""
        rules = self._book.current
        for name, watch in rules.rules.watch.items():
            if watch.every is None or monotonic() < self._failing.get(name, 0.0):
                continue
            async with self._link.use(120.0) as conn:
                try:
                    async with conn.transaction():
                        await _run(conn, rules, name, watch)
                    self._failing.pop(name, None)
                except psycopg.Error as error:
                    # What is wrong with the connection or the server is not this query's fault.
                    if conn.closed or isinstance(error, psycopg.errors.ReadOnlySqlTransaction):
                        raise
                    failure = f"{type(error).__name__} {error.sqlstate}"
                    log.error("select_failed", watch=name, error=failure)
                    self._failing[name] = monotonic() + RETRY
                    await conn.execute(SQL["failed"], {"watch": name, "failure": failure})


async def _run(conn: Connection, rules: RuleSet, name: str, watch: Watch) -> None:
    assert watch.every is not None and watch.select is not None
    zone = ZoneInfo(rules.zone)
    clock = await (await conn.execute(SQL["clock"], {})).fetchone()
    assert clock is not None
    now: datetime = clock["now"]
    first = await conn.execute(SQL["begin"], {"watch": name, "day": last_due(now, watch.every, zone)})
    if first.rowcount:
        return
    row = await (await conn.execute(SQL["lock"], {"watch": name})).fetchone()
    if row is None:
        return
    each = DAY in parameters(watch.select)
    catch_up = watch.catch_up if watch.catch_up is not None else CATCH_UP
    days = due_days(now, watch.every, zone, row["last_day"], catch_up, each=each)
    if not days:
        return
    # What is today in the query is what is today where the rules are.
    await conn.execute(SQL["clocks"], {"zone": rules.zone})
    statement = await _statement(conn, rules, name, watch)
    for day in days:
        rows = await (await conn.execute(statement, {"watch": name, DAY: day})).fetchone()
        assert rows is not None
        await conn.execute(SQL["done"], {"watch": name, "day": day})
        log.info("select_done", watch=name, day=day.isoformat(), rows=rows["made"])
        if left_out := rows["found"] - rows["made"]:
            failure = f"rows left out because another one has their key: {left_out}"
            log.warning("select_incomplete", watch=name, error=failure)
            await conn.execute(SQL["failed"], {"watch": name, "failure": failure})


async def selected(conn: Connection, watch: Watch) -> Sequence[Column]:
    """The columns that the `select` of a watch by date gives; it is not run."""
    query = sql.SQL("SELECT * FROM (\n{}\n) AS _row LIMIT 0").format(sql.SQL(watch.select or ""))
    async with conn.transaction(force_rollback=True):
        cursor = await conn.execute(query, {DAY: date.today()})
    return cursor.description or ()


async def _statement(conn: Connection, rules: RuleSet, name: str, watch: Watch) -> sql.Composed:
    """Rows of `select` into the outbox, one for each key, with the columns that rules use, written as a trigger writes
    them."""
    given = {column.name: _built_in(conn, column.type_code) for column in await selected(conn, watch)}
    used = rules.used_columns(name)
    # One that is not given is asked for all the same, so that the database says what is wrong.
    bases = {column: given.get(column) for column in (given if used is None else sorted(used))}
    row = sql.Identifier("_row")
    key = joined([sql.SQL("coalesce(_row.{}::text, '')").format(sql.Identifier(column)) for column in watch.key])
    value = row_object(bases, row)
    return _INTO_OUTBOX.format(
        key=beside_parameters(key), value=beside_parameters(value), select=sql.SQL(watch.select or "")
    )


def _built_in(conn: Connection, oid: int) -> str | None:
    """The name of a built-in type; None for any other."""
    kind = conn.adapters.types.get(oid)
    if kind is None:
        return None
    return kind.name if kind.oid == oid else f"_{kind.name}"
