"""A table of the ERP, as PostgreSQL's catalogue knows it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import psycopg
from psycopg import sql

from listener.database import Connection
from listener.errors import ListenerError
from listener.queries import load
from listener.words import did_you_mean

SQL = load("capture")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What matters here of a column's type.

    `base` is the name of the built-in type under all domains, None for any other. `comparable`: `=` is built in and
    cannot fail. `simple`: so are `<` and its kin, between any two simple columns.
    """

    base: str | None
    comparable: bool
    simple: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """`columns` maps each name to its type as SQL writes it; `generated` are those that BEFORE triggers do not know,
    `moved_by` those that partitions are chosen by; `children` are the (oid, schema, name) of the tables that inherit
    from it and are not its partitions, `partitioned` those of its partitions that have partitions themselves."""

    oid: int
    schema: str
    name: str
    columns: Mapping[str, str]
    kinds: Mapping[str, Kind]
    primary_key: tuple[str, ...]
    generated: tuple[str, ...]
    moved_by: tuple[str, ...]
    children: tuple[tuple[int, str, str], ...]
    partitioned: tuple[tuple[int, str, str], ...]
    owned: bool

    @property
    def identifier(self) -> sql.Identifier:
        return sql.Identifier(self.schema, self.name)

    def bases(self, columns: Sequence[str]) -> dict[str, str | None]:
        """The built-in type of each of these columns."""
        return {column: self.kinds[column].base for column in columns}

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"


async def find_table(conn: Connection, text: str) -> Table:
    """The table that `text` (as written in SQL) names. Raises `ListenerError` with the nearest names."""
    try:
        row = await (await conn.execute(SQL["table"], {"table": text})).fetchone()
    except (psycopg.errors.InvalidName, psycopg.errors.SyntaxError, psycopg.errors.FeatureNotSupported):
        raise ListenerError(f"{text!r} is not a table name; write it as in SQL: schema.table") from None
    except psycopg.errors.InsufficientPrivilege as error:
        # Even its name may be asked only with USAGE.
        cure = f"GRANT USAGE ON SCHEMA ... TO {conn.info.user}"
        raise ListenerError(f"{text}: {error.diag.message_primary}; let its owner {cure}") from None
    if row is None:
        names = [r["name"] for r in await (await conn.execute(SQL["tables_like"], {})).fetchall()]
        raise ListenerError(f"there is no table {text}{did_you_mean(text, names)}")
    if row["kind"] not in "rp":
        raise ListenerError(f"{text} is not a table; a trigger needs the table under it")
    if row["schema"] == "listener":
        # What is captured there would be captured again, and a message about a message make the next one.
        raise ListenerError(f"{text} is listener's own; a watch is for tables of the ERP")
    if row["temporary"]:
        raise ListenerError(f"{text} is a temporary table; it is gone with its session")
    return Table(
        oid=row["oid"],
        schema=row["schema"],
        name=row["name"],
        columns={c["name"]: c["type"] for c in row["columns"]},
        kinds={c["name"]: Kind(base=c["base"], comparable=c["comparable"], simple=c["simple"]) for c in row["columns"]},
        primary_key=tuple(row["primary_key"]),
        generated=tuple(row["generated"]),
        moved_by=tuple(row["moved_by"]),
        children=tuple((int(c["oid"]), c["schema"], c["name"]) for c in row["children"]),
        partitioned=tuple((int(c["oid"]), c["schema"], c["name"]) for c in row["partitioned"]),
        owned=row["owned"],
    )
