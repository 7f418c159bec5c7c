"""A backlog of SMS on PgQueuer and on Procrastinate (the extra `bench`), beside a `listener run` process: jobs that
wait in PostgreSQL are POSTed to the same gateway, 64 at once, with a new connection for every request, and what came of
them is written down. Each has a durable server of its own, and the fastest configuration that its documentation offers.

They do less: neither keeps a pace over all workers or the order of a thread, and a permit of which it is known
afterwards whether it was used is not taken before each request.
"""

import asyncio
import sys
from importlib.util import find_spec
from statistics import median

from listener.simulator.postgres import Server
from tests.bench.deliver import SETTINGS, refill, scene, warm_up
from tests.bench.report import Figure, Report, machine
from tests.bench.sink import Sink

# how much faster we want to be
LEAST = {"pgqueuer": 1.7, "procrastinate": 10.0}
# jobs of a round, as a share of ours: a few seconds each
SHARE = {"pgqueuer": 1.0, "procrastinate": 0.1}


def run(*, short: bool) -> Report:
    peers = [name for name in LEAST if find_spec(name) and (name != "pgqueuer" or find_spec("asyncpg"))]
    rounds, messages = (1, 30) if short else (5, 3000)
    return asyncio.run(_run(peers, rounds, messages, durable=not short))


async def _run(peers: list[str], rounds: int, messages: int, *, durable: bool) -> Report:
    rates: dict[str, list[float]] = {name: [] for name in ("listener", *peers)}
    servers = {name: Server(durable=durable, settings=SETTINGS) for name in peers}
    try:
        dsns = {}
        for name, server in servers.items():
            await asyncio.to_thread(server.start)
            dsns[name] = await asyncio.to_thread(server.create_database, "bench")
        async with scene(durable=durable) as (world, _, sink):
            await warm_up(world, sink)
            for _ in range(rounds):
                await refill(world, messages)
                rates["listener"].append(await sink.rate(messages))
                await world.settled()
                for name in peers:
                    rates[name].append(await _peer(name, dsns[name], sink, max(30, int(messages * SHARE[name]))))
    finally:
        for server in servers.values():
            await asyncio.to_thread(server.close)
    return Report(
        bench="peers",
        rounds=rates,
        machine={**machine(), "loop": "uvloop" if find_spec("uvloop") else "asyncio"},
        figures=[
            *(Figure(name=name, value=median(values), unit="/s") for name, values in rates.items()),
            *(
                Figure(
                    name=f"listener : {name}",
                    value=median(ours / theirs for ours, theirs in zip(rates["listener"], rates[name], strict=True)),
                    unit="x",
                    least=LEAST[name],
                    readme=f"the same job on {name}: listener's rate against it",
                )
                for name in peers
            ),
        ],
    )


async def _peer(name: str, dsn: str, sink: Sink, jobs: int) -> float:
    for verb in ("fill", "work"):
        worker = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", f"tests.bench.peer_{name}", verb, dsn, sink.url, str(jobs))
        )
        if verb == "fill":
            assert await worker.wait() == 0
    rate = await sink.rate(jobs)
    assert await worker.wait() == 0
    return rate
