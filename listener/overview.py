"""What people ask the database: lists of messages, one with its attempts, the whole on one screen."""

import re
from collections.abc import Mapping
from typing import Any

from psycopg import sql

from listener import accounts, phones
from listener.database import Connection
from listener.queries import load
from listener.settings import Settings

SQL = load("views")
# in the order of design's JSON shape
MESSAGE_KEYS = (
    "id", "rule", "watch", "key", "thread", "state", "reason", "phone", "text", "parts", "encoding", "ticket_id",
    "attempts", "created_at", "due_at", "settled_at",
)  # fmt: skip
_FILTERS = {
    "rule": sql.SQL("rule = %(rule)s"),
    "watch": sql.SQL("watch = %(watch)s"),
    "state": sql.SQL("state = ANY(%(state)s)"),
    "key": sql.SQL("key = %(key)s"),
    "thread": sql.SQL("thread = %(thread)s"),
    "account": sql.SQL("account = %(account)s"),
    "phone": sql.SQL("phone = %(phone)s"),
    "ticket": sql.SQL("ticket_id = %(ticket)s"),
    "since": sql.SQL("created_at >= %(since)s"),
}
_DIGITS = re.compile(r"\d{7,}")


async def messages(
    conn: Connection, filters: Mapping[str, object], *, limit: int, reveal: bool
) -> list[dict[str, Any]]:
    """The newest messages that fit all `filters` (see `_FILTERS`), phones masked unless `reveal`."""
    given = {name: value for name, value in filters.items() if value is not None}
    where = sql.SQL(" AND ").join(_FILTERS[name] for name in given) if given else sql.SQL("true")
    query = sql.SQL("SELECT {} FROM listener.messages WHERE {} ORDER BY id DESC LIMIT %(limit)s").format(
        sql.SQL(", ").join(map(sql.Identifier, MESSAGE_KEYS)), where
    )
    rows = await (await conn.execute(query, {**given, "limit": limit})).fetchall()
    return [row if reveal else masked(row) for row in rows]


async def message(conn: Connection, number: int, *, reveal: bool) -> dict[str, Any] | None:
    """One message with its attempts, oldest first; None if there is none of that number."""
    row = await (await conn.execute(SQL["one"], {"id": number})).fetchone()
    if row is None:
        return None
    attempts = await (await conn.execute(SQL["attempts"], {"id": number})).fetchall()
    return {**(row if reveal else masked(row)), "attempt_list": attempts}


def masked(row: dict[str, Any]) -> dict[str, Any]:
    """A message without the whole phone; the text stays, it is what people look for."""
    return {**row, "phone": phones.mask_phone(row["phone"]) if row["phone"] else None}


async def status(conn: Connection, settings: Settings, rates: Mapping[str, float]) -> dict[str, Any]:
    """The whole on one screen; `rates` (per second) are the accounts of the rules in force."""

    async def one(name: str) -> dict[str, Any]:
        return await (await conn.execute(SQL[name], {})).fetchone() or {}

    counts = {r["state"]: r["n"] for r in await (await conn.execute(SQL["counts"], {})).fetchall()}
    outbox = await one("outbox")
    fleet = await one("fleet")
    waiting = {r["account"]: r for r in await (await conn.execute(SQL["waiting_by_account"], {})).fetchall()}
    shown: dict[str, Any] = {}
    etas = [0.0]
    for row in await accounts.all_accounts(conn):
        name = row["name"]
        rate = rates.get(name)
        shown[name] = {"rate": rate, "paused_until": row["paused_until"], "reason": row["pause_reason"]}
        if name in waiting:
            paused = waiting[name]["paused_s"] or 0.0
            pace = waiting[name]["n"] / rate if rate else 0.0
            etas.append(max(waiting[name]["last_due_s"] or 0.0, paused + pace))
    return {
        "outbox": outbox["n"],
        "messages": counts,
        "oldest_waiting_s": (await one("oldest_waiting"))["seconds"],
        "eta_s": round(max(etas), 1),
        "accounts": shown,
        "capture_failures": (await one("capture_failures"))["n"],
        "muted": (await one("muted"))["n"],
        "replicas": (await one("replicas"))["n"],
        "mode": settings.mode.value,
        "rules": {
            "version": fleet["rules_version"],
            "loaded_at": fleet["loaded_at"],
            "ok": not fleet["faults"],
            "faults": fleet["faults"],
        },
    }
