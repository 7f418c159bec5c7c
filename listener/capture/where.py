"""A watch's `where`: a condition in SQL on OLD and NEW, as it is written in the rules."""

import re

import psycopg
from psycopg import sql

from listener.capture.tables import Table
from listener.database import Connection
from listener.errors import ListenerError
from listener.queries import load
from listener.words import did_you_mean

SQL = load("capture")

_ROW_COLUMN = r'\b(?P<side>NEW|OLD)\.(?P<column>"(?:[^"]|"")+"|[a-z_][a-z0-9_$]*)'
# A `where` made of these alone, on columns of simple types, cannot fail at run time and calls no function of others, so
# it may stand in the trigger's WHEN, where it costs an unrelated update the least. Anything else runs inside the
# function, where a failure is swallowed. The last + keeps it from trying every way to part blanks and digits.
_SIMPLE = re.compile(
    rf"""(?: \s+ | \(|\)|, | <>|!=|<=|>=|=|< |> | '(?:[^']|'')*' | \d+(?:\.\d+)?
        | {_ROW_COLUMN.replace("?P<side>", "?:").replace("?P<column>", "?:")}
        | (?:AND|OR|NOT|IS|NULL|IN|BETWEEN|TRUE|FALSE|DISTINCT|FROM)\b )*+""",
    re.IGNORECASE | re.VERBOSE,
)
# What names a column of OLD or NEW, outside of strings and quoted names.
_MENTION = re.compile(rf"""'(?:[^']|'')*' | {_ROW_COLUMN} | "(?:[^"]|"")*" """, re.IGNORECASE | re.VERBOSE)
# the role whose rights the function has, not the one that made the change
_INSTALLER = re.compile(r"(?<![.\w])(?:current_user|current_role|user)\b", re.IGNORECASE)


async def check_where(conn: Connection, table: Table, where: str) -> None:
    """Raises `ListenerError` unless `where` is a condition on OLD and NEW that PostgreSQL understands.

    Inside the function it would be looked at only when a row changes, and its failure swallowed.
    """
    for column in _mentioned(where):
        if column not in table.columns:
            raise ListenerError(f"where: {table} has no column {column}{did_you_mean(column, list(table.columns))}")
    outside = _MENTION.sub("''", where)
    # To PREPARE it is a parameter of its own; a trigger is given none.
    if found := re.search(r"(?<![\w$])\$\d+", outside):
        raise ListenerError(f"where: there is no parameter {found[0]}; name a column as NEW.column")
    if found := _INSTALLER.search(outside):
        who = f"{found[0].lower()} is here whoever installed the trigger"
        raise ListenerError(f"where: {who}; write session_user for whoever made the change")
    query = sql.SQL("PREPARE listener_where AS SELECT 1 FROM {table} AS old, {table} AS new WHERE ({where})").format(
        table=table.identifier, where=sql.SQL(where)
    )
    try:
        async with conn.transaction():
            # As inside the function, so that a name which is not found there is not found here.
            await conn.execute("SET LOCAL search_path = pg_catalog, pg_temp")
            # In the extended protocol (binary) PostgreSQL takes no second statement behind this one.
            await conn.execute(query, prepare=False, binary=True)
            await conn.execute("DEALLOCATE listener_where")
    except psycopg.errors.InsufficientPrivilege:
        # Whoever installs it will see; a role that only reads the rules need not read the table.
        return
    except (psycopg.ProgrammingError, psycopg.DataError, psycopg.NotSupportedError) as error:
        raise ListenerError(f"where: {error.diag.message_primary}{_in_front(error)}") from None
    if not is_simple(table, where):
        await _check_signs(conn, table, where)


def _in_front(error: psycopg.Error) -> str:
    """What is most likely missing before a name that PostgreSQL does not know."""
    match error:
        case psycopg.errors.AmbiguousColumn() | psycopg.errors.UndefinedColumn():
            return " (columns need NEW. or OLD. in front)"
        case psycopg.errors.UndefinedTable() | psycopg.errors.UndefinedFunction() | psycopg.errors.UndefinedObject():
            return " (functions and tables need their schema in front)"
        case _:
            return ""


