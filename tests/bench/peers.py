"""A backlog of SMS on PgQueuer and on Procrastinate (the extra `bench`), beside a `listener run` process: jobs that
wait in PostgreSQL are POSTed to the same gateway, 64 at once, with a new connection for every request, and what came of
them is written down. A short backlog is sent whole; of a long one, as after an outage, some are. Each has a durable
server of its own, and the fastest configuration that its documentation offers.

They do less: neither keeps a pace over all workers or the order of a thread, and a permit of which it is known
afterwards whether it was used is not taken before each request.
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.util import find_spec
from statistics import median

import psycopg

from listener.simulator.postgres import Server
from tests.bench.deliver import SETTINGS, refill, scene, warm_up
from tests.bench.report import Figure, Report, machine
from tests.bench.sink import Sink
from tests.support.world import World

# how much faster we want to be
LEAST = {"pgqueuer": 1.7, "procrastinate": 10.0}
# jobs of a round, as a share of ours: a few seconds each
SHARE = {"pgqueuer": 1.0, "procrastinate": 0.1}

Rates = dict[str, list[float]]


def run(*, short: bool) -> Report:
    peers = [name for name in LEAST if find_spec(name) and (name != "pgqueuer" or find_spec("asyncpg"))]
    rounds, messages, backlog = (1, 30, 500) if short else (5, 3000, 1_000_000)
    return asyncio.run(_run(peers, rounds, messages, backlog, durable=not short))


async def _run(peers: list[str], rounds: int, messages: int, backlog: int, *, durable: bool) -> Report:
    whole: Rates = {name: [] for name in ("listener", *peers)}
    some: Rates = {name: [] for name in whole}
    async with AsyncExitStack() as stack:
        dsns = {name: await stack.enter_async_context(_server(durable=durable)) for name in peers}
        world, replica, sink = await stack.enter_async_context(scene(durable=durable))
        await warm_up(world, sink)
        for _ in range(rounds):
            await refill(world, messages)
            whole["listener"].append(await sink.rate(messages))
            await world.settled()
            for name in peers:
                whole[name].append(await _all(name, dsns[name], sink, _share(name, messages)))
        await replica.stop()
        await refill(world, backlog)
        await world.db.execute("VACUUM ANALYZE")
        for name in peers:
            await _fill(name, dsns[name], sink, backlog)
            async with await psycopg.AsyncConnection.connect(dsns[name], autocommit=True) as conn:
                await conn.execute("VACUUM ANALYZE")
        for _ in range(rounds):
            some["listener"].append(await _some_of_ours(world, sink, messages))
            for name in peers:
                some[name].append(await _some(name, dsns[name], sink, _share(name, messages)))
    waiting = f"{backlog:,} waiting"
    return Report(
        bench="peers",
        rounds=whole | {f"{name}, {waiting}": values for name, values in some.items()},
        machine={**machine(), "loop": "uvloop" if find_spec("uvloop") else "asyncio"},
        figures=[*_figures(whole, f"{messages:,} waiting"), *_figures(some, waiting)],
    )


def _figures(rates: Rates, waiting: str) -> list[Figure]:
    ours = rates["listener"]
    return [
        *(Figure(name=f"{name}, {waiting}", value=median(values), unit="/s") for name, values in rates.items()),
        *(
            Figure(
                name=f"listener : {name}, {waiting}",
                value=median(our / their for our, their in zip(ours, theirs, strict=True)),
                unit="x",
                least=LEAST[name],
                readme=f"the same job on {name}, {waiting}: listener's rate against it",
            )
            for name, theirs in rates.items()
            if name in LEAST
        ),
    ]


@asynccontextmanager
async def _server(*, durable: bool) -> AsyncIterator[str]:
    """The DSN of an empty database on a server of its own."""
    server = Server(durable=durable, settings=SETTINGS)
    try:
        await asyncio.to_thread(server.start)
        yield await asyncio.to_thread(server.create_database, "bench")
    finally:
        await asyncio.to_thread(server.close)


def _share(name: str, messages: int) -> int:
    return max(30, int(messages * SHARE[name]))


async def _start(name: str, verb: str, dsn: str, sink: Sink, jobs: int) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", f"tests.bench.peer_{name}", verb, dsn, sink.url, str(jobs))
    )


async def _fill(name: str, dsn: str, sink: Sink, jobs: int) -> None:
    filler = await _start(name, "fill", dsn, sink, jobs)
    assert await filler.wait() == 0


async def _all(name: str, dsn: str, sink: Sink, jobs: int) -> float:
    await _fill(name, dsn, sink, jobs)
    worker = await _start(name, "work", dsn, sink, jobs)
    rate = await sink.rate(jobs)
    assert await worker.wait() == 0
    return rate


async def _some(name: str, dsn: str, sink: Sink, jobs: int) -> float:
    worker = await _start(name, "work", dsn, sink, jobs)
    try:
        return await sink.rate(jobs, more=True)
    finally:
        worker.kill()
        await worker.wait()
        await sink.forget()


async def _some_of_ours(world: World, sink: Sink, messages: int) -> float:
    replica = await world.replica(LISTENER_CARESOFT_URL=sink.url)
    try:
        return await sink.rate(messages, more=True)
    finally:
        await replica.kill()
        await sink.forget()
