"""When to look at the outbox: the promise that keeps triggers from ringing, and the ring when nothing was promised.

A ring is a NOTIFY without payload. It is a hint: whoever hears it looks in the table, and after every (re)connect and
every second somebody looks anyway.
"""

import asyncio
import random
from time import monotonic

import psycopg
import structlog

from listener.database import LOST, Connection, Link, connect, cut
from listener.errors import OutOfReachError, describe
from listener.queries import load
from listener.settings import Settings

log = structlog.get_logger()
SQL = load("doorbell")

# A trigger rings only if a matcher gave a sign of life in the last 10 s; this is how often we give one.
SIGN_OF_LIFE = 3.0
# The listening connection is tried this often, and given up when it does not answer within as long again.
HEARTBEAT = 10.0
# It may answer and yet hear nothing (a pooler between, another database): it is rung by ourselves this often.
SELF_TEST = 15.0


class Doorbell:
    """Hears the rings of one database. `rung` is set by a ring and after every connect."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._said = False
        self._conn: Connection | None = None
        self._connected_at = self._heard_at = self._tested_at = float("-inf")
        self.rung = asyncio.Event()
        self.connected = False
        # connected, and did not hear our own ring
        self.deaf = False

    async def listen(self) -> None:
        """Listens until cancelled; reconnects with jitter."""
        if not self._settings.doorbell:
            await asyncio.Event().wait()
        while True:
            try:
                conn = await connect(self._settings, "listen")
            except OutOfReachError as error:
                self._lost(error)
                await asyncio.sleep(1 + random.random())
                continue
            try:
                conn.add_notify_handler(self._on_ring)
                await conn.execute("LISTEN listener")
                self.connected, self._said = True, self.deaf
                self._conn, self._connected_at = conn, monotonic()
                # Whatever was rung before this LISTEN was not heard.
                self.rung.set()
                await self._hear(conn)
            except LOST as error:
                self._lost(error)
            finally:
                self.connected = False
                await conn.close()
            await asyncio.sleep(0.2 + 0.8 * random.random())

    async def _hear(self, conn: Connection) -> None:
        """Hears rings until the connection is lost."""
        while True:
            await _until_silent(conn, HEARTBEAT)
            # A dead peer is as silent as one that has nothing to say: ask.
            timer = asyncio.get_running_loop().call_later(HEARTBEAT, cut, conn)
            try:
                await conn.execute("SELECT 1", prepare=False)
            finally:
                timer.cancel()

    def _on_ring(self, _: psycopg.Notify) -> None:
        self._heard_at = monotonic()
        self.deaf = self._said = False
        self.rung.set()

    async def self_test(self, link: Link) -> None:
        """Rings by way of `link` every so often; whether it was heard is found out at the next time."""
        now = monotonic()
        if not self.connected or now - self._tested_at < SELF_TEST:
            return
        if self._tested_at > max(self._heard_at, self._connected_at):
            if not self.deaf:
                log.warning("listen_deaf", effect="looking once a second instead")
            self.deaf = True
            if self._conn is not None:
                # Another connection may hear better.
                cut(self._conn)
        async with link.use() as conn:
            if self.deaf:
                await conn.execute(SQL["deaf"], {})
            asked_at = monotonic()
            if (await conn.execute(SQL["ring"], {})).rowcount:
                self._tested_at = asked_at

    def _lost(self, error: BaseException) -> None:
        if not self._said:
            self._said = True
            log.warning("listen_lost", error=describe(error), effect="looking once a second instead")


async def _until_silent(conn: Connection, seconds: float) -> None:
    """Takes in what the server sends by itself, for so long. Raises one of `LOST` when the connection is lost.

    The event loop waits on the socket, so that silence costs nothing; psycopg's `notifies` wakes ten times a second.
    """
    loop, socket = asyncio.get_running_loop(), conn.fileno()
    lost: asyncio.Future[None] = loop.create_future()

    def take_in() -> None:
        try:
            conn.pgconn.consume_input()
            while notification := conn.pgconn.notifies():
                if conn.pgconn.notify_handler is not None:
                    conn.pgconn.notify_handler(notification)
        except LOST as error:
            # At once: libpq has closed the socket, and the next connection may get its number.
            loop.remove_reader(socket)
            if not lost.done():
                lost.set_exception(error)

    loop.add_reader(socket, take_in)
    try:
        # what came together with the answer to an earlier statement
        take_in()
        await asyncio.wait([lost], timeout=seconds)
        if lost.done():
            lost.result()
    finally:
        if not lost.done():
            loop.remove_reader(socket)


class Promise:
    """The database's promise, as one matcher keeps it."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._until = 0.0
        self._signed = 0.0
        self._late = False

    @property
    def given(self) -> bool:
        """Whether triggers may be silent because of us; ends only by `lapse`."""
        return self._until > 0

    async def extend(self, seconds: float) -> None:
        """No ring is needed for so long; renewed only when half of it is over."""
        if self._until - monotonic() > seconds / 2:
            return
        async with self._link.use() as conn:
            await conn.execute(SQL["promise"], {"ms": int(seconds * 1000)})
        self._signed = monotonic()
        self._until = self._signed + seconds

    async def lapse(self) -> int:
        """From now on triggers ring. Returns the horizon: transactions below it may still trust the old promise."""
        async with self._link.use() as conn:
            await conn.execute(SQL["promise"], {"ms": 0})
            # In a transaction of its own, begun after the other's end: whoever still read the old promise is below it.
            row = await (await conn.execute(SQL["horizon"], {})).fetchone()
        self._until, self._signed, self._late = 0.0, monotonic(), False
        assert row is not None
        return int(row["horizon"])

    async def passed(self, horizon: int) -> bool:
        """Whether every transaction that may trust the old promise has ended: whatever they wrote can be seen now."""
        async with self._link.use() as conn:
            row = await (await conn.execute(SQL["passed"], {"horizon": horizon})).fetchone()
        return bool(row and row["passed"])

    async def sign_of_life(self) -> bool:
        """Somebody is there to be rung; written every few seconds, and never over a promise that holds.

        Returns False when one came too late, so that changes may have been made without a ring, until `lapse`.
        """
        if monotonic() - self._signed >= SIGN_OF_LIFE:
            async with self._link.use() as conn:
                row = await (await conn.execute(SQL["alive"], {})).fetchone()
            assert row is not None
            self._signed = monotonic()
            self._late |= row["silent"]
        return not self._late
