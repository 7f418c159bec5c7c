"""Connections to PostgreSQL, set up the one way that the rest relies on.

Every connection is autocommit (a transaction is always written out), durable (`synchronous_commit` on) and READ
COMMITTED, whatever the server's habit, in UTC, and free of the time-outs that a DBA may have put on the role. Numbers
in jsonb arrive as `Decimal`, exact, and what stands in a char(n) without the blanks that fill it up, as capture writes
it down.
"""

import asyncio
import json
import os
import random
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from decimal import Decimal
from time import monotonic
from typing import Any, TypeAlias

import psycopg
import simplejson
from psycopg import AsyncConnection, AsyncTransaction
from psycopg.abc import Buffer
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus
from psycopg.rows import DictRow, dict_row
from psycopg.types.json import set_json_loads
from psycopg.types.string import TextLoader

from listener.errors import ListenerError, OutOfReachError
from listener.queries import load
from listener.settings import Settings

SQL = load("database")

Connection: TypeAlias = AsyncConnection[DictRow]

# Exceptions that mean "the connection is gone": reconnect and look again. Among the internal ones: a session ended for
# idling in a transaction, as happens to a process that was stopped, and a server that has become read-only.
LOST = (psycopg.OperationalError, psycopg.InterfaceError, psycopg.InternalError)


class NoPartitionError(psycopg.OperationalError):
    """The day's partition is missing. Upkeep makes it within seconds: treated as a connection that was lost."""


# seconds for a connection to be made, and as many for it to be set up
_CONNECT = 10
# seconds after one that could not be made
_RETRY = 1.0

_SESSION: Mapping[str, str] = {
    "synchronous_commit": "on",
    # who has waited for a lock must see what was written meanwhile
    "default_transaction_isolation": "read committed",
    "statement_timeout": "60s",
    "lock_timeout": "10s",
    # a frozen replica must not hold a lock for longer; between the statements of a pipeline `end_frozen` sees to that
    "idle_in_transaction_session_timeout": "5s",
    "idle_session_timeout": "0",
    # since PostgreSQL 17
    "transaction_timeout": "0",
    # a process that stands still must not keep the server waiting to be read: ms, no meaning on a Unix socket
    "tcp_user_timeout": "20000",
    "TimeZone": "UTC",
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "postgres",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    # what is written in the rules means the same everywhere
    "standard_conforming_strings": "on",
    # names are compared as PostgreSQL writes them
    "quote_all_identifiers": "off",
    "jit": "off",
    "client_min_messages": "warning",
}


# seconds after which what is not always needed closes its connection
REST = 60.0

# For connections whose every statement finds its few rows by an index: with these a plan does not depend on how much
# waits, nor on when the tables were last analyzed. A plan that was made when there was nothing is one exception: to an
# empty table every index, and the whole of it, seems as good as the right one. It is made anew when a table has grown.
BY_INDEX: Mapping[str, str] = {
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "enable_sort": "off",
    "enable_material": "off",
    # What is off costs "infinitely" much, so PostgreSQL thinks ever anew that planning once more may pay.
    "plan_cache_mode": "force_generic_plan",
}

# seconds between looks at how large the tables are, on such a connection
_MEASURE = 5.0


# Made once: `json.loads` makes one for each text that is not read its plain way.
_EXACT = json.JSONDecoder(parse_float=Decimal, parse_int=Decimal)


def loads_exact(text: str | bytes) -> Any:
    """JSON with every number as `Decimal`, as the ERP wrote it."""
    return _EXACT.decode(text if isinstance(text, str) else text.decode())


class _Unpadded(TextLoader):
    """A char(n), also as an element of an array."""

    def load(self, data: Buffer) -> bytes | str:
        return super().load(bytes(data).rstrip(b" "))


