"""How fast a backlog goes out when nothing but the machine limits it: messages that wait, each in a thread of its own,
sent by a `listener run` process with its own limits; and beside it a bare aiohttp loop that POSTs the same bodies to
the same gateway, 64 at once. A durable permit and a durable outcome for each request, against nothing remembered.

Like for like is a bare loop with a new connection for every request, as the daemon must have: one that the gateway
closes while it is idle leaves the result unclear. One that keeps its connections is there for information. Both run on
uvloop where that is installed (the extra `fast`); the report says which.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from statistics import median

from listener.simulator.postgres import Server
from tests.bench import bare_sender
from tests.bench.process import cpu_seconds
from tests.bench.queue import fill
from tests.bench.report import Figure, Report, machine
from tests.bench.sink import Sink
from tests.support.world import NOTES, Replica, World, open_world, rules_text

# no limit that anything could come near
RATE = "100000/s"
SETTINGS = {"shared_buffers": "256MB", "max_wal_size": "2GB"}
SESSIONS = "SELECT pid FROM pg_stat_activity WHERE application_name IN ('listener lease', 'listener settle')"


def run(*, short: bool) -> Report:
    rounds, messages = (1, 30) if short else (9, 3000)
    return asyncio.run(_run(rounds, messages, durable=not short))


async def _run(rounds: int, messages: int, *, durable: bool) -> Report:
    rates: dict[str, list[float]] = {"listener": [], "bare loop": [], "bare loop, connections kept": []}
    cpu: dict[str, list[float]] = {name: [] for name in ("listener", "its sessions", "bare loop")}
    async with scene(durable=durable) as (world, replica, sink):

        async def listener() -> None:
            sessions = [replica.pid, *(row["pid"] for row in await world.rows(SESSIONS))]
            before = [cpu_seconds(pid) for pid in sessions]
            await refill(world, messages)
            rates["listener"].append(await sink.rate(messages))
            await world.settled()
            own, *servers = (cpu_seconds(pid) - b for pid, b in zip(sessions, before, strict=True))
            cpu["listener"].append(own / messages * 1000)
            cpu["its sessions"].append(sum(servers) / messages * 1000)

        async def bare(name: str, *, keep_alive: bool) -> None:
            took = await bare_sender.send(sink.url, messages, keep_alive=keep_alive)
            rates[name].append(await sink.rate(messages))
            if not keep_alive:
                cpu["bare loop"].append(took / messages * 1000)

        await warm_up(world, sink)
        for _ in range(rounds):
            await listener()
            await bare("bare loop", keep_alive=False)
            await bare("bare loop, connections kept", keep_alive=True)
    return Report(
        bench="deliver",
        rounds=rates | {f"{name}, CPU": values for name, values in cpu.items()},
        machine={**machine(), "loop": "uvloop" if find_spec("uvloop") else "asyncio"},
        figures=[
            *(Figure(name=name, value=median(values), unit="/s") for name, values in rates.items()),
            *(Figure(name=f"CPU a message: {name}", value=median(values), unit="ms") for name, values in cpu.items()),
            Figure(
                name="listener : bare loop",
                value=_ratio(rates, "bare loop"),
                unit="x",
                least=0.7,
                readme="no pace limit: against a bare aiohttp loop, both with a connection for each POST",
            ),
            Figure(
                name="listener : bare loop, connections kept",
                value=_ratio(rates, "bare loop, connections kept"),
                unit="x",
            ),
        ],
    )


def _ratio(rates: dict[str, list[float]], theirs: str) -> float:
    return median(ours / their for ours, their in zip(rates["listener"], rates[theirs], strict=True))


@asynccontextmanager
async def scene(
    *, durable: bool, rules: str = rules_text(rate=RATE), schema: str = NOTES
) -> AsyncIterator[tuple[World, Replica, Sink]]:
    """A replica that sends to a sink, on a server of its own."""
    server = Server(durable=durable, settings=SETTINGS)
    await asyncio.to_thread(server.start)
    try:
        dsn = await asyncio.to_thread(server.create_database, "bench")
        async with Sink() as sink, open_world(dsn, rules=rules, schema=schema) as world:
            yield world, await world.replica(LISTENER_CARESOFT_URL=sink.url), sink
    finally:
        await asyncio.to_thread(server.close)


async def warm_up(world: World, sink: Sink) -> None:
    """Every connection is made and every statement prepared."""
    await refill(world, 10)
    await sink.rate(10)
    await world.settled()


async def refill(world: World, messages: int) -> None:
    """So many messages wait, all at once, for a replica that has nothing to do and will soon look."""
    await world.db.execute("DELETE FROM listener.thread")
    await fill(world.db, messages)
