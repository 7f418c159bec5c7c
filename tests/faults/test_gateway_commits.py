"""F15, F16, F18: the two commits around a request, when their answers are lost or the server forgets what it can."""

import asyncio
import os

import psycopg
import pytest

from listener import delivery
from listener.database import connect
from listener.matching import AT_ONCE
from listener.simulator.gateway import Request
from listener.simulator.postgres import Server
from tests.support.proxy import COMMITTED, Proxy
from tests.support.world import World, open_world

ROUNDS = 100 if os.environ.get("LISTENER_LONG") == "1" else 3
LEASE, MATCH, SETTLE = "listener lease", "listener match", "listener settle"


async def outcomes(world: World, text: str) -> list[str]:
    return [attempt["outcome"] for attempt in await world.attempts() if attempt["text"] == text]


@pytest.mark.timeout(900 if ROUNDS > 3 else 120)
async def test_a_result_whose_commit_was_not_confirmed_is_written_again(erp_database: str) -> None:
    async with open_world(erp_database) as world, Proxy.to_database(erp_database) as proxy:
        async with world.service(database_url=proxy.dsn):
            await world.note("warm", "warm-up")
            await world.settled()
            for n in range(ROUNDS):
                lost = proxy.lose_answer(COMMITTED, of=SETTLE)
                await world.note(f"order {n}", f"text {n}")
                async with asyncio.timeout(10):
                    await lost.wait()
                await world.until("SELECT state = 'accepted' FROM listener.messages WHERE text = %s", f"text {n}")
        assert world.arrived() == ["warm-up", *(f"text {n}" for n in range(ROUNDS))]
        assert len(world.gateway.state.requests) == ROUNDS + 1
        given = {e.content: e.ticket_id for e in world.gateway.state.ledger}
        assert {row["text"]: row["ticket_id"] for row in await world.messages()} == given
        assert {a["outcome"] for a in await world.attempts()} == {"accepted"}
        assert {row["attempts"] for row in await world.messages()} == {1}


@pytest.mark.timeout(900 if ROUNDS > 3 else 120)
@pytest.mark.parametrize("of", [LEASE, MATCH])
async def test_a_lease_whose_commit_was_not_confirmed_is_given_back(erp_database: str, of: str) -> None:
    async with open_world(erp_database) as world, Proxy.to_database(erp_database) as proxy:
        async with world.service(database_url=proxy.dsn):
            for n in range(ROUNDS):
                # Whoever lost a connection last time has a new one now.
                await world.note("warm", f"warm-up {n}")
                await world.settled()
                # The lease's answer holds the text it armed, in one piece with the answer to its COMMIT.
                lost = proxy.lose_answer(f"text {n}".encode() if of == LEASE else COMMITTED, of=of)
                # Few changes are leased by the matcher itself, in the only transaction that it commits.
                others = [(f"other {n} {m}", f"more {n} {m}") for m in range(AT_ONCE)] if of == LEASE else []
                await world.notes([(f"order {n}", f"text {n}"), *others])
                async with asyncio.timeout(10):
                    await lost.wait()
                await world.settled()
        for n in range(ROUNDS):
            # Also later ones may not have been sent: their slot was too old on a busy machine.
            *before, last = await outcomes(world, f"text {n}")
            assert (set(before), last) == ({"not_sent"}, "accepted")
        arrived = [text for text in world.arrived() if text.startswith("text")]
        assert sorted(arrived) == sorted(f"text {n}" for n in range(ROUNDS))
        assert len(world.gateway.state.requests) == len(world.arrived())
        assert {row["attempts"] for row in await world.messages()} == {1}


async def test_a_lease_whose_commit_comes_through_late_is_given_back(erp_database: str) -> None:
    async with open_world(erp_database) as world, Proxy.to_database(erp_database) as proxy:
        holder = await connect(world.settings, "holder")
        async with world.service(database_url=proxy.dsn):
            await world.note("warm", "warm-up")
            await world.settled()
            async with holder.transaction():
                await holder.execute("SELECT FROM listener.account FOR UPDATE")
                await world.note("order", "text")
                waiting = """SELECT count(*) >= %s FROM pg_stat_activity WHERE application_name = 'listener lease'
                                AND wait_event_type = 'Lock' AND datname = current_database()"""
                await world.until(waiting, 1)
                # We are gone; the server has the whole transaction and goes on with it when it gets its lock.
                proxy.cut(LEASE, reset=False)
                await world.until(waiting, 2)
            await world.settled()
        await holder.close()
        *before, last = await outcomes(world, "text")
        assert (set(before), last) == ({"not_sent"}, "accepted")
        assert world.arrived() == ["warm-up", "text"]


@pytest.mark.parametrize("swept", [False, True])
async def test_a_lease_that_was_not_confirmed_is_given_back_after_a_long_outage(
    erp_database: str, monkeypatch: pytest.MonkeyPatch, swept: bool
) -> None:
    """Whoever took it is the only one that knows that nothing was sent, also when another has given it up by then."""
    monkeypatch.setattr(delivery, "_LATE_COMMIT", 0.5)
    async with open_world(erp_database) as world, Proxy.to_database(erp_database) as proxy:
        async with world.service(database_url=proxy.dsn):
            await world.note("warm", "warm-up")
            await world.settled()
            lost = proxy.lose_answer(COMMITTED, of=MATCH)
            await world.note("order", "text")
            async with asyncio.timeout(10):
                await lost.wait()
            proxy.refusing = True
            proxy.cut("listener", reset=True)
            await asyncio.sleep(1.5)
            if swept:
                await world.db.execute("UPDATE listener.message SET lease_until = now()")
                await world.once()
                assert (await world.states())["text"] == "unknown"
            proxy.refusing = False
            await world.until("SELECT state = 'accepted' FROM listener.messages WHERE text = 'text'")
        assert world.arrived() == ["warm-up", "text"]


@pytest.mark.timeout(1800 if ROUNDS > 3 else 120)
async def test_a_servers_habit_of_lazy_commits_sends_nothing_twice(crashable: Server, crashable_database: str) -> None:
    arrived = asyncio.Event()

    async def crash(_: Request) -> None:
        await asyncio.to_thread(crashable.crash)
        arrived.set()

    with psycopg.connect(crashable_database, autocommit=True) as conn:
        conn.execute("ALTER SYSTEM SET synchronous_commit = off")
        # What is committed lazily reaches the disk only after this.
        conn.execute("ALTER SYSTEM SET wal_writer_delay = '10s'")
        conn.execute("SELECT pg_reload_conf()")
    try:
        async with open_world(crashable_database, on_request=crash) as world:
            for n in range(2 * ROUNDS if ROUNDS > 3 else 1):
                victim = await world.replica()
                arrived.clear()
                await world.note(f"order {n}", f"text {n}")
                async with asyncio.timeout(20):
                    await arrived.wait()
                await victim.kill()
                await asyncio.to_thread(crashable.start)
                await world.reconnect()
                row = await world.one("SELECT state FROM listener.messages WHERE text = %s", f"text {n}")
                assert row["state"] == "sending"
                await world.db.execute("UPDATE listener.message SET lease_until = now() WHERE state = 'sending'")
                await world.once()
                await world.until("SELECT state = 'unknown' FROM listener.messages WHERE text = %s", f"text {n}")
                assert len(world.gateway.state.requests) == n + 1
    finally:
        crashable.start()
        with psycopg.connect(crashable_database, autocommit=True) as conn:
            conn.execute("ALTER SYSTEM RESET ALL")
            conn.execute("SELECT pg_reload_conf()")
