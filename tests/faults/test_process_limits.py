"""F07, F08, F09: a task that dies, output that nobody reads, little memory and few descriptors."""

import asyncio
import fcntl
import os
import resource
import sys
from time import monotonic

import pytest

from listener.simulator.gateway import Break, Ending, Fault, Moment
from tests.faults.bench import descriptors, open_bench, resident_kb
from tests.faults.test_soak import LONG
from tests.support.world import Replica, open_world

WAITING = 200_000 if LONG else 3_000


@pytest.mark.parametrize(
    ("task", "harm"),
    [
        ("upkeep", "ALTER TABLE listener.ticket_save RENAME TO ticket_saved"),
        ("match", "ALTER TABLE listener.outbox RENAME TO outboxes"),
    ],
)
async def test_a_task_that_dies_ends_the_process(erp_database: str, task: str, harm: str) -> None:
    async with open_world(erp_database) as world:
        replica = await world.replica()
        began = monotonic()
        await world.db.execute(harm.encode())
        assert await replica.ended() not in (0, None)
        assert monotonic() - began <= 5.0
        died = [line for line in replica.log.read_text().splitlines() if "task_died" in line]
        assert len(died) == 1
        assert f'"task": "{task}"' in died[0]


async def test_output_that_nobody_reads_stops_nothing(erp_database: str) -> None:
    async with open_world(erp_database) as world:
        unread, full = os.pipe()
        fcntl.fcntl(full, fcntl.F_SETFL, os.O_NONBLOCK)
        with pytest.raises(BlockingIOError):
            while True:
                os.write(full, b"x" * 4096)
        fcntl.fcntl(full, fcntl.F_SETFL, 0)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "listener", "run"),
            env={**os.environ, **world.environment()},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=full,
            stderr=full,
        )
        world.replicas.append(Replica(process=process, log=world.folder / "none.log"))
        (world.folder / "none.log").touch()
        os.close(full)
        await world.note("topic", "note")
        await world.gateway.wait_for(1)
        process.terminate()
        assert await asyncio.wait_for(process.wait(), 10) == 0
        os.close(unread)


async def test_a_huge_value_delays_nobody(erp_database: str) -> None:
    async with open_world(erp_database) as world:
        await world.replica()
        await world.db.execute(
            "INSERT INTO public.notes (topic, body, phone) VALUES ('huge', 'body', repeat('0980000000 ', 500000))"
        )
        began = monotonic()
        await world.note("topic", "small")
        await world.gateway.wait_for(1)
        assert monotonic() - began <= 3.0
        await world.settled()
        assert world.arrived() == ["small"]
        assert (await world.one("SELECT state FROM listener.messages WHERE thread LIKE '%%huge'"))[
            "state"
        ] == "rejected"


@pytest.mark.timeout(600 if LONG else 120)
async def test_many_waiting_and_a_gateway_that_hangs_need_little(erp_database: str) -> None:
    async with open_bench(erp_database, rate=12.0) as bench:
        world = bench.world
        await world.db.execute(
            """INSERT INTO public.notes (topic, body, phone)
               SELECT 'topic ' || n %% 1000, 'note ' || n, '0980000000' FROM generate_series(1, %s) AS n""",
            [WAITING],
        )
        hang = Fault(action=Break(moment=Moment.BEFORE_EFFECT, ending=Ending.HANG), times=None)
        world.gateway.add_fault(hang)
        replica = await world.replica()
        resource.prlimit(replica.pid, resource.RLIMIT_NOFILE, (128, 128))
        await world.until("SELECT NOT EXISTS (SELECT FROM listener.outbox)", seconds=500 if LONG else 60)
        await world.until("SELECT pause_kind = 'unsure' FROM listener.account")
        assert descriptors(replica.pid) <= 100
        world.gateway.state.faults.clear()
        before = len(world.gateway.state.ledger)
        await world.gateway.wait_for(before + 10, timeout=30)
        assert replica.process.returncode is None, replica.log.read_text()
        assert resident_kb(replica.pid, "VmHWM") <= 250_000
        kept = await world.one("SELECT count(*) AS n FROM listener.messages")
        assert kept["n"] == WAITING
