"""The soak: business goes on while a plan of faults is carried out; then all drains and every promise is checked."""

import asyncio
from collections.abc import Sequence
from time import monotonic

from listener.simulator.postgres import Server
from tests.faults import plan
from tests.faults.bench import Bench, open_bench
from tests.faults.checker import Evidence

REPLICAS = 3
WRITES_PER_SECOND = 10.0
# of all requests, those that the gateway answers badly
MISBEHAVIOUR = 0.1
# with everything that can be unclear settled by the sweep, this long after the last fault nothing may wait
DRAIN = 120.0
# what was frozen may find out last of all that it has not sent what others gave up
CALM = 3.0


async def soak(server: Server, dsn: str, seed: int, seconds: float, keys: int = 30) -> Evidence:
    """Runs it and returns the evidence; raises AssertionError with every broken promise. The plan is printed first."""
    steps = plan.steps(seed, seconds)
    print(f"\nsoak with seed {seed} for {seconds:g} s")
    print("\n".join(map(str, steps)))
    async with (
        open_bench(dsn, server=server, seed=seed, keys=keys, latency=0.1, http_timeout=2.0) as bench,
        bench.fleet(REPLICAS),
    ):
        # Each thread has its ticket before the first unclear answer: nothing waits for one on purpose.
        await bench.erp.write_each_key()
        await bench.world.settled(60)
        await _chaos(bench, seed, steps, seconds)
        bench.world.gateway.state.faults.clear()
        return await bench.verdict(DRAIN, CALM)


async def _chaos(bench: Bench, seed: int, steps: Sequence[plan.Step], seconds: float) -> None:
    for fault in (*plan.gateway_faults(seed, MISBEHAVIOUR), *plan.slow_answers(seed)):
        bench.world.gateway.add_fault(fault)
    stopping, began = asyncio.Event(), monotonic()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(bench.erp.run(WRITES_PER_SECOND, stopping))
        await bench.carry_out(steps)
        await asyncio.sleep(max(0.0, began + seconds - monotonic()))
        stopping.set()
