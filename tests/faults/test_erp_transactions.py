"""F31 to F33, F35, F37: what the ERP's transactions do to each other, and to us: late commits, roll-backs, repeated
saves, locks, and a history that is not ours to tell. (F34, F36 and F40 are in `tests/integration/test_capture*.py`.)"""

import asyncio
import os
import random
from dataclasses import replace

import psycopg
import pytest

from listener.simulator.postgres import Server
from tests.faults.bench import open_bench
from tests.support.verbs import verb
from tests.support.world import PHONE, World, open_world, rules_text

LONG = os.environ.get("LISTENER_LONG") == "1"
INSERT = "INSERT INTO public.notes (topic, body, phone) VALUES (%s, %s, %s)"


@pytest.mark.timeout(900)
@pytest.mark.parametrize("cache", [1, 50])
async def test_a_later_number_that_commits_first_neither_waits_nor_hides_the_other(
    erp_database: str, cache: int
) -> None:
    """F31. A sequence that gives sessions numbers in advance costs order, loses nothing, and is named by `verify`."""
    rng = random.Random(31)
    rounds = 200 if LONG else 10
    async with open_world(erp_database) as world:
        await world.db.execute(f"ALTER SEQUENCE listener.outbox_id_seq CACHE {cache}".encode())
        found = await verb(world.environment(), "db", "verify")
        assert (found.code, "CACHE" in found.out + found.err) == (int(cache > 1), cache > 1)
        early, late = [await psycopg.AsyncConnection.connect(erp_database) for _ in range(2)]
        expected: set[str] = set()
        async with early, late, world.service():
            for n in range(rounds):
                topics = rng.choice([("same", "same"), ("one", "other")])
                await early.execute(INSERT, [topics[0], f"a{n}", PHONE])
                await late.execute(INSERT, [topics[1], f"b{n}", PHONE])
                await late.commit()
                await _arrives(world, f"b{n}")
                if rng.random() < 0.7:
                    await early.commit()
                    expected.add(f"a{n}")
                else:
                    await early.rollback()
                # began when all of them had ended
                await late.execute(INSERT, [topics[0], f"c{n}", PHONE])
                await late.commit()
                expected |= {f"b{n}", f"c{n}"}
                await _arrives(world, f"c{n}")
            await world.settled()
        arrived = world.arrived()
        assert sorted(arrived) == sorted(expected)
        if cache == 1:
            for n in range(rounds):
                before = arrived[: arrived.index(f"c{n}")]
                assert {f"b{n}", *({f"a{n}"} & expected)} <= set(before)


async def _arrives(world: World, body: str) -> None:
    await world.gateway.wait_until(lambda state: any(entry.content == body for entry in state.ledger))


async def test_what_is_rolled_back_is_never_sent() -> None:
    """F32, a two-phase commit among it."""
    with Server(settings={"max_prepared_transactions": 5}) as server:
        dsn = server.create_database("phases")
        async with open_world(dsn) as world:
            # A ring would make PREPARE TRANSACTION fail.
            world.settings = replace(world.settings, doorbell=False)
            await world.install()
            async with world.service():
                for n in range(100 if LONG else 4):
                    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as erp:
                        await _undo_in_every_way(erp, n)
                    await world.note("kept", f"kept {n}")
                await world.settled()
            assert world.arrived() == [f"kept {n}" for n in range(100 if LONG else 4)]


async def _undo_in_every_way(erp: psycopg.AsyncConnection, n: int) -> None:
    async with erp.transaction(force_rollback=True):
        await erp.execute(INSERT, ["k", f"rolled back {n}", PHONE])
    async with erp.transaction(), erp.transaction(force_rollback=True):
        await erp.execute(INSERT, ["k", f"back to the savepoint {n}", PHONE])
    with pytest.raises(psycopg.errors.UniqueViolation):
        await erp.execute(
            "INSERT INTO public.notes (topic, body, phone) SELECT 'k', %s, '0980000000' FROM generate_series(1, 2)",
            [f"twice {n}"],
        )
    await erp.execute("CREATE TABLE IF NOT EXISTS public.later (id int UNIQUE DEFERRABLE INITIALLY DEFERRED)")
    with pytest.raises(psycopg.errors.UniqueViolation):
        async with erp.transaction():
            await erp.execute("INSERT INTO public.later VALUES (1), (1)")
            await erp.execute(INSERT, ["k", f"fails at commit {n}", PHONE])
    await erp.execute("BEGIN")
    await erp.execute(INSERT, ["k", f"prepared {n}", PHONE])
    await erp.execute(f"PREPARE TRANSACTION 'p{n}'".encode())
    await erp.execute(f"ROLLBACK PREPARED 'p{n}'".encode())


