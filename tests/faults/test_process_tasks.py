"""F07: a task that dies, however it dies, ends the process at once; one that nobody holds on to lives."""

import asyncio
import re
import signal
from time import monotonic

import aiohttp
import pytest

from listener.simulator.gateway import Delay, Fault
from tests.faults.test_soak import LONG
from tests.support.world import Replica, World, open_world

TASKS = ("settle", "listen", "upkeep", "match", "reconcile", "rules", "calendar", "notify", "deliver main")
WAYS = ("raise", "cancel", "return")
# each task in one way, in long runs each in all
CASES = [(task, how) for n, task in enumerate(TASKS) for m, how in enumerate(WAYS) if LONG or n % len(WAYS) == m]


async def test_each_task_takes_the_process_with_it(erp_database: str) -> None:
    async with open_world(erp_database) as world:
        for begin in range(0, len(CASES), 3):
            await asyncio.gather(*(_dies(world, task, how) for task, how in CASES[begin : begin + 3]))
        # A supervisor starts another, and work goes on.
        await world.replica()
        began = monotonic()
        await world.note("topic", "note")
        await world.gateway.wait_for(1)
        assert monotonic() - began <= 10.0


async def _dies(world: World, task: str, how: str) -> None:
    replica = await world.replica(sabotage=f"kill={task},how={how}")
    address = await _address(replica)
    assert await _healthz(address) == 200
    await _struck(replica, task, {"raise": "RuntimeError"}.get(how, "TaskDiedError"))
    with pytest.raises(aiohttp.ClientConnectionError):
        await _healthz(address)


@pytest.mark.parametrize("how", ["raise", "cancel"] if LONG else ["cancel"])
async def test_a_worker_takes_the_process_with_it_and_its_request_is_unclear(erp_database: str, how: str) -> None:
    async with open_world(erp_database, http_timeout=1.0) as world:
        replica = await world.replica(sabotage=f"kill=send,how={how}")
        world.gateway.add_fault(Fault(action=Delay(seconds=10.0)))
        await world.note("topic", "note")
        await world.gateway.wait_until(lambda state: len(state.requests) == 1)
        await _struck(replica, "send 1", {"raise": "RuntimeError"}.get(how, "TaskDiedError"))
        await world.replica()
        await world.until("SELECT state = 'unknown' FROM listener.messages")
        assert len(world.gateway.state.requests) == 1


async def _struck(replica: Replica, task: str, error: str) -> None:
    await replica.said("sabotage is ready")
    began = monotonic()
    replica.signal(signal.SIGUSR1)
    assert await replica.ended() not in (0, -signal.SIGUSR1)
    assert monotonic() - began <= 5.0
    (line,) = [line for line in replica.log.read_text().splitlines() if "task_died" in line]
    assert f'"task": "{task}"' in line and f'"error": "{error}"' in line, line


async def test_no_task_lives_by_luck(erp_database: str) -> None:
    async with open_world(erp_database) as world:
        replica = await world.replica(sabotage="gc=1")
        address = await _address(replica)
        for number in range(5):
            world.gateway.add_fault(Fault(action=Delay(seconds=0.1)))
            await world.note(f"topic {number}", f"note {number}")
            await world.gateway.wait_for(number + 1)
            await asyncio.sleep(0.2)
        await world.settled()
        assert set((await world.states()).values()) == {"accepted"}
        assert await _healthz(address) == 200
        assert await replica.stop() == 0


async def _address(replica: Replica) -> str:
    await replica.said('"serving"')
    found = re.search(r"http://[\d.:]+", replica.log.read_text())
    assert found is not None
    return found[0]


async def _healthz(address: str) -> int:
    async with aiohttp.ClientSession() as client, client.get(f"{address}/healthz") as answer:
        return answer.status
