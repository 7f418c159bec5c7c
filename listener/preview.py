"""What a rule would do for one row. Nothing is written, nothing is sent."""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import psycopg

from listener import capture
from listener.database import Connection
from listener.errors import ListenerError, UsageError
from listener.lookups import Lookups
from listener.model import Change, Op, State, key_text
from listener.queries import load
from listener.rules import Watch
from listener.rules.judging import Planned, Verdict
from listener.rules.ruleset import RuleSet
from listener.settings import Settings
from listener.templates import Missing, Row

SQL = load("preview")
_VERDICTS = {
    State.REJECTED: "reject",
    State.EXPIRED: "skip",
    State.SUPPRESSED: "skip",
    State.SHADOW: "skip",
}
_MIGRATED = "the row holds an old 11-digit number; this is its new form"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """The rows of a made-up change; `old_known` is False when only the new row was given."""

    old: Mapping[str, Any] | None
    new: Mapping[str, Any] | None
    old_known: bool = True

    @property
    def row(self) -> Mapping[str, Any]:
        """The row that the key is taken from."""
        return self.new if self.new is not None else self.old or {}


def rows_of(text: str) -> Rows:
    """A row from `--row`: JSON of the new row, or `{"old": …, "new": …}`. Raises `UsageError`."""
    try:
        # NaN is captured as a text
        value = json.loads(text, parse_float=_number, parse_int=Decimal, parse_constant=str)
    except ValueError as error:
        raise UsageError(f"--row is not JSON: {error}") from None
    except RecursionError:
        raise UsageError("--row is nested too deeply") from None
    if not isinstance(value, dict):
        raise UsageError('--row must be an object, such as {"order_no": "DH42", "status": "shipped"}')
    if set(value) <= {"old", "new"} and value and all(v is None or isinstance(v, dict) for v in value.values()):
        if value.get("old") is None and value.get("new") is None:
            raise UsageError("--row: `old` and `new` are both empty")
        return Rows(old=value.get("old"), new=value.get("new"), old_known="old" in value)
    return Rows(old=None, new=value, old_known=False)


def _number(written: str) -> Decimal:
    number = Decimal(written)
    # As many digits as PostgreSQL's numeric has at most: written out, 1e999999999 would fill the memory.
    if abs(number.adjusted()) > 131_072:
        raise UsageError("--row: a number has more digits than any column can hold")
    return number


async def row_by_key(conn: Connection, rules: RuleSet, watch_name: str, key: str) -> Rows:
    """The row of the watched table that has this key now. Raises `ListenerError` when there is none."""
    watch = rules.rules.watch[watch_name]
    if watch.table is None:
        raise ListenerError(f"watch {watch_name} is a query, not a table: give its row with --row")
    wanted = await capture.wanted(conn, watch_name, watch, rules.used_columns(watch_name))
    found = await (await conn.execute(capture.current_row(wanted), {"key": key})).fetchone()
    if found is None:
        raise ListenerError(f"{wanted.table} has no row with the key {key}")
    return Rows(old=None, new=found["row"], old_known=False)


async def key_of(watch: Watch, rows: Rows, conn: Connection | None) -> str | None:
    """The key that capture would give the row; None where neither the watch nor a table in reach tells its columns."""
    columns = tuple(watch.key)
    if not columns and watch.table is not None and conn is not None:
        # Without its table the row is tried all the same.
        with suppress(ListenerError):
            columns = (await capture.find_table(conn, watch.table)).primary_key
    return key_text(columns, rows.row) if columns else None


async def preview(
    rules: RuleSet, rule: str, rows: Rows, *, key: str | None, conn: Connection | None, settings: Settings
) -> dict[str, Any]:
    """The verdict of `rule` in the shape of `preview -o json`; `conn` is needed for lookups and remembered tickets.

    Without a `key` it is that of `key_of`, or else the row's first value.
    """
    on = rules.rules.rules[rule].on
    watch = rules.rules.watch[on]
    lookups = Lookups(settings)
    first: Verdict | None = None
    try:
        for captured in _as_watched(rows, watch):
            named = key if key is not None else await key_of(watch, captured, conn)
            change = _change(on, captured, named if named is not None else key_text((), captured.row))
            found: Mapping[str, Row | Missing] = {}
            if conn is None:
                found = {name: Missing(f"lookup {name} needs the database") for name in watch.lookup}
            elif watch.lookup:
                found = (await lookups.find(watch, [change], zone=rules.zone, patient=False))[0]
            # Whether an earlier rule of its group (`first_match`) answers can be told where all of the change is known.
            known = captured.old_known and rules.rules.rules[rule].enabled
            verdicts = (rules if known else rules.only(rule)).verdicts(
                change, found, change.at, old_known=captured.old_known
            )
            verdict = next(verdict for verdict in verdicts if verdict.rule == rule)
            first = first or verdict
            if verdict.messages:
                return await _shape(verdict, conn)
    finally:
        await lookups.close()
    assert first is not None
    return await _shape(first, conn)


def _as_watched(rows: Rows, watch: Watch) -> list[Rows]:
    """A row alone as it comes in each sort of change that the watch captures; only with updates there was a row before.

    The likeliest sort stands first: a rule that asks for another one, `op == 'insert'`, is shown that.
    """
    if rows.old_known:
        return [rows]
    inserted = Rows(old=None, new=rows.new)
    if watch.table is None:
        return [inserted]
    sorts = {Op.UPDATE: rows, Op.INSERT: inserted, Op.DELETE: Rows(old=rows.new, new=None)}
    return [as_seen for op, as_seen in sorts.items() if op in watch.events]


def _change(watch: str, rows: Rows, key: str) -> Change:
    op = Op.INSERT if rows.old_known and rows.old is None else Op.UPDATE if rows.new is not None else Op.DELETE
    return Change(id=0, watch=watch, op=op, key=key, old=rows.old, new=rows.new, at=datetime.now(UTC))


async def _shape(verdict: Verdict, conn: Connection | None) -> dict[str, Any]:
    if not verdict.messages:
        return {"rule": verdict.rule, "verdict": "skip", "reason": verdict.reason, "messages": []}
    said = [_VERDICTS.get(m.state, "send") for m in verdict.messages]
    overall = next(word for word in ("send", "reject", "skip") if word in said)
    messages = []
    for m in verdict.messages:
        ticket = m.ticket
        if ticket is None and conn is not None:
            ticket = await _remembered_ticket(conn, m)
        messages.append(
            {
                "to": m.phone,
                "text": m.text,
                "parts": m.parts,
                "encoding": m.encoding,
                "ticket_id": ticket,
                "thread": m.thread,
                "due_at": m.due_at,
                "reason": m.reason or (_MIGRATED if m.migrated else None),
            }
        )
    reason = next((m.reason for m in verdict.messages if m.reason), None)
    return {"rule": verdict.rule, "verdict": overall, "reason": reason, "messages": messages}


async def _remembered_ticket(conn: Connection, message: Planned) -> int | None:
    try:
        cursor = await conn.execute(SQL["remembered_ticket"], {"account": message.account, "thread": message.thread})
    except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName, psycopg.errors.InsufficientPrivilege):
        # Not installed here yet, so nothing is remembered.
        return None
    row = await cursor.fetchone()
    return row["ticket_id"] if row else None
