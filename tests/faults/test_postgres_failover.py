"""F19: a read-only standby, and fail-overs to it: where commits may be lost nothing is sent until a person says so."""

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import aiohttp
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from listener import pauses
from listener.simulator.postgres import Server
from listener.web import health
from tests.faults.bench import open_bench
from tests.support.proxy import Proxy, address_of
from tests.support.world import World, open_world

STOPPED = "SELECT bool_and(stopped_until > now() + interval '1 year') FROM listener.account"
STREAMS = "SELECT count(*) = 1 FROM pg_stat_replication WHERE state = 'streaming' AND sync_state = %s"


@contextmanager
def pair() -> Iterator[tuple[Server, Server, str]]:
    """A primary, a standby that streams from it, and how whoever follows a fail-over connects."""
    with Server(tcp=True) as primary, Server(tcp=True, standby_of=primary) as standby:
        primary.create_database("erp")
        found = [conninfo_to_dict(server.dsn("erp")) for server in (primary, standby)]
        both = {name: ",".join(str(one[name]) for one in found) for name in ("host", "port")}
        yield primary, standby, make_conninfo(primary.dsn("erp"), **both, target_session_attrs="read-write")


async def test_a_standby_is_not_worked_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "STALE", 1.0)
    with pair() as (primary, standby, _):
        async with Proxy.to_database(primary.dsn("erp")) as proxy, open_world(primary.dsn("erp")) as world:
            direct = world.settings
            world.settings = replace(direct, database_url=proxy.dsn)
            replica = await world.replica()
            async with world.service() as service:
                await world.note("first", "first")
                await world.gateway.wait_for(1)
                # As a balancer does that takes the wrong one.
                proxy.target = address_of(standby.dsn("erp"))
                proxy.cut()
                await world.note("second", "second")
                said, before = len(replica.log.read_text().splitlines()), proxy.accepted
                async with asyncio.timeout(20):
                    while proxy.accepted < before + 20:
                        await asyncio.sleep(0.05)
                async with aiohttp.ClientSession() as client, client.get(f"{service.address}/healthz") as answer:
                    assert (answer.status, "match has not moved" in await answer.text()) == (503, True)
                assert world.arrived() == ["first"]
                lines = replica.log.read_text().splitlines()[said:]
                proxy.target = address_of(primary.dsn("erp"))
                await world.gateway.wait_for(2, timeout=15)
                assert world.arrived() == ["first", "second"]
                # for each connection how it was lost and why there is none, not one for each time it was tried
                assert len(lines) <= 14, lines


@pytest.mark.parametrize("lags", [False, True], ids=["a standby that never lags", "a standby that lags"])
async def test_a_fail_over_is_followed_and_nothing_is_sent_twice(lags: bool) -> None:
    with pair() as (primary, standby, dsn):
        async with open_bench(dsn, keys=10, http_timeout=1.0, latency=0.1) as bench:
            world = bench.world
            if not lags:
                await world.db.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
                await world.db.execute("SELECT pg_reload_conf()")
            await world.until(STREAMS, "async" if lags else "sync")
            async with bench.fleet(2) as fleet:
                await bench.erp.write_each_key()
                await world.settled()
                if not lags:
                    stopping = asyncio.Event()
                    async with asyncio.TaskGroup() as tasks:
                        tasks.create_task(bench.erp.run(10, stopping))
                        await world.gateway.wait_for(20)
                        await _fail_over(primary, standby)
                        await bench.reconnect()
                        await world.gateway.wait_for(len(world.arrived()) + 10)
                        stopping.set()
                    found = await bench.verdict()
                    assert await world.rows("SELECT FROM listener.pause") == []
                    assert sum(m.state == "accepted" for m in found.messages) > len(found.messages) / 2
                    return
                # The standby has the change, and not that it was sent.
                for replica in fleet:
                    replica.signal(signal.SIGSTOP)
                await world.note("forgotten", "forgotten")
                await _caught_up(world, standby)
                await _part(standby)
                for replica in fleet:
                    replica.signal(signal.SIGCONT)
                await world.gateway.wait_for(11)
                await world.settled()
                await _fail_over(primary, standby)
                await bench.reconnect()
                await world.until(
                    "SELECT count(*) = 1 FROM listener.message WHERE text = 'forgotten' AND state = 'waiting'"
                )
                await world.until(STOPPED)
                await world.note("after", "after")
                await world.until("SELECT count(*) = 1 FROM listener.message WHERE text = 'after'")
                assert world.arrived().count("forgotten") == 1
                # A person finds out what was sent, and resumes.
                await world.db.execute("DELETE FROM listener.message WHERE text = 'forgotten'")
                everything = pauses.Target(scope=pauses.Scope.ALL)
                await pauses.resume(world.db, everything, reason="looked at it", by=await pauses.who(world.db))
                await world.gateway.wait_for(12)
                assert world.arrived()[-2:] == ["forgotten", "after"]
                assert bench.exits == []


async def _fail_over(primary: Server, standby: Server) -> None:
    await asyncio.to_thread(primary.crash)
    await asyncio.to_thread(standby.promote)


async def _caught_up(world: World, standby: Server) -> None:
    """All that is committed can be seen on the standby."""
    row = await world.one("SELECT pg_current_wal_lsn() AS lsn")
    async with await psycopg.AsyncConnection.connect(standby.dsn()) as conn:
        async with asyncio.timeout(10):
            while True:
                found = await (await conn.execute("SELECT pg_last_wal_replay_lsn() >= %s", [row["lsn"]])).fetchone()
                if found == (True,):
                    return


async def _part(standby: Server) -> None:
    """The standby hears nothing more of its primary."""
    async with await psycopg.AsyncConnection.connect(standby.dsn(), autocommit=True) as conn:
        await conn.execute("ALTER SYSTEM SET primary_conninfo = ''")
        await conn.execute("SELECT pg_reload_conf()")
        async with asyncio.timeout(10):
            while (await (await conn.execute("SELECT count(*) FROM pg_stat_wal_receiver")).fetchone()) != (0,):
                await asyncio.sleep(0.02)
