"""From the ERP's COMMIT to the POST's arrival at the gateway: the daemon, and beside it two bare scripts that LISTEN
and POST. One of them keeps its connection to the gateway, the other makes one for each POST, as is asked of whoever has
to know what became of it. On an idle system, where changes come one at a time, and with 200 changes a second; in turns,
so that all meet the same machine. The daemon runs on uvloop where that is installed (the extra `fast`); the report says
which.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.util import find_spec
from random import Random
from statistics import median, quantiles
from time import perf_counter

from listener.simulator.gateway.state import Request
from listener.simulator.postgres import Server
from tests.bench.report import Figure, Report, machine
from tests.support.world import NOTES, World, open_world, rules_text

BARE = """
CREATE TABLE public.bare (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, channel text NOT NULL, body text NOT NULL);
CREATE FUNCTION public.tell() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify(NEW.channel, json_build_object('sms', json_build_object(
        'service_id', '12', 'phone', '0980000000', 'content', NEW.body))::text);
    RETURN NULL;
END $$;
CREATE TRIGGER tell AFTER INSERT ON public.bare FOR EACH ROW EXECUTE FUNCTION public.tell();
"""
# the bare scripts, by the channel they listen on, and what each does with connections to the gateway
BARE_SCRIPTS = {"bare": "keep", "connecting": "new"}
WHO = ("listener", *BARE_SCRIPTS)
# seconds between changes: at least and at most, long enough for the daemon to fall asleep again
PAUSE = (0.03, 0.25)
# changes before those that count: they make connections
WARM_UP = 3
# changes a second of a busy ERP
BUSY = 200
PATIENCE = 10.0


class Arrivals:
    """When each text reached the gateway."""

    def __init__(self) -> None:
        self._at: dict[str, asyncio.Future[float]] = {}

    def _future(self, text: str) -> asyncio.Future[float]:
        return self._at.setdefault(text, asyncio.get_running_loop().create_future())

    async def __call__(self, request: Request) -> None:
        self._future(request.content).set_result(perf_counter())

    async def ms(self, committed: dict[str, float]) -> list[float]:
        """Milliseconds from each text's commit to its arrival. Raises TimeoutError."""
        arrivals = {text: self._future(text) for text in committed}
        await asyncio.wait(arrivals.values(), timeout=PATIENCE)
        if missing := [text for text, arrival in arrivals.items() if not arrival.done()]:
            raise TimeoutError(f"{len(missing)} of {len(committed)} did not arrive, such as {missing[0]!r}")
        return [(arrival.result() - committed[text]) * 1000 for text, arrival in arrivals.items()]


def run(*, short: bool) -> Report:
    return asyncio.run(_run(5, 1, 20) if short else _run(200, 9, 600))


async def _run(changes: int, rounds: int, burst: int) -> Report:
    random, arrivals = Random(1), Arrivals()
    idle: dict[str, list[float]] = {who: [] for who in WHO}
    busy: dict[str, list[list[float]]] = {who: [] for who in WHO}
    server = Server()
    await asyncio.to_thread(server.start)
    try:
        dsn = await asyncio.to_thread(server.create_database, "bench")
        rules = rules_text(rate="1000/s")
        async with open_world(dsn, rules=rules, on_request=arrivals, schema=f"{NOTES};\n{BARE}") as world:
            await world.replica()
            async with AsyncExitStack() as scripts:
                for channel in BARE_SCRIPTS:
                    await scripts.enter_async_context(_bare_script(world, channel))
                for number in range(-WARM_UP, changes):
                    for who in WHO:
                        await asyncio.sleep(random.uniform(*PAUSE))
                        text = f"{number} from {who}"
                        taken = await arrivals.ms({text: await _commit(world, who, number, text)})
                        if number >= 0:
                            idle[who] += taken
                for number in range(rounds):
                    for who in WHO:
                        busy[who].append(await arrivals.ms(await _work(world, who, number, burst)))
                        await world.settled()
    finally:
        await asyncio.to_thread(server.close)
    flat = {who: [ms for part in parts for ms in part] for who, parts in busy.items()}
    return Report(
        bench="latency",
        rounds=idle | {f"{who}, {BUSY}/s": values for who, values in flat.items()},
        machine={**machine(), "loop": "uvloop" if find_spec("uvloop") else "asyncio"},
        figures=[*_figures("idle", idle, p50=4, p99=30), *_figures(f"{BUSY}/s", flat, p50=None, p99=None)],
    )


def _figures(when: str, taken: dict[str, list[float]], *, p50: float | None, p99: float | None) -> Iterator[Figure]:
    what = f"commit to POST, {when}"
    ours = {"p50": median(taken["listener"]), "p99": _p99(taken["listener"])}
    for name, most in (("p50", p50), ("p99", p99)):
        yield Figure(name=f"{when}: listener, {name}", value=ours[name], unit="ms", most=most, readme=f"{what}: {name}")
    for script, words in (
        ("bare", "against a bare LISTEN-and-POST script"),
        ("connecting", "against one that makes a connection for each POST"),
    ):
        theirs = {"p50": median(taken[script]), "p99": _p99(taken[script])}
        for name in ours:
            yield Figure(name=f"{when}: {script} script, {name}", value=theirs[name], unit="ms")
        for name, marked in (("p50", 2), ("p99", 3)):
            yield Figure(
                name=f"{when}: listener : {script} script, {name}",
                value=ours[name] / theirs[name],
                unit="x",
                most=marked,
                readme=f"{what}: {name} {words}",
            )


def _p99(values: list[float]) -> float:
    return quantiles(values, n=100)[98]


async def _commit(world: World, who: str, number: int, text: str) -> float:
    """Commits a change that is to arrive as `text`; when COMMIT was sent, whose answer may come after the POST."""
    await world.db.execute("BEGIN")
    if who == "listener":
        await world.note(f"topic {number}", text)
    else:
        await world.db.execute("INSERT INTO public.bare (channel, body) VALUES (%s, %s)", [who, text])
    sent_at = perf_counter()
    await world.db.execute("COMMIT")
    return sent_at


async def _work(world: World, who: str, number: int, burst: int) -> dict[str, float]:
    """Commits changes at an even pace; when each text was committed."""
    began, committed = perf_counter(), dict[str, float]()
    for n in range(burst):
        if (ahead := began + n / BUSY - perf_counter()) > 0:
            await asyncio.sleep(ahead)
        text = f"{number}.{n} from busy {who}"
        committed[text] = await _commit(world, who, n, text)
    return committed


@asynccontextmanager
async def _bare_script(world: World, channel: str) -> AsyncIterator[None]:
    url, token = f"{world.settings.caresoft_url}/acme/api/v1/sms", world.token_file.read_text()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.bench.bare_listener"),
        *(channel, world.settings.database_url, url, token, BARE_SCRIPTS[channel]),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"listening\n"
        yield
    finally:
        process.terminate()
        await process.wait()
