"""The doorbell: triggers ring only when nobody has promised to look, and no change waits for the safety poll."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from time import monotonic
from typing import LiteralString

import psycopg
import pytest

from listener import lookout, matching
from listener.database import Connection, Link, connect
from listener.doorbell import Doorbell, Promise
from listener.queries import load
from listener.settings import Settings
from listener.simulator.postgres import Server
from tests.support.world import World, open_world, rules_text

# Notes become changes and no messages: only capture and matching are at work.
QUIET = rules_text() + '    when: "false"\n'


@asynccontextmanager
async def quiet_world(database: str) -> AsyncIterator[World]:
    async with open_world(database, rules=QUIET) as world:
        yield world


class Ear:
    """Hears every ring, as the daemon would."""

    def __init__(self, conn: Connection) -> None:
        self.conn = conn
        self.rings: list[psycopg.Notify] = []
        conn.add_notify_handler(self.rings.append)

    async def heard(self) -> int:
        """How many rings there were so far."""
        await self.conn.execute("SELECT 1")
        return len(self.rings)


@asynccontextmanager
async def ear(settings: Settings) -> AsyncIterator[Ear]:
    async with await connect(settings, "ear") as conn:
        heard = Ear(conn)
        await conn.execute("LISTEN listener")
        yield heard


async def commit_note(conn: Connection, body: str) -> None:
    await conn.execute("INSERT INTO public.notes (topic, body, phone) VALUES ('t', %s, '0980000000')", [body])


@pytest.fixture
async def world(database: str) -> AsyncIterator[World]:
    async with quiet_world(database) as world:
        yield world


@pytest.fixture
async def promise(world: World) -> AsyncIterator[Promise]:
    link = Link(world.settings, "match")
    yield Promise(link)
    await link.close()


async def test_a_change_rings_when_somebody_is_there_who_promised_nothing(world: World, promise: Promise) -> None:
    async with ear(world.settings) as heard:
        await promise.lapse()
        await commit_note(world.db, "one")
        assert await heard.heard() == 1
        assert heard.rings[0].payload == "", "the row's size and content stay out of it"


async def test_a_promise_keeps_triggers_silent_until_it_lapses(world: World, promise: Promise) -> None:
    async with ear(world.settings) as heard:
        await promise.extend(4.0)
        await commit_note(world.db, "promised")
        assert await heard.heard() == 0
        await promise.lapse()
        await commit_note(world.db, "lapsed")
        assert await heard.heard() == 1


async def test_nobody_is_rung_when_no_daemon_lived_for_ten_seconds(world: World, promise: Promise) -> None:
    async with ear(world.settings) as heard:
        await commit_note(world.db, "before any daemon")
        await set_promise(world.db, -10_500)
        await commit_note(world.db, "long after the last")
        assert await heard.heard() == 0
        await set_promise(world.db, -9_000)
        await commit_note(world.db, "soon after it")
        assert await heard.heard() == 1


async def test_a_promise_from_the_future_is_none_as_after_a_clock_set_back(world: World, promise: Promise) -> None:
    async with ear(world.settings) as heard:
        await set_promise(world.db, 60_000)
        await commit_note(world.db, "one")
        assert await heard.heard() == 1
        assert await promise.sign_of_life()
        ahead = await world.one(
            """SELECT last_value - (extract(epoch FROM clock_timestamp()) * 1000)::bigint AS ms
                 FROM listener.promise"""
        )
        assert ahead["ms"] <= 0, "the next sign of life is on the clock as it is now"


async def test_a_sign_of_life_does_not_end_a_promise_that_another_replica_gave(world: World, promise: Promise) -> None:
    async with ear(world.settings) as heard:
        await set_promise(world.db, 4_000)
        assert await promise.sign_of_life()
        await commit_note(world.db, "promised")
        assert await heard.heard() == 0


async def test_a_sign_of_life_that_comes_too_late_says_so(world: World, promise: Promise) -> None:
    await set_promise(world.db, -11_000)
    assert not await promise.sign_of_life()
    assert not await promise.sign_of_life(), "until it has been made good"
    await promise.lapse()
    assert await promise.sign_of_life()


@pytest.mark.parametrize("isolation", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
async def test_a_lapse_waits_for_whoever_trusted_the_promise(
    world: World, promise: Promise, isolation: LiteralString
) -> None:
    """Also when that transaction's id is above every id that has ended, where a snapshot's xmax does not reach."""
    async with await connect(world.settings, "erp") as first, await connect(world.settings, "erp") as second:
        await promise.extend(4.0)
        for conn in (first, second):
            await conn.execute(f"BEGIN ISOLATION LEVEL {isolation}")
            await commit_note(conn, f"by {conn.info.backend_pid}")
        horizon = await promise.lapse()
        assert not await promise.passed(horizon)
        await first.execute("COMMIT")
        assert not await promise.passed(horizon)
        await second.execute("COMMIT")
        assert await promise.passed(horizon)


async def test_no_change_waits_without_a_safety_poll(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bursts of 24 writers of mixed isolation; their last transactions end when the matcher falls asleep."""
    monkeypatch.setattr(lookout, "POLL", 3600.0)
    rng = random.Random(11)
    # few writers or many: rings or promises
    counts = [1, 2, 24] * 5
    rng.shuffle(counts)
    writers = await asyncio.gather(*(connect(world.settings, "erp") for _ in range(max(counts))))
    levels = ("READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE")
    commits = 0

    async def burst(number: int, conn: Connection, round_: int) -> int:
        done = 0
        for n in range(rng.randint(1, 3)):
            await conn.execute(f"BEGIN ISOLATION LEVEL {levels[number % 3]}")
            try:
                await commit_note(conn, f"{round_} {number} {n}")
                await asyncio.sleep(rng.choice([0, 0, 0.01, rng.uniform(0, 0.25)]))
                await conn.execute("COMMIT" if rng.random() < 0.9 else "ROLLBACK")
                done += 1
            except psycopg.errors.SerializationFailure:
                await conn.execute("ROLLBACK")
        return done

    try:
        async with ear(world.settings) as heard, world.service():
            for round_, count in enumerate(counts):
                commits += sum(await asyncio.gather(*(burst(n, w, round_) for n, w in enumerate(writers[:count]))))
                await world.until("SELECT NOT EXISTS (SELECT FROM listener.outbox)", seconds=10)
                await asyncio.sleep(rng.uniform(0, 0.3))
            assert commits > 100
            assert await heard.heard() < commits, "busy times are silent"
    finally:
        await asyncio.gather(*(w.close() for w in writers))


