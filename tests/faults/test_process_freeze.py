"""F05, F06: replicas that stand still and come back."""

import asyncio
import os
import random
import signal
from dataclasses import replace

import pytest

from listener.simulator.gateway import Delay, Fault
from tests.faults.bench import OURS, open_bench
from tests.faults.test_soak import LONG
from tests.support.proxy import Mode, Proxy
from tests.support.world import open_world

# requests get 1 s, so that the sweep gives a permit up after 3 s
HTTP_TIMEOUT = 1.0
DEADLINE = 3.0


@pytest.mark.timeout(1200 if LONG else 120)
async def test_a_zombie_sends_nothing_twice(erp_database: str) -> None:
    """Frozen for longer than others wait before they give its permits up; in long runs for three times as long."""
    rng = random.Random(5)
    async with (
        open_bench(erp_database, keys=6, http_timeout=HTTP_TIMEOUT, latency=0.3) as bench,
        bench.fleet(3) as fleet,
    ):
        await bench.erp.write_each_key()
        await bench.world.settled()
        stopping = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(bench.erp.run(6, stopping))
            for _ in range(50 if LONG else 1):
                await asyncio.sleep(rng.uniform(0.3, 1.5))
                await bench.freeze(rng.choice(fleet), DEADLINE * (3 if LONG else 1.5))
            stopping.set()
        found = await bench.verdict()
        assert sum(m.state == "accepted" for m in found.messages) > len(found.messages) / 2


async def test_an_answer_that_was_seen_counts_even_after_the_sweep(erp_database: str) -> None:
    async with open_world(erp_database, http_timeout=HTTP_TIMEOUT) as world, Proxy.to_database(erp_database) as proxy:
        direct = world.settings
        world.settings = replace(direct, database_url=proxy.dsn)
        await world.replica()
        await world.note("warm", "warm-up")
        await world.settled()
        # The answer comes in time; the connection that should write it down does not carry a byte.
        world.gateway.add_fault(Fault(action=Delay(seconds=0.5)))
        await world.note("topic", "late")
        await world.gateway.wait_until(lambda state: len(state.requests) == 2)
        assert proxy.named("listener settle")
        proxy.switch(Mode.HOLD, of="listener settle")
        world.settings = direct
        await world.replica()
        await world.until("SELECT state = 'unknown' FROM listener.messages WHERE text = 'late'")
        proxy.switch(Mode.PASS)
        await world.until(
            "SELECT state = 'accepted' AND ticket_id IS NOT NULL FROM listener.messages WHERE text = 'late'"
        )
        assert world.arrived() == ["warm-up", "late"]


@pytest.mark.timeout(1200 if LONG else 120)
async def test_replicas_that_wake_together_keep_the_pace(erp_database: str) -> None:
    """300 wait, slots are reserved; in every other round the server's processes stand still with them."""
    rounds, seconds = (20, 20.0) if LONG else (2, 1.0)
    async with open_bench(erp_database, keys=300 if LONG else 45) as bench:
        fleet = [await bench.world.replica() for _ in range(3)]
        for number in range(rounds):
            if LONG or number == 0:
                await bench.erp.write(max(0, len(bench.erp.keys) - await bench.backlog()))
            await bench.world.gateway.wait_for(len(bench.world.arrived()) + 5)
            backends = await bench.world.rows(f"SELECT pid FROM pg_stat_activity WHERE {OURS}") if number % 2 else []
            for replica in fleet:
                replica.signal(signal.SIGSTOP)
            for row in backends:
                os.kill(row["pid"], signal.SIGSTOP)
            await asyncio.sleep(seconds)
            for row in backends:
                os.kill(row["pid"], signal.SIGCONT)
            for replica in fleet:
                replica.signal(signal.SIGCONT)
            await asyncio.sleep(1.0)
        found = await bench.verdict()
        assert found.refusals == 0
