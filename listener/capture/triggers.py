"""One watch to the function and the triggers that capture its changes."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from psycopg import sql

from listener.capture.columns import PINNED, beside_parameters, differs, is_steady, joined, key_of, row_object
from listener.capture.tables import Table, find_table
from listener.capture.where import check_where, for_event, is_simple
from listener.database import Connection
from listener.errors import ListenerError
from listener.queries import pieces
from listener.rules import Watch
from listener.words import did_you_mean


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
        await check_where(conn, table, watch.where)
    columns = tuple(c for c in table.columns if used is None or c in set(named))
    return _Generator(conn, name, watch, table, key, columns, doorbell).capture()


def current_row(capture: Capture) -> sql.Composed:
    """The query for the captured columns, as `row`, of the one that has `%(key)s` as the trigger writes it."""
    row = sql.Identifier("_row")
    query = sql.SQL("SELECT {values} AS row FROM {table} AS {row} WHERE {key} = ").format(
        values=row_object(capture.table.bases(capture.columns), row),
        table=capture.table.identifier,
        row=row,
        key=key_of(capture.table, capture.key, row),
    )
    return sql.Composed([beside_parameters(query), sql.SQL("%(key)s LIMIT 1")])


def captured_value(table: Table, column: str) -> sql.Composed:
    """The query for `%(value)s`, a text, as a `row` in which the trigger writes such a value of this column."""
    row = sql.Identifier("_row")
    query = sql.SQL("SELECT {values} AS row FROM (SELECT ").format(values=row_object(table.bases([column]), row))
    name = sql.SQL("::{kind} AS {column}) AS {row}").format(
        kind=sql.SQL(table.columns[column]), column=sql.Identifier(column), row=row
    )
    return sql.Composed([beside_parameters(query), sql.SQL("%(value)s"), beside_parameters(name)])


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
        return is_simple(self.table, self._where)

    @property
    def _guarded(self) -> bool:
        """Whether `where` runs inside the function."""
        return bool(self._where) and not self._simple

    @property
    def _config(self) -> dict[str, str]:
        """What the function sets while it runs: its path too, where it holds more than names that say their schema, and
        how values are written, where the type of a column leaves that to the session."""
        pinned = {"search_path": "pg_catalog, pg_temp"} if self._guarded or self.table.moved_by else {}
        if self._guarded and "\\" in self._where:
            # Where a session of an old ERP takes '\' for an open string the function is none, and its write fails.
            pinned["standard_conforming_strings"] = "on"
        if not all(is_steady(self.table.kinds[column]) for column in (*self.key, *self.columns)):
            pinned |= PINNED
            if self._guarded:
                # An admin's `where` means the days of the ERP's own zone.
                del pinned["TimeZone"]
        return {**pinned, "lock_timeout": "200"}

    @property
    def _changed(self) -> sql.Composable:
        return sql.SQL(" OR ").join(differs(self.table.kinds[c], c) for c in self.watch.columns)

    def _body(self) -> str:
        nothing = sql.SQL("")
        events = {"inserted": "insert", "changed": "update", "deleted": "delete"}
        moved = {name: self._wanted_half(event) for name, event in events.items()}
        moved["watch"] = sql.Literal(self.name)
        kept = {
            "watch": sql.Literal(self.name),
            "op": self._op,
            "key": self._side("key"),
            "old": self._side("old"),
            "new": self._side("new"),
        }
        partitioned = bool(self.table.moved_by)
        return self._render(
            "body",
            **kept,
            declare=sql.SQL(self._render("declare_moved")) if partitioned else nothing,
            moved=self._piece("moved", **moved) if partitioned else nothing,
            guard=self._piece("guard", where=self._function_where()) if self._guarded else nothing,
            ring=self._piece("ring", late=sql.SQL(self._render("late"))) if self.doorbell else nothing,
            swallow=self._piece(
                "swallow",
                **kept,
                lost_key=self._lost_key(),
                forget_moved=self._piece("forget_moved") if partitioned else nothing,
            )
            if self.watch.on_capture_error != "abort"
            else nothing,
        )

    def _conditions(self, event: str) -> list[sql.Composable]:
        """What WHEN can ask of a change of this kind."""
        conditions: list[sql.Composable] = [sql.SQL("({})").format(self._changed)] if event == "update" else []
        if self._where and self._simple:
            conditions.append(sql.SQL("({})").format(sql.SQL(for_event(self._where, event))))
        return conditions

    def _wanted_half(self, event: str) -> sql.Composable:
        """What the triggers of a move ask instead, once they know which kind of change it was."""
        if event not in self.watch.events:
            return sql.SQL("false")
        return sql.SQL("({})").format(sql.SQL(" AND ").join(self._conditions(event) or [sql.SQL("true")]))

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
                "insert": key_of(self.table, self.key, new),
                "update": key_of(self.table, self.key, new),
                "delete": key_of(self.table, self.key, old),
            }
        else:
            row = row_object(self.table.bases(self.columns), old if what == "old" else new)
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
            # jsonb keeps the blanks of a char(n)
            sql.SQL(
                "pg_catalog.rtrim(coalesce({arrow}, ''))"
                if self.table.kinds[c].base == "bpchar"
                else "coalesce({arrow}, '')"
            ).format(
                arrow=sql.SQL(", ").join(
                    sql.SQL("pg_catalog.to_jsonb({side}) OPERATOR(pg_catalog.->>) {c}").format(
                        side=sql.SQL(side), c=sql.Literal(c)
                    )
                    for side in ("NEW", "OLD")
                )
            )
            for c in self.key
        ]
        return joined(parts)

    def _function_where(self) -> sql.Composable:
        if "delete" not in self.watch.events:
            return sql.SQL(self._where)
        return sql.SQL("CASE WHEN {op} = 'delete' THEN ({deleted}) ELSE ({where}) END").format(
            op=self._op, deleted=sql.SQL(for_event(self._where, "delete")), where=sql.SQL(self._where)
        )

    def _triggers(self, function: sql.Identifier) -> Iterable[Trigger]:
        call = sql.SQL("{}()").format(function)
        leaving, arriving, marked = self._moving()
        for event in sorted(self.watch.events):
            conditions = self._conditions(event)
            if self.table.moved_by and event != "update":
                half = leaving if event == "delete" else arriving
                conditions.append(sql.SQL("({}) IS NOT TRUE").format(half))
            yield from self._everywhere(event, f"AFTER {event.value.upper()}", conditions, call)
        if self.table.moved_by:
            moves = sql.SQL(" OR ").join(differs(self.table.kinds[c], c) for c in self.table.moved_by)
            mark = sql.SQL("{}({})").format(
                sql.Identifier("listener", "mark_move"),
                sql.SQL(", ").join(sql.Literal(word) for word in (self.name, *self._told_by)),
            )
            out, into, vanished = (
                sql.SQL("{}({})").format(function, sql.Literal(half)) for half in ("out", "in", "vanished")
            )
            yield from self._everywhere("mark", "BEFORE UPDATE", [moves], mark)
            yield from self._everywhere("moved_out", "AFTER DELETE", [leaving], out)
            yield from self._everywhere("moved_in", "AFTER INSERT", [arriving], into)
            yield from self._of_statements("begin", "BEFORE UPDATE", [], mark)
            yield from self._of_statements("vanished", "AFTER UPDATE", [marked], vanished)
            yield from self._of_statements("end", "AFTER UPDATE", [], mark)

    @property
    def _told_by(self) -> tuple[str, ...]:
        """The columns by which a row that comes to a partition is known as the one that was to come: if there are any,
        those of a key that choose no partition, since triggers of the ERP like to work out the others."""
        keys = [tuple(c for c in key if c not in self.table.generated) for key in (self.key, self.table.primary_key)]
        fixed = [tuple(c for c in key if c not in self.table.moved_by) for key in keys]
        return next((columns for columns in (*fixed, *keys) if columns), self.key)

    def _moving(self) -> tuple[sql.Composable, sql.Composable, sql.Composable]:
        """Whether OLD is the row that listener.mark_move() noted, NEW has the key it noted, it noted any. Asked while
        the statement runs, so one level of triggers higher than it."""
        moving = sql.SQL("current_setting(concat('listener.moving_', pg_trigger_depth() + 1, '_', {}), true)").format(
            sql.Literal(self.name)
        )
        key = sql.SQL(", ").join(sql.SQL("NEW.{}").format(sql.Identifier(c)) for c in self._told_by)
        return (
            sql.SQL("split_part({}, ' ', 1) = OLD.tableoid::text || OLD.ctid::text").format(moving),
            sql.SQL(
                "CASE WHEN {moving} <> ''"
                " THEN right({moving}, -strpos({moving}, ' ')) = jsonb_build_array({key})::text END"
            ).format(moving=moving, key=key),
            sql.SQL("strpos({}, ' ') > 0").format(moving),
        )

    def _everywhere(
        self, what: str, when_fired: str, conditions: Sequence[sql.Composable], call: sql.Composable
    ) -> Iterable[Trigger]:
        """On the table and on those that inherit from it, whose rows run their own triggers only."""
        yield from self._on(self.table.children, "ROW", what, when_fired, conditions, call)

    def _of_statements(
        self, what: str, when_fired: str, conditions: Sequence[sql.Composable], call: sql.Composable
    ) -> Iterable[Trigger]:
        """On the table and its partitions that have partitions: a statement runs only those of the table it names."""
        yield from self._on(self.table.partitioned, "STATEMENT", what, when_fired, conditions, call)

    def _on(
        self,
        others: Sequence[tuple[int, str, str]],
        level: str,
        what: str,
        when_fired: str,
        conditions: Sequence[sql.Composable],
        call: sql.Composable,
    ) -> Iterable[Trigger]:
        # PostgreSQL runs the triggers of an event in the order of their names. What captures comes before those of the
        # ERP, which may change the row again: that change is the later one. What looks where a row is going comes after
        # those that may still have a say in it.
        name = f"{'~' if what == 'mark' else '+'}listener_{self.name}_{what}"
        condition = sql.SQL("WHEN ({})").format(sql.SQL(" AND ").join(conditions)) if conditions else sql.SQL("")
        for oid, schema, table in ((self.table.oid, self.table.schema, self.table.name), *others):
            parts = {
                "trigger": sql.Identifier(name),
                "table": sql.Identifier(schema, table),
                "when_fired": sql.SQL(when_fired),
                "level": sql.SQL(level),
                "condition": condition,
                "call": call,
            }
            digest = hashlib.sha256(self._render("trigger", **parts, comment=sql.SQL("")).encode()).hexdigest()[:16]
            comment = f"listener {digest}"
            statement = self._render("trigger", **parts, comment=sql.Literal(comment))
            yield Trigger(name=name, oid=oid, table=f"{schema}.{table}", statement=statement, comment=comment)


def _dollar_quoted(text: str) -> sql.Composable:
    """Readable for the DBA who is asked to run it; `text` cannot end the quote."""
    tag = "listener"
    while f"${tag}$" in text:
        tag += "_"
    return sql.SQL(f"${tag}${text}${tag}$")
