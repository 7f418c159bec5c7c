"""F10 to F14, F17: a server that crashes, connections that end, go silent or deaf, backends that stand still."""

import asyncio
import os
import random
import signal
from time import monotonic

import pytest

from listener import doorbell
from listener.simulator.gateway import Delay, Fault
from listener.simulator.postgres import Server
from tests.faults.bench import OURS, open_bench
from tests.support.proxy import Connection, Direction, Mode, Proxy
from tests.support.world import World, open_world

POLL = 1.0


async def test_work_goes_on_after_a_crash_of_the_server(crashable: Server, crashable_database: str) -> None:
    async with (
        Proxy.to_database(crashable_database) as proxy,
        open_bench(crashable_database, via=proxy.dsn, server=crashable, keys=8) as bench,
        bench.fleet(2),
    ):
        for _ in range(2):
            await bench.erp.write(4)
            before = proxy.accepted
            away = monotonic()
            await bench.crash(1.0)
            # Each of 2 replicas has 7 connections to make; none is tried more than about once a second.
            tried = proxy.accepted - before
            assert tried <= 14 * (monotonic() - away + 1), tried
            arrived = len(bench.world.arrived())
            await bench.erp.write(4)
            await bench.world.gateway.wait_for(arrived + 1, timeout=20)
        await bench.verdict()


async def test_connections_that_are_terminated_again_and_again(erp_database: str) -> None:
    async with open_bench(erp_database, keys=12, latency=0.1) as bench, bench.fleet(2):
        rng, stopping = random.Random(11), asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(bench.erp.run(10, stopping))
            for _ in range(15):
                await asyncio.sleep(0.2)
                await bench.terminate(rng.randrange(100))
            stopping.set()
        found = await bench.verdict()
        assert len(found.messages) > 10


async def test_a_change_while_the_listening_connection_comes_back_is_found(erp_database: str) -> None:
    """Nothing depends on the ring: a row that comes while nobody listens is found by the next look."""
    rng = random.Random(12)
    async with open_bench(erp_database, keys=20, rate=100) as bench:
        await bench.world.replica()
        listening = f"SELECT count(*) = 1 FROM pg_stat_activity WHERE {OURS} AND application_name = 'listener listen'"
        for number in range(6):
            await bench.world.until(listening)
            assert await bench.terminate(purpose="listen") == 1
            await asyncio.sleep(rng.uniform(0, 0.5))
            began = monotonic()
            await bench.erp.write(1)
            await bench.world.gateway.wait_for(number + 1)
            assert monotonic() - began <= POLL + 2
        await bench.verdict()


async def test_a_listening_connection_that_carries_nothing_is_found_out(
    erp_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # found out within two heart-beats: 20 s in earnest
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
        async with asyncio.timeout(5):
            while all(connection is silent for connection in proxy.named("listener listen")):
                await asyncio.sleep(0.05)


async def test_a_network_that_swallows_everything_and_comes_back(erp_database: str) -> None:
    async with (
        Proxy.to_database(erp_database) as proxy,
        open_bench(erp_database, via=proxy.dsn, keys=6) as bench,
        bench.fleet(1),
    ):
        await bench.erp.write(6)
        await bench.world.settled()
        proxy.switch(Mode.HOLD)
        await bench.erp.write(6)
        await asyncio.sleep(2.5)
        proxy.switch(Mode.PASS)
        await bench.world.gateway.wait_for(12, timeout=35)
        await bench.verdict()


async def test_a_deaf_listener_is_told_and_does_not_matter(erp_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
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
        await world.until("SELECT deaf_at IS NOT NULL FROM listener.fleet")
        began = monotonic()
        await world.note("deaf", "deaf")
        await world.gateway.wait_for(2)
        assert monotonic() - began <= POLL + 1


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
            await asyncio.sleep(2.0)
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