async def connect(settings: Settings, purpose: str, **session: str) -> Connection:
    """A connection named `listener {purpose}` in `pg_stat_activity`; `session` adds to or replaces its settings.

    Raises `OutOfReachError`, whose text never holds the connection string, and `ListenerError` for a database that is
    not in UTF-8.
    """
    url = settings.fresh("database_url") or ""
    try:
        conn = await AsyncConnection.connect(
            url,
            autocommit=True,
            prepare_threshold=1,
            row_factory=dict_row,
            application_name=f"listener {purpose}",
            # whatever PGCLIENTENCODING or the server's habit says
            client_encoding="UTF8",
            connect_timeout=_CONNECT,
            keepalives_idle=15,
            keepalives_interval=5,
            keepalives_count=3,
            tcp_user_timeout=20000,
            target_session_attrs="read-write",
        )
    except psycopg.Error as error:
        raise OutOfReachError(f"the database is out of reach: {_without_secrets(error, url)}") from None
    if (encoding := conn.info.parameter_status("server_encoding")) not in ("UTF8", None):
        await conn.close()
        raise ListenerError(
            f"the database keeps its texts as {encoding}, which cannot hold every text of Vietnamese: listener needs "
            "one that was made with ENCODING 'UTF8'"
        )
    set_json_loads(loads_exact, conn)
    conn.adapters.register_loader("bpchar", _Unpadded)
    timer = asyncio.get_running_loop().call_later(_CONNECT, cut, conn)
    try:
        await set_session(conn, {**_SESSION, **session})
    except BaseException as error:
        await conn.close()
        if isinstance(error, LOST):
            raise OutOfReachError(f"the database is out of reach: {_without_secrets(error, url)}") from None
        raise
    finally:
        timer.cancel()
    return conn


async def set_session(conn: Connection, values: Mapping[str, str]) -> None:
    """SET each of `values` for the rest of the session, in one round trip."""
    await conn.execute(SQL["set_session"], {"names": list(values), "values": list(values.values())})


async def end_frozen(conn: Connection) -> None:
    """Frees what another replica of this role holds while it stands still in the middle of a transaction."""
    await conn.execute(SQL["end_frozen"], {})


def refusal(error: psycopg.Error) -> str:
    """What PostgreSQL said, and in which function: what defines something runs the event triggers of others too."""
    function = re.search(r"function \S+\(\)", error.diag.context or "")
    return f"{error.diag.message_primary} (in {function[0]})" if function else str(error.diag.message_primary)


def lacks_right(error: psycopg.Error) -> bool:
    """Whether this role may not do it. What happened within a function has a context: there the right may be another's
    to have."""
    return isinstance(error, psycopg.errors.InsufficientPrivilege) and not error.diag.context


def _without_secrets(error: psycopg.Error, url: str) -> str:
    """The first line of libpq's message; it names host, port and role, and the password only by mistake."""
    if isinstance(error, psycopg.ProgrammingError):
        return "LISTENER_DATABASE_URL is no connection string"
    text = (str(error).strip().splitlines() or [type(error).__name__])[0]
    with suppress(psycopg.ProgrammingError):
        for secret in (conninfo_to_dict(url).get("password"), os.environ.get("PGPASSWORD")):
            text = text.replace(str(secret), "***") if secret else text
    return text


