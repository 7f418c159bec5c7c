"""F22 to F24, F30: a full disk, locks on our tables and time-outs inside the trigger, with the daemon beside the ERP;
what capture costs."""

import asyncio
import math
import os
import re
import signal
import subprocess
import tempfile
from pathlib import Path
from statistics import median
from time import monotonic

import psycopg
import pytest

from listener import overview
from listener.simulator.binaries import find_binaries
from listener.simulator.postgres import Server
from tests.faults.bench import open_bench
from tests.faults.test_soak import LONG
from tests.support.erp_driver import Fate
from tests.support.world import PHONE, World, open_world, rules_text


def p99(values: list[float]) -> float:
    """The value that one in a hundred exceeds."""
    return sorted(values)[math.ceil(len(values) * 0.99) - 1]


# -- F22


async def test_a_full_disk_is_told_and_survived(crashable: Server, crashable_database: str, small_disk: Path) -> None:
    """The outbox and the messages have no room: each change is captured or counted, and what is captured is sent when
    there is room again."""
    async with open_world(crashable_database) as world:
        owner = os.stat((await world.one("SHOW data_directory"))["data_directory"])  # noqa: PTH116
        os.chown(small_disk, owner.st_uid, owner.st_gid)
        await world.db.execute(f"CREATE TABLESPACE small LOCATION '{small_disk}'".encode())
        try:
            for table in ("outbox", "message"):
                await world.db.execute(f"ALTER TABLE listener.{table} SET TABLESPACE small".encode())
            replica = await world.replica()
            # It cannot make room while it is filled.
            replica.signal(signal.SIGSTOP)
            rows = await _fill(world)
            captured = (await world.one("SELECT count(*) AS n FROM listener.outbox"))["n"]
            missed = (await world.one("SELECT last_value AS n FROM listener.capture_failures"))["n"]
            assert 0 < captured < rows and captured + missed == rows
            assert await world.rows("SELECT count(*) AS n FROM public.notes") == [{"n": rows}]
            began = monotonic()
            replica.signal(signal.SIGCONT)
            await replica.said('"match_failed"')
            assert (await overview.status(world.db, world.settings))["capture_failures"] == missed
            assert monotonic() - began <= 10.0
            await asyncio.sleep(2.0)
            assert replica.process.returncode is None
            assert world.arrived() == []
            await asyncio.to_thread(subprocess.run, ["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
            sendable = await world.one("SELECT count(*) AS n FROM listener.outbox WHERE new ->> 'phone' = %s", PHONE)
            await world.gateway.wait_for(sendable["n"], timeout=30)
            await world.settled(30)
            kept = await world.one("SELECT count(*) AS n FROM listener.messages")
            assert kept["n"] == captured
        finally:
            for replica in world.replicas:
                await replica.kill()
            for table in ("outbox", "message"):
                await world.db.execute(f"ALTER TABLE listener.{table} SET TABLESPACE pg_default".encode())
            await world.db.execute("DROP TABLESPACE small")


async def _fill(world: World) -> int:
    """Writes until nothing is captured any more, and a little beyond it; how many rows."""
    for number in range(3_000):
        # one in ten can be sent; the rest takes room: letters by chance, which no compression helps
        phone = PHONE if number % 10 == 0 else os.urandom(2_000).hex()
        await world.note(f"topic {number}", f"note {number}", phone=phone)
        if number % 100 == 0 and (await world.one("SELECT last_value AS n FROM listener.capture_failures"))["n"] > 50:
            return number + 1
    raise AssertionError("the disk did not get full")


# -- F23


async def test_a_lock_on_our_table_is_not_waited_for(erp_database: str) -> None:
    """Somebody maintains the outbox for as long as it takes: the ERP goes on a fifth of a second late, what is missed
    is counted, and the daemon goes on when it can."""
    seconds = 30.0 if LONG else 3.0
    async with open_bench(erp_database, keys=40) as bench, bench.fleet(1) as fleet:
        world = bench.world
        await bench.erp.write(4)
        await world.settled()
        stopping = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(bench.erp.run(60, stopping, sessions=30))
            async with await psycopg.AsyncConnection.connect(erp_database) as locker:
                await locker.execute("LOCK TABLE listener.outbox IN ACCESS EXCLUSIVE MODE")
                held = monotonic()
                await asyncio.sleep(seconds)
                waits = [w.ended - w.began for w in bench.erp.writes if w.began > held]
                await locker.rollback()
            stopping.set()
        before = len(world.arrived())
        await bench.erp.write(4)
        await world.gateway.wait_for(before + 4)
        await world.settled(120)
        print(f"{len(waits)} writes under the lock: p99 {p99(waits):.3f} s, at most {max(waits):.3f} s")
        assert median(waits) <= 0.3
        assert p99(waits) <= (0.3 if LONG else 0.6)
        assert bench.erp.errors == []
        written = sum(write.fate is Fate.ACKNOWLEDGED for write in bench.erp.writes)
        missed = (await world.one("SELECT last_value AS n FROM listener.capture_failures"))["n"]
        rolled_back = sum(write.fate is Fate.ROLLED_BACK for write in bench.erp.writes)
        made = await world.one("SELECT count(*) AS n FROM listener.messages")
        # A write that was rolled back is counted with those that were missed.
        assert 0 <= made["n"] + missed - written <= rolled_back
        assert fleet[0].process.returncode is None and bench.exits == []


# -- F24


async def test_the_trigger_takes_far_less_than_any_time_out(erp_database: str) -> None:
    async with open_world(erp_database) as world:
        await world.replica()
        took = []
        for number in range(3_000 if LONG else 300):
            explained = await world.one(
                "EXPLAIN (ANALYZE, FORMAT JSON) INSERT INTO public.notes (topic, body, phone) VALUES (%s, %s, %s)",
                f"topic {number}",
                f"note {number}",
                PHONE,
            )
            ((trigger,),) = [plan["Triggers"] for plan in explained["QUERY PLAN"]]
            took.append(float(trigger["Time"]) / 1000)
        print(f"in the trigger: median {median(took) * 1000:.2f} ms, p99 {p99(took) * 1000:.2f} ms")
        assert median(took) <= 0.002
        assert p99(took) <= (0.002 if LONG else 0.05)


# -- F30

COST_RULES = (
    rules_text().replace("watch:", "watch:\n  small: {table: public.small, events: [insert]}")
    + """
  small: {on: small, mode: shadow, to: "'0980000000'", text: "{{ new.what }}"}
"""
)
COST_TABLES = """
CREATE TABLE public.small (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, what text);
CREATE TABLE public.plain (LIKE public.small INCLUDING ALL);
CREATE TABLE public.notes (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    topic text NOT NULL, body text NOT NULL UNIQUE, phone text, ticket_id bigint, saved_ticket bigint);
"""


@pytest.mark.timeout(600 if LONG else 120)
async def test_capture_costs_the_erp_little() -> None:
    """32 sessions insert the smallest rows there are, as fast as they can: without a trigger, with it while a matcher
    is busy, and with it while everybody rings."""
    pgbench = find_binaries() / "pgbench"
    if not pgbench.exists():
        pytest.skip("this PostgreSQL comes without pgbench")
    rounds, seconds = (6, 10) if LONG else (1, 1)
    with Server(durable=LONG, settings={"shared_buffers": "256MB", "max_connections": 60}) as server:
        dsn = server.create_database("erp")
        async with open_world(dsn, rules=COST_RULES, schema=COST_TABLES) as world:
            tps: dict[str, list[float]] = {"off": [], "on": [], "ringing": []}
            for _ in range(rounds):
                for case, found in tps.items():
                    # a promise that is kept up, or a sign of life a second ago: then triggers ring
                    keeping = asyncio.create_task(_sign(world, -1_000 if case == "ringing" else 4_000))
                    found.append(await _inserts(pgbench, dsn, "plain" if case == "off" else "small", seconds))
                    keeping.cancel()
                    await asyncio.gather(keeping, return_exceptions=True)
                    await world.reconnect()
                    await world.db.execute("TRUNCATE listener.outbox, public.small, public.plain")
            ratio = median(on / off for on, off in zip(tps["on"], tps["off"], strict=True))
            print({case: round(median(values)) for case, values in tps.items()}, f"ratio {ratio:.2f}")
            assert ratio >= (0.75 if LONG else 0.3)


async def _sign(world: World, ahead: int) -> None:
    while True:
        await world.db.execute(
            "SELECT setval('listener.promise', (extract(epoch FROM clock_timestamp()) * 1000)::bigint + %s)", [ahead]
        )
        await asyncio.sleep(1.0)


async def _inserts(pgbench: Path, dsn: str, table: str, seconds: int) -> float:
    """Transactions a second."""
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as script:
        script.write(f"INSERT INTO public.{table} (what) VALUES ('x');\n")
        script.flush()
        process = await asyncio.create_subprocess_exec(
            *(str(pgbench), "-n", "-M", "prepared", "-c", "32", "-j", "2", "-T", str(seconds), "-f", script.name, dsn),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        out, _ = await process.communicate()
    found = re.search(r"^tps = ([\d.]+)", out.decode(), re.MULTILINE)
    assert found, out
    return float(found[1])