async def has_the_matchers_turn(conn: Connection) -> bool:
    """In a transaction that is begun by this."""
    await conn.execute("BEGIN")
    row = await (await conn.execute(load("outbox")["lock"])).fetchone()
    return row is not None and row["mine"] is True


async def test_a_look_that_another_replica_kept_us_from_is_made_up_for(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept_away = asyncio.Event()
    look = matching.Matcher.look

    async def noted(matcher: matching.Matcher) -> int | None:
        found = await look(matcher)
        if found is None:
            kept_away.set()
        return found

    monkeypatch.setattr(matching.Matcher, "look", noted)
    monkeypatch.setattr(lookout, "POLL", 3600.0)
    async with await connect(world.settings, "other") as other, world.service():
        await world.until("SELECT last_value > 1 FROM listener.promise")
        # as if it had looked just before the commit; the service may be at its first look
        async with asyncio.timeout(5):
            while not await has_the_matchers_turn(other):
                await other.execute("ROLLBACK")
        await commit_note(world.db, "one")
        async with asyncio.timeout(5):
            await kept_away.wait()
        await other.execute("ROLLBACK")
        await world.until("SELECT NOT EXISTS (SELECT FROM listener.outbox)", seconds=5)


async def test_rings_of_a_stranger_are_answered_ten_times_a_second(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0
    look = matching.Matcher.look

    async def counted(matcher: matching.Matcher) -> int | None:
        nonlocal looks
        looks += 1
        return await look(matcher)

    monkeypatch.setattr(matching.Matcher, "look", counted)
    role = "DO $$ BEGIN CREATE ROLE stranger LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$"
    await world.db.execute(role)
    dsn = psycopg.conninfo.make_conninfo(world.settings.database_url, user="stranger")
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as stranger, world.service():
        began = monotonic()
        while monotonic() < began + 2:
            await stranger.execute("SELECT pg_notify('listener', repeat('garbage', 999))")
        # at first quickly, as after an honest ring
        assert looks <= 15 + 10 * (monotonic() - began)
        await commit_note(world.db, "honest")
        await world.until("SELECT NOT EXISTS (SELECT FROM listener.outbox)", seconds=5)


async def test_a_busy_time_rings_once_in_many_commits(world: World) -> None:
    async with world.service(), ear(world.settings) as heard:
        for n in range(400):
            await commit_note(world.db, str(n))
        await world.until("SELECT NOT EXISTS (SELECT FROM listener.outbox)")
        assert await heard.heard() <= 100


async def test_a_lost_listening_connection_comes_back_and_looks_once(world: World) -> None:
    doorbell = Doorbell(world.settings)
    task = asyncio.create_task(doorbell.listen())
    try:
        async with asyncio.timeout(20):
            await doorbell.rung.wait()
            doorbell.rung.clear()
            pid = "pid FROM pg_stat_activity WHERE application_name = 'listener listen'"
            first = (await world.one(f"SELECT {pid}"))["pid"]
            await world.rows("SELECT pg_terminate_backend(%s)", first)
            # what was rung meanwhile was not heard, so that the new connection is itself a ring
            await doorbell.rung.wait()
            assert (await world.one(f"SELECT {pid}"))["pid"] != first
            doorbell.rung.clear()
            await world.rows("SELECT pg_notify('listener', '')")
            await doorbell.rung.wait()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_ring_between_two_waits_is_heard(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the listening connection is tried, rings go on arriving."""
    monkeypatch.setattr("listener.doorbell.HEARTBEAT", 0.05)
    doorbell = Doorbell(world.settings)
    task = asyncio.create_task(doorbell.listen())
    try:
        async with asyncio.timeout(30):
            await doorbell.rung.wait()
            for _ in range(200):
                doorbell.rung.clear()
                await world.rows("SELECT pg_notify('listener', '')")
                await doorbell.rung.wait()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_without_a_doorbell_nothing_rings_and_two_phase_commits_work(world: World) -> None:
    with Server(settings={"max_prepared_transactions": 5}) as server:
        dsn = await asyncio.to_thread(server.create_database, "erp")
        async with quiet_world(dsn) as two_phase:
            async with await connect(two_phase.settings, "erp") as conn:
                await set_promise(conn, 0)
                await conn.execute("BEGIN")
                await commit_note(conn, "with a bell")
                with pytest.raises(psycopg.errors.FeatureNotSupported):
                    await conn.execute("PREPARE TRANSACTION 'bell'")
                await conn.execute("ROLLBACK")

                two_phase.settings = replace(two_phase.settings, doorbell=False)
                await two_phase.install()
                await set_promise(conn, 0)
                for name, end in (("kept", "COMMIT"), ("gone", "ROLLBACK")):
                    await conn.execute("BEGIN")
                    await commit_note(conn, name)
                    await conn.execute(f"PREPARE TRANSACTION '{name}'")
                    await conn.execute(f"{end} PREPARED '{name}'")
            assert await two_phase.once() == 0
            matched = await two_phase.rows("SELECT new ->> 'body' AS body FROM listener.change")
            assert [row["body"] for row in matched] == ["kept"]


async def set_promise(conn: Connection, ms: int) -> None:
    """As if a matcher had promised to look for `ms` milliseconds from now."""
    await conn.execute(
        "SELECT setval('listener.promise', (extract(epoch FROM clock_timestamp()) * 1000)::bigint + %s::bigint)", [ms]
    )
