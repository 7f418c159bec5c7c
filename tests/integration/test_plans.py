"""The plans that matter touch what they need and not what waits: 200,000 messages, with and without statistics, all due
or all for another day."""

import json
import re
from typing import Any

import psycopg

from listener.database import BY_INDEX, Connection, set_session
from listener.queries import load
from tests.support.world import open_world

FILL = """
INSERT INTO listener.thread (account, name, next_at, priority)
SELECT 'main', 'bulk:' || n, now() + n * interval '1 ms' - interval '100 s', n %% 3 FROM generate_series(1, 200000) n;
INSERT INTO listener.message (change_id, rule, rules_version, watch, key, account, thread_id, thread, priority, phone,
                              text, parts, encoding, state, order_at, due_at, expires_at)
SELECT t.id, 'note', 1, 'note', t.name, 'main', t.id, t.name, t.priority, '0980000000', 'x', 1, 'GSM-7', 'waiting',
       t.next_at, t.next_at, now() + interval '1 day'
  FROM listener.thread t;
INSERT INTO listener.message (change_id, rule, rules_version, watch, key, account, thread_id, thread, priority, phone,
                              text, parts, encoding, state, order_at, due_at, expires_at)
SELECT 1000000 + n, 'note', 1, 'note', 'long', 'main', 1, 'bulk:1', 1, '0980000000', 'x', 1, 'GSM-7', 'waiting',
       now() + n * interval '1 ms', now(), now() + interval '1 day'
  FROM generate_series(1, 20000) n;
"""
LEASE = {
    "account": "main",
    "lease": 7,
    "replica": "00000000-0000-0000-0000-000000000000",
    "want": 8,
    "interval": 0.0,
    "slack": 0.01,
    "probe": 45.0,
    "deadline": 35.0,
    "late": 60.0,
}
# Nothing is due, nothing is over: fewer rows will do, since none is to be touched.
LATER = (
    FILL.replace("interval '100 s'", "interval '-1 day'").replace("200000", "20000")
    + """;
UPDATE listener.message SET state = 'unknown', ticket_sent = 1, look_at = now() + interval '1 day' WHERE id <= 2000;
INSERT INTO listener.ticket_save (message_id, rule, ticket_id, params, due_at)
SELECT n, 'note', 1, '{}', 'infinity' FROM generate_series(1, 2000) n;
"""
)
_PARAMETER = re.compile(r"%%|%\((\w+)\)s")
# pages of 8 kB for a look that finds nothing
NOTHING = 200
# pages of 8 kB for 8 messages: a few index levels each, on five tables
PAGES = 1200


async def pages(conn: Connection, statement: bytes, args: dict[str, Any]) -> int:
    """How many pages the statement looks at, in the transaction that runs, with the plan that serves any arguments."""
    names: list[str] = []

    def number(match: re.Match[str]) -> str:
        if match[1] is None:
            return "%"
        if match[1] not in names:
            names.append(match[1])
        return f"${names.index(match[1]) + 1}"

    await conn.execute(f"PREPARE one AS {_PARAMETER.sub(number, statement.decode())}".encode(), prepare=False)
    execute = "EXECUTE one" + (f"({', '.join(f'%({name})s' for name in names)})" if names else "")
    query = f"EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) {execute}"
    row = await (await psycopg.AsyncClientCursor(conn).execute(query.encode(), args)).fetchone()
    await conn.execute(b"DEALLOCATE one")
    assert row is not None
    plan = row["QUERY PLAN"]
    plan = (json.loads(plan) if isinstance(plan, str) else plan)[0]["Plan"]
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])


