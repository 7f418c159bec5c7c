"""F03, F04: asked to stop, politely or not."""

import asyncio
import signal
from dataclasses import replace
from time import monotonic

import pytest

from listener.simulator.gateway import Break, Delay, Ending, Fault, Moment
from tests.support.proxy import Mode, Proxy
from tests.support.world import Replica, World, open_world

# outcomes are written down within this time after the last request must have ended
MARGIN = 5.0
HANG = Fault(action=Break(moment=Moment.BEFORE_EFFECT, ending=Ending.HANG), times=None)


async def test_a_polite_stop_finishes_what_is_on_its_way(erp_database: str) -> None:
    async with open_world(erp_database) as world:
        world.gateway.add_fault(Fault(action=Delay(seconds=2.0), times=8))
        replica = await world.replica()
        await world.notes([(f"topic {n}", f"note {n}") for n in range(8)])
        await world.gateway.wait_until(lambda state: len(state.requests) == 8)
        began = monotonic()
        replica.signal(signal.SIGTERM)
        await world.note("topic late", "late")
        assert await replica.ended() == 0, replica.log.read_text()
        assert monotonic() - began <= world.settings.http_timeout + MARGIN
        accepted = [m for m in await world.messages() if m["state"] == "accepted"]
        assert {m["text"] for m in accepted} == {f"note {n}" for n in range(8)}
        assert all(m["ticket_id"] for m in accepted)
        # Nothing is left claimed: another replica goes on at once.
        await world.replica()
        began = monotonic()
        await world.gateway.wait_for(9)
        assert monotonic() - began <= 2.0


async def test_a_stop_during_start_up_is_heeded(erp_database: str) -> None:
    async with open_world(erp_database) as world:
        for wait in (0.0, 0.3, 0.6, 0.9):
            replica = await world.replica(wait=False)
            await asyncio.sleep(wait)
            assert await replica.stop(10) in (0, -signal.SIGTERM)


async def test_a_second_signal_ends_it_at_once_and_what_was_sent_becomes_unknown(erp_database: str) -> None:
    async with open_world(erp_database, http_timeout=30.0) as world:
        world.gateway.add_fault(HANG)
        replica = await _with_one_on_its_way(world)
        replica.signal(signal.SIGTERM)
        await asyncio.sleep(0.5)
        assert replica.process.returncode is None
        began = monotonic()
        replica.signal(signal.SIGTERM)
        assert await replica.ended() != 0
        assert monotonic() - began <= 10.0
        assert await world.states() == {"note": "sending"}
        await world.db.execute("UPDATE listener.message SET lease_until = clock_timestamp() - interval '1 s'")
        async with world.service():
            await world.until("SELECT state = 'unknown' FROM listener.message")
        assert len(world.gateway.state.requests) == 1


async def test_a_stop_while_the_gateway_hangs_is_bounded(erp_database: str) -> None:
    async with open_world(erp_database, http_timeout=2.0) as world:
        world.gateway.add_fault(HANG)
        replica = await _with_one_on_its_way(world)
        began = monotonic()
        assert await replica.stop() == 0
        assert monotonic() - began <= world.settings.http_timeout + MARGIN
        assert await world.states() == {"note": "unknown"}


@pytest.mark.parametrize(
    ("idle", "refuses"),
    [(True, False), (False, False), (False, True)],
    ids=["idle, a black hole", "with an answer to write down, a black hole", "with an answer to write down, refusing"],
)
async def test_a_stop_while_the_database_is_away_is_bounded(erp_database: str, idle: bool, refuses: bool) -> None:
    async with open_world(erp_database, http_timeout=1.0) as world, Proxy.to_database(erp_database) as proxy:
        world.settings = replace(world.settings, database_url=proxy.dsn)
        world.gateway.add_fault(Fault(action=Delay(seconds=0.5), times=None))
        replica = await world.replica()
        if not idle:
            await world.note("topic", "note")
            await world.gateway.wait_until(lambda state: len(state.requests) == 1)
        if refuses:
            proxy.refusing = True
            proxy.cut()
        else:
            proxy.switch(Mode.HOLD)
        await asyncio.sleep(1.0)
        began = monotonic()
        await replica.stop()
        assert monotonic() - began <= world.settings.http_timeout + MARGIN + 0.5


async def _with_one_on_its_way(world: World) -> Replica:
    replica = await world.replica()
    await world.note("topic", "note")
    await world.gateway.wait_until(lambda state: len(state.requests) == 1)
    return replica
