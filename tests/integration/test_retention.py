"""What was kept for long enough goes, and nothing else; counts stay; delivery does not wait for it."""

import asyncio
from datetime import timedelta

import psycopg
import pytest

from listener.database import connect
from listener.model import State
from listener.queries import load
from listener.retention import Keeper
from listener.settings import Retention, read_retention
from listener.simulator.gateway import Answer, Break, Fault, Moment
from tests.support.verbs import verb
from tests.support.world import PHONE, World, open_world, rules_text

DAYS = """
SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
 WHERE i.inhparent IN ('listener.finished'::regclass, 'listener.attempt'::regclass, 'listener.change'::regclass)
"""


async def make_old(world: World, days: int) -> None:
    """Moves all finished messages, attempts and changes so many days back, into partitions of that day."""
    for table, column in (("finished", "settled_at"), ("attempt", "leased_at"), ("change", "matched_at")):
        await world.db.execute(
            f"""DO $$ DECLARE d date := (now() AT TIME ZONE 'UTC')::date - {days}; BEGIN
                EXECUTE format('CREATE TABLE listener.%I PARTITION OF listener.{table} FOR VALUES FROM (%L) TO (%L)',
                    '{table}' || to_char(d, '_YYYYMMDD'),
                    d::timestamp AT TIME ZONE 'UTC', (d + 1)::timestamp AT TIME ZONE 'UTC');
                UPDATE listener.{table} SET {column} = d::timestamp AT TIME ZONE 'UTC' + interval '1 h';
            END $$""".encode()
        )


async def old_days(world: World) -> int:
    rows = await world.rows("SELECT to_char(now() AT TIME ZONE 'UTC' - interval '2 days', 'YYYYMMDD') AS limit")
    limit = rows[0]["limit"]
    return sum(row["relname"][-8:] < limit for row in await world.rows(DAYS))


async def test_days_that_are_over_are_dropped_and_their_counts_stay(erp_database: str) -> None:
    async with open_world(erp_database) as world:
        await world.notes([("a", "one"), ("b", "two")])
        async with world.service():
            await world.settled()
        await make_old(world, 100)
        await world.note("c", "three")
        async with world.service():
            await world.settled()
            await world.until("SELECT count(*) = 1 FROM listener.finished")
            await world.until("SELECT count(*) = 1 FROM listener.attempt")
            await world.until("SELECT count(*) = 1 FROM listener.change")
        assert await old_days(world) == 0
        assert (await verb(world.environment(), "status", "-o", "json")).json["messages"]["accepted"] == 3
        # a thread keeps its ticket, by its key
        tickets = await world.rows("SELECT key FROM listener.tickets ORDER BY key")
        assert [row["key"] for row in tickets] == ["a", "b", "c"]


async def test_a_day_that_is_not_over_stays(erp_database: str) -> None:
    async with open_world(erp_database) as world:
        await world.note("a", "one")
        async with world.service():
            await world.settled()
        await make_old(world, 91)
        row = await world.one("SELECT * FROM listener.drop_day('92 days')")
        assert (row["dropped"], row["more"]) == (None, False)
        # the last moment of the day before is not yet that old
        assert (await world.one("SELECT * FROM listener.drop_day('91 days')"))["dropped"] is None
        for table in ("attempt", "change", "finished"):
            row = await world.one("SELECT * FROM listener.drop_day('90 days')")
            assert row["dropped"].startswith(table)
        assert row["more"] is False
        with pytest.raises(psycopg.errors.InvalidParameterValue):
            await world.db.execute("SELECT listener.drop_day('1 hour')")


