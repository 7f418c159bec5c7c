"""The list of messages: what a person asked for, and the statements that find it quickly among millions.

Newest first, by (created_at, id); a page begins where the last one ended, so that the thousandth costs what the first
does. Unfinished and finished messages are asked apart, each by an index of its own, and put together.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from psycopg import sql
from yarl import URL

from listener import phones
from listener.database import Connection
from listener.model import UNFINISHED, State
from listener.web import store
from listener.words import LOCAL

PAGE = 50
_MAX_ID = 2**63 - 1

RANGES: Mapping[str, timedelta | None] = {
    "all": None,
    "1h": timedelta(hours=1),
    "24h": timedelta(hours=24),
    "7d": timedelta(days=7),
    "30d": timedelta(days=30),
    "own": None,
}
COLUMNS = (
    "id", "created_at", "rule", "key", "phone", "text", "parts", "state", "reason", "ticket_id", "attempts", "due_at",
    "settled_at",
)  # fmt: skip


class Meaning(StrEnum):
    """What the words in the search box are."""

    RULE = "rule"
    PHONE = "phone"
    KEY = "key"
    TICKET = "ticket"
    ID = "id"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The last message of the page before."""

    at: datetime
    id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """What the address of the list says. `meaning` is None where nobody chose one."""

    q: str = ""
    meaning: Meaning | None = None
    states: tuple[State, ...] = ()
    range: str = "all"
    since: datetime | None = None
    until: datetime | None = None
    before: Place | None = None

    def query(self, **changed: Any) -> str:
        """The address's query of this filter, changed; from its first page."""
        f = replace(self, **{"before": None, **changed})
        pairs: list[tuple[str, str]] = [("q", f.q)] if f.q else []
        pairs += [("as", f.meaning.value)] if f.meaning else []
        pairs += [("state", state.value) for state in f.states]
        pairs += [("range", f.range)] if f.range != "all" else []
        for name, at in (("from", f.since), ("to", f.until)):
            if f.range == "own" and at is not None:
                pairs.append((name, f"{at.astimezone(LOCAL):%Y-%m-%dT%H:%M}"))
        if f.before is not None:
            pairs.append(("before", f"{f.before.at.timestamp():.6f}-{f.before.id}"))
        return str(URL.build(path="/", query=pairs).raw_query_string)

    def toggled(self, state: State) -> str:
        """The query with one state more or less."""
        others = tuple(s for s in self.states if s is not state)
        return self.query(states=others if state in self.states else (*self.states, state))


def read_filter(query: Mapping[str, str], states: Sequence[str], now: datetime) -> Filter:
    """The filter of an address; what cannot be read is left out, as if it was not there."""
    span = query.get("range", "all")
    span = span if span in RANGES else "all"
    length = RANGES[span]
    since = now - length if length else None
    until = None
    if span == "own":
        since, until = _local(query.get("from", "")), _local(query.get("to", ""))
    meaning = query.get("as", "")
    return Filter(
        q=" ".join(query.get("q", "").split())[:200].replace("\0", ""),
        meaning=Meaning(meaning) if meaning in set(Meaning) else None,
        states=tuple(dict.fromkeys(State(s) for s in states if s in set(State))),
        range=span,
        since=since,
        until=until,
        before=_place(query.get("before", "")),
    )


def _local(text: str) -> datetime | None:
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return None
    # at the ends of the calendar it cannot be told in another zone
    if not 1 < at.year < 9999:
        return None
    return at if at.tzinfo is not None else at.replace(tzinfo=LOCAL)


