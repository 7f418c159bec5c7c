"""F19 to F21, F25, F39, F41: a read-only server, no free connections, a DBA's time-outs, long transactions, mass
changes and housekeeping."""

import asyncio
from functools import partial
from time import monotonic

import psycopg
import pytest

from listener.simulator.gateway.state import State
from listener.simulator.postgres import Server
from tests.faults.bench import open_bench
from tests.faults.checker import broken
from tests.faults.test_soak import LONG
from tests.support.roles import RULES as ROLE_RULES
from tests.support.roles import as_role, install_roles
from tests.support.world import NOTES, open_world

MASS = 50_000 if LONG else 3_000
ROUNDS = 100 if LONG else 2


@pytest.mark.parametrize("live", [False, True], ids=["found at connecting", "turned under us"])
async def test_a_read_only_server_is_not_worked_on(crashable: Server, crashable_database: str, live: bool) -> None:
    async with open_bench(crashable_database, server=crashable, keys=4) as bench, bench.fleet(1) as fleet:
        world = bench.world
        await bench.erp.write(4)
        await world.settled()
        await world.db.execute("SET default_transaction_read_only = off")
        before = len(world.gateway.state.requests)
        try:
            await world.db.execute("ALTER SYSTEM SET default_transaction_read_only = on")
            await world.db.execute("SELECT pg_reload_conf()")
            if not live:
                assert await bench.terminate() > 0
            await world.db.execute("SET default_transaction_read_only = off")
            # Each session learns of it when it next writes; who leases only looks while nothing is due.
            for failed in ["match_failed"] if live else ["match_failed", "lease_failed"]:
                await fleet[0].said(failed)
            await world.notes([(bench.erp.keys[0], "written on the primary")])
            await asyncio.sleep(3.0)
            assert len(world.gateway.state.requests) == before
        finally:
            await world.db.execute("ALTER SYSTEM RESET default_transaction_read_only")
            await world.db.execute("SELECT pg_reload_conf()")
        await world.gateway.wait_for(before + 1, timeout=15)
        await bench.verdict()
        # for each of our connections how it was lost and why there is none, not one for each time it was tried
        assert sum("failed" in line or "lost" in line for line in world.logs().splitlines()) <= 16


async def test_a_role_with_few_connections_waits_for_more_and_never_leaks(erp_database: str) -> None:
    """Three connections are too few for a replica: it says so, loses nothing and goes on when it may have more."""
    role = "listener_limited"
    async with open_world(erp_database, rules=ROLE_RULES) as world:
        await install_roles(world, daemon=role, reader=None)
        await world.db.execute(f"ALTER ROLE {role} CONNECTION LIMIT 3".encode())
        try:
            replica = await world.replica(LISTENER_DATABASE_URL=as_role(erp_database, role))
            await world.notes([(f"topic {n}", f"note {n}") for n in range(5)])
            used = []
            for _ in range(30):
                row = await world.one("SELECT count(*) AS n FROM pg_stat_activity WHERE usename = %s", role)
                used.append(row["n"])
                await asyncio.sleep(0.1)
            assert max(used) == 3
            assert replica.process.returncode is None
            said = replica.log.read_text().splitlines()
            assert 0 < sum("too many connections for role" in line for line in said) <= 7, said
            await world.db.execute(f"ALTER ROLE {role} CONNECTION LIMIT 6".encode())
            await world.gateway.wait_for(5, timeout=15)
            await world.settled()
            row = await world.one("SELECT count(*) AS n FROM pg_stat_activity WHERE usename = %s", role)
            assert row["n"] <= 6
            assert set((await world.states()).values()) == {"accepted"}
        finally:
            await world.db.execute(f"ALTER ROLE {role} CONNECTION LIMIT -1".encode())


@pytest.mark.timeout(300 if LONG else 120)
async def test_no_free_connections_are_waited_for(crashable: Server, crashable_database: str) -> None:
    async with open_bench(crashable_database, server=crashable, keys=4) as bench, bench.fleet(2) as fleet:
        await bench.erp.write(4)
        await bench.world.settled()
        ours = await bench.world.one(
            """SELECT count(*) AS n FROM pg_stat_activity
                WHERE datname = current_database() AND application_name LIKE 'listener %%'
                  AND application_name <> 'listener test'"""
        )
        assert ours["n"] <= 6 * len(fleet)
        hogs = []
        try:
            with pytest.raises(psycopg.OperationalError):
                while True:
                    hogs.append(await psycopg.AsyncConnection.connect(crashable_database))
            await bench.terminate()
            while len(hogs) < 100:
                try:
                    hogs.append(await psycopg.AsyncConnection.connect(crashable_database))
                except psycopg.OperationalError:
                    break
            await bench.world.notes([(bench.erp.keys[0], "while there was no connection")])
            await asyncio.sleep(120.0 if LONG else 1.0)
        finally:
            for hog in hogs:
                await hog.close()
        await bench.world.gateway.wait_for(5, timeout=15)
        await bench.verdict()


async def test_time_outs_that_a_dba_has_set_change_nothing(erp_database: str) -> None:
    async with open_bench(erp_database, keys=12) as bench:
        for setting in (
            "statement_timeout = '500ms'",
            "lock_timeout = '100ms'",
            "idle_in_transaction_session_timeout = '1s'",
            "idle_session_timeout = '1s'",
        ):
            await bench.world.db.execute(
                f"DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET {setting.replace(chr(39), chr(39) * 2)}',"
                " current_database()); END $$".encode()
            )
        replica = await bench.world.replica()
        await bench.erp.write(12)
        await asyncio.sleep(2.0)
        await bench.erp.write(12)
        await bench.verdict()
        assert "lost" not in replica.log.read_text()


