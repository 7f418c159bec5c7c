"""Watches to triggers: what should be in the database, what is there, and the SQL between the two.

Everything is generated from `sql/capture.sql`; identifiers and words are quoted by the driver, never pasted.
"""

import asyncio
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import psycopg
from psycopg import sql

from listener.database import Connection
from listener.errors import ListenerError
from listener.queries import load, pieces
from listener.rules import Watch
from listener.words import did_you_mean

SQL = load("capture")

# PostgreSQL passes at most 100 arguments to one function call: name and value for each column.
_COLUMNS_A_CALL = 50
# times to try for the lock on a busy table
_TRIES = 8

# A `where` made of these alone cannot fail at run time and calls no function, so it may stand in the trigger's WHEN,
# where it costs an unrelated update nothing. Anything else runs inside the function, where a failure is swallowed.
_SIMPLE = re.compile(
    r"""(?: \s+ | \(|\)|, | <>|!=|<=|>=|=|< |> | '(?:[^']|'')*' | \d+(?:\.\d+)?
        | (?:NEW|OLD)\.(?:"(?:[^"]|"")+"|[a-z_][a-z0-9_]*)
        | (?:AND|OR|NOT|IS|NULL|IN|BETWEEN|TRUE|FALSE|DISTINCT|FROM)\b )*""",
    re.IGNORECASE | re.VERBOSE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table of the ERP as the catalogue knows it; `columns` maps each name to its type."""

    oid: int
    schema: str
    name: str
    columns: Mapping[str, str]
    primary_key: tuple[str, ...]
    owned: bool

    @property
    def identifier(self) -> sql.Identifier:
        return sql.Identifier(self.schema, self.name)

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trigger:
    """One wanted trigger: its name, the SQL that makes it, and the comment that proves it is this very one."""

    name: str
    statement: str
    comment: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Capture:
    """What one watch needs in the database."""

    watch: str
    table: Table
    key: tuple[str, ...]
    columns: tuple[str, ...]
    function: str
    body: str
    function_sql: str
    triggers: tuple[Trigger, ...]


class Step(StrEnum):
    """What `db install` would do."""

    CREATE = "create"
    REPLACE = "replace"
    ENABLE = "enable"
    DROP = "drop"


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One step from what is installed to what the rules want."""

    step: Step
    watch: str
    what: str
    statement: str


async def find_table(conn: Connection, text: str) -> Table:
    """The table that `text` (as written in SQL) names. Raises `ListenerError` with the nearest names."""
    try:
        cursor = await conn.execute(SQL["table"], {"table": text})
    except (psycopg.errors.InvalidName, psycopg.errors.SyntaxError, psycopg.errors.FeatureNotSupported):
        raise ListenerError(f"{text!r} is not a table name; write it as in SQL: schema.table") from None
    row = await cursor.fetchone()
    if row is None:
        names = [r["name"] for r in await (await conn.execute(SQL["tables_like"], {})).fetchall()]
        raise ListenerError(f"there is no table {text}{did_you_mean(text, names)}")
    if row["kind"] not in "rp":
        raise ListenerError(f"{text} is not a table; a trigger needs the table under it")
    return Table(
        oid=row["oid"],
        schema=row["schema"],
        name=row["name"],
        columns=dict(zip(row["columns"], row["types"], strict=True)),
        primary_key=tuple(row["primary_key"]),
        owned=row["owned"],
    )


async def wanted(
    conn: Connection, name: str, watch: Watch, used: Iterable[str] | None, *, doorbell: bool = True
) -> Capture:
    """The function and triggers for one watch; `used` are the columns its rules need, None for all.

    Raises `ListenerError` when the table, a column or a key is missing.
    """
    assert watch.table is not None
    table = await find_table(conn, watch.table)
    key = tuple(watch.key) or table.primary_key
    if not key:
        raise ListenerError(f"{table} has no primary key; name the columns that tell its rows apart with `key:`")
    needed = list(table.columns) if used is None else [*key, *watch.columns, *used]
    for column in needed:
        if column not in table.columns:
            raise ListenerError(f"{table} has no column {column}{did_you_mean(column, list(table.columns))}")
    columns = tuple(c for c in table.columns if c in set(needed))
    changed = [await _changed(conn, table, column) for column in watch.columns]

    def render(template: str, **values: sql.Composable) -> str:
        return sql.SQL(pieces("capture.sql")[template]).format(**values).as_string(conn).strip("\n")

    where = (watch.where or "").strip()
    simple = bool(_SIMPLE.fullmatch(where))
    body = render(
        "body",
        watch=sql.Literal(name),
        key=_side(watch.events, "key", lambda side: _key(key, side)),
        old=_side(watch.events, "old", lambda side: _object(columns, side)),
        new=_side(watch.events, "new", lambda side: _object(columns, side)),
        guard=sql.SQL("")
        if simple or not where
        else sql.SQL("\n" + render("guard", where=_function_where(where, watch))),
        ring=sql.SQL("\n" + render("ring")) if doorbell else sql.SQL(""),
        swallow=sql.SQL("") if watch.on_capture_error == "abort" else sql.SQL("\n" + render("swallow")),
    )
    function = f"capture_{name}"
    identifier = sql.Identifier("listener", function)
    triggers = []
    for event in sorted(watch.events):
        conditions = [sql.SQL("({})").format(sql.SQL(" OR ").join(changed))] if event == "update" else []
        if where and simple:
            conditions.append(sql.SQL("({})").format(sql.SQL(_event_where(where, event))))
        when = sql.SQL("WHEN ({})").format(sql.SQL(" AND ").join(conditions)) if conditions else sql.SQL("")
        parts = {
            "trigger": sql.Identifier(f"listener_{name}_{event}"),
            "table": table.identifier,
            "event": sql.SQL(event.upper()),
            "when": when,
            "function": identifier,
        }
        digest = hashlib.sha256(render("trigger", **parts, comment=sql.SQL("")).encode()).hexdigest()[:16]
        comment = f"listener {digest}"
        triggers.append(
            Trigger(
                name=f"listener_{name}_{event}",
                statement=render("trigger", **parts, comment=sql.Literal(comment)),
                comment=comment,
            )
        )
    return Capture(
        watch=name,
        table=table,
        key=key,
        columns=columns,
        function=function,
        body="\n" + body + "\n",
        function_sql=render("function", function=identifier, body=sql.Literal("\n" + body + "\n")),
        triggers=tuple(triggers),
    )


async def differences(conn: Connection, captures: Sequence[Capture]) -> list[Difference]:
    """What stands between the database and `captures`; empty when they agree."""
    functions = {r["name"]: r for r in await (await conn.execute(SQL["installed_functions"], {})).fetchall()}
    triggers = {(r["oid"], r["name"]): r for r in await (await conn.execute(SQL["installed_triggers"], {})).fetchall()}
    steps: list[Difference] = []
    for capture in captures:
        there = functions.pop(capture.function, None)
        if there is None or there["body"] != capture.body or not there["definer"] or len(there["config"]) != 2:
            step = Step.CREATE if there is None else Step.REPLACE
            steps.append(
                Difference(
                    step=step,
                    watch=capture.watch,
                    what=f"function listener.{capture.function}",
                    statement=capture.function_sql,
                )
            )
        for trigger in capture.triggers:
            found = triggers.pop((capture.table.oid, trigger.name), None)
            what = f"trigger {trigger.name} on {capture.table}"
            if found is None or found["comment"] != trigger.comment:
                step = Step.CREATE if found is None else Step.REPLACE
                steps.append(Difference(step=step, watch=capture.watch, what=what, statement=trigger.statement))
            elif found["enabled"] not in ("O", "A"):
                enable = sql.SQL("ALTER TABLE {} ENABLE TRIGGER {};").format(
                    capture.table.identifier, sql.Identifier(trigger.name)
                )
                steps.append(
                    Difference(step=Step.ENABLE, watch=capture.watch, what=what, statement=enable.as_string(conn))
                )
    for row in triggers.values():
        drop = sql.SQL(pieces("capture.sql")["drop_trigger"]).format(
            trigger=sql.Identifier(row["name"]), table=sql.Identifier(row["schema"], row["table_name"])
        )
        what = f"trigger {row['name']} on {row['schema']}.{row['table_name']}"
        steps.append(
            Difference(
                step=Step.DROP,
                watch=row["function"].removeprefix("capture_"),
                what=what,
                statement=drop.as_string(conn).strip(),
            )
        )
    for name in functions:
        drop = sql.SQL(pieces("capture.sql")["drop_function"]).format(function=sql.Identifier("listener", name))
        steps.append(
            Difference(
                step=Step.DROP,
                watch=name.removeprefix("capture_"),
                what=f"function listener.{name}",
                statement=drop.as_string(conn).strip(),
            )
        )
    return steps


async def _changed(conn: Connection, table: Table, column: str) -> sql.Composable:
    """`OLD.x IS DISTINCT FROM NEW.x`; by text where the type has no equality (json, xml, point)."""
    kind = sql.SQL(table.columns[column])
    try:
        await conn.execute(
            sql.SQL("SELECT NULL::{kind} IS DISTINCT FROM NULL::{kind}").format(kind=kind), prepare=False
        )
        template = "OLD.{c} IS DISTINCT FROM NEW.{c}"
    except psycopg.errors.UndefinedFunction:
        template = "OLD.{c}::text IS DISTINCT FROM NEW.{c}::text"
    return sql.SQL(template).format(c=sql.Identifier(column))


def _side(events: Iterable[str], what: str, render: Callable[[str], sql.Composable]) -> sql.Composable:
    """The key, old or new value for whichever operation fires; without a CASE where only one can."""
    old, new, null = render("OLD"), render("NEW"), sql.SQL("NULL")
    by_event: dict[str, dict[str, sql.Composable]] = {
        "insert": {"key": new, "old": null, "new": new},
        "update": {"key": new, "old": old, "new": new},
        "delete": {"key": old, "old": old, "new": null},
    }
    events = sorted(events)
    if len(events) == 1:
        return by_event[events[0]][what]
    cases = [sql.SQL("WHEN {} THEN {}").format(sql.Literal(event.upper()), by_event[event][what]) for event in events]
    return sql.SQL("CASE TG_OP {} END").format(sql.SQL(" ").join(cases))


def _object(columns: Sequence[str], side: str) -> sql.Composable:
    chunks = [columns[i : i + _COLUMNS_A_CALL] for i in range(0, len(columns), _COLUMNS_A_CALL)]
    calls = [
        sql.SQL("jsonb_build_object({})").format(
            sql.SQL(", ").join(
                sql.SQL("{}, {}.{}").format(sql.Literal(c), sql.SQL(side), sql.Identifier(c)) for c in chunk
            )
        )
        for chunk in chunks
    ]
    return sql.SQL(" || ").join(calls)


def key_of(wanted: Capture, alias: str) -> sql.Composable:
    """The key as the trigger writes it, for a row of the table that goes by `alias`."""
    return _key(wanted.key, sql.Identifier(alias).as_string(None))


def _key(key: Sequence[str], side: str) -> sql.Composable:
    """The key as one text; parts of a composite key are joined by `/`, their own `/` and `\\` escaped."""
    values = [sql.SQL("coalesce({}.{}::text, '')").format(sql.SQL(side), sql.Identifier(c)) for c in key]
    if len(values) == 1:
        return values[0]
    escaped = [sql.SQL(r"replace(replace({}, '\', '\\'), '/', '\/')").format(value) for value in values]
    return sql.SQL(" || '/' || ").join(escaped)


def _event_where(where: str, event: str) -> str:
    """For a deleted row NEW means the row that was; for an inserted one OLD holds nothing."""
    if event == "delete":
        return re.sub(r"\bNEW\.", "OLD.", where, flags=re.IGNORECASE)
    if event == "insert":
        return re.sub(r"\bOLD\.(\"(?:[^\"]|\"\")+\"|\w+)", "NULL", where, flags=re.IGNORECASE)
    return where


def _function_where(where: str, watch: Watch) -> sql.Composable:
    if "delete" not in watch.events:
        return sql.SQL(where)
    return sql.SQL("CASE WHEN TG_OP = 'DELETE' THEN ({}) ELSE ({}) END").format(
        sql.SQL(_event_where(where, "delete")), sql.SQL(where)
    )


async def apply(conn: Connection, steps: Sequence[Difference], say: Callable[[str], None]) -> None:
    """Takes `steps`, each in a transaction of its own, waiting for a busy table only briefly and often.

    Raises `ListenerError` when a table stays locked or the right to it is missing.
    """
    for step in steps:
        say(f"{step.step.value} {step.what}")
        for attempt in range(1, _TRIES + 1):
            try:
                async with conn.transaction():
                    # A trigger's lock makes every later writer of the table queue behind it: do not wait long for it.
                    await conn.execute("SET LOCAL lock_timeout = '1s'")
                    await conn.execute(step.statement.encode(), prepare=False)
                break
            except psycopg.errors.LockNotAvailable:
                if attempt == _TRIES:
                    raise ListenerError(
                        f"{step.what}: the table is locked by others; try again at a quieter time"
                    ) from None
                say(f"  the table is busy, trying again ({attempt} of {_TRIES})")
                await asyncio.sleep(attempt * 0.5)
            except psycopg.errors.InsufficientPrivilege:
                raise ListenerError(
                    f"{step.what}: only the owner of the table may do this; run it as the owner"
                ) from None
            except psycopg.Error as error:
                raise ListenerError(f"{step.what}: {error.diag.message_primary}") from None


async def uninstall(conn: Connection) -> list[str]:
    """Removes triggers, functions and the schema with all that is in it; returns what was removed."""
    steps = await differences(conn, [])
    await apply(conn, steps, lambda _: None)
    await conn.execute("DROP SCHEMA IF EXISTS listener CASCADE")
    return [step.what for step in steps]


async def waiting(conn: Connection) -> int:
    """Changes and messages that an `uninstall` would lose; 0 when there is no schema."""
    there = await (await conn.execute("SELECT to_regclass('listener.message') IS NOT NULL AS there")).fetchone()
    if not there or not there["there"]:
        return 0
    row = await (await conn.execute(SQL["unsent"], {})).fetchone()
    return int(row["n"]) if row else 0


async def warnings(conn: Connection) -> list[str]:
    """Habits of this server that weaken what listener promises, each with its consequence."""
    row = await (await conn.execute(SQL["habits"], {})).fetchone()
    assert row is not None
    found = []
    if row["fsync"] != "on":
        found.append("fsync is off: a crash of the server may forget what was sent, and send it again")
    if row["prepared"] > 0:
        found.append(
            "two-phase commits are possible here: a ring makes PREPARE TRANSACTION fail; use LISTENER_DOORBELL=off"
        )
    if row["cache"] not in (None, 1):
        found.append("the outbox's sequence has a CACHE above 1: the order of changes is not kept")
    return found
