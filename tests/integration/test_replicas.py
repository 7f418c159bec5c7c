"""Several `listener run` processes on one database: together in order, on one ticket a thread, at one pace."""

import asyncio
import os
import signal
from collections import Counter, defaultdict
from dataclasses import dataclass

import pytest

from listener.simulator.gateway import GatewaySettings
from tests.faults.checker import most_within
from tests.support.world import World, open_world, rules_text

LONG = os.environ.get("LISTENER_LONG") == "1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """`limit` is the strict gateway's."""

    rate: int
    limit: int
    changes: int
    threads: int


# The gateway stands in this process. Beside two others that test it may stand still for a quarter of a second, and what
# comes meanwhile arrives as one burst: the short form has room for half a second.
LOAD = (
    Load(rate=12, limit=15, changes=2000, threads=300) if LONG else Load(rate=80, limit=120, changes=400, threads=200)
)


def strict(load: Load) -> GatewaySettings:
    return GatewaySettings(per_second=load.limit, per_hour=None)


async def write(world: World, load: Load) -> None:
    """All changes, many transactions, each thread's in order."""
    for first in range(0, load.changes, 100):
        numbers = range(first, min(first + 100, load.changes))
        await world.notes([(f"order {n % load.threads}", f"{n % load.threads}/{n}") for n in numbers])


def check(world: World, load: Load) -> None:
    """Order, once, one ticket a thread, and the pace; of everything that arrived."""
    ledger = world.gateway.state.ledger
    assert len(ledger) == load.changes
    assert set(Counter(e.content for e in ledger).values()) == {1}
    by_thread: defaultdict[str, list[int]] = defaultdict(list)
    tickets: defaultdict[str, set[int]] = defaultdict(set)
    for entry in ledger:
        thread, number = entry.content.split("/")
        by_thread[thread].append(int(number))
        tickets[thread].add(entry.ticket_id)
    assert all(numbers == sorted(numbers) for numbers in by_thread.values())
    assert {len(found) for found in tickets.values()} == {1}
    assert len({ticket for found in tickets.values() for ticket in found}) == load.threads
    counters = world.gateway.state.counters()
    assert set(counters.statuses) == {200}
    assert most_within([request.at for request in world.gateway.state.requests], 1.0)[0] <= load.limit


@pytest.mark.timeout(600 if LONG else 120)
async def test_three_replicas_share_the_work(erp_database: str) -> None:
    async with open_world(erp_database, gateway=strict(LOAD), rules=rules_text(rate=f"{LOAD.rate}/s")) as world:
        await asyncio.gather(*(world.replica() for _ in range(3)))
        await write(world, LOAD)
        await world.settled(LOAD.changes / LOAD.rate * 2)
        check(world, LOAD)
        times = [request.at for request in world.gateway.state.requests]
        print(f"{(len(times) - 1) / (times[-1] - times[0]):.2f}/s of {LOAD.rate}/s on average")
        if LONG:
            assert len(times) - 1 >= 0.95 * LOAD.rate * (times[-1] - times[0])
        else:
            # Cores shared with other tests stand still now and then: the best second tells.
            assert most_within(times, 1.0)[0] >= 0.9 * LOAD.rate
        assert len(await world.rows("SELECT DISTINCT replica FROM listener.attempt")) == 3
        assert [await replica.stop() for replica in world.replicas] == [0, 0, 0]


@pytest.mark.faults
async def test_replicas_frozen_and_released_together_make_no_burst(erp_database: str) -> None:
    load = Load(rate=40, limit=50, changes=120, threads=60)
    async with open_world(erp_database, gateway=strict(load), rules=rules_text(rate=f"{load.rate}/s")) as world:
        await asyncio.gather(*(world.replica() for _ in range(3)))
        await write(world, load)
        for wait_for in (10, 50, 90):
            await world.gateway.wait_for(wait_for)
            for replica in world.replicas:
                replica.signal(signal.SIGSTOP)
            # Nothing to wait for: they are frozen, and the slots they hold grow old.
            await asyncio.sleep(0.5)
            for replica in world.replicas:
                replica.signal(signal.SIGCONT)
        await world.settled()
        check(world, load)