async def test_states_that_are_kept_for_less_lose_phone_text_and_row_and_nothing_else(erp_database: str) -> None:
    async with open_world(erp_database) as world:
        await world.note("a", "sent")
        await world.note("b", "refused 1", phone="123")
        async with world.service():
            await world.settled()
        await make_old(world, 40)
        # tickets that could not be written back so far
        await world.db.execute(
            """INSERT INTO listener.ticket_save (message_id, rule, ticket_id, params, due_at, error)
               SELECT id, key, 1, '{}', now() + interval '1 h', 'UndefinedColumn' FROM listener.finished"""
        )
        await world.note("c", "new")
        kept = Retention(sooner={State.ACCEPTED: timedelta(days=30)})
        async with world.service(retention=kept):
            await world.settled()
            await world.until("SELECT EXISTS (SELECT FROM listener.finished WHERE text IS NULL AND phone IS NULL)")
            await world.until("SELECT count(*) = 1 FROM listener.ticket_save")
        assert await world.one("SELECT rule FROM listener.ticket_save") == {"rule": "b"}
        rows = {row["key"]: row for row in await world.messages()}
        assert (rows["a"]["phone"], rows["a"]["text"], rows["a"]["state"]) == (None, None, "accepted")
        assert rows["a"]["ticket_id"] is not None
        assert rows["b"]["state"] == "rejected"
        assert (rows["c"]["phone"], rows["c"]["text"]) == (PHONE, "new")
        changes = {row["key"]: row["new"] for row in await world.rows("SELECT key, new FROM listener.change")}
        assert changes["a"] is None
        assert changes["b"]["body"] == "refused 1"
        assert changes["c"]["body"] == "new"
        assert (await verb(world.environment(), "status", "-o", "json")).json["messages"]["accepted"] == 2


async def test_what_goes_sooner_does_not_meet_a_persons_deed_halfway(erp_database: str) -> None:
    """Each would hold what the other one wants next."""
    async with open_world(erp_database) as world, await connect(world.settings, "upkeep", lock_timeout="1s") as conn:
        world.gateway.add_fault(Fault(action=Answer(status=400), times=1))
        await world.note("a", "refused")
        await world.once()
        args = {"messages": [1], "changes": [], "phone": PHONE, "digits": PHONE}
        async with world.db.transaction():
            # as `forget` does; it is the one to find out that neither can go on
            await world.db.execute("SET LOCAL deadlock_timeout = '10ms'")
            await world.db.execute(load("interventions")["my_turn"])
            await world.db.execute(load("personal")["forget_messages"], args)
            keeping = asyncio.create_task(Keeper(Retention(sooner={State.REJECTED: timedelta()})).look(conn))
            await world.until("SELECT count(*) > 0 FROM pg_locks WHERE NOT granted")
            await world.db.execute(load("personal")["forget_attempts"], args)
        await keeping
        assert await world.rows("SELECT detail, reason FROM listener.attempt, listener.finished") == [
            {"detail": None, "reason": "phone and text were removed after their time"}
        ]


async def test_a_key_that_is_a_phone_goes_with_it(erp_database: str) -> None:
    async with open_world(erp_database) as world:
        await world.note("091 234-5678", "sent", phone="0912345678")
        async with world.service():
            await world.settled()
        await make_old(world, 40)
        async with world.service(retention=Retention(sooner={State.ACCEPTED: timedelta(days=30)})):
            await world.until("SELECT key = 'removed' AND thread = 'removed' FROM listener.finished")
        assert [row["key"] for row in await world.rows("SELECT key FROM listener.change")] == ["removed"]


async def test_what_was_rejected_before_it_had_a_phone_and_a_text_goes_too(erp_database: str) -> None:
    rules = rules_text().replace("new.body }}", "new.body | vnd }}")
    async with open_world(erp_database, rules=rules) as world:
        await world.note("091 234-5678", "no number", phone="123")
        async with world.service():
            await world.settled()
        await make_old(world, 40)
        async with world.service(retention=Retention(sooner={State.REJECTED: timedelta(days=30)})):
            await world.until("SELECT key = 'removed' AND thread = 'removed' FROM listener.finished")
            await world.until("SELECT key = 'removed' AND new IS NULL FROM listener.change")


