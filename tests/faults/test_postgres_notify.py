"""F26 to F29: what the doorbell can do to the server, and others to the doorbell: a listener that does not read, a
queue that fills up, rows too large for a notification, and rings from anybody."""

import asyncio
import importlib.util
import os
import re
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from time import monotonic

import psycopg
import pytest

from listener import overview, upkeep
from listener.database import connect
from listener.settings import Settings
from listener.simulator.binaries import WHEEL, find_binaries
from listener.simulator.postgres import Server
from tests.faults.test_soak import LONG
from tests.support.proxy import Connection, Direction, Proxy
from tests.support.world import PHONE, open_world

# the longest that PostgreSQL takes, and as many as a listener's socket can by no means hold
PAYLOAD = "x" * 7990
SPOOF = "note 1; "
MANY = 12_000 if LONG else 4_000


@asynccontextmanager
async def other(dsn: str) -> AsyncIterator[psycopg.AsyncConnection[tuple[object, ...]]]:
    """Somebody else's session."""
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn:
        yield conn


async def flood(conn: psycopg.AsyncConnection[tuple[object, ...]], count: int) -> None:
    """So many notifications; numbered, since PostgreSQL folds equal ones of one transaction."""
    await conn.execute("SELECT pg_notify('listener', n || %s) FROM generate_series(1, %s) n", [PAYLOAD[:-8], count])


# -- F26


@pytest.mark.timeout(240)
async def test_a_replica_that_does_not_read_is_dropped_by_the_server() -> None:
    """By the server's own TCP time-out, which our connections set; in short runs one that is shorter."""
    with Server(tcp=True) as server:
        dsn = server.create_database("erp")
        async with open_world(dsn) as world, other(dsn) as anybody:
            if LONG:
                replica = await world.replica()
                await world.until(
                    """SELECT count(*) = 1 FROM pg_stat_activity
                        WHERE application_name = 'listener listen' AND query = 'LISTEN listener' AND state = 'idle'"""
                )
                replica.signal(signal.SIGSTOP)
            else:
                conn = await connect(world.settings, "listen", tcp_user_timeout="2000")
                await conn.execute("LISTEN listener")
            await flood(anybody, MANY)
            await anybody.execute("CREATE TABLE dead AS SELECT FROM generate_series(1, 1000)")
            await anybody.execute("DELETE FROM dead")
            await world.until(
                "SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'listener listen'", seconds=120
            )
            usage = await world.one("SELECT pg_notification_queue_usage() AS usage")
            assert usage["usage"] < 0.05
            await anybody.execute("VACUUM dead")
            left = await (await anybody.execute("SELECT pg_relation_size('dead')")).fetchone()
            assert left == (0,)
            if LONG:
                replica.signal(signal.SIGCONT)
                await world.note("topic", "note")
                await world.gateway.wait_for(1)
            else:
                await conn.close()


async def test_our_connections_ask_the_server_to_drop_them_when_they_do_not_read() -> None:
    with Server(tcp=True) as server:
        conn = await connect(Settings(database_url=server.dsn()), "listen")
        try:
            assert await (await conn.execute("SHOW tcp_user_timeout")).fetchone() == {"tcp_user_timeout": "20000"}
        finally:
            await conn.close()


# -- F27


