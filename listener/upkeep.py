"""What must happen by itself every so often: ended leases, expiry, ticket ids on their way back, partitions ahead, and
what was kept for long enough."""

import asyncio
from collections.abc import Callable
from time import monotonic, time
from typing import Any
from uuid import UUID

import psycopg
import structlog

from listener import __version__, accounts, messages, pauses
from listener.database import LOST, Connection, Link, end_frozen
from listener.errors import ListenerError, OutOfReachError, describe
from listener.lookups import as_text
from listener.model import Unknown
from listener.queries import load
from listener.retention import Keeper
from listener.rulebook import Rulebook
from listener.settings import Retention
from listener.settling import Result
from listener.waiting import wait_for_any

log = structlog.get_logger()
SQL = load("upkeep")

ROUND = 1.0
_SIGN_OF_LIFE = 10.0
_FORGET_REPLICAS = 3600.0
# the share of the server's queue of notifications, unread, that is worth a word
QUEUE = 0.1
# seconds by which a clock is wrong rather than inexact
CLOCK_DIFFERS = 5.0
# seconds of a round that may go into the ERP's own tables
_SAVING = 4.0


class Upkeep:
    """Every replica does all of it; what two do at once is done once."""

    def __init__(
        self, link: Link, replica: UUID, book: Rulebook, give: Callable[[Result], None], retention: Retention
    ) -> None:
        self._replica = replica
        self._keeper = Keeper(retention)
        self._book = book
        self._give = give
        self._link = link
        self._queue_said = False
        # when a round was last done
        self.moved_at = monotonic()
        self._signed = self._forgot = float("-inf")
        # seconds by which this machine's clock is ahead of the database's, once they were compared
        self.clock_ahead: float | None = None

    async def close(self) -> None:
        try:
            async with self._link.use(2.0) as conn:
                await conn.execute(SQL["gone"], {"id": self._replica})
        except (*LOST, OutOfReachError):
            pass

    async def run(self, stopping: asyncio.Event) -> None:
        """A round a second until `stopping`; a lost connection is only a late round."""
        while not stopping.is_set():
            try:
                await self.round()
                self.moved_at = monotonic()
            except (*LOST, OutOfReachError) as error:
                log.warning("upkeep_failed", error=describe(error))
            await wait_for_any(stopping, seconds=ROUND)

    async def round(self) -> None:
        """Everything that is due now."""
        async with self._link.use() as conn:
            if monotonic() - self._signed > _SIGN_OF_LIFE:
                await self._sign(conn)
                self._signed = monotonic()
            due = await (await conn.execute(SQL["glance"], {})).fetchone()
            assert due is not None
            if due["days"]:
                await self._make_days(conn)
            if due["leases"]:
                for lease in await messages.ended_leases(conn):
                    self._give(Result(lease=lease, outcome=Unknown(cause="whoever sent it did not come back")))
            if due["pauses"]:
                await pauses.end_pauses(conn)
            if due["clock"]:
                await accounts.clock_set_back(conn)
            if due["expired"]:
                await messages.expire(conn)
            if due["saves"]:
                await self._save_tickets(conn)
            await self._keeper.look(conn)

    async def _sign(self, conn: Connection) -> None:
        """A sign of life, and what need not be done every second."""
        await end_frozen(conn)
        await pauses.let_go_left_behind(conn)
        if monotonic() - self._forgot > _FORGET_REPLICAS:
            await conn.execute(SQL["forget_replicas"], {})
            self._forgot = monotonic()
        await self._make_days(conn)
        asked_at = time()
        row = await (await conn.execute(SQL["alive"], {"id": self._replica, "version": __version__})).fetchone()
        assert row is not None
        self._compare_clocks((asked_at + time()) / 2 - row["now"])
        await conn.execute(SQL["fold_tally"], {})
        await self._look_at_queue(conn)

    def _compare_clocks(self, ahead: float) -> None:
        """Says so once when this machine's clock is wrong: all that matters goes by the database's."""
        if abs(ahead) > CLOCK_DIFFERS and not (self.clock_ahead and abs(self.clock_ahead) > CLOCK_DIFFERS):
            log.warning("clock_differs", ahead_s=round(ahead), effect="the times in this log, and nothing else")
        self.clock_ahead = ahead

    async def _look_at_queue(self, conn: Connection) -> None:
        """Says so once while the server's queue of notifications fills up: full, it fails the commits of others."""
        row = await (await conn.execute(SQL["notify_queue"], {})).fetchone()
        assert row is not None
        if (fills := row["usage"] > QUEUE) and not self._queue_said:
            effect = "triggers do not ring at half; full, others' NOTIFY fails"
            log.warning("notify_queue_fills", usage=round(row["usage"], 2), effect=effect)
        self._queue_said = fills

    async def _make_days(self, conn: Connection) -> None:
        """Ahead of time, and at once where one is gone that somebody misses."""
        try:
            await conn.execute(SQL["make_days"], {})
        except psycopg.errors.LockNotAvailable:
            # Somebody maintains the table: there are days in hand.
            pass
        except psycopg.Error as error:
            if conn.closed:
                raise
            # An event trigger of the ERP refuses it, say. All else goes on while there are days in hand.
            log.error("days_not_made", error=describe(error), sqlstate=error.sqlstate)

    async def _save_tickets(self, conn: Connection) -> None:
        """Writes ticket ids back into the ERP, each in a transaction of its own, for at most a few seconds."""
        end = monotonic() + _SAVING
        while monotonic() < end:
            async with conn.transaction():
                row = await (await conn.execute(SQL["due_save"], {})).fetchone()
                if row is None:
                    return
                await self._save_ticket(conn, row)

    async def _save_ticket(self, conn: Connection, row: dict[str, Any]) -> None:
        rule = self._book.current.rules.rules.get(row["rule"])
        try:
            if rule is None or rule.ticket is None or rule.ticket.save is None:
                raise ListenerError("the rules have no such rule with `ticket.save` any more")
            async with conn.transaction():
                # Our own write into the ERP must not come back as a change of its own.
                await conn.execute("SET LOCAL listener.mute = 'ticket.save'")
                await conn.execute("SET LOCAL statement_timeout = '2s'")
                params = {name: as_text(value) for name, value in row["params"].items()}
                await conn.execute(rule.ticket.save.encode(), {**params, "ticket_id": row["ticket_id"]})
                # What the ERP puts off until the commit may fail only here, where it is this one ticket's failure.
                await conn.execute("SET CONSTRAINTS ALL IMMEDIATE")
        except (psycopg.Error, ListenerError) as error:
            if conn.closed:
                raise
            why, state = describe(error), getattr(error, "sqlstate", None)
            log.warning("ticket_save_failed", rule=row["rule"], error=why, sqlstate=state)
            await conn.execute(SQL["save_failed"], {"id": row["message_id"], "error": why})
        else:
            await conn.execute(SQL["saved"], {"id": row["message_id"]})