async def touched(db: Connection) -> dict[str, int]:
    """Pages that each statement looks at that queues 8 messages, leases 8 or settles them; nothing of it stays."""
    messages = load("messages")
    found: dict[str, int] = {}
    async with db.transaction(force_rollback=True):
        names = [f"bulk:{n}" for n in range(199_990, 199_998)]
        batch = {"accounts": ["main"] * 8, "names": names, "due": [None] * 8, "priorities": [None] * 8}
        for name in ("lock_threads_by_name", "wake_threads_by_name"):
            found[name] = await pages(db, messages[name], batch)
        for name in ("claim", "hush", "arm", "next_look"):
            found[name] = await pages(db, messages[name], LEASE)
        armed = await (await db.execute("SELECT * FROM listener.message WHERE state = 'sending'")).fetchall()
        assert len(armed) == 8
        results = [
            {
                "id": m["id"],
                "n": m["permits"],
                "lease": 7,
                "leased_at": m["created_at"].isoformat(),
                "thread_id": m["thread_id"],
                "state": "accepted",
                "outcome": "accepted",
                "ticket_received": 1,
                "counts": True,
            }
            for m in armed
        ]
        args = {"results": json.dumps(results), "threads": [m["thread_id"] for m in armed], "ticket_wait": 300.0}
        for name in ("lock_threads", "record", "finish", "put_back", "free_threads", "ended_leases", "spare", "expire"):
            found[name] = await pages(db, messages[name], args)
    return found


async def filled(db: Connection, rows: str) -> None:
    """The tables as they are before they were ever vacuumed or analyzed."""
    for table in ("thread", "message", "ticket_save"):
        await db.execute(f"ALTER TABLE listener.{table} SET (autovacuum_enabled = off)".encode())
    await db.execute(rows.replace("%%", "%").encode())


async def test_matching_leasing_and_settling_touch_only_what_they_take(database: str) -> None:
    async with open_world(database) as world:
        await world.once()
        db = world.db
        await filled(db, FILL)
        await set_session(db, BY_INDEX)
        unknown = await touched(db)
        await db.execute("ANALYZE listener.thread, listener.message")
        known = await touched(db)
        for found in (unknown, known):
            assert {name: n for name, n in found.items() if n > PAGES} == {}, found


async def test_what_goes_at_once_is_found_among_all_that_waits_for_another_day(database: str) -> None:
    """8 messages, half of them in threads that are known, before and after the tables are analyzed."""
    statement, known = load("messages")["insert_armed"], [f"bulk:{n}" for n in range(1, 5)]
    names = [*known, *(f"new:{n}" for n in range(4))]
    rows = [
        {
            "place": n,
            "change_id": -n,
            "rule": "note",
            "watch": "note",
            "key": name,
            "account": "main",
            "thread": name,
            "priority": 1,
            "phone": "0980000000",
            "text": "x",
            "if_unsure": "hold",
            "max_block_s": 600,
            "expires_at": "2100-01-01",
        }
        for n, name in enumerate(names)
    ]
    async with open_world(database) as world:
        await world.once()
        db = world.db
        await filled(db, LATER)
        await db.execute("DELETE FROM listener.message WHERE thread = ANY (%s)", [known])
        await db.execute("UPDATE listener.thread SET next_at = NULL WHERE name = ANY (%s)", [known])
        version = await world.one("SELECT rules_version AS version FROM listener.fleet")
        await set_session(db, BY_INDEX)
        for statistics in (False, True):
            if statistics:
                await db.execute("ANALYZE listener.thread, listener.message")
            async with db.transaction(force_rollback=True):
                args = {**LEASE, **version, "rows": json.dumps(rows), "ids": [1]}
                assert await pages(db, statement, args) <= PAGES
                assert await world.one("SELECT count(*) FROM listener.thread WHERE lease = 7") == {"count": 8}


async def test_what_waits_for_another_day_is_not_looked_at_today(database: str) -> None:
    """What replicas ask every second, each on a session like theirs."""
    messages = load("messages")
    usual = {name: "on" if value == "off" else "auto" for name, value in BY_INDEX.items()}
    asked = (
        ("claim", messages["claim"], BY_INDEX),
        ("next_look", messages["next_look"], BY_INDEX),
        ("lock_expired", messages["lock_expired"], usual),
        ("ended_leases", messages["ended_leases"], usual),
        ("glance", load("upkeep")["glance"], usual),
        ("due_save", load("upkeep")["due_save"], usual),
        ("reconcile", load("reconcile")["due"], usual),
    )
    async with open_world(database) as world:
        await world.once()
        db = world.db
        await filled(db, LATER)
        for statistics in (False, True):
            if statistics:
                await db.execute("ANALYZE listener.thread, listener.message, listener.ticket_save")
            found = {}
            for name, statement, session in asked:
                await set_session(db, session)
                async with db.transaction(force_rollback=True):
                    found[name] = await pages(db, statement, LEASE)
            assert {name: n for name, n in found.items() if n > NOTHING} == {}, (found, statistics)