@pytest.mark.timeout(900 if LONG else 120)
async def test_a_long_transaction_slows_nothing_and_costs_little(erp_database: str) -> None:
    async with open_bench(erp_database, keys=40, rate=40) as bench:
        await bench.world.replica()
        async with await psycopg.AsyncConnection.connect(erp_database) as long:
            # It has written, so that it might still trust a promise; it holds back the vacuum, too.
            await long.execute("INSERT INTO public.notes (topic, body, phone) VALUES ('long', 'long', '0980000000')")
            began = monotonic()
            for _ in range(ROUNDS):
                await bench.erp.write(40)
            await bench.world.gateway.wait_for(ROUNDS * 40, timeout=ROUNDS * 2)
            assert ROUNDS * 40 / (monotonic() - began) >= (0.9 if LONG else 0.4) * 40
            await asyncio.sleep(3.0)
            before = await _transactions(bench.world.db)
            await asyncio.sleep(2.0)
            # 4 looks a second of 3 transactions each, the upkeep's, and what the gateway's account asks for
            assert (await _transactions(bench.world.db) - before) / 2 <= 60
            await long.commit()
            committed = monotonic()
        await bench.world.gateway.wait_for(ROUNDS * 40 + 1)
        assert monotonic() - committed <= 2.0
        await bench.world.settled()
        for table in ("outbox", "message", "thread"):
            await bench.world.db.execute(f"VACUUM listener.{table}".encode())
        held = await bench.world.one(
            """SELECT pg_relation_size('listener.outbox') AS outbox, pg_relation_size('listener.message') AS message,
                      pg_relation_size('listener.thread') AS thread"""
        )
        # What was held back is free again; threads stay, one for each key.
        assert (held["outbox"], held["message"]) == (0, 0), held
        found = await bench.evidence()
        assert [line for line in broken(found) if not line.startswith(("I5", "I6"))] == []


async def _transactions(conn: psycopg.AsyncConnection[dict[str, object]]) -> int:
    row = await (
        await conn.execute("SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()")
    ).fetchone()
    assert row is not None
    return int(str(row["xact_commit"]))


MASS_RULES = """
version: 1
accounts:
  main: {domain: acme, token_file: TOKEN_FILE, service_id: 12, rate: 12/s}
defaults: {account: main}
watch:
  note: {table: public.notes, events: [insert], key: topic}
  mass: {table: public.mass, columns: [status], key: id}
rules:
  mass: {on: mass, to: "'0980000000'", text: "mass {{ new.id }}", priority: bulk}
  note: {on: note, to: new.phone, text: "{{ new.body }}", priority: urgent}
"""
MASS_SCHEMA = f"""
{NOTES};
CREATE TABLE public.mass (id bigint PRIMARY KEY, status text NOT NULL DEFAULT 'new');
CREATE TABLE public.plain (LIKE public.mass INCLUDING ALL);
"""


@pytest.mark.timeout(600 if LONG else 120)
async def test_a_mass_change_delays_no_other_rule(erp_database: str) -> None:
    async with open_world(erp_database, rules=MASS_RULES, schema=MASS_SCHEMA) as world:
        for table in ("mass", "plain"):
            await world.db.execute(f"INSERT INTO public.{table} SELECT n FROM generate_series(1, {MASS}) AS n".encode())
        await world.replica()
        seconds = {}
        for table in ("plain", "mass"):
            began = monotonic()
            await world.db.execute(f"UPDATE public.{table} SET status = 'shipped'".encode())
            seconds[table] = monotonic() - began
        print(f"{MASS} rows in one UPDATE: {seconds['plain']:.2f} s without, {seconds['mass']:.2f} s with capture")
        waits = []
        for number in range(6):
            began = monotonic()
            await world.note("topic", f"urgent {number}")
            await world.gateway.wait_until(partial(_has, f"urgent {number}"), timeout=10.0 + MASS / 200)
            waits.append(monotonic() - began)
        await world.until("SELECT NOT EXISTS (SELECT FROM listener.outbox)")
        found = await world.one("SELECT count(*) AS n FROM listener.messages WHERE rule = 'mass'")
        assert found["n"] == MASS
        # The first waits until the mass is matched, in the order of changes; none waits until it is sent.
        assert waits[0] <= 2.0 + MASS / 200, waits
        assert max(waits[1:]) <= 2.0, waits


def _has(text: str, state: State) -> bool:
    return any(entry.content == text for entry in state.ledger)


async def test_missing_partitions_harm_no_erp_write_and_are_made_again(erp_database: str) -> None:
    async with open_bench(erp_database, keys=4) as bench:
        async with bench.fleet(2):
            await bench.erp.write(4)
            await bench.world.settled()
            # Somebody forgot to make days ahead, and today's are gone as well.
            for row in await bench.world.rows(
                """SELECT c.oid::regclass::text AS day FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
                    WHERE i.inhparent IN ('listener.change'::regclass, 'listener.attempt'::regclass)"""
            ):
                await bench.world.db.execute(f"DROP TABLE {row['day']}".encode())
            await bench.erp.write(4)
            await bench.world.gateway.wait_for(8)
            await bench.world.settled()
        assert bench.erp.errors == []
        assert {m["state"] for m in await bench.world.messages()} == {"accepted"}
        # The daemon ends rather than go on half alive; started again it makes the days that it needs.
        print(f"exits: {bench.exits}")
