"""F31 to F33, F35, F37, F39, F41: what the ERP's transactions do to each other, and to us: late commits, roll-backs,
repeated saves, locks, a history that is not ours to tell, a mass change, and our own housekeeping beside it all.

(F34, F36 and F40 are in `tests/integration/test_capture*.py`.)
"""

import asyncio
import os
import random
from dataclasses import replace
from statistics import median
from time import monotonic

import psycopg
import pytest

from listener.simulator.gateway import Break, Fault, Moment
from listener.simulator.postgres import Server
from tests.faults.bench import open_bench
from tests.faults.checker import broken
from tests.support.verbs import verb
from tests.support.world import NOTES, PHONE, World, open_world, rules_text

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


@pytest.mark.timeout(900)
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
                        # two threads send one at a time: no more than they can in ten minutes
                        await asyncio.sleep(0.5 if LONG else 0.02)
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


MASS_RULES = """
version: 1
accounts:
  main: {domain: acme, token_file: TOKEN_FILE, service_id: 12, rate: 200/s}
defaults: {account: main}
watch:
  note: {table: public.notes, events: [insert], key: topic}
  mass: {table: public.mass, columns: [status], key: id}
rules:
  mass: {on: mass, to: "'0980000000'", text: "mass {{ new.id }}", brake: 100/h}
  note: {on: note, to: new.phone, text: "{{ new.body }}"}
"""
COLUMNS = ", ".join(f"c{n} text DEFAULT 'value {n}'" for n in range(20))
MASS_SCHEMA = f"""
{NOTES};
CREATE TABLE public.mass (id bigint PRIMARY KEY, status text NOT NULL DEFAULT 'new', at timestamptz, {COLUMNS});
CREATE INDEX ON public.mass (status); CREATE INDEX ON public.mass (at); CREATE INDEX ON public.mass (c1);
CREATE TABLE public.plain (LIKE public.mass INCLUDING ALL);
"""


@pytest.mark.timeout(900)
async def test_a_mass_mistake_is_held_by_the_brake_and_one_word_decides(erp_database: str) -> None:
    """F39: as many as the rule may make are sent, the rest waits for a person; other rules go on."""
    rows = 50_000 if LONG else 3_000
    async with open_world(erp_database, rules=MASS_RULES, schema=MASS_SCHEMA) as world:
        await world.db.execute("SET statement_timeout = 0")
        for table in ("mass", "plain"):
            await world.db.execute(f"INSERT INTO public.{table} (id) SELECT generate_series(1, {rows})".encode())
        await world.db.execute("VACUUM ANALYZE public.mass, public.plain")
        await world.replica()
        seconds = {}
        for table in ("plain", "mass"):
            began = monotonic()
            await world.db.execute(f"UPDATE public.{table} SET status = 'shipped'".encode())
            seconds[table] = monotonic() - began
        print(f"{rows} rows in one UPDATE: {seconds['plain']:.2f} s, with capture {seconds['mass']:.2f} s")
        await world.until("SELECT EXISTS (SELECT FROM listener.brake WHERE rule = 'mass')", seconds=60)
        for n in range(5):
            await world.note("other", f"other {n}")
        await world.until("SELECT NOT EXISTS (SELECT FROM listener.outbox)", seconds=300)
        await world.settled(60)
        arrived = world.arrived()
        assert sum(text.startswith("mass") for text in arrived) == 100
        assert {f"other {n}" for n in range(5)} <= set(arrived)
        status = (await verb(world.environment(), "status", "-o", "json")).json
        assert status["messages"]["held"] == rows - 100
        done = await verb(world.environment(), "cancel", "--rule", "mass", "--state", "held", "--yes", "-o", "json")
        assert done.json["changed"] == rows - 100
        assert len(world.arrived()) == 105


async def test_housekeeping_beside_the_work_hurts_nobody_and_removes_nothing_that_is_open(erp_database: str) -> None:
    """F41: old days are dropped and new ones made by three replicas at once, while the ERP writes."""
    async with open_bench(erp_database, keys=10) as bench:
        world = bench.world
        world.gateway.add_fault(Fault(action=Break(moment=Moment.BEFORE_ANSWER), content="unclear"))
        await world.note("unclear", "unclear")
        async with world.service():
            await world.settled()
        await world.db.execute("UPDATE listener.message SET created_at = now() - interval '80 days'")
        await world.db.execute(OLD_DAYS.encode())
        plain, captured, stopping = await _write_seconds(world, "plain_notes"), [], asyncio.Event()
        async with bench.fleet(3):
            writing = asyncio.create_task(bench.erp.run(20, stopping))
            await world.until("SELECT count(*) = 0 FROM pg_class WHERE relname LIKE '%_2020____'", seconds=60)
            captured = await _write_seconds(world, "notes")
            stopping.set()
            await writing
            await world.settled(60)
        assert (await world.states())["unclear"] == "unknown"
        added = median(captured) - median(plain)
        print(f"a write takes {added * 1000:.1f} ms more")
        assert added <= (0.005 if LONG else 0.05)
        found = await bench.evidence()
        assert [line for line in broken(found) if line.startswith(("I2", "I3", "I6", "I7", "I8"))] == []
        assert bench.erp.errors == []


# partitions of days of long ago
OLD_DAYS = """
DO $$ DECLARE parent text; BEGIN
    FOREACH parent IN ARRAY ARRAY['finished', 'attempt'] LOOP
        FOR n IN 1..5 LOOP
            EXECUTE format('CREATE TABLE listener.%I PARTITION OF listener.%I FOR VALUES FROM (%L) TO (%L)',
                           parent || '_202001' || to_char(n, 'FM00'), parent,
                           date '2020-01-01' + n, date '2020-01-02' + n);
        END LOOP;
    END LOOP;
END $$
"""


async def _write_seconds(world: World, table: str) -> list[float]:
    """How long writes to a table take, one row each."""
    await world.db.execute(f"CREATE TABLE IF NOT EXISTS public.{table} (LIKE public.notes INCLUDING ALL)".encode())
    taken = []
    for n in range(100):
        began = monotonic()
        await world.db.execute(
            f"INSERT INTO public.{table} (topic, body, phone) VALUES ('k', %s, '0980000000')".encode(), [f"{table} {n}"]
        )
        taken.append(monotonic() - began)
        await asyncio.sleep(0.002)
    return taken
