"""From the ERP's COMMIT to the POST's arrival at the gateway, on an idle system: the daemon, and beside it a bare
script that LISTENs and POSTs. Changes come one at a time, in turns, so that both meet the same machine. The daemon runs
on uvloop where that is installed (the extra `fast`); the report says which.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from importlib.util import find_spec
from random import Random
from statistics import median, quantiles
from time import perf_counter

from listener.simulator.gateway.state import Request
from listener.simulator.postgres import Server
from tests.bench.report import Figure, Report, machine
from tests.support.world import NOTES, World, open_world, rules_text

BARE = """
CREATE TABLE public.bare (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, body text NOT NULL);
CREATE FUNCTION public.tell() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('bare', json_build_object('service_id', '12', 'phone', '0980000000', 'content', NEW.body)::text);
    RETURN NULL;
END $$;
CREATE TRIGGER tell AFTER INSERT ON public.bare FOR EACH ROW EXECUTE FUNCTION public.tell();
"""
# seconds between changes: at least and at most, long enough for the daemon to fall asleep again
PAUSE = (0.03, 0.25)
# changes before those that count: they make connections
WARM_UP = 3
PATIENCE = 10.0


class Arrival:
    """When the next request reaches the gateway."""

    def __init__(self) -> None:
        self._at: asyncio.Future[float] | None = None

    async def __call__(self, _request: Request) -> None:
        if self._at is not None and not self._at.done():
            self._at.set_result(perf_counter())

    async def after(self, commit: Callable[[], Awaitable[object]]) -> float:
        """Milliseconds from the return of `commit` to the arrival; below 0 if it came first."""
        self._at = asyncio.get_running_loop().create_future()
        await commit()
        committed = perf_counter()
        async with asyncio.timeout(PATIENCE):
            return (await self._at - committed) * 1000


def run(*, short: bool) -> Report:
    return asyncio.run(_run(5 if short else 200))


async def _run(changes: int) -> Report:
    random, arrival = Random(1), Arrival()
    ms: dict[str, list[float]] = {"listener": [], "bare": []}
    server = Server()
    await asyncio.to_thread(server.start)
    try:
        dsn = await asyncio.to_thread(server.create_database, "bench")
        rules = rules_text(rate="1000/s")
        async with open_world(dsn, rules=rules, on_request=arrival, schema=f"{NOTES};\n{BARE}") as world:
            await world.replica()
            async with _bare_script(world):
                for number in range(-WARM_UP, changes):
                    for who in ms:
                        await asyncio.sleep(random.uniform(*PAUSE))
                        taken = await arrival.after(partial(_change, world, who, number))
                        if number >= 0:
                            ms[who].append(taken)
    finally:
        await asyncio.to_thread(server.close)
    listener, bare = ms["listener"], ms["bare"]
    return Report(
        bench="latency",
        rounds=ms,
        machine={**machine(), "loop": "uvloop" if find_spec("uvloop") else "asyncio"},
        figures=[
            Figure(name="listener, p50", value=median(listener), unit="ms", most=5),
            Figure(name="listener, p99", value=_p99(listener), unit="ms", most=30),
            Figure(name="bare script, p50", value=median(bare), unit="ms"),
            Figure(name="bare script, p99", value=_p99(bare), unit="ms"),
            Figure(name="listener : bare script, p50", value=median(listener) / median(bare), unit="x", most=3),
            Figure(name="listener : bare script, p99", value=_p99(listener) / _p99(bare), unit="x", most=3),
        ],
    )


def _p99(values: list[float]) -> float:
    return quantiles(values, n=100)[98]


async def _change(world: World, who: str, number: int) -> None:
    if who == "listener":
        await world.note(f"topic {number}", f"from listener {number}")
    else:
        await world.rows("INSERT INTO public.bare (body) VALUES (%s) RETURNING id", f"from bare {number}")


@asynccontextmanager
async def _bare_script(world: World) -> AsyncIterator[None]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.bench.bare_listener"),
        *(world.settings.database_url, f"{world.settings.caresoft_url}/acme/api/v1/sms", world.token_file.read_text()),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"listening\n"
        yield
    finally:
        process.terminate()
        await process.wait()
