"""200 changes a second, each one SMS, long enough to see whether anything grows: the tables and indexes that hold what
is under way, and the replica's memory. What is kept (changes, attempts, finished messages) grows by design.

A minute on a server whose autovacuum looks every 5 s instead of every 60 s; `LISTENER_LONG=1`: 30 minutes on one that
is left as it comes.
"""

import asyncio
import os
from dataclasses import dataclass
from statistics import median
from time import perf_counter

from listener.database import connect
from listener.simulator.postgres import Server
from tests.bench.process import cpu_seconds, resident_mib
from tests.bench.report import Figure, Report
from tests.support.world import World, open_world, rules_text

RATE = 200
# orders that go on having changes, so that threads are used again
TOPICS = 1000
# the samples at the beginning until everything was vacuumed once, and the share of them at either end that is compared
WARM_UP = 0.2
SHARE = 0.2
# how much larger sizes may be at the end: those of one minute are a few pages
MOST, MOST_IN_A_MINUTE = 1.2, 1.5
KEPT = ("change", "attempt", "finished")
SIZES = f"""
SELECT sum(pg_table_size(oid))::float8 / 1048576 AS tables, sum(pg_indexes_size(oid))::float8 / 1048576 AS indexes
  FROM pg_class
 WHERE relnamespace = 'listener'::regnamespace AND relkind = 'r' AND relname !~ '^({"|".join(KEPT)})_'
"""
WAITING = "SELECT (SELECT count(*) FROM listener.outbox) + (SELECT count(*) FROM listener.message) AS n"
VACUUMED = """
SELECT relname AS name, autovacuum_count AS vacuums, n_dead_tup AS dead, n_tup_upd AS updates, n_tup_hot_upd AS hot,
       pg_total_relation_size(relid)::float8 / 1048576 AS size
  FROM pg_stat_user_tables WHERE schemaname = 'listener' AND relname IN ('outbox', 'thread', 'message', 'account')
 ORDER BY relname
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Sizes in MiB; `waiting` counts changes and messages: a replica that cannot keep up grows by right."""

    tables: float
    indexes: float
    memory: float
    waiting: int


def run(*, short: bool) -> Report:
    return asyncio.run(_run(short=short, long=not short and bool(os.environ.get("LISTENER_LONG"))))


async def _run(*, short: bool, long: bool) -> Report:
    seconds = 1.0 if short else 1800.0 if long else 75.0
    most = MOST if long else MOST_IN_A_MINUTE
    server = Server(settings={} if long else {"autovacuum_naptime": "1s" if short else "5s"})
    await asyncio.to_thread(server.start)
    try:
        dsn = await asyncio.to_thread(server.create_database, "bench")
        async with open_world(dsn, rules=rules_text(rate="1000/s")) as world:
            replica = await world.replica()
            began, used = perf_counter(), cpu_seconds(replica.pid)
            work = asyncio.create_task(_work(world, seconds))
            samples = []
            while not work.done():
                samples.append(await _sample(world, replica.pid))
                await asyncio.wait([work], timeout=seconds / 100)
            elapsed, used = perf_counter() - began, cpu_seconds(replica.pid) - used
            changes = await work
            await world.settled(60)
            assert len(world.arrived()) == changes
            tables = await world.rows(VACUUMED)
    finally:
        await asyncio.to_thread(server.close)
    rounds = {name: [float(getattr(s, name)) for s in samples] for name in ("tables", "indexes", "memory", "waiting")}
    return Report(
        bench="steady",
        rounds=rounds,
        figures=[
            Figure(
                name="changes",
                value=changes / elapsed,
                unit="/s",
                least=0.95 * RATE,
                readme=f"steady changes for {seconds / 60:.0f} min",
            ),
            _growth("tables of what is under way", rounds["tables"], most, "tables at the end: against the beginning"),
            _growth("their indexes", rounds["indexes"], most, "their indexes"),
            _growth("the replica's memory", rounds["memory"], 1.05, "the replica's memory"),
            Figure(name="the replica's memory at the end", value=samples[-1].memory, unit="MiB", most=150),
            Figure(name="changes and messages under way, median", value=median(rounds["waiting"])),
            Figure(name="of a core: the replica", value=100 * used / elapsed, unit="%"),
            *(
                Figure(name=f"{table['name']}: {what}", value=table[what], unit=unit)
                for table in tables
                for what, unit in (("size", "MiB"), ("vacuums", ""), ("dead", "rows"), ("updates", ""), ("hot", ""))
            ),
        ],
    )


async def _work(world: World, seconds: float) -> int:
    """Commits changes at an even pace; how many."""
    began, made = perf_counter(), 0
    async with await connect(world.settings, "erp") as erp:
        while (at := perf_counter() - began) < seconds:
            if (ahead := made / RATE - at) > 0:
                await asyncio.sleep(ahead)
            await erp.execute(
                "INSERT INTO public.notes (topic, body, phone) VALUES (%s, %s, '0980000000')",
                [f"order {made % TOPICS}", f"change {made}"],
            )
            made += 1
    return made


async def _sample(world: World, pid: int) -> Sample:
    sizes, waiting = await world.one(SIZES), await world.one(WAITING)
    return Sample(tables=sizes["tables"], indexes=sizes["indexes"], memory=resident_mib(pid), waiting=waiting["n"])


def _growth(name: str, values: list[float], most: float, readme: str) -> Figure:
    """The median at the end against that after the warm-up: the length of a saw's teeth is chance."""
    values = values[int(WARM_UP * len(values)) :]
    some = max(1, int(SHARE * len(values)))
    value = median(values[-some:]) / median(values[:some])
    return Figure(name=f"{name}: the end : the beginning", value=value, unit="x", most=most, readme=readme)