async def _check_signs(conn: Connection, table: Table, where: str) -> None:
    """Raises `ListenerError` when a sign or a function means PostgreSQL's own only because that of an extension is not
    on the path: a citext would be compared as text, in silence."""
    row = await (await conn.execute(SQL["schemas_with_operators"], {})).fetchone()
    assert row is not None
    if not row["schemas"]:
        return
    try:
        here = await _meaning(conn, table, where, "")
        there = await _meaning(conn, table, where, row["schemas"])
    except psycopg.ProgrammingError:
        # as above, or one that may make no view
        return
    if here != there:
        raise ListenerError(
            f"where: a sign or a function here is PostgreSQL's own, and the schema {row['schemas']} has another for "
            "this type (as for citext, whose = takes VIP for vip): write NEW.code OPERATOR(public.=) 'vip', with the "
            "schema, for that one, or NEW.code::text = 'vip' for PostgreSQL's"
        )


async def _meaning(conn: Connection, table: Table, where: str, schemas: str) -> str:
    """The condition with all that it names in full, as it is read with `schemas` on the path too."""
    view = sql.SQL(
        "CREATE TEMPORARY VIEW listener_where AS SELECT ({where}) AS said FROM {table} AS old, {table} AS new"
    )
    async with conn.transaction(force_rollback=True):
        path = ", ".join(filter(None, ("pg_catalog", schemas, "pg_temp")))
        await conn.execute("SELECT set_config('search_path', %s, true)", [path])
        await conn.execute(view.format(table=table.identifier, where=sql.SQL(where)), prepare=False, binary=True)
        await conn.execute("SET LOCAL search_path = pg_catalog")
        row = await (await conn.execute("SELECT pg_get_viewdef('pg_temp.listener_where'::regclass) AS text")).fetchone()
    assert row is not None
    return str(row["text"])


async def try_where(conn: Connection, table: Table, where: str | None) -> None:
    """Raises `ListenerError` when a function of the ERP that `where` calls finds what it needs only on the search_path
    of the ERP's sessions, and so would fail in every capture.

    PostgreSQL looks into its body when it runs, so it is run for some rows, if there are any.
    """
    if not where or is_simple(table, where):
        return
    query = sql.SQL(
        "SELECT ({where}) FROM (SELECT * FROM {table} LIMIT 100) AS new CROSS JOIN LATERAL (SELECT new.*) AS old"
    ).format(table=table.identifier, where=sql.SQL(where))
    try:
        async with conn.transaction(force_rollback=True):
            await conn.execute("SET TRANSACTION READ ONLY")
            await conn.execute("SET LOCAL statement_timeout = '2s'")
            await conn.execute("SET LOCAL search_path = pg_catalog, pg_temp")
            await conn.execute(query, prepare=False, binary=True)
    except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedFunction) as error:
        raise ListenerError(
            f"where: {error.diag.message_primary}: a function called here needs the search_path of the ERP's sessions, "
            "which a trigger cannot rely on; give it its own, ALTER FUNCTION ... SET search_path = ..."
        ) from None
    except psycopg.Error:
        # what these rows alone make of it, or no right, or no time
        return


def is_simple(table: Table, where: str) -> bool:
    """Whether it may stand in a trigger's WHEN: it cannot fail, and calls nothing of others."""
    return bool(_SIMPLE.fullmatch(where)) and all(table.kinds[column].simple for column in _mentioned(where))


def for_event(where: str, event: str) -> str:
    """The condition for one kind of event: for a deleted row NEW means the row that was, for an inserted one OLD holds
    nothing."""

    def other(mention: re.Match[str]) -> str:
        side = (mention["side"] or "").upper()
        if event == "delete" and side == "NEW":
            return f"OLD.{mention['column']}"
        return "NULL" if event == "insert" and side == "OLD" else mention[0]

    return _MENTION.sub(other, where)


def _mentioned(where: str) -> list[str]:
    """The columns of OLD and NEW that a condition names."""
    return [_column(m["column"]) for m in _MENTION.finditer(where) if m["column"]]


def _column(written: str) -> str:
    return written[1:-1].replace('""', '"') if written.startswith('"') else written.lower()
