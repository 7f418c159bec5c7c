"""What a replica costs that has nothing to do: a `listener run` process, page and all, some time after its last work;
what it holds in memory while a million messages wait; and how soon a verb answers that needs no database.

CPU is what the kernel counted, so that other load on the machine changes it little.
"""

import asyncio
import subprocess
import sys
from resource import RUSAGE_CHILDREN, getrusage
from statistics import median
from time import perf_counter

from listener.simulator.postgres import Server
from tests.bench.process import cpu_seconds, resident_mib
from tests.bench.queue import fill
from tests.bench.report import Figure, Report
from tests.support.world import World, open_world, rules_text

HELP = (sys.executable, "-c", "from listener.cli import main; main()", "--help")
# the replica's, not ours
SESSIONS = """
SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'listener %' AND application_name <> 'listener test'
"""
# With a lookup, every connection is made that a replica makes for ordinary work.
WATCH = "watch:\n  note: {table: public.notes, events: [insert], key: topic}"
LOOKUP = """watch:
  note:
    table: public.notes
    events: [insert]
    key: topic
    lookup: {again: SELECT phone FROM public.notes WHERE id = %(id)s}"""
# sent a second while so many wait
RATE = 100


def run(*, short: bool) -> Report:
    return asyncio.run(_run(short=short))


async def _run(*, short: bool) -> Report:
    rest, seconds, waiting, working = (0.2, 0.5, 1000, 0.3) if short else (70.0, 60.0, 1_000_000, 60.0)
    starts = [await asyncio.to_thread(_help) for _ in range(1 if short else 15)]
    server = Server(settings={"max_wal_size": "2GB"})
    await asyncio.to_thread(server.start)
    try:
        dsn = await asyncio.to_thread(server.create_database, "bench")
        rules = rules_text(rate=f"{RATE}/s").replace(WATCH, LOOKUP).replace("to: new.phone", "to: again.phone")
        async with open_world(dsn, rules=rules) as world:
            replica = await world.replica()
            for n in range(3):
                await world.note(f"topic {n}", f"some work {n}")
                await world.settled()
            await asyncio.sleep(rest)
            sessions = await _sessions(world)
            before = cpu_seconds(replica.pid), sum(map(cpu_seconds, sessions))
            began = perf_counter()
            await asyncio.sleep(seconds)
            elapsed = perf_counter() - began
            own, servers = cpu_seconds(replica.pid) - before[0], sum(map(cpu_seconds, sessions)) - before[1]
            idle = resident_mib(replica.pid)
            await fill(world.db, waiting)
            await asyncio.sleep(working)
            busy, sent = resident_mib(replica.pid), len(world.arrived())
    finally:
        await asyncio.to_thread(server.close)
    wall, cpu = zip(*starts, strict=True)
    return Report(
        bench="idle",
        rounds={"--help, wall": list(wall), "--help, CPU": list(cpu)},
        figures=[
            Figure(
                name="of a core: the replica",
                value=100 * own / elapsed,
                unit="%",
                most=0.5,
                readme="an idle replica: of a core",
            ),
            Figure(name="of a core: its sessions in the server", value=100 * servers / elapsed, unit="%"),
            Figure(name="connections", value=len(sessions), most=4, readme="its connections"),
            Figure(name="memory, idle", value=idle, unit="MiB", most=90, readme="its memory"),
            Figure(
                name=f"memory, {waiting} waiting, {sent} sent",
                value=busy,
                unit="MiB",
                most=150,
                readme=f"with {waiting:,} waiting",
            ),
            Figure(name="listener --help", value=median(wall), unit="s", most=0.3, readme="`listener --help`"),
            Figure(name="listener --help, CPU", value=median(cpu), unit="s"),
        ],
    )


async def _sessions(world: World) -> list[int]:
    """The server's processes that work for the replica."""
    return [row["pid"] for row in await world.rows(SESSIONS)]


def _help() -> tuple[float, float]:
    """Seconds until the verb has ended, and of a core."""
    used, began = getrusage(RUSAGE_CHILDREN), perf_counter()
    subprocess.run(HELP, check=True, stdout=subprocess.DEVNULL)
    elapsed, after = perf_counter() - began, getrusage(RUSAGE_CHILDREN)
    return elapsed, after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime
