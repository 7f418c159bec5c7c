"""F10 to F14, F17: a server that crashes, connections that end, go silent or deaf, backends that stand still."""

import asyncio
import math
import os
import random
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic

import psycopg
import pytest

from listener import doorbell
from listener.simulator.gateway import Delay, Fault
from listener.simulator.postgres import Server
from tests.faults.bench import OURS, open_bench
from tests.faults.test_soak import LONG
from tests.support.proxy import Connection, Direction, Mode, Proxy
from tests.support.world import World, open_world

POLL = 1.0


@pytest.mark.timeout(900 if LONG else 120)
async def test_work_goes_on_after_a_crash_of_the_server(crashable: Server, crashable_database: str) -> None:
    rng = random.Random(10)
    async with (
        Proxy.to_database(crashable_database) as proxy,
        open_bench(crashable_database, via=proxy.dsn, server=crashable, keys=8) as bench,
        bench.fleet(2),
    ):
        for _ in range(10 if LONG else 2):
            await bench.erp.write(4)
            before = proxy.accepted
            away = monotonic()
            await bench.crash(rng.uniform(1.0, 20.0 if LONG else 5.0))
            back = monotonic()
            # Each of 2 replicas has 6 connections to make, and tries none of them more than once a second.
            tried = proxy.accepted - before
            assert tried <= 12 * (back - away + 1), tried
            arrived = len(bench.world.arrived())
            await bench.erp.write(4)
            await bench.world.gateway.wait_for(arrived + 1, timeout=20)
            assert monotonic() - back <= 10.0
        await bench.verdict()


async def test_a_backend_that_is_killed_takes_the_server_with_it_and_nothing_else(
    crashable: Server, crashable_database: str
) -> None:
    """PostgreSQL starts all over when one of its processes was killed: every connection ends at once."""
    async with open_bench(crashable_database, server=crashable, keys=8) as bench, bench.fleet(2):
        for number in range(5 if LONG else 1):
            await bench.erp.write(8)
            ours = await bench.world.rows(f"SELECT pid FROM pg_stat_activity WHERE {OURS} ORDER BY application_name")
            os.kill(ours[number % len(ours)]["pid"], signal.SIGKILL)
            await bench.comes_back()
            back, arrived = monotonic(), len(bench.world.arrived())
            await bench.erp.write(8)
            await bench.world.gateway.wait_for(arrived + 1, timeout=20)
            assert monotonic() - back <= 10.0
        await bench.verdict()


@pytest.mark.timeout(900 if LONG else 120)
async def test_connections_that_are_terminated_again_and_again(erp_database: str) -> None:
    async with open_bench(erp_database, keys=12, latency=0.1) as bench, bench.fleet(2):
        rng, stopping = random.Random(11), asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(bench.erp.run(10, stopping))
            for _ in range(300 if LONG else 15):
                await asyncio.sleep(1.0 if LONG else 0.2)
                await bench.terminate(rng.randrange(100))
            stopping.set()
        found = await bench.verdict()
        assert len(found.messages) > 10


@pytest.mark.timeout(1800 if LONG else 120)
async def test_a_change_while_the_listening_connection_comes_back_is_found(erp_database: str) -> None:
    """Nothing depends on the ring: a row that comes while nobody listens is found by the next look. The server has much
    to do meanwhile."""
    rng = random.Random(12)
    waits = []
    async with open_bench(erp_database, keys=20, rate=100) as bench, busy(erp_database):
        await bench.world.replica()
        listening = f"SELECT count(*) = 1 FROM pg_stat_activity WHERE {OURS} AND application_name = 'listener listen'"
        for number in range(500 if LONG else 6):
            await bench.world.until(listening)
            assert await bench.terminate(purpose="listen") == 1
            await asyncio.sleep(rng.uniform(0, 0.5))
            began = monotonic()
            await bench.erp.write(1)
            await bench.world.gateway.wait_for(number + 1)
            waits.append(monotonic() - began)
        assert sorted(waits)[math.ceil(len(waits) * 0.99) - 1] <= POLL + 2, waits
        await bench.verdict()


@asynccontextmanager
async def busy(dsn: str) -> AsyncIterator[None]:
    """Sessions that keep the server at work, so that connecting takes its time."""

    async def work() -> None:
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn:
            while True:
                await conn.execute("SELECT sum(sqrt(n)) FROM generate_series(1, 50000) n")
                await asyncio.sleep(0.01)

    tasks = [asyncio.create_task(work()) for _ in range(2)]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_listening_connection_that_carries_nothing_is_found_out(
    erp_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # found out within two heart-beats: 20 s in earnest
    if not LONG:
        monkeypatch.setattr(doorbell, "HEARTBEAT", 0.5)
    async with (
        Proxy.to_database(erp_database) as proxy,
        open_world(erp_database) as world,
        world.service(database_url=proxy.dsn),
    ):
        await _ring_heard(world)
        (silent,) = proxy.named("listener listen")
        silent.switch(Mode.HOLD)
        began = monotonic()
        await world.note("meanwhile", "meanwhile")
        await world.gateway.wait_for(2)
        assert monotonic() - began <= POLL + 1
        async with asyncio.timeout(35 if LONG else 5):
            while all(connection is silent for connection in proxy.named("listener listen")):
                await asyncio.sleep(0.05)


@pytest.mark.timeout(300 if LONG else 120)
@pytest.mark.parametrize("mode", [Mode.HOLD, Mode.DROP] if LONG else [Mode.HOLD])
async def test_a_network_that_swallows_everything_and_comes_back(erp_database: str, mode: Mode) -> None:
    ways = tuple(Direction) if mode is Mode.HOLD else (Direction.DOWN,)
    async with (
        Proxy.to_database(erp_database) as proxy,
        open_bench(erp_database, via=proxy.dsn, keys=6) as bench,
        bench.fleet(1),
    ):
        await bench.erp.write(6)
        await bench.world.settled()
        # What is dropped is gone: those connections are of no use any more, whatever comes through later.
        proxy.switch(mode, *ways)
        await bench.erp.write(6)
        await asyncio.sleep(60.0 if LONG else 2.5)
        proxy.switch(Mode.PASS)
        await bench.world.gateway.wait_for(12, timeout=35)
        await bench.verdict()


@pytest.mark.timeout(300 if LONG else 120)
async def test_a_deaf_listener_is_told_and_does_not_matter(
    erp_database: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if not LONG:
        monkeypatch.setattr(doorbell, "SELF_TEST", 0.3)

    def swallow(connection: Connection, direction: Direction, data: bytes) -> None:
        """Notifications never come; everything else does, so that a heart-beat finds nothing wrong."""
        if direction is Direction.DOWN and b"listener listen" in connection.greeting:
            connection.switch(Mode.DROP if data.startswith(b"A") else Mode.PASS, Direction.DOWN)

    async with (
        Proxy.to_database(erp_database) as proxy,
        open_world(erp_database) as world,
        world.service(database_url=proxy.dsn),
    ):
        await _ring_heard(world)
        await asyncio.sleep(3 * POLL)
        assert (await world.one("SELECT deaf_at FROM listener.fleet"))["deaf_at"] is None
        proxy.watch(swallow)
        await world.until("SELECT deaf_at IS NOT NULL FROM listener.fleet", seconds=60)
        capsys.readouterr()
        told = monotonic()
        for number in range(60 if LONG else 3):
            began = monotonic()
            await world.note(f"deaf {number}", f"deaf {number}")
            await world.gateway.wait_for(number + 2)
            assert monotonic() - began <= POLL + 1
            await asyncio.sleep(0.2)
        said = [line for line in "".join(capsys.readouterr()).splitlines() if "listen_" in line]
        # It is tried on new connections, and told when it is lost and when it is deaf again, not each time.
        assert len(said) <= 1 + (monotonic() - told) / 60, said


async def test_backends_that_stand_still_cost_nothing(erp_database: str) -> None:
    async with open_bench(erp_database, keys=8) as bench:
        replica = await bench.world.replica()
        await bench.erp.write(8)
        await bench.world.settled()
        bench.world.gateway.add_fault(Fault(action=Delay(seconds=0.5), times=None))
        await bench.erp.write(8)
        await bench.world.gateway.wait_until(lambda state: len(state.requests) >= 10)
        frozen = [r["pid"] for r in await bench.world.rows(f"SELECT pid FROM pg_stat_activity WHERE {OURS}")]
        try:
            for pid in frozen:
                os.kill(pid, signal.SIGSTOP)
            await asyncio.sleep(30.0 if LONG else 2.0)
        finally:
            for pid in frozen:
                os.kill(pid, signal.SIGCONT)
        bench.world.gateway.state.faults.clear()
        found = await bench.verdict(15)
        assert {m.state for m in found.messages} == {"accepted"}
        assert replica.process.returncode is None


async def _ring_heard(world: World) -> None:
    """The daemon sleeps, and one change went the whole way."""
    await world.note("first", "first")
    await world.gateway.wait_for(1)
    await world.settled()