SAVES_RULES = """
version: 1
accounts:
  main: {domain: acme, token_file: TOKEN_FILE, service_id: 12, rate: 1000/s}
defaults: {account: main}
watch:
  order: {table: public.orders_saved, columns: [status], events: [insert, update], key: id}
rules:
  any: {on: order, to: "'0980000000'", text: "{{ key }} is {{ new.status }}"}
  paid: {on: order, change: {status: {to: [paid]}}, to: "'0980000000'", text: "{{ key }} thanks"}
"""
SAVES_SCHEMA = """
CREATE TABLE public.orders_saved (id int PRIMARY KEY, status text, note text);
INSERT INTO public.orders_saved SELECT n, 'new', 'x' FROM generate_series(1, 99) AS n;
"""
# what is done to order ID, and the texts after its number
SAVES = {
    "no change": ("UPDATE orders_saved SET status = status WHERE id = ID", []),
    "another column": ("UPDATE orders_saved SET note = 'y' WHERE id = ID", []),
    "no row": ("UPDATE orders_saved SET status = 'sent' WHERE id = -ID", []),
    "upsert of the same": (
        "INSERT INTO orders_saved VALUES (ID, 'new') ON CONFLICT (id) DO UPDATE SET status = excluded.status", [],
    ),
    "upsert of a change": (
        "INSERT INTO orders_saved VALUES (ID, 'sent') ON CONFLICT (id) DO UPDATE SET status = excluded.status",
        ["is sent"],
    ),
    "both columns": ("UPDATE orders_saved SET status = 'sent', note = 'y' WHERE id = ID", ["is sent"]),
    "saved twice in a transaction": (
        "BEGIN; UPDATE orders_saved SET status = 'sent' WHERE id = ID; "
        "UPDATE orders_saved SET status = 'sent' WHERE id = ID; COMMIT", ["is sent"],
    ),
    "saved again": (
        "UPDATE orders_saved SET status = 'sent' WHERE id = ID; "
        "UPDATE orders_saved SET status = 'sent' WHERE id = ID", ["is sent"],
    ),
    "there and back": (
        "BEGIN; UPDATE orders_saved SET status = 'sent' WHERE id = ID; "
        "UPDATE orders_saved SET status = 'new' WHERE id = ID; COMMIT", ["is new", "is sent"],
    ),
    "two steps": (
        "BEGIN; UPDATE orders_saved SET status = 'sent' WHERE id = ID; "
        "UPDATE orders_saved SET status = 'done' WHERE id = ID; COMMIT", ["is done", "is sent"],
    ),
    "two rules": ("UPDATE orders_saved SET status = 'paid' WHERE id = ID", ["is paid", "thanks"]),
    "half of it undone": (
        "BEGIN; SAVEPOINT s; UPDATE orders_saved SET status = 'paid' WHERE id = ID; ROLLBACK TO s; "
        "UPDATE orders_saved SET status = 'sent' WHERE id = ID; COMMIT", ["is sent"],
    ),
}  # fmt: skip


async def test_one_message_for_each_rule_and_real_change(erp_database: str) -> None:
    """F33: twelve ways to save."""
    async with open_world(erp_database, rules=SAVES_RULES, schema=SAVES_SCHEMA) as world, world.service():
        expected = []
        for number, (statements, texts) in enumerate(SAVES.values(), 1):
            async with await psycopg.AsyncConnection.connect(erp_database, autocommit=True) as erp:
                for statement in statements.split("; "):
                    await erp.execute(statement.replace("ID", str(number)).encode())
            expected += [f"{number} {text}" for text in texts]
        await world.settled()
        assert sorted(world.arrived()) == sorted(expected)


async def test_capture_takes_no_lock_that_an_erp_transaction_could_wait_for(erp_database: str) -> None:
    """F35: sessions meet the same keys in opposite order, while messages of these keys are made, sent and settled."""
    async with open_bench(erp_database, keys=2, rate=500) as bench, bench.fleet(2):
        world, ends = bench.world, asyncio.get_running_loop().time() + (600 if LONG else 3)
        waited: list[str] = []

        async def session(number: int) -> int:
            done = 0
            async with await psycopg.AsyncConnection.connect(erp_database) as erp:
                # Whoever waits longer, for anything, fails; and so would capture's own statement, counted.
                await erp.execute("SET lock_timeout = '50ms'")
                await erp.commit()
                while asyncio.get_running_loop().time() < ends:
                    topics = ("k1", "k2") if number % 2 else ("k2", "k1")
                    try:
                        for topic in topics:
                            await erp.execute(INSERT, [topic, f"{number} {done} {topic}", PHONE])
                            await asyncio.sleep(0.01)
                        await erp.commit()
                        done += 1
                        await asyncio.sleep(0.02)
                    except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected) as error:
                        waited.append(type(error).__name__)
                        await erp.rollback()
            return done

        async with asyncio.TaskGroup() as tasks:
            sessions = [tasks.create_task(session(number)) for number in range(4)]
        await world.settled(300)
        assert waited == []
        failures = await world.one("SELECT is_called FROM listener.capture_failures")
        assert not failures["is_called"]
        assert len(world.arrived()) == sum(2 * s.result() for s in sessions) > 50


async def test_what_was_there_before_is_never_told(erp_database: str) -> None:
    """F37: at the first start, with a new rule, and when everything is installed anew."""
    rows = 1_000_000 if LONG else 20_000
    async with open_world(erp_database) as world:
        await world.db.execute("ALTER TABLE public.notes DISABLE TRIGGER ALL")
        await world.db.execute(
            """INSERT INTO public.notes (topic, body, phone)
               SELECT 'old', 'old ' || n, '0980000000' FROM generate_series(1, %s) AS n""",
            [rows],
        )
        for again in ("uninstall", "install"):
            yes = ["--yes"] if again == "uninstall" else []
            assert (await verb(world.environment(), "db", again, *yes)).code == 0
        async with world.service():
            other = rules_text().replace(
                "rules:\n", "rules:\n  more: {on: note, to: new.phone, text: 'more {{ key }}'}\n"
            )
            world.use_rules(other)
            await world.until("SELECT rules_version = 2 FROM listener.fleet")
            await world.note("new", "first")
            await world.gateway.wait_for(2)
            await world.settled()
        assert sorted(world.arrived()) == ["first", "more new"]
        assert len(await world.messages()) == 2