async def test_what_nobody_decided_about_and_what_was_muted_goes_too(erp_database: str) -> None:
    rules = rules_text(ticket="{thread: new.phone}")
    async with open_world(erp_database, rules=rules) as world:
        world.gateway.add_fault(Fault(action=Break(moment=Moment.BEFORE_ANSWER), content="unclear"))
        await world.note("a", "unclear")
        async with world.service():
            await world.settled()
        await verb(world.environment(), "pause", "--rule", "note", "--reason", "x")
        await world.note("b", "stopped")
        await world.once()
        await world.db.execute(
            "INSERT INTO listener.muted (watch, op, key, new, reason) "
            "VALUES ('note', 'insert', 'm', '{\"phone\": \"0912345678\"}', 'x')"
        )
        assert sorted((await world.states()).values()) == ["held", "unknown"]
        await world.db.execute("UPDATE listener.message SET created_at = created_at - interval '93 days'")
        await world.db.execute("UPDATE listener.muted SET at = at - interval '93 days'")
        await world.db.execute("UPDATE listener.thread SET used_on = used_on - 93")
        async with world.service():
            await world.until("SELECT NOT EXISTS (SELECT FROM listener.message)")
            await world.until("SELECT NOT EXISTS (SELECT FROM listener.muted)")
            await world.until("SELECT NOT EXISTS (SELECT FROM listener.thread)")
        counts = (await verb(world.environment(), "status", "-o", "json")).json["messages"]
        assert (counts["held"], counts["unknown"], counts["expired"]) == (0, 0, 1)
        gone = await world.rows("SELECT state, n FROM listener.tally WHERE state = 'unknown'")
        assert [row["n"] for row in gone] == [1]


async def test_a_thread_of_a_phone_stays_while_it_is_used(erp_database: str) -> None:
    async with open_world(erp_database, rules=rules_text(ticket="{thread: new.phone}")) as world:
        await world.note("a", "one")
        async with world.service():
            await world.settled()
            await world.db.execute("UPDATE listener.thread SET used_on = used_on - 93")
            await world.note("b", "two")
            await world.settled()
            assert await world.rows("SELECT FROM listener.thread WHERE used_on < current_date - 1") == []
        sent = world.gateway.state.ledger
        assert sent[1].ticket_id_sent == sent[0].ticket_id


async def test_new_days_are_made_beside_open_transactions(listener_database: str) -> None:
    async with (
        await psycopg.AsyncConnection.connect(listener_database) as writer,
        await psycopg.AsyncConnection.connect(listener_database, autocommit=True) as other,
    ):
        row = await (await other.execute(DAYS + " ORDER BY c.relname DESC LIMIT 1")).fetchone()
        assert row is not None
        await other.execute(f"DROP TABLE listener.{row[0]}".encode())
        await writer.execute(
            "INSERT INTO listener.finished "
            "(change_id, rule, rules_version, watch, key, account, thread, state, settled_at) "
            "VALUES (1, 'r', 1, 'w', 'k', 'a', 't', 'shadow', now())"
        )
        await writer.execute("UPDATE listener.attempt SET ms = 1")
        await writer.execute("UPDATE listener.change SET note = ''")
        await other.execute("SET lock_timeout = '100ms'")
        await other.execute("SELECT listener.make_days()")
        again = await (await other.execute(DAYS + " ORDER BY c.relname DESC LIMIT 1")).fetchone()
        assert again == row


