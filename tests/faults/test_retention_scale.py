"""A million finished messages go while others are sent: no row is deleted, and nobody waits for it."""

import asyncio
from datetime import timedelta
from time import monotonic

import psycopg

from listener.model import State
from listener.settings import Retention
from tests.support.world import World, open_world

MILLION = 1_000_000
# seconds; what is meant is 0.1, the rest is for a busy machine
NOBODY_WAITS = 0.5

FILL = """
DO $$
DECLARE
    d date := (now() AT TIME ZONE 'UTC')::date - 100;
    t timestamptz := d::timestamp AT TIME ZONE 'UTC';
    parent text;
    child text;
BEGIN
    FOREACH parent IN ARRAY ARRAY['finished', 'attempt', 'change'] LOOP
        child := parent || to_char(d, '_YYYYMMDD');
        EXECUTE format('CREATE TABLE listener.%I (LIKE listener.%I INCLUDING DEFAULTS INCLUDING CONSTRAINTS)',
                       child, parent);
        EXECUTE format(CASE parent
            WHEN 'finished' THEN
                'INSERT INTO listener.%I (id, change_id, rule, rules_version, watch, key, account, thread, phone, text,
                                          parts, state, created_at, settled_at)
                 SELECT n, n, ''note'', 1, ''note'', ''k'' || n, ''main'', ''note:k'' || n, ''0980000000'', ''a '' || n,
                        1, ''accepted'', $1, $1 FROM generate_series(1, 1000000) n'
            WHEN 'attempt' THEN
                'INSERT INTO listener.%I (message_id, n, leased_at, lease, replica)
                 SELECT n, 1, $1, 1, gen_random_uuid() FROM generate_series(1, 100000) n'
            ELSE
                'INSERT INTO listener.%I (id, watch, op, key, at, matched_at)
                 SELECT n, ''note'', ''insert'', ''k'' || n, $1, $1 FROM generate_series(1, 100000) n'
            END, child) USING t;
        EXECUTE format('ALTER TABLE listener.%I ATTACH PARTITION listener.%I FOR VALUES FROM (%L) TO (%L)',
                       parent, child, t, t + interval '1 day');
    END LOOP;
    INSERT INTO listener.tally VALUES (t, 'note', 'accepted', 1000000, 1000000);
END $$;
"""


async def business(world: World, stopping: asyncio.Event) -> int:
    """One change every 50 ms; how many there were."""
    n = 0
    while not stopping.is_set():
        await world.note(f"topic {n}", f"body {n}")
        n += 1
        await asyncio.sleep(0.05)
    return n


async def glances(dsn: str, stopping: asyncio.Event) -> float:
    """The longest that anybody had to wait for the tables, in seconds: as a writer of each does."""
    longest = 0.0
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn:
        while not stopping.is_set():
            for table in ("finished", "attempt", "change"):
                began = monotonic()
                await conn.execute(
                    f"UPDATE listener.{table} SET key = key WHERE false"
                    if table != "attempt"
                    else "UPDATE listener.attempt SET n = n WHERE false"
                )
                longest = max(longest, monotonic() - began)
            await asyncio.sleep(0.002)
    return longest


async def deleted(world: World) -> int:
    await world.db.execute("SELECT pg_stat_clear_snapshot()")
    return int(
        (await world.one("SELECT tup_deleted AS n FROM pg_stat_database WHERE datname = current_database()"))["n"]
    )


async def test_a_million_messages_are_dropped_beside_the_work(erp_database: str) -> None:
    async with open_world(erp_database) as world:
        await world.db.execute("SET statement_timeout = 0")
        await world.db.execute(FILL.encode())
        await world.db.execute("CHECKPOINT")
        before = await deleted(world)
        stopping = asyncio.Event()
        longest = asyncio.create_task(glances(erp_database, stopping))
        # Kept for long: only texts go, a few at a time, while messages are sent.
        soon = Retention(keep=timedelta(days=400), sooner={State.ACCEPTED: timedelta(days=30)})
        async with world.service(retention=soon):
            writing = asyncio.create_task(business(world, stopping))
            await world.until("SELECT count(*) >= 3000 FROM listener.finished WHERE text IS NULL", seconds=60)
        # And now the whole day, at once.
        async with world.service():
            await world.until(
                "SELECT NOT EXISTS (SELECT FROM listener.finished WHERE settled_at < now() - interval '50 days')",
                seconds=60,
            )
            stopping.set()
            written = await writing
            await world.settled()
        assert await longest < NOBODY_WAITS
        assert await deleted(world) - before < 100_000
        assert len(world.arrived()) == written
        assert sum(row["n"] for row in await world.rows("SELECT n FROM listener.tally WHERE state = 'accepted'")) == (
            MILLION + written
        )
