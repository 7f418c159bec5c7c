"""Which tables, columns and functions of the ERP the rules make the daemon touch.

PostgreSQL itself tells: a statement is put into a temporary view, or for one that writes into a rule, and what that
depends on is read from the catalogue, column by column. Nothing of it stays.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import psycopg

from listener.capture import Capture
from listener.database import Connection
from listener.queries import load
from listener.rules import Rules
from listener.rules.snippets import PLACEHOLDER

SQL = load("roles")
# Names in the rule as PostgreSQL writes it, and what may look like one but is a value.
_NAME = r'(?:"(?:[^"]|"")+"|[\w$]+)'
_VALUE = re.compile(r"E?'(?:[^']|'')*'")
_WRITES = re.compile(rf"\bDO\s+(?P<verb>UPDATE|INSERT INTO|DELETE FROM)\s+(?:ONLY\s+)?(?P<table>{_NAME}(?:\.{_NAME})?)")
_SET = re.compile(rf"(?:\bSET|,)\s+(?P<column>{_NAME}) = ")
_PLACE_FOR_A_RULE = b"CREATE TEMPORARY TABLE listener_uses ()"


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Grant:
    """A right to one thing of the ERP: `kind` is TABLE, FUNCTION or SCHEMA, `column` "" for the whole."""

    kind: str
    oid: int
    column: str = ""
    privilege: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What one place of the rules file makes the daemon touch; `fault` if PostgreSQL does not take the statement."""

    place: tuple[str, ...]
    what: str
    grants: frozenset[Grant] = frozenset()
    fault: str = ""
    # why `grants` are not known
    unclear: str = ""
    # as it can be explained, without values; None for a watched table
    statement: str | None = None
    # False if sending does not need it, only a person's `preview --key`
    must: bool = True


async def needs_of(conn: Connection, rules: Rules, captures: Sequence[Capture]) -> list[Needs]:
    """All that the rules make the daemon's role touch, in the order of the file."""
    rechecked = {rule.on for rule in rules.rules.values() if rule.recheck}
    found = [
        Needs(
            place=("watch", c.watch, "table"),
            what=f"watch {c.watch}: the row as it is now",
            grants=_columns(c.table.oid, {*c.columns, *c.key}),
            must=c.watch in rechecked,
        )
        for c in captures
    ]
    for name, watch in rules.watch.items():
        for lookup, query in watch.lookup.items():
            place = ("watch", name, "lookup", lookup)
            found.append(await statement_needs(conn, place, f"lookup {lookup} of watch {name}", query))
        if watch.select is not None:
            found.append(
                await statement_needs(conn, ("watch", name, "select"), f"select of watch {name}", watch.select)
            )
    for name, rule in rules.rules.items():
        if rule.ticket is not None and rule.ticket.save is not None:
            place = ("rules", name, "ticket", "save")
            what = f"ticket.save of rule {name}"
            found.append(await statement_needs(conn, place, what, rule.ticket.save, writes=True))
    return found


async def statement_needs(
    conn: Connection, place: tuple[str, ...], what: str, statement: str, *, writes: bool = False
) -> Needs:
    """What a statement of the rules touches."""
    plain = PLACEHOLDER.sub(_nothing, statement)
    try:
        async with conn.transaction(force_rollback=True):
            # In the extended protocol (binary) PostgreSQL takes one statement and no second one behind it.
            if not writes:
                view = f"CREATE TEMPORARY VIEW listener_uses AS SELECT 1 AS one FROM (\n{plain}\n) AS _found"  # noqa: S608
                await conn.execute(view.encode(), binary=True)
            else:
                await conn.execute(_PLACE_FOR_A_RULE)
                rule = f"CREATE RULE listener_uses AS ON INSERT TO pg_temp.listener_uses DO ALSO\n{plain}"
                await conn.execute(rule.encode(), binary=True)
            grants = await _uses(conn, writes=writes)
    except psycopg.errors.InsufficientPrivilege as error:
        message = str(error.diag.message_primary)
        if "temporary" in message:
            return Needs(place=place, what=what, unclear=message, statement=plain)
        return Needs(place=place, what=what, fault=message, statement=plain)
    except (psycopg.ProgrammingError, psycopg.DataError, psycopg.NotSupportedError) as error:
        return Needs(place=place, what=what, fault=str(error.diag.message_primary), statement=plain)
    return Needs(place=place, what=what, grants=grants, statement=plain)


def _nothing(placeholder: "re.Match[str]") -> str:
    """A value that is not known; of the two that listener gives itself, the type is."""
    match placeholder[1]:
        case None:
            return "%"
        case "day":
            return "NULL::pg_catalog.date"
        case "ticket_id":
            return "NULL::bigint"
        case _:
            return "NULL"


async def _uses(conn: Connection, *, writes: bool) -> frozenset[Grant]:
    rows = await (await conn.execute(SQL["uses"], {})).fetchall()
    used = [(str(row["kind"]), int(row["oid"]), str(row["col"])) for row in rows]
    calls = {Grant(kind=kind, oid=oid, privilege="EXECUTE") for kind, oid, _ in used if kind == "FUNCTION"}
    tables = {(oid, column) for kind, oid, column in used if kind == "TABLE"}
    if not writes:
        return frozenset(calls | {Grant(kind="TABLE", oid=o, column=c, privilege="SELECT") for o, c in tables})
    row = await (await conn.execute(SQL["written"], {})).fetchone()
    assert row is not None
    return frozenset(calls | await _written(conn, _VALUE.sub("''", row["rule"]), tables))


async def _written(conn: Connection, rule: str, tables: Iterable[tuple[int, str]]) -> set[Grant]:
    """Which of `tables`, by column, a rule writes to; the rest it reads."""
    writes = _WRITES.search(rule)
    target, verb = None, ""
    if writes is not None:
        verb = writes["verb"].split()[0]
        row = await (await conn.execute("SELECT to_regclass(%s)::oid::bigint AS oid", [writes["table"]])).fetchone()
        target = row["oid"] if row else None
    head = re.split(r"\bWHERE\b", rule, maxsplit=1)[0]
    changed = {_unquoted(m["column"]) for m in _SET.finditer(head)} if verb == "UPDATE" else set()
    found: set[Grant] = set()
    for oid, column in tables:
        if oid != target:
            found.add(Grant(kind="TABLE", oid=oid, column=column, privilege="SELECT"))
        elif verb != "UPDATE":
            found |= {Grant(kind="TABLE", oid=oid, privilege=privilege) for privilege in (verb, "SELECT")}
        elif column in changed:
            found.add(Grant(kind="TABLE", oid=oid, column=column, privilege="UPDATE"))
            if re.search(rf"\.{re.escape(_quoted(column))}(?![\w$\"])", rule):
                found.add(Grant(kind="TABLE", oid=oid, column=column, privilege="SELECT"))
        else:
            found.add(Grant(kind="TABLE", oid=oid, column=column, privilege="SELECT"))
    return found


def _columns(oid: int, columns: Iterable[str]) -> frozenset[Grant]:
    return frozenset(Grant(kind="TABLE", oid=oid, column=column, privilege="SELECT") for column in columns)


def _unquoted(name: str) -> str:
    return name[1:-1].replace('""', '"') if name.startswith('"') else name


def _quoted(name: str) -> str:
    return name if re.fullmatch(r"[a-z_][a-z0-9_$]*", name) else '"' + name.replace('"', '""') + '"'
