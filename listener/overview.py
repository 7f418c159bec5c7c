"""What people ask the database: lists of messages, one with its attempts, the whole on one screen."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from psycopg import sql

from listener import accounts, pauses, phones
from listener.database import Connection
from listener.errors import RulesError
from listener.model import State
from listener.queries import load
from listener.rules import parse
from listener.rules.ruleset import RuleSet, compile_rules
from listener.settings import Settings
from listener.words import mask_phones

SQL = load("views")
# in the order of `messages -o json`
MESSAGE_KEYS = (
    "id", "rule", "watch", "key", "thread", "state", "reason", "phone", "text", "parts", "encoding", "ticket_id",
    "attempts", "created_at", "due_at", "settled_at",
)  # fmt: skip
# why nothing goes by an account that messages wait for and the rules have lost
GONE = "it is not in the rules any more; put it back, or cancel what waits for it"
_FILTERS = {
    "ids": sql.SQL("id = ANY(%(ids)s)"),
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


async def messages(
    conn: Connection, filters: Mapping[str, object], *, limit: int, reveal: bool
) -> list[dict[str, Any]]:
    """The newest messages that fit all `filters` (see `_FILTERS`), phones masked unless `reveal`."""
    where, given = _where(filters)
    query = sql.SQL("SELECT {} FROM listener.messages WHERE {} ORDER BY id DESC LIMIT %(limit)s").format(
        sql.SQL(", ").join(map(sql.Identifier, MESSAGE_KEYS)), where
    )
    rows = await (await conn.execute(query, {**given, "limit": limit})).fetchall()
    return [row if reveal else masked(row) for row in rows]


async def ids(conn: Connection, filters: Mapping[str, object]) -> list[dict[str, Any]]:
    """`{id, state}` of all messages that fit all `filters`, oldest first."""
    where, given = _where(filters)
    query = sql.SQL("SELECT id, state FROM listener.messages WHERE {} ORDER BY id").format(where)
    return await (await conn.execute(query, given)).fetchall()


# the filters of `messages` that may hold a phone
_MASKED = {"phone": phones.mask_phone, "key": phones.mask_value, "thread": phones.mask_thread}


def masked_filters(filters: Mapping[str, object]) -> dict[str, object]:
    """Filters as they may be kept: without a whole phone."""
    given = {name: str(value) if name == "since" else value for name, value in filters.items() if value is not None}
    return {name: _MASKED[name](str(value)) if name in _MASKED else value for name, value in given.items()}


def _where(filters: Mapping[str, object]) -> tuple[sql.Composable, dict[str, object]]:
    given = {name: value for name, value in filters.items() if value is not None}
    return sql.SQL(" AND ").join(_FILTERS[name] for name in given) if given else sql.SQL("true"), given


async def message(conn: Connection, number: int, *, reveal: bool) -> dict[str, Any] | None:
    """One message with its attempts, oldest first; None if there is none of that number."""
    row = await (await conn.execute(SQL["one"], {"id": number})).fetchone()
    if row is None:
        return None
    attempts = await (await conn.execute(SQL["attempts"], {"id": number})).fetchall()
    return {**(row if reveal else masked(row)), "attempt_list": attempts}


def masked(row: dict[str, Any]) -> dict[str, Any]:
    """A message without the whole phone, also where the key is one; the text stays, it is what people look for."""
    return {
        **row,
        "key": phones.mask_value(row["key"]),
        "thread": phones.mask_thread(row["thread"]),
        "reason": mask_phones(row["reason"]) if row["reason"] else row["reason"],
        "phone": phones.mask_phone(row["phone"]) if row["phone"] else None,
    }


async def rules_in_force(conn: Connection) -> RuleSet | None:
    """The rules that the fleet runs, as the database keeps them; None before the first start, or when they were made
    by another version of this program that knew other words."""
    row = await (await conn.execute(SQL["in_force"], {})).fetchone()
    return _compiled(row["source"], row["version"]) if row is not None else None


@lru_cache(maxsize=2)
def _compiled(source: str, version: int) -> RuleSet | None:
    """Once a version: the page asks every second, and a long file takes its time."""
    try:
        return compile_rules(parse(source, "rules.yaml"), version)
    except RulesError:
        return None


def _saves(rules: RuleSet, name: str) -> bool:
    rule = rules.rules.rules.get(name)
    return rule is not None and rule.ticket is not None and rule.ticket.save is not None


async def brakes(conn: Connection) -> list[dict[str, Any]]:
    """`{rule, since, reason, held}` of each rule that its brake holds; `held` is how many messages with it."""
    return await (await conn.execute(SQL["brakes"], {})).fetchall()


async def capture_failures(conn: Connection) -> int:
    """How many changes could not be captured, ever."""
    row = await (await conn.execute(SQL["capture_failures"], {})).fetchone()
    return row["n"] if row else 0


async def status(conn: Connection, settings: Settings) -> dict[str, Any]:
    """The whole on one screen."""

    async def one(name: str) -> dict[str, Any]:
        return await (await conn.execute(SQL[name], {})).fetchone() or {}

    counts = {state.value: 0 for state in State}
    counts |= {r["state"]: r["n"] for r in await (await conn.execute(SQL["counts"], {})).fetchall()}
    rules = await rules_in_force(conn)
    rates = {name: a.rate.per_second for name, a in rules.rules.accounts.items()} if rules else {}
    backlog = await (await conn.execute(SQL["backlog"], {})).fetchall()
    known = await accounts.all_accounts(conn)
    gone = {row["account"] for row in backlog} - rates.keys() if rules else set()
    for row in known:
        if row["name"] in gone:
            row |= {"paused_until": pauses.ENDLESS, "pause_reason": GONE}
    failures = await capture_failures(conn)
    outbox = await one("outbox")
    lost = await one("lost_replicas")
    stopped = {row["name"]: row["paused_until"] for row in known}
    fleet = await one("fleet")
    return {
        "outbox": outbox["n"],
        "outbox_oldest_s": outbox["oldest_s"],
        "messages": counts,
        "oldest_waiting_s": (await one("oldest_waiting"))["seconds"],
        "eta_s": eta(backlog, rates, stopped, datetime.now(UTC)),
        "accounts": {
            row["name"]: {
                "rate": rates.get(row["name"]),
                "paused_until": row["paused_until"],
                "reason": row["pause_reason"] if row["paused_until"] else None,
            }
            for row in known
        },
        "capture_failures": failures,
        # since a person last took note of them
        "capture_failures_new": max(0, failures - (await one("seen_failures"))["n"]),
        "muted": (await one("muted"))["n"],
        "replicas": (await one("replicas"))["n"],
        "lost_replicas": {"n": lost["n"], "seen_at": lost["seen_at"]},
        # a replica that does not hear the doorbell looks once a second instead
        "deaf": fleet["deaf"],
        # of the server's queue of notifications, the share that some session has not read yet
        "notify_queue": fleet["notify_queue"],
        "mode": settings.mode.value,
        "brakes": await brakes(conn),
        # watches by date that the rules still have
        "failing_selects": [
            row
            for row in await (await conn.execute(SQL["failing_selects"], {})).fetchall()
            if rules is None or row["watch"] in rules.rules.watch
        ],
        # `ticket.save` that the rules still have
        "failing_saves": [
            row
            for row in await (await conn.execute(SQL["failing_saves"], {})).fetchall()
            if rules is None or _saves(rules, row["rule"])
        ],
        "pauses": [
            {"target": str(p.target), "reason": p.reason, "until": p.until, "since": p.since, "who": p.who}
            for p in await pauses.pauses(conn)
        ],
        "rules": {
            "version": fleet["rules_version"],
            "loaded_at": fleet["loaded_at"],
            "ok": not fleet["faults"],
            "faults": fleet["faults"],
        },
    }


def eta(
    backlog: Sequence[Mapping[str, Any]],
    rates: Mapping[str, float],
    stopped: Mapping[str, datetime | None],
    now: datetime,
) -> float | None:
    """Seconds until all that waits could have been sent at each account's rate; None when a pause has no end.

    `backlog` has, for each account, how many messages (`n`) come due in so many seconds (`due_s`, 0 for now), in the
    order of time. Pauses (`stopped`, by account) and due times are counted in; retries to come are not.
    """
    clear: dict[str, float] = {}
    for row in backlog:
        until = stopped.get(row["account"])
        if until is not None and pauses.endless(until):
            return None
        rate = rates.get(row["account"])
        starts = max(row["due_s"], (until - now).total_seconds() if until else 0.0, clear.get(row["account"], 0.0))
        clear[row["account"]] = starts + (row["n"] / rate if rate else 0.0)
    return round(max(clear.values(), default=0.0), 1)