@pytest.fixture
def small_queue(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server whose queue of notifications holds half a megabyte instead of 8 GB."""
    spec = importlib.util.find_spec(WHEEL)
    folders = [
        find_binaries(),
        *(Path(p) for at in (spec and spec.submodule_search_locations) or () for p in Path(at).glob("pginstall*/bin")),
    ]
    newest = max(folders, key=_version)
    if _version(newest) < 17:
        pytest.skip("no PostgreSQL 17 or newer is here: before that the queue always holds 8 GB")
    monkeypatch.setenv("LISTENER_PG_BIN", str(newest))
    with Server(settings={"max_notify_queue_pages": 64}) as server:
        yield server


def _version(binaries: Path) -> int:
    said = subprocess.run([binaries / "postgres", "--version"], capture_output=True, text=True, check=True).stdout
    return int(re.findall(r"\d+", said)[0])


@pytest.mark.parametrize("doorbell", [True, False])
async def test_a_queue_that_somebody_fills_fails_no_write_and_is_told(
    small_queue: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], doorbell: bool
) -> None:
    monkeypatch.setattr(upkeep, "_SIGN_OF_LIFE", 0.5)
    dsn = small_queue.create_database("erp")
    async with open_world(dsn) as world, other(small_queue.dsn()) as hog, other(dsn) as anybody:
        world.settings = replace(world.settings, doorbell=doorbell)
        await world.install()
        async with world.service(doorbell=doorbell):
            await world.note("topic", "first")
            await world.gateway.wait_for(1)
            # It listens, in another database, and stays in a transaction.
            await hog.execute("LISTEN listener")
            await hog.execute("BEGIN")
            await hog.execute("SELECT 1")
            with pytest.raises(psycopg.errors.ProgramLimitExceeded, match="too many notifications"):
                while True:
                    await flood(anybody, 8)
            # Whoever else rings is failed by it now; capture is not, whether it would ring or not.
            for number in range(5):
                await asyncio.sleep(0.3)
                await world.note(f"topic {number}", f"note {number}")
            await world.gateway.wait_for(6)
            status = await overview.status(world.db, world.settings)
            assert status["notify_queue"] > 0.1
            async with asyncio.timeout(60):
                said = ""
                while "notify_queue_fills" not in said:
                    said += "".join(capsys.readouterr())
                    await asyncio.sleep(0.05)
            assert (await world.one("SELECT is_called FROM listener.capture_failures"))["is_called"] is False
            await hog.execute("ROLLBACK")
            await world.until("SELECT pg_notification_queue_usage() < 0.05 FROM (SELECT pg_notify('other', '')) AS n")
            await world.note("topic", "last")
            await world.gateway.wait_for(7)


# -- F28


async def test_rows_of_any_size_ring_without_a_word(erp_database: str) -> None:
    async with open_world(erp_database) as world, other(erp_database) as eavesdropper:
        await eavesdropper.execute("LISTEN listener")
        await world.replica()
        rows = [("đ" * 4_001, "a key of 8 kB"), ("short", "ỡ" * 700), ("columns", "of 100 kB")]
        for number, (topic, body) in enumerate(rows):
            # Each alone after a silence, so that it rings.
            await world.until("SELECT last_value < extract(epoch FROM clock_timestamp()) * 1000 FROM listener.promise")
            phone = PHONE + " " * (100_000 if topic == "columns" else 0)
            await world.note(topic, body, phone=phone)
            await world.until("SELECT count(*) = %s FROM listener.change", number + 1)
        await world.settled()
        ends = {row["text"]: (row["state"], row["reason"]) for row in await world.messages()}
        assert ends["a key of 8 kB"] == ("accepted", None)
        assert all(state == "accepted" or reason for state, reason in ends.values()), ends
        assert len(ends) == 3
        heard = [n.payload async for n in eavesdropper.notifies(timeout=1)]
        assert heard and set(heard) == {""}


# -- F29


async def test_rings_from_anybody_cost_little_and_tell_nothing(erp_database: str) -> None:
    async with (
        Proxy.to_database(erp_database) as proxy,
        open_world(erp_database) as world,
        other(erp_database) as spoofer,
        other(erp_database) as eavesdropper,
    ):
        await world.db.execute("CREATE ROLE nobody_at_all LOGIN")
        try:
            for conn in (spoofer, eavesdropper):
                await conn.execute("SET SESSION AUTHORIZATION nobody_at_all")
            await eavesdropper.execute("LISTEN listener")
            world.settings = replace(world.settings, database_url=proxy.dsn)
            replica = await world.replica()
            looks = 0

            def count(connection: Connection, direction: Direction, data: bytes) -> None:
                nonlocal looks
                looks += direction is Direction.UP and b"listener match" in connection.greeting

            proxy.watch(count)
            seconds = 30.0 if LONG else 4.0
            spent, began = cpu_seconds(replica.pid), monotonic()
            rung = 0
            while monotonic() - began < seconds:
                await spoofer.execute(
                    f"SELECT pg_notify('listener', '{SPOOF}' || n || %s) FROM generate_series(%s::int, %s::int) n",
                    [PAYLOAD[:100], rung, rung + 499],
                )
                rung += 500
                await asyncio.sleep(max(0.0, began + rung / 5_000 - monotonic()))
            elapsed = monotonic() - began
            # A look, with what is asked before and after one in vain, is up to 4 messages to the server.
            busy = (cpu_seconds(replica.pid) - spent) / elapsed
            print(
                f"{rung / elapsed:.0f} rings/s: {looks / elapsed:.1f} messages/s of the matcher, {busy:.0%} of a core"
            )
            assert looks / elapsed <= 10 * 4 + 10
            assert busy <= 0.2
            async for _ in eavesdropper.notifies(timeout=0.5):
                pass
            await world.note("secret topic", "secret text", phone=PHONE)
            await world.gateway.wait_for(1)
            heard = [n.payload async for n in eavesdropper.notifies(timeout=1)]
            assert {payload for payload in heard if not payload.startswith(SPOOF)} <= {""}
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                await eavesdropper.execute("SELECT * FROM listener.messages")
        finally:
            await world.db.execute("DROP ROLE nobody_at_all")


def cpu_seconds(pid: int) -> float:
    """What a process has used of the processor."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
