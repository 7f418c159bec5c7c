"""What was kept for long enough goes: whole days are dropped, never deleted row by row; what has no days goes a few
rows at a time, beside the work. Counts stay, and so do tickets of threads that are not named by a phone, and the audit.

| | goes |
| --- | --- |
| finished messages, their attempts, matched changes | with their day |
| phone and text of a finished message whose state is kept for less time, and the row that it came of | on their own |
| held and unclear messages that nobody decided about, muted changes | on their own |
| threads named by a phone in which nothing was sent for so long, tickets that the ERP never took | on their own |
"""

from collections import Counter
from datetime import timedelta
from time import monotonic
from typing import Any

import psycopg
import structlog

from listener.database import Connection
from listener.errors import describe
from listener.model import UNFINISHED, State
from listener.queries import load
from listener.settings import Retention

log = structlog.get_logger()
SQL = load("retention")
DEEDS = load("interventions")

# seconds between looks when nothing is left to do, and seconds that one look may take
EVERY = 60.0
_AT_ONCE = 0.3
# rows in one statement
BATCH = 500
_UNDECIDED = (State.HELD, State.UNKNOWN)
# brakes count the messages of a day at most
_MINUTES = timedelta(days=2)


class Keeper:
    """Does a little whenever it is asked to."""

    def __init__(self, retention: Retention) -> None:
        self._retention = retention
        self._next = float("-inf")
        self._removed: Counter[str] = Counter()

    async def look(self, conn: Connection) -> None:
        """Removes what is due, for a fraction of a second; what is left then comes at the next look.

        Whatever somebody else holds is left for later: nobody waits behind us for longer than 40 ms.
        """
        if monotonic() < self._next:
            return
        try:
            end = monotonic() + _AT_ONCE
            more = await self._days(conn, end)
            more = await self._rows(conn, end) or more
        except psycopg.errors.LockNotAvailable:
            more = True
        if not more:
            self._next = monotonic() + EVERY
            if self._removed:
                log.info("removed_after_its_time", **self._removed)
                self._removed.clear()

    async def _days(self, conn: Connection, end: float) -> bool:
        while True:
            try:
                row = await (await conn.execute(SQL["drop_day"], _args(self._retention.keep))).fetchone()
            except psycopg.Error as error:
                if conn.closed or isinstance(error, psycopg.errors.LockNotAvailable):
                    raise
                # as with the days to come
                log.error("day_not_dropped", error=describe(error), sqlstate=error.sqlstate)
                return False
            assert row is not None
            if row["dropped"]:
                log.info("day_dropped", table=row["dropped"])
            if not row["more"] or not row["dropped"] or monotonic() > end:
                return bool(row["more"])

    async def _rows(self, conn: Connection, end: float) -> bool:
        more = False
        keep, sooner = self._retention.keep, self._retention.sooner
        for state in _UNDECIDED:
            args = {"state": state, **_args(sooner.get(state, keep))}
            more |= await self._until(conn, end, "give_up", args, f"{state}_messages")
        for state, time in sooner.items():
            if state not in UNFINISHED:
                more |= await self._until(conn, end, "blank", {"state": state, **_args(time)}, f"{state}_texts")
        more |= await self._until(conn, end, "old_muted", _args(keep), "muted_changes")
        more |= await self._until(conn, end, "old_minutes", _args(_MINUTES), "minutes")
        await self._count(conn, "old_saves", {}, "ticket_saves")
        return await self._threads(conn, keep) or more

    async def _until(self, conn: Connection, end: float, query: str, args: dict[str, Any], what: str) -> bool:
        """Batch after batch, each in turn with people's deeds, which take the same rows in another order; whether time
        was up before there was nothing left."""
        while True:
            async with conn.transaction():
                await conn.execute(DEEDS["my_turn"], {})
                n = await self._count(conn, query, args, what)
            if n < BATCH:
                return False
            if monotonic() > end:
                return True

    async def _threads(self, conn: Connection, keep: timedelta) -> bool:
        row = await (await conn.execute(SQL["any_old_threads"], _args(keep))).fetchone()
        if row is None or not row["old"]:
            return False
        async with conn.transaction():
            await conn.execute(DEEDS["my_turn"], {})
            await conn.execute(DEEDS["lock_matcher"], {})
            return await self._count(conn, "old_threads", _args(keep), "threads") == BATCH

    async def _count(self, conn: Connection, query: str, args: dict[str, Any], what: str) -> int:
        row = await (await conn.execute(SQL[query], args)).fetchone()
        n = int(row["n"]) if row else 0
        if n and what != "minutes":
            self._removed[what] += n
        return n


def _args(keep: timedelta) -> dict[str, Any]:
    return {"keep": keep.total_seconds(), "limit": BATCH}