def _place(text: str) -> Place | None:
    at, _, number = text.rpartition("-")
    try:
        place = Place(at=datetime.fromtimestamp(float(at), UTC), id=int(number))
    except (ValueError, OverflowError, OSError):
        return None
    return place if 0 < place.id <= _MAX_ID else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What the search box means: the one taken, and others of which there are messages too."""

    meaning: Meaning | None
    value: object = None
    others: tuple[Meaning, ...] = ()


async def understand(conn: Connection, f: Filter, rules: Sequence[str]) -> Found:
    """A rule's name, a phone in any form, an order's or account's key, a ticket, a message's number: in this order, the
    first of which there are messages; where there are none, what it looks most like."""
    if not f.q:
        return Found(meaning=None)
    values: dict[Meaning, object] = {Meaning.KEY: f.q}
    number = phones.normalise(f.q, migrate_old=True)
    if isinstance(number, phones.Phone):
        values[Meaning.PHONE] = number.number
    if f.q.isascii() and f.q.isdigit() and 0 < int(f.q) <= _MAX_ID:
        values[Meaning.TICKET] = values[Meaning.ID] = int(f.q)
    there = await store.first(
        conn,
        "meanings",
        {"key": f.q, "phone": values.get(Meaning.PHONE), "number": values.get(Meaning.TICKET), "rule": f.q},
    )
    if f.q in rules or there["rule"]:
        values[Meaning.RULE] = f.q
    hits = [m for m in Meaning if m in values and (there[m.value] or (m is Meaning.RULE and f.q in rules))]
    if f.meaning in values:
        meaning = f.meaning
    elif hits:
        meaning = hits[0]
    else:
        meaning = Meaning.PHONE if Meaning.PHONE in values else Meaning.KEY
    return Found(meaning=meaning, value=values[meaning], others=tuple(m for m in hits if m is not meaning))


_BY = {
    Meaning.RULE: sql.SQL("rule = %(value)s"),
    Meaning.PHONE: sql.SQL("phone = %(value)s"),
    Meaning.KEY: sql.SQL("key = %(value)s"),
    Meaning.TICKET: sql.SQL("coalesce(ticket_id, ticket_sent, ticket_own) = %(value)s"),
    Meaning.ID: sql.SQL("id = %(value)s"),
}


def _where(f: Filter, found: Found) -> tuple[list[sql.Composable], dict[str, Any]]:
    """The conditions of a filter, but for its states and its page, and their values."""
    where: list[sql.Composable] = [sql.SQL("true")]
    args: dict[str, Any] = {}
    if found.meaning is not None:
        where.append(_BY[found.meaning])
        args["value"] = found.value
    if f.since is not None:
        where.append(sql.SQL("created_at >= %(since)s"))
        args["since"] = f.since
    if f.until is not None:
        where.append(sql.SQL("created_at < %(until)s"))
        args["until"] = f.until
    return where, args


def statement(f: Filter, found: Found, limit: int) -> tuple[sql.Composed, dict[str, Any]]:
    """The statement for one page of `limit` messages, and its values."""
    where, args = _where(f, found)
    args["limit"] = limit
    if f.before is not None:
        where.append(sql.SQL("(created_at, id) < (%(at)s, %(id)s)"))
        args |= {"at": f.before.at, "id": f.before.id}
    pieces = []
    for table, mine in (("message", UNFINISHED), ("finished", frozenset(State) - UNFINISHED)):
        wanted = [state.value for state in f.states if state in mine]
        if f.states and not wanted:
            continue
        own = list(where)
        if len(wanted) == 1:
            # plain equality, so that the index by state gives the order too
            own.append(sql.SQL("state = {}").format(sql.Literal(wanted[0])))
        elif wanted:
            own.append(sql.SQL("state = ANY({})").format(sql.Literal(wanted)))
        if table == "finished" and f.since is not None:
            # nothing is settled before it is made: the partitions of earlier days are not looked at
            own.append(sql.SQL("settled_at >= %(since)s"))
        pieces.append(
            sql.SQL(
                "(SELECT id, created_at, rule, key, phone, text, parts, state, reason,"
                " coalesce(ticket_id, ticket_sent, ticket_own) AS ticket_id, attempts, due_at, settled_at"
                " FROM listener.{} WHERE {} ORDER BY created_at DESC, id DESC LIMIT %(limit)s)"
            ).format(sql.Identifier(table), sql.SQL(" AND ").join(own))
        )
    return (
        sql.SQL("SELECT * FROM ({}) AS m ORDER BY created_at DESC, id DESC LIMIT %(limit)s").format(
            sql.SQL(" UNION ALL ").join(pieces)
        ),
        args,
    )


async def one_page(conn: Connection, f: Filter, found: Found, size: int = PAGE) -> tuple[list[dict[str, Any]], bool]:
    """The messages of a page, and whether there are older ones."""
    query, args = statement(f, found, size + 1)
    rows = await store.rows(conn, query, args)
    return rows[:size], len(rows) > size


async def chosen(
    conn: Connection,
    f: Filter,
    found: Found,
    states: Collection[State],
    limit: int,
    *,
    after: int,
    upto: int = 2**63 - 1,
) -> list[dict[str, Any]]:
    """`{id, state, phone, text, reason}` of the oldest `limit` messages that fit, in these states and of the numbers
    behind `after` up to `upto`."""
    where, args = _where(f, found)
    where.append(sql.SQL("id > %(after)s AND id <= %(upto)s"))
    args |= {"after": after, "upto": upto, "limit": limit}
    pieces = [
        sql.SQL(
            "(SELECT id, state, phone, text, reason FROM listener.{} WHERE {} AND state = ANY({})"
            " ORDER BY id LIMIT %(limit)s)"
        ).format(sql.Identifier(table), sql.SQL(" AND ").join(where), sql.Literal(wanted))
        for table, mine in (("message", UNFINISHED), ("finished", frozenset(State) - UNFINISHED))
        if (wanted := sorted(state.value for state in states if state in mine))
    ]
    if not pieces:
        return []
    query = sql.SQL("SELECT * FROM ({}) AS m ORDER BY id LIMIT %(limit)s").format(sql.SQL(" UNION ALL ").join(pieces))
    return await store.rows(conn, query, args)


async def counts(conn: Connection, f: Filter, found: Found) -> Mapping[str, int]:
    """How many fit in each state. Of one phone, key or ticket they are counted; of a rule, or of all, they are known by
    the hour of their end, so a range of time is met by the hour."""
    if found.meaning in (None, Meaning.RULE):
        rows = await store.rows(conn, "counts", {"rule": found.value, "since": f.since, "until": f.until})
    else:
        rows = await store.rows(conn, *counting(f, found))
    return {row["state"]: row["n"] for row in rows}


def counting(f: Filter, found: Found) -> tuple[sql.Composed, dict[str, Any]]:
    """The statement that counts by state the messages of one phone, key or ticket, and its values."""
    where, args = _where(f, found)
    query = sql.SQL(
        "SELECT state, count(*) AS n FROM (SELECT state FROM listener.message WHERE {fit}"
        " UNION ALL SELECT state FROM listener.finished WHERE {fit}) AS m GROUP BY state"
    )
    return query.format(fit=sql.SQL(" AND ").join(where)), args