async def test_a_day_that_somebody_reads_is_left_for_later(erp_database: str) -> None:
    async with open_world(erp_database) as world:
        await world.note("a", "one")
        async with world.service():
            await world.settled()
        await make_old(world, 100)
        async with await psycopg.AsyncConnection.connect(erp_database) as reader:
            await reader.execute("SELECT count(*) FROM listener.messages, listener.attempt, listener.change")
            row = await world.one("SELECT * FROM listener.drop_day('92 days')")
            assert (row["dropped"], row["more"]) == (None, True)
            await world.note("b", "two")
            async with world.service():
                await world.settled()
                assert await world.rows("SELECT FROM listener.finished WHERE text = 'one'") != []
                await reader.rollback()
                await world.until("SELECT NOT EXISTS (SELECT FROM listener.finished WHERE text = 'one')")


async def test_an_erp_that_refuses_tables_of_ours_does_not_end_the_daemon(erp_database: str) -> None:
    async with open_world(erp_database) as world:
        await world.note("a", "one")
        async with world.service():
            await world.settled()
        await make_old(world, 100)
        row = await world.one(DAYS + " ORDER BY c.relname DESC LIMIT 1")
        await world.db.execute(f"DROP TABLE listener.{row['relname']}".encode())
        await world.db.execute("""CREATE FUNCTION public.refuse() RETURNS event_trigger LANGUAGE plpgsql AS
                                      $$BEGIN RAISE EXCEPTION 'no DDL in working hours'; END$$""")
        await world.db.execute("CREATE EVENT TRIGGER refuse ON ddl_command_end EXECUTE FUNCTION public.refuse()")
        replica = await world.replica()
        await replica.said("days_not_made")
        await replica.said("day_not_dropped")
        await world.note("b", "two")
        await world.settled()
        assert world.arrived() == ["one", "two"]
        assert await replica.stop() == 0


async def test_a_missing_partition_is_made_anew_and_nothing_is_sent_twice(erp_database: str) -> None:
    async with open_world(erp_database) as world, world.service():
        for table in ("finished", "attempt"):
            row = await world.one(DAYS + " AND c.relname = %s || to_char(now() AT TIME ZONE 'UTC', '_YYYYMMDD')", table)
            await world.db.execute(f"DROP TABLE listener.{row['relname']}".encode())
            await world.notes([(f"{table} {n}", f"{table} {n}") for n in range(3)])
            await world.settled()
        assert sorted(world.arrived()) == sorted(f"{t} {n}" for t in ("attempt", "finished") for n in range(3))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("92", "write a time"),
        ("1d", "from 2d to 400d"),
        ("401d", "from 2d to 400d"),
        ("92d accepted", "write it as"),
        ("92d, accepted", "a state and a time"),
        ("92d, sent 3d", "no state 'sent'"),
        ("92d, waiting 3d", "no state 'waiting'"),
        ("30d, accepted 31d", "cannot be kept for longer"),
    ],
)
def test_a_retention_that_cannot_be_is_refused(text: str, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        read_retention(text)


def test_a_retention_is_read() -> None:
    assert read_retention("92d") == Retention()
    assert read_retention("400d,accepted 30d, shadow 7d") == Retention(
        keep=timedelta(days=400), sooner={State.ACCEPTED: timedelta(days=30), State.SHADOW: timedelta(days=7)}
    )


async def test_a_publication_of_all_tables_stops_nothing(erp_database: str) -> None:
    """As a warehouse, Debezium, or an upgrade by logical replication wants it."""
    async with open_world(erp_database) as world:
        await world.db.execute("CREATE PUBLICATION everything FOR ALL TABLES")
        # half of the days are as an older version made them, half are made anew
        for row in await world.rows(DAYS):
            if row["relname"][-1] in "02468":
                await world.db.execute(f"DROP TABLE listener.{row['relname']}".encode())
        await world.note("topic", "note")
        async with world.service():
            await world.settled()
        assert list((await world.states()).values()) == ["accepted"]
        for table in await world.rows(
            """SELECT oid::regclass::text AS name FROM pg_class
                WHERE relnamespace = 'listener'::regnamespace AND relkind IN ('r', 'p')"""
        ):
            await world.db.execute(f"DELETE FROM {table['name']} WHERE random() < 0".encode())