class Link:
    """One connection, made when first used and made again after it was lost; one user at a time.

    `first` is done on every new one before anything else. With `rest` it is closed once nobody has used it for so many
    seconds, so that who has nothing to do holds no more than it needs.
    """

    def __init__(
        self,
        settings: Settings,
        purpose: str,
        first: Callable[[Connection], Awaitable[None]] | None = None,
        rest: float | None = None,
        /,
        **session: str,
    ) -> None:
        self._settings = settings
        self._purpose = purpose
        self._first = first
        self._rest = rest
        self._resting: asyncio.TimerHandle | None = None
        self._session = session
        self._by_index = BY_INDEX.items() <= session.items()
        self._measured_at, self._sizes = float("-inf"), 0
        self._lock = asyncio.Lock()
        self._conn: Connection | None = None
        self._not_before, self._why = float("-inf"), ""

    @asynccontextmanager
    async def use(self, seconds: float = 15.0) -> AsyncIterator[Connection]:
        """The connection, for at most `seconds`: then its socket is cut, whatever hangs on it.

        Cut and not cancelled: a polite cancel needs the very server that does not answer, and psycopg waits for it.
        Raises one of `LOST` when the connection broke, `OutOfReachError` when none can be made.
        """
        async with self._lock:
            self._stay()
            if self._conn is None:
                self._conn = await self._open(seconds)
            conn = self._conn
            loop = asyncio.get_running_loop()
            timer = loop.call_later(seconds, cut, conn)
            failed = True
            try:
                yield conn
                failed = False
                if self._by_index and monotonic() - self._measured_at > _MEASURE:
                    # Only now: somebody waits for what was done. Whoever did it has it, whatever comes of this.
                    failed = not await self._measure(conn)
            except ListenerError:
                failed = False
                raise
            except psycopg.errors.CheckViolation as error:
                # Of these, only a row that fits no partition names a table and no constraint.
                if error.diag.table_name is None or error.diag.constraint_name is not None:
                    raise
                raise NoPartitionError(f"{error.diag.table_name} has no partition for now") from None
            finally:
                timer.cancel()
                # A server that is read-only now answers every question, and will for ever: look for another one.
                if failed or conn.closed or conn.info.transaction_status != TransactionStatus.IDLE:
                    self._conn = None
                    await conn.close()
                elif self._rest is not None:
                    self._resting = loop.call_later(self._rest, self._let_go)

    async def _measure(self, conn: Connection) -> bool:
        """Has statements planned anew when the tables are no longer what they were planned for; False if the connection
        is lost."""
        if conn.closed or conn.info.transaction_status != TransactionStatus.IDLE:
            return False
        try:
            row = await (await conn.execute(SQL["sizes"], {})).fetchone()
            if row is not None and row["sizes"] != self._sizes:
                await conn.execute("DISCARD PLANS")
                self._sizes = row["sizes"]
        except LOST:
            return False
        self._measured_at = monotonic()
        return True

    def _stay(self) -> None:
        if self._resting is not None:
            self._resting.cancel()
            self._resting = None

    def _let_go(self) -> None:
        """Closes the connection that nobody uses, as `AsyncConnection.close` does, which would have to be awaited."""
        if self._conn is not None:
            self._conn.pgconn.finish()
            self._conn = None

    async def _open(self, seconds: float) -> Connection:
        """Several ask by one link: it is tried about once a second, whoever asks, and in between the same is said."""
        if monotonic() < self._not_before:
            raise OutOfReachError(self._why)
        try:
            conn = await connect(self._settings, self._purpose, **self._session)
        except OutOfReachError as error:
            self._not_before, self._why = monotonic() + _RETRY * random.uniform(1, 1.5), str(error)
            raise
        timer = asyncio.get_running_loop().call_later(seconds, cut, conn)
        try:
            if self._first is not None:
                await self._first(conn)
        except BaseException:
            await conn.close()
            raise
        finally:
            timer.cancel()
        return conn

    async def close(self) -> None:
        self._stay()
        if self._conn is not None:
            await self._conn.close()
            self._conn = None


@asynccontextmanager
async def together(conn: Connection) -> AsyncIterator[None]:
    """A transaction in a pipeline: BEGIN goes along with the first statement, COMMIT with the last, and answers are
    waited for where they are read and at the end.

    `conn.transaction()` in a pipeline waits for the answer to BEGIN, to what is in it, and to COMMIT, one after the
    other. Here an error leaves the connection in the failed transaction, of no more use: `Link` closes it.
    """
    async with conn.pipeline(), AsyncTransaction(conn):
        yield


def cut(conn: Connection) -> None:
    """Shuts the socket under a connection, so that whoever waits on it learns at once that it is lost."""
    if conn.closed:
        return
    with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(conn.fileno())) as twin:
        twin.shutdown(socket.SHUT_RDWR)


def dumps_exact(value: object, indent: int | None = None) -> str:
    """JSON with every number as it stands in the database, which no float may hold; times with their zone."""
    return simplejson.dumps(value, default=_jsonable, use_decimal=False, ensure_ascii=False, indent=indent)


def _jsonable(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else simplejson.RawJSON(format(value, "f"))
    return str(value)
