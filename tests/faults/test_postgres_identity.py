"""F38: another server, or another database, than the one that was worked on; found at every new connection."""

import asyncio
import signal
from collections.abc import Callable
from typing import LiteralString

from psycopg.conninfo import conninfo_to_dict

from listener import pauses
from listener.database import connect
from listener.identity import Guard
from listener.simulator.postgres import Server
from tests.support.world import World, open_world

PAUSED = "SELECT count(*) AS n FROM listener.pause WHERE target = 'all'"
STOPPED = "SELECT bool_and(stopped_until > now() + interval '1 year') FROM listener.account"


async def test_a_copy_of_the_database_sends_nothing_until_a_person_says_so(server: Server, erp_database: str) -> None:
    async with open_world(erp_database) as world:
        async with world.service():
            await world.note("sent", "sent")
            await world.gateway.wait_for(1)
            await world.settled()
        # What the copy will hold: a change that its original has sent long ago.
        await world.note("pending", "pending")
    name = str(conninfo_to_dict(erp_database)["dbname"])
    copy = server.create_database(f"{name}_copy", name)
    try:
        async with open_world(copy) as world:
            async with world.service():
                await world.until("SELECT count(*) = 1 FROM listener.message")
                await world.until(STOPPED)
                assert world.arrived() == []
            assert (await world.one(PAUSED))["n"] == 1
            assert "another database" in (await world.one("SELECT reason FROM listener.pause"))["reason"]
            # Started again it still waits; a person resumes, and it goes on.
            async with world.service():
                await world.until(STOPPED)
            await _resume(world)
            async with world.service():
                await world.gateway.wait_for(1)
            assert world.arrived() == ["pending"]
    finally:
        server.drop_database(f"{name}_copy")


async def test_a_server_with_another_identifier_or_timeline_is_another_server(erp_database: str) -> None:
    async with open_world(erp_database) as world:
        for number, (harm, paused) in enumerate(
            [
                ("deaf_at = NULL", 0),
                ("server = '1'", 1),
                ("timeline = timeline + 1, synchronous = false", 1),
                # a standby that never lags has every commit that was acknowledged
                ("timeline = timeline + 1, synchronous = true", 0),
            ]
        ):
            await world.db.execute(f"UPDATE listener.fleet SET {harm}".encode())
            await world.note("topic", f"note {number}")
            async with world.service():
                if paused:
                    await world.until(STOPPED)
                    assert (await world.one(PAUSED))["n"] == 1, harm
                    await _resume(world)
                await world.gateway.wait_for(number + 1)
            assert (await world.one(PAUSED))["n"] == 0, harm


async def test_a_server_that_goes_on_while_one_waits_to_ask_is_not_back_in_time(erp_database: str) -> None:
    """Two connections are made at once, and what is sent by the first one is seen before the second one's turn."""
    flushed: LiteralString = "SELECT (pg_current_wal_flush_lsn() - '0/0')::bigint AS lsn"
    async with open_world(erp_database) as world:
        guard, second = Guard(), await connect(world.settings, "second")
        async with await connect(world.settings, "first") as first:
            await guard.ask(first)
            async with first.transaction():
                await first.execute("SELECT FROM listener.fleet FOR UPDATE")
                asking = asyncio.create_task(guard.ask(second))
                await world.until(
                    "SELECT %s = ANY(pg_blocking_pids(%s))", first.info.backend_pid, second.info.backend_pid
                )
                await world.note("a", "goes on")
                guard.saw((await world.one(flushed))["lsn"])
            await asking
        await second.close()
        assert (await world.one(PAUSED))["n"] == 0


async def test_a_server_put_back_in_time_is_found_by_who_had_seen_it_further(
    crashable: Server, crashable_database: str
) -> None:
    """Its identifier and timeline are what they were, as after a virtual machine's snapshot is restored."""
    async with open_world(crashable_database) as world:
        replica = await world.replica()
        await world.note("first", "first")
        await world.gateway.wait_for(1)
        await world.settled()
        # It waits in the snapshot, and is sent soon after.
        replica.signal(signal.SIGSTOP)
        await world.note("forgotten", "forgotten")
        await _while_stopped(world, crashable, crashable.snapshot)
        replica.signal(signal.SIGCONT)
        await world.gateway.wait_for(2)
        await world.settled()
        await _while_stopped(world, crashable, crashable.rewind)
        await world.until("SELECT count(*) = 1 FROM listener.message WHERE text = 'forgotten' AND state = 'waiting'")
        await world.until(STOPPED)
        assert "an earlier state" in (await world.one("SELECT reason FROM listener.pause"))["reason"]
        await replica.said("another_database")
        # The person has found out.
        await world.db.execute("DELETE FROM listener.message")
        await _resume(world)
        await world.note("after", "after")
        await world.gateway.wait_for(3)
        assert world.arrived() == ["first", "forgotten", "after"]


async def _while_stopped(world: World, server: Server, deed: Callable[[], None]) -> None:
    await world.db.close()
    await asyncio.to_thread(server.stop)
    await asyncio.to_thread(deed)
    await asyncio.to_thread(server.start)
    await world.reconnect()


async def _resume(world: World) -> None:
    everything = pauses.Target(scope=pauses.Scope.ALL)
    await pauses.resume(world.db, everything, reason="looked at it", by=await pauses.who(world.db))
