"""The schema `listener`, made by the numbered files of `sql/migrations/`: forward only, checksummed, one at a time."""

import hashlib
import re
from dataclasses import dataclass

from listener.database import Connection
from listener.errors import ListenerError
from listener.queries import read, sql_folder

_FILE = re.compile(r"(\d{4})_\w+\.sql")
# Any number will do, as long as it is ours alone.
_LOCK = 7_466_382_153


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """One file of `sql/migrations/`."""

    number: int
    name: str
    text: str

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()


def migrations() -> list[Migration]:
    """All migrations, in order."""
    names = sorted(f.name for f in sql_folder().joinpath("migrations").iterdir() if _FILE.fullmatch(f.name))
    return [
        Migration(number=int(name[:4]), name=name.removesuffix(".sql"), text=read(f"migrations/{name}"))
        for name in names
    ]


async def pending(conn: Connection) -> list[Migration]:
    """What `migrate` would run.

    Raises `ListenerError` when an applied migration is not the one in this version, or the schema is somebody else's.
    """
    if not await installed(conn):
        return migrations()
    cursor = await conn.execute("SELECT number, name, sha256 FROM listener.migration ORDER BY number")
    applied = {row["number"]: row for row in await cursor.fetchall()}
    ours = {m.number: m for m in migrations()}
    for number, row in applied.items():
        if number not in ours:
            raise ListenerError(
                f"the database is newer than this program: it has migration {row['name']}. Update listener."
            )
        if ours[number].sha256 != row["sha256"]:
            raise ListenerError(f"migration {row['name']} in the database is not the one of this program")
    return [m for number, m in ours.items() if number not in applied]


async def migrate(conn: Connection) -> list[Migration]:
    """Runs what is pending, all or nothing, and returns it. Two at once do it once."""
    async with conn.transaction():
        await conn.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
        todo = await pending(conn)
        if todo and not await installed(conn):
            await conn.execute(bootstrap_sql().encode(), prepare=False)
        for migration in todo:
            await conn.execute(migration.text.encode(), prepare=False)
            await conn.execute(
                "INSERT INTO listener.migration (number, name, sha256) VALUES (%s, %s, %s)",
                [migration.number, migration.name, migration.sha256],
            )
    return todo


def bootstrap_sql() -> str:
    """What must be there before the first migration can be written down."""
    return read("bootstrap.sql")


async def installed(conn: Connection) -> bool:
    """Whether the schema is there. Raises `ListenerError` when there is one of that name that is not ours."""
    cursor = await conn.execute(
        "SELECT to_regnamespace('listener') IS NOT NULL AS there, to_regclass('listener.migration') IS NOT NULL AS ours"
    )
    row = await cursor.fetchone()
    if row and row["there"] and not row["ours"]:
        raise ListenerError("this database has a schema `listener` that this program did not make; it is left alone")
    return bool(row and row["ours"])


def script(todo: list[Migration]) -> str:
    """`migrate` as SQL for a person to run: the same statements and the same notes of what was done."""
    pieces = [bootstrap_sql()] if todo and todo[0].number == 1 else []
    for m in todo:
        note = f"INSERT INTO listener.migration (number, name, sha256) VALUES ({m.number}, '{m.name}', '{m.sha256}');"  # noqa: S608
        pieces.append(f"{m.text}\n{note}\n")
    return "\n".join(pieces)
