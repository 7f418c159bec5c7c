"""The schema `listener`, made by the numbered files of `sql/migrations/`: forward only, checksummed, one at a time.

A migration may come while replicas of the version before are at work, and they notice only within a second. So it never
changes the meaning of what is there: the statements of the version before go on working, or fail. What that version
still reads or writes is dropped by a later one. And one that locks the outbox does nothing else, since the ERP's
triggers wait for it no longer than 200 ms, and a change that they give up is lost.
"""

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache

import psycopg
from psycopg import sql

from listener.database import Connection, lacks_right, refusal
from listener.errors import ListenerError
from listener.queries import read, sql_folder

_FILE = re.compile(r"(\d{4})_\w+\.sql")
# Any number will do, as long as it is ours alone.
_LOCK = 7_466_382_153
# How long an installer waits for another one: less than a connection's statement_timeout.
_TURN = "50s"
# Whoever waits for a lock holds up all who come later; the triggers give up after 200 ms. So: briefly, and often.
LOCK_TIMEOUT = "100ms"
_TRIES = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """One file of `sql/migrations/`."""

    number: int
    name: str
    text: str

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()


@cache
def migrations() -> tuple[Migration, ...]:
    """All migrations of this program, in order: as they were first read, even if a newer program has been put in its
    place on the disk since."""
    names = sorted(f.name for f in sql_folder().joinpath("migrations").iterdir() if _FILE.fullmatch(f.name))
    return tuple(
        Migration(number=int(name[:4]), name=name.removesuffix(".sql"), text=read(f"migrations/{name}"))
        for name in names
    )


async def pending(conn: Connection) -> list[Migration]:
    """What `migrate` would run.

    Raises `ListenerError` when an applied migration is not the one in this version, or the schema is somebody else's.
    """
    if not await installed(conn):
        return list(migrations())
    cursor = await conn.execute("SELECT number, name, sha256 FROM listener.migration ORDER BY number")
    applied = {row["number"]: row for row in await cursor.fetchall()}
    ours = {m.number: m for m in migrations()}
    if reason := newer([row["name"] for row in applied.values()]):
        raise ListenerError(reason)
    for number, row in applied.items():
        if ours[number].sha256 != row["sha256"]:
            raise ListenerError(
                f"migration {row['name']} in the database is not the one of this program: "
                "run the listener that made it, or restore a backup"
            )
    return [m for number, m in ours.items() if number not in applied]


def newer(applied: Sequence[str]) -> str | None:
    """Why this program must not work on a schema that the migrations of these names made; None if it may."""
    unknown = set(applied) - {m.name for m in migrations()}
    if not unknown:
        return None
    return f"the database is newer than this program: it has migration {max(unknown)}. Update listener."


@asynccontextmanager
async def in_turn(conn: Connection) -> AsyncIterator[None]:
    """One installer at a time: two that make the same function or grant on the same table fail each other.

    Raises `ListenerError` when another one does not come to its end.
    """
    try:
        async with conn.transaction():
            # The connection's own limit is for locks that hold up the ERP.
            await conn.execute(f"SET LOCAL lock_timeout = '{_TURN}'")
            await conn.execute("SELECT pg_advisory_lock(%s)", [_LOCK])
    except psycopg.errors.LockNotAvailable:
        raise ListenerError("somebody else is installing here, and does not come to an end; try again later") from None
    try:
        yield
    finally:
        if not conn.closed:
            await conn.execute("SELECT pg_advisory_unlock(%s)", [_LOCK])


async def migrate(conn: Connection) -> list[Migration]:
    """Runs what is pending, each whole or not at all, and returns it; `in_turn`.

    Raises `ListenerError` when tables stay locked by others or a right is missing; what was done before stays done.
    """
    todo = await pending(conn)
    for migration in todo:
        await _run(conn, migration)
    return todo


async def _run(conn: Connection, migration: Migration) -> None:
    """In one round trip, so that no lock is held for as long as this process may be kept waiting."""
    text = f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}';\n{script([migration])}"
    for attempt in range(1, _TRIES + 1):
        try:
            await conn.execute(text.encode(), prepare=False)
            return
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
            await asyncio.sleep(min(1.0, attempt * 0.1))
        except psycopg.Error as error:
            if conn.closed:
                raise
            said = f"migration {migration.name}: {refusal(error)}"
            if not lacks_right(error):
                raise ListenerError(said) from None
            grant = sql.SQL("GRANT CREATE ON DATABASE {} TO {}").format(
                sql.Identifier(conn.info.dbname), sql.Identifier(conn.info.user)
            )
            cure = (
                f"let the database's owner run {grant.as_string(conn)}"
                if migration.number == 1
                else "run it as the owner of the schema `listener`"
            )
            raise ListenerError(f"{said}; {cure}") from None
    raise ListenerError(f"migration {migration.name}: its tables are locked by others; try again at a quieter time")


def bootstrap_sql() -> str:
    """What must be there before the first migration can be written down."""
    return read("bootstrap.sql")


async def installed(conn: Connection) -> bool:
    """Whether the schema is there. Raises `ListenerError` when there is one of that name that is not ours."""
    cursor = await conn.execute(
        """SELECT to_regnamespace('listener') IS NOT NULL AS there,
                  EXISTS (SELECT FROM pg_attribute
                           WHERE attrelid = to_regclass('listener.migration') AND attname = 'sha256') AS ours"""
    )
    row = await cursor.fetchone()
    if row and row["there"] and not row["ours"]:
        raise ListenerError(
            "this database has a schema `listener` that this program did not make: rename it, or use another database"
        )
    return bool(row and row["ours"])


def script(todo: Sequence[Migration]) -> str:
    """`migrate` as SQL for a person to run: the same statements and the same notes of what was done."""
    pieces = [bootstrap_sql()] if todo and todo[0].number == 1 else []
    for m in todo:
        note = f"INSERT INTO listener.migration (number, name, sha256) VALUES ({m.number}, '{m.name}', '{m.sha256}');"  # noqa: S608
        pieces.append(f"{m.text}\n{note}\n")
    return "\n".join(pieces)
