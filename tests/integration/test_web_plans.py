"""Searches and pages of the list take an index: what they cost does not grow with what is kept."""

from datetime import UTC, datetime, timedelta

from psycopg import sql

from listener.model import State
from listener.web import store
from listener.web.search import PAGE, Filter, Found, Meaning, Place, counting, statement
from tests.support.world import open_world

# A day's worth; one in a thousand was rejected, one rule in fifty is rare.
FILL = """
INSERT INTO listener.finished (id, change_id, rule, rules_version, watch, key, account, thread, phone, text, parts,
                               encoding, state, created_at, due_at, settled_at, ticket_id)
SELECT nextval('listener.message_id'), n, CASE WHEN n % 50 = 0 THEN 'rare' ELSE 'note' END, 1, 'note', 'DH' || n / 5,
       'main', 'note:' || n, '09' || lpad(n::text, 8, '0'), 'x', 1, 'GSM-7',
       CASE WHEN n % 1000 = 0 THEN 'rejected' ELSE 'accepted' END, now() - n * interval '10 ms', now(), now(), n
  FROM generate_series(1, 30000) n
"""
NOW = datetime.now(UTC)
# a scan of what is filled in looks at some 700 and more
FEW = 400


async def test_no_search_reads_what_it_does_not_show(erp_database: str) -> None:
    async with open_world(erp_database) as world:
        await world.db.execute(FILL)
        await world.db.execute("ANALYZE listener.finished")
        everything, nobody = Found(meaning=None), Place(at=NOW - timedelta(seconds=100), id=1)
        for f, found in (
            (Filter(), everything),
            (Filter(before=nobody), everything),
            (Filter(since=NOW - timedelta(hours=1), range="1h"), everything),
            (Filter(until=NOW - timedelta(seconds=100), range="own"), everything),
            (Filter(states=(State.REJECTED,)), everything),
            (Filter(states=(State.REJECTED,), before=nobody), everything),
            (Filter(), Found(meaning=Meaning.RULE, value="rare")),
            (Filter(), Found(meaning=Meaning.RULE, value="note")),
            (Filter(), Found(meaning=Meaning.PHONE, value="0900000007")),
            (Filter(), Found(meaning=Meaning.KEY, value="DH7")),
            (Filter(), Found(meaning=Meaning.KEY, value="absent")),
            (Filter(), Found(meaning=Meaning.TICKET, value=7)),
            (Filter(), Found(meaning=Meaning.ID, value=7)),
        ):
            query, args = statement(f, found, PAGE + 1)
            assert await buffers(world.db, query, args) < FEW, (f, found)
        for f in (Filter(), Filter(since=NOW - timedelta(hours=1), until=NOW)):
            for meaning, value in (
                (Meaning.PHONE, "0900000007"),
                (Meaning.KEY, "DH7"),
                (Meaning.TICKET, 7),
                (Meaning.ID, 7),
            ):
                query, args = counting(f, Found(meaning=meaning, value=value))
                assert await buffers(world.db, query, args) < FEW, (f, meaning)
        args = {"key": "absent", "phone": None, "number": None, "rule": "absent"}
        assert await buffers(world.db, sql.SQL(store.SQL["meanings"].decode()), args) < FEW


async def buffers(conn: store.Connection, query: sql.Composable, args: dict[str, object]) -> int:
    """Pages of 8 kB that a statement looks at."""
    explain = sql.SQL("EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) ") + query
    row = await (await conn.execute(explain, args, prepare=False)).fetchone()
    assert row is not None
    plan = row["QUERY PLAN"][0]["Plan"]
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])
