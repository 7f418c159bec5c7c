"""One watch to the function and the triggers that capture its changes."""

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import psycopg
from psycopg import sql

from listener.capture.tables import Kind, Table, find_table
from listener.database import Connection
from listener.errors import ListenerError
from listener.queries import load, pieces
from listener.rules import Watch
from listener.words import did_you_mean

SQL = load("capture")

_CONCAT = " OPERATOR(pg_catalog.||) "
_JOIN_KEY = f"{_CONCAT}'/'{_CONCAT}"
# PostgreSQL passes at most 100 arguments to one function call: name and value for each column.
_COLUMNS_A_CALL = 50

_ROW_COLUMN = r'\b(?P<side>NEW|OLD)\.(?P<column>"(?:[^"]|"")+"|[a-z_][a-z0-9_$]*)'
# A `where` made of these alone, on columns of simple types, cannot fail at run time and calls no function of others, so
# it may stand in the trigger's WHEN, where it costs an unrelated update nothing. Anything else runs inside the
# function, where a failure is swallowed.
_SIMPLE = re.compile(
    rf"""(?: \s+ | \(|\)|, | <>|!=|<=|>=|=|< |> | '(?:[^']|'')*' | \d+(?:\.\d+)?
        | {_ROW_COLUMN.replace("?P<side>", "?:").replace("?P<column>", "?:")}
        | (?:AND|OR|NOT|IS|NULL|IN|BETWEEN|TRUE|FALSE|DISTINCT|FROM)\b )*""",
    re.IGNORECASE | re.VERBOSE,
)
# What names a column of OLD or NEW, outside of strings and quoted names.
_MENTION = re.compile(rf"""'(?:[^']|'')*' | {_ROW_COLUMN} | "(?:[^"]|"")*" """, re.IGNORECASE | re.VERBOSE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trigger:
    """One wanted trigger: its name, its table, the SQL that makes it, the comment that proves it is this very one."""

    name: str
    oid: int
    table: str
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
    config: frozenset[str]
    triggers: tuple[Trigger, ...]


async def wanted(
    conn: Connection, name: str, watch: Watch, used: Iterable[str] | None, *, doorbell: bool = True
) -> Capture:
    """The function and triggers for one watch; `used` are the columns its rules need, None for all.

    Raises `ListenerError` when the table, a column or a key is missing, or `where` is not a condition on the table.
    """
    assert watch.table is not None
    table = await find_table(conn, watch.table)
    key = tuple(watch.key) or table.primary_key
    if not key:
        raise ListenerError(f"{table} has no primary key; name the columns that tell its rows apart with `key:`")
    named = [*key, *watch.columns, *(used or ())]
    for column in named:
        if column not in table.columns:
            raise ListenerError(f"{table} has no column {column}{did_you_mean(column, list(table.columns))}")
    if watch.where:
        await _check_where(conn, table, watch.where)
    columns = tuple(c for c in table.columns if used is None or c in set(named))
    return _Generator(conn, name, watch, table, key, columns, doorbell).capture()


def current_row(capture: Capture) -> sql.Composed:
    """The query for the captured columns, as `row`, of the one that has `%(key)s` as the trigger writes it."""
    row = sql.Identifier("_row")
    query = sql.SQL("SELECT {values} AS row FROM {table} AS {row} WHERE {key} = ").format(
        values=_object(capture.table, capture.columns, row),
        table=capture.table.identifier,
        row=row,
        key=_key(capture.table, capture.key, row),
    )
    # psycopg takes a % in a name for a placeholder too.
    return sql.Composed([sql.SQL(query.as_string().replace("%", "%%")), sql.SQL("%(key)s LIMIT 1")])


@dataclass(frozen=True, slots=True)
class _Generator:
    """Fills in `sql/capture.sql` for one watch."""

    conn: Connection
    name: str
    watch: Watch
    table: Table
    key: tuple[str, ...]
    columns: tuple[str, ...]
    doorbell: bool

    def capture(self) -> Capture:
        function = f"capture_{self.name}"
        identifier = sql.Identifier("listener", function)
        body = f"\n{self._body()}\n"
        return Capture(
            watch=self.name,
            table=self.table,
            key=self.key,
            columns=self.columns,
            function=function,
            body=body,
            function_sql=self._render(
                "function",
                function=identifier,
                body=_dollar_quoted(body),
                config=sql.SQL(" ").join(sql.SQL(f"SET {name} = {value}") for name, value in self._config.items()),
            ),
            config=frozenset(f"{name}={value}" for name, value in self._config.items()),
            triggers=tuple(self._triggers(identifier)),
        )

    def _render(self, template: str, **values: sql.Composable) -> str:
        return sql.SQL(pieces("capture.sql")[template]).format(**values).as_string(self.conn).strip("\n")

    def _piece(self, template: str, **values: sql.Composable) -> sql.Composable:
        return sql.SQL("\n" + self._render(template, **values))

    @property
    def _where(self) -> str:
        return (self.watch.where or "").strip()

    @property
    def _simple(self) -> bool:
        """Whether `where` may stand in WHEN."""
        return bool(_SIMPLE.fullmatch(self._where)) and all(
            self.table.kinds[column].simple for column in _mentioned(self._where)
        )

    @property
    def _guarded(self) -> bool:
        """Whether `where` runs inside the function."""
        return bool(self._where) and not self._simple

    @property
    def _config(self) -> dict[str, str]:
        """What the function sets while it runs: its path too, where it holds more than names that say their schema."""
        pinned = {"search_path": "pg_catalog, pg_temp"} if self._guarded or self.table.moved_by else {}
        return {**pinned, "lock_timeout": "200"}

    @property
    def _changed(self) -> sql.Composable:
        return sql.SQL(" OR ").join(_differs(self.table.kinds[c], c) for c in self.watch.columns)

    def _body(self) -> str:
        nothing = sql.SQL("")
        left = sql.Literal(f"listener.left_{self.name}")
        changed: list[sql.Composable] = [sql.SQL("({})").format(self._changed)]
        if "update" not in self.watch.events:
            changed = [sql.SQL("false")]
        elif self._simple and self._where:
            changed.append(sql.SQL("({})").format(sql.SQL(self._where)))
        moved = {"left": left, "table": self.table.identifier, "changed": sql.SQL(" AND ").join(changed)}
        return self._render(
            "body",
            watch=sql.Literal(self.name),
            op=self._op,
            key=self._side("key"),
            old=self._side("old"),
            new=self._side("new"),
            declare=sql.SQL(self._render("declare_moved", left=left)) if self.table.moved_by else nothing,
            moved=self._piece("moved", **moved) if self.table.moved_by else nothing,
            guard=self._piece("guard", where=self._function_where()) if self._guarded else nothing,
            ring=self._piece("ring", late=sql.SQL(self._render("late"))) if self.doorbell else nothing,
            swallow=self._piece("swallow", watch=sql.Literal(self.name), lost_key=self._lost_key())
            if self.watch.on_capture_error != "abort"
            else nothing,
        )

    @property
    def _op(self) -> sql.Composable:
        if self.table.moved_by:
            return sql.SQL("op")
        events = sorted(self.watch.events)
        return sql.Literal(events[0].value) if len(events) == 1 else sql.SQL("pg_catalog.lower(TG_OP)")

    def _side(self, what: str) -> sql.Composable:
        """The key, old or new value for whichever operation fires; without a CASE where only one can."""
        old, new = sql.SQL("OLD"), sql.SQL("NEW")
        if what == "key":
            by_event = {
                "insert": _key(self.table, self.key, new),
                "update": _key(self.table, self.key, new),
                "delete": _key(self.table, self.key, old),
            }
        else:
            row = _object(self.table, self.columns, old if what == "old" else new)
            absent = "insert" if what == "old" else "delete"
            by_event = {event: sql.SQL("NULL") if event == absent else row for event in ("insert", "update", "delete")}
        events = sorted(self.watch.events)
        if len(events) == 1:
            return by_event[events[0]]
        cases = [
            sql.SQL("WHEN {} OPERATOR(pg_catalog.=) {} THEN {}").format(self._op, sql.Literal(event), by_event[event])
            for event in events
        ]
        return sql.SQL("CASE {} END").format(sql.SQL(" ").join(cases))

    def _lost_key(self) -> sql.Composable:
        """The key where a column is gone: whatever of it is left."""
        parts = [
            sql.SQL("coalesce({arrow}, '')").format(
                arrow=sql.SQL(", ").join(
                    sql.SQL("pg_catalog.to_jsonb({side}) OPERATOR(pg_catalog.->>) {c}").format(
                        side=sql.SQL(side), c=sql.Literal(c)
                    )
                    for side in ("NEW", "OLD")
                )
            )
            for c in self.key
        ]
        return sql.SQL(_JOIN_KEY).join(parts)

    def _function_where(self) -> sql.Composable:
        if "delete" not in self.watch.events:
            return sql.SQL(self._where)
        return sql.SQL("CASE WHEN {op} = 'delete' THEN ({deleted}) ELSE ({where}) END").format(
            op=self._op, deleted=sql.SQL(_event_where(self._where, "delete")), where=sql.SQL(self._where)
        )

    def _triggers(self, function: sql.Identifier) -> Iterable[Trigger]:
        call = sql.SQL("{}()").format(function)
        # What OLD is in the DELETE half of a move; listener.mark_move() noted it.
        leaving = sql.SQL("current_setting('listener.moving', true) = OLD.tableoid::text || OLD.ctid::text")
        for event in sorted(self.watch.events):
            conditions = [sql.SQL("({})").format(self._changed)] if event == "update" else []
            if self._where and self._simple:
                conditions.append(sql.SQL("({})").format(sql.SQL(_event_where(self._where, event))))
            if self.table.moved_by and event == "delete":
                conditions.append(sql.SQL("({}) IS NOT TRUE").format(leaving))
            yield from self._everywhere(event, f"AFTER {event.value.upper()}", conditions, call)
        if self.table.moved_by:
            moves = sql.SQL(" OR ").join(_differs(self.table.kinds[c], c) for c in self.table.moved_by)
            mark = sql.SQL("{}()").format(sql.Identifier("listener", "mark_move"))
            yield from self._everywhere("mark", "BEFORE UPDATE", [moves], mark)
            out, into = (sql.SQL("{}({})").format(function, sql.Literal(side)) for side in ("out", "in"))
            yield from self._everywhere("moved_out", "AFTER DELETE", [leaving], out)
            # After the trigger `insert`, by its name: that one must still see that this is a move.
            moving = sql.SQL("current_setting('listener.moving', true) <> ''")
            yield from self._everywhere("moved_in", "AFTER INSERT", [moving], into)

    def _everywhere(
        self, what: str, when_fired: str, conditions: Sequence[sql.Composable], call: sql.Composable
    ) -> Iterable[Trigger]:
        """On the table and on those that inherit from it, whose rows run their own triggers only."""
        name = f"listener_{self.name}_{what}"
        condition = sql.SQL("WHEN ({})").format(sql.SQL(" AND ").join(conditions)) if conditions else sql.SQL("")
        for oid, schema, table in ((self.table.oid, self.table.schema, self.table.name), *self.table.children):
            parts = {
                "trigger": sql.Identifier(name),
                "table": sql.Identifier(schema, table),
                "when_fired": sql.SQL(when_fired),
                "condition": condition,
                "call": call,
            }
            digest = hashlib.sha256(self._render("trigger", **parts, comment=sql.SQL("")).encode()).hexdigest()[:16]
            comment = f"listener {digest}"
            statement = self._render("trigger", **parts, comment=sql.Literal(comment))
            yield Trigger(name=name, oid=oid, table=f"{schema}.{table}", statement=statement, comment=comment)


async def _check_where(conn: Connection, table: Table, where: str) -> None:
    """Raises `ListenerError` unless `where` is a condition on OLD and NEW that PostgreSQL understands.

    Inside the function it would be looked at only when a row changes, and its failure swallowed.
    """
    for column in _mentioned(where):
        if column not in table.columns:
            raise ListenerError(f"where: {table} has no column {column}{did_you_mean(column, list(table.columns))}")
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
        raise ListenerError(
            f"where: {error.diag.message_primary} (functions and tables need their schema in front)"
        ) from None


def _mentioned(where: str) -> list[str]:
    """The columns of OLD and NEW that a condition names."""
    return [_column(m["column"]) for m in _MENTION.finditer(where) if m["column"]]


def _column(written: str) -> str:
    return written[1:-1].replace('""', '"') if written.startswith('"') else written.lower()


def _event_where(where: str, event: str) -> str:
    """For a deleted row NEW means the row that was; for an inserted one OLD holds nothing."""

    def other(mention: re.Match[str]) -> str:
        side = (mention["side"] or "").upper()
        if event == "delete" and side == "NEW":
            return f"OLD.{mention['column']}"
        return "NULL" if event == "insert" and side == "OLD" else mention[0]

    return _MENTION.sub(other, where)


def _differs(kind: Kind, column: str) -> sql.Composable:
    """`OLD.x IS DISTINCT FROM NEW.x`; by text where the type has no equality of PostgreSQL's own, or one that can fail
    (json, xml, point; rows and arrays of them; types of extensions, whose schema the ERP's upgrade may move)."""
    template = "OLD.{c} IS DISTINCT FROM NEW.{c}" if kind.comparable else "OLD.{c}::text IS DISTINCT FROM NEW.{c}::text"
    return sql.SQL(template).format(c=sql.Identifier(column))


def _value(kind: Kind, field: sql.Composable) -> sql.Composable:
    """A column's value for jsonb, the same whatever the session's settings and with numbers as numbers."""
    match kind.base:
        case "money":
            return sql.SQL("{}::pg_catalog.numeric").format(field)
        case "bytea":
            return sql.SQL(rf"E'\\x'{_CONCAT}pg_catalog.encode({{}}, 'hex')").format(field)
        case _:
            return field


def _object(table: Table, columns: Sequence[str], side: sql.Composable) -> sql.Composable:
    chunks = [columns[i : i + _COLUMNS_A_CALL] for i in range(0, len(columns), _COLUMNS_A_CALL)]
    calls = [
        sql.SQL("pg_catalog.jsonb_build_object({})").format(
            sql.SQL(", ").join(
                sql.SQL("{}, {}").format(
                    sql.Literal(c), _value(table.kinds[c], sql.SQL("{}.{}").format(side, sql.Identifier(c)))
                )
                for c in chunk
            )
        )
        for chunk in chunks
    ]
    return sql.SQL(_CONCAT).join(calls)


def _key(table: Table, key: Sequence[str], side: sql.Composable) -> sql.Composable:
    """The key as one text; parts of a composite key are joined by `/`, their own `/` and `\\` escaped."""
    values = [
        sql.SQL("coalesce({}, '')").format(_key_text(table.kinds[c], sql.SQL("{}.{}").format(side, sql.Identifier(c))))
        for c in key
    ]
    if len(values) == 1:
        return values[0]
    replace = r"pg_catalog.replace(pg_catalog.replace({}, E'\\', E'\\\\'), '/', E'\\/')"
    return sql.SQL(_JOIN_KEY).join(sql.SQL(replace).format(value) for value in values)


def _key_text(kind: Kind, field: sql.Composable) -> sql.Composable:
    """A key must be the same text in every session, whatever its DateStyle and time zone."""
    match kind.base:
        case "date" | "timestamp":
            return sql.SQL("pg_catalog.to_jsonb({}) OPERATOR(pg_catalog.#>>) '{{}}'").format(field)
        case "timestamptz":
            utc = "pg_catalog.to_jsonb({} AT TIME ZONE 'UTC') OPERATOR(pg_catalog.#>>) '{{}}'"
            return sql.SQL(f"({utc}){_CONCAT}'Z'").format(field)
        case _:
            return sql.SQL("({})::pg_catalog.text").format(_value(kind, field))


def _dollar_quoted(text: str) -> sql.Composable:
    """Readable for the DBA who is asked to run it; `text` cannot end the quote."""
    tag = "listener"
    while f"${tag}$" in text:
        tag += "_"
    return sql.SQL(f"${tag}${text}${tag}$")
