"""Capture on partitioned tables and on tables that others inherit from, also of a row that an update moves."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest

from listener import capture, migrations, rights
from listener.simulator.postgres import Server
from tests.support.erp import Erp, open_erp
from tests.support.world import PATIENCE

PARTITIONED = """
CREATE TABLE public.orders (
    id int, status text, amount int, twice int GENERATED ALWAYS AS (amount * 2) STORED, gone int
) PARTITION BY LIST (status);
CREATE TABLE public.orders_new PARTITION OF public.orders FOR VALUES IN ('new');
CREATE TABLE public.orders_paid (gone0 int, status text, amount int, id int,
                                 twice int GENERATED ALWAYS AS (amount * 2) STORED, gone int);
ALTER TABLE public.orders_paid DROP gone0;
ALTER TABLE public.orders ATTACH PARTITION public.orders_paid FOR VALUES IN ('paid');
CREATE TABLE public.orders_rest PARTITION OF public.orders DEFAULT PARTITION BY RANGE ((amount / 10));
CREATE TABLE public.orders_rest_low PARTITION OF public.orders_rest FOR VALUES FROM (MINVALUE) TO (10);
CREATE TABLE public.orders_rest_high PARTITION OF public.orders_rest FOR VALUES FROM (10) TO (MAXVALUE);
ALTER TABLE public.orders DROP gone;
INSERT INTO public.orders (id, status, amount) VALUES (1, 'new', 10), (2, 'new', 20), (3, 'sent', 30);
"""


@pytest.fixture
async def erp(listener_database: str) -> AsyncIterator[Erp]:
    async with open_erp(listener_database) as erp:
        await erp.run(PARTITIONED)
        yield erp


def row(number: int, status: str, amount: int) -> dict[str, object]:
    return {"id": number, "status": status, "amount": amount, "twice": amount * 2}


async def watch(erp: Erp, name: str = "w", **words: Any) -> None:
    await erp.watch(name, table="public.orders", **{"columns": ["status", "amount"], "key": ["id"], **words})


async def test_the_columns_that_choose_a_partition_are_known_at_every_level(erp: Erp) -> None:
    await watch(erp)
    assert erp.captures["w"].table.moved_by == ("amount", "status")


async def test_an_update_inside_a_partition_is_captured_once(erp: Erp) -> None:
    await watch(erp)
    await erp.run(
        "UPDATE public.orders SET amount = 11 WHERE id = 1; UPDATE public.orders_new SET amount = 12 WHERE id = 1"
    )
    assert await erp.captured() == [
        ("update", "1", row(1, "new", 10), row(1, "new", 11)),
        ("update", "1", row(1, "new", 11), row(1, "new", 12)),
    ]


async def test_an_update_that_moves_a_row_is_captured_as_the_update_it_is(erp: Erp) -> None:
    await watch(erp)
    await erp.run("UPDATE public.orders SET status = 'paid', amount = amount + 1 WHERE id < 3")
    assert await erp.captured() == [
        ("update", "1", row(1, "new", 10), row(1, "paid", 11)),
        ("update", "2", row(2, "new", 20), row(2, "paid", 21)),
    ]
    await erp.run(
        "UPDATE public.orders SET amount = 100 WHERE id = 3; UPDATE public.orders SET status = 'new' WHERE id = 1"
    )
    assert await erp.captured() == [
        ("update", "3", row(3, "sent", 30), row(3, "sent", 100)),
        ("update", "1", row(1, "paid", 11), row(1, "new", 11)),
    ]
    assert await erp.failures() == 0


async def test_moving_and_staying_rows_of_one_statement_do_not_mix(erp: Erp) -> None:
    await watch(erp)
    await erp.run("""INSERT INTO public.orders (id, status, amount) SELECT n, 'new', n FROM generate_series(10, 40) n;
                     UPDATE public.orders SET status = CASE WHEN id % 3 = 0 THEN 'new' ELSE 'paid' END,
                                              amount = amount + 1 WHERE id >= 10""")
    found = {key: (op, old, new) for op, key, old, new in await erp.captured()}
    assert len(found) == 31
    for n in range(10, 41):
        moved = row(n, "new" if n % 3 == 0 else "paid", n + 1)
        assert found[str(n)] == ("update", row(n, "new", n), moved)


async def test_a_move_is_neither_a_delete_nor_an_insert(erp: Erp) -> None:
    await watch(erp, "changed", events=["update"])
    await watch(erp, "made", events=["insert"])
    await watch(erp, "removed", events=["delete"])
    await watch(erp, "any", events=["insert", "update", "delete"])
    await erp.run("""BEGIN;
        UPDATE public.orders SET status = 'paid' WHERE id = 1;
        INSERT INTO public.orders (id, status, amount) VALUES (4, 'new', 40);
        DELETE FROM public.orders WHERE id = 1;
        INSERT INTO public.orders (id, status, amount) VALUES (1, 'new', 10);
        UPDATE public.orders SET status = 'sent' WHERE id = 1;
        COMMIT""")
    found = await erp.captured_by_watch()
    assert [(op, key) for name, op, key, _, _ in found if name == "any"] == [
        ("update", "1"),
        ("insert", "4"),
        ("delete", "1"),
        ("insert", "1"),
        ("update", "1"),
    ]
    assert [(op, key) for name, op, key, _, _ in found if name == "changed"] == [("update", "1")] * 2
    assert [(op, key) for name, op, key, _, _ in found if name == "made"] == [("insert", "4"), ("insert", "1")]
    assert [(op, key) for name, op, key, _, _ in found if name == "removed"] == [("delete", "1")]
    assert await erp.failures() == 0


@pytest.mark.parametrize("where", ["NEW.amount > 15", "abs(NEW.amount) > 15"])
async def test_where_and_columns_are_asked_of_a_moved_row_too(erp: Erp, where: str) -> None:
    await watch(erp, where=where)
    await watch(erp, "amount", columns=["amount"])
    await erp.run("UPDATE public.orders SET status = 'paid' WHERE id < 3")
    assert [(name, key) for name, _, key, _, _ in await erp.captured_by_watch()] == [("w", "2")]


async def test_a_row_that_moves_under_its_own_new_key(erp: Erp) -> None:
    await watch(erp, key=["id", "status"])
    await erp.run("UPDATE public.orders SET status = 'paid' WHERE id = 1")
    assert [(op, key) for op, key, _, _ in await erp.captured()] == [("update", "1/paid")]


async def test_a_move_that_is_rolled_back_or_muted(erp: Erp) -> None:
    await watch(erp, events=["insert", "update", "delete"])
    await erp.run("""BEGIN; SAVEPOINT s; UPDATE public.orders SET status = 'paid' WHERE id = 1; ROLLBACK TO s;
                     DELETE FROM public.orders WHERE id = 1;
                     INSERT INTO public.orders (id, status, amount) VALUES (1, 'new', 10); COMMIT""")
    assert [(op, key) for op, key, _, _ in await erp.captured()] == [("delete", "1"), ("insert", "1")]
    await erp.run("BEGIN; SET LOCAL listener.mute = 'm'; UPDATE public.orders SET status = 'paid' WHERE id = 1; COMMIT")
    assert await erp.captured() == []
    assert await erp.muted() == [("m", "update", "1", row(1, "new", 10), row(1, "paid", 10))]


async def test_a_move_cancelled_or_changed_by_the_erps_own_trigger(erp: Erp) -> None:
    await watch(erp)
    await erp.run("""CREATE FUNCTION public.own() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN
                         IF OLD.id = 1 THEN RETURN NULL; END IF;
                         NEW.amount := 99; RETURN NEW; END$$;
                     CREATE TRIGGER zz BEFORE UPDATE ON public.orders_new FOR EACH ROW EXECUTE FUNCTION public.own();
                     UPDATE public.orders SET status = 'paid' WHERE id < 3""")
    assert await erp.captured() == [("update", "2", row(2, "new", 20), row(2, "paid", 99))]


async def test_a_row_that_moves_in_a_table_that_was_renamed(erp: Erp) -> None:
    await watch(erp, events=["update", "delete"])
    await erp.run(VANISHING)
    await erp.run("""ALTER TABLE public.orders RENAME TO "Đơn hàng";
                     CREATE SCHEMA other; ALTER TABLE public.orders_paid SET SCHEMA other""")
    await erp.run("""UPDATE public."Đơn hàng" SET status = 'paid' WHERE id = 1;
                     UPDATE public."Đơn hàng" SET status = 'paid', amount = -1 WHERE id = 2""")
    assert await erp.captured() == [
        ("update", "1", row(1, "new", 10), row(1, "paid", 10)),
        ("delete", "2", row(2, "new", 20), None),
    ]
    assert await erp.failures() == 0


async def test_a_move_that_the_erps_own_trigger_brings_about(erp: Erp) -> None:
    """It works out the column that chooses the partition, and has whatever name."""
    await watch(erp)
    await erp.run("""CREATE FUNCTION public.settle() RETURNS trigger LANGUAGE plpgsql AS
                         $$BEGIN NEW.status := CASE WHEN NEW.id < 0 THEN 'paid' ELSE 'new' END; RETURN NEW; END$$;
                     CREATE TRIGGER zz_settle BEFORE UPDATE ON public.orders
                         FOR EACH ROW EXECUTE FUNCTION public.settle();
                     UPDATE public.orders SET id = -1 WHERE id = 1""")
    assert await erp.captured() == [("update", "-1", row(1, "new", 10), row(-1, "paid", 10))]


# What the ERP's own triggers may do to a move: refuse it, or let the row that comes vanish.
REFUSING = """
CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN IF NEW.status <> OLD.status AND OLD.amount = {amount} THEN RETURN NULL; END IF; RETURN NEW; END$$;
CREATE TRIGGER refuse BEFORE UPDATE ON public.orders FOR EACH ROW EXECUTE FUNCTION public.refuse();
"""
VANISHING = """
CREATE FUNCTION public.vanish() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN IF NEW.amount < 0 THEN RETURN NULL; END IF; RETURN NEW; END$$;
CREATE TRIGGER vanish BEFORE INSERT ON public.orders FOR EACH ROW EXECUTE FUNCTION public.vanish();
"""
ALL = ["insert", "update", "delete"]
ADD_4 = "INSERT INTO public.orders (id, status, amount) VALUES (4, 'new', 40)"


async def test_a_row_that_vanishes_on_its_way_is_deleted_and_joined_to_no_other(erp: Erp) -> None:
    await watch(erp, events=ALL)
    await erp.run(VANISHING)
    await erp.run(f"BEGIN; UPDATE public.orders SET status = 'paid', amount = -1 WHERE id = 1; {ADD_4}; COMMIT")
    assert await erp.captured() == [
        ("delete", "1", row(1, "new", 10), None),
        ("insert", "4", None, row(4, "new", 40)),
    ]
    assert await erp.failures() == 0


async def test_rows_with_a_date_in_their_key_vanish_and_move(erp: Erp) -> None:
    await erp.run("""CREATE TABLE public.dated (id int, day date, n int, PRIMARY KEY (id, day))
                         PARTITION BY RANGE (day);
                     CREATE TABLE public.dated_1 PARTITION OF public.dated FOR VALUES FROM (MINVALUE) TO ('2026-07-01');
                     CREATE TABLE public.dated_2 PARTITION OF public.dated FOR VALUES FROM ('2026-07-01') TO (MAXVALUE);
                     CREATE FUNCTION public.vanish() RETURNS trigger LANGUAGE plpgsql AS
                         $$BEGIN IF NEW.n = -1 THEN RETURN NULL; END IF; NEW.day = NEW.day + 1; RETURN NEW; END$$;
                     CREATE TRIGGER vanish BEFORE INSERT ON public.dated_2
                         FOR EACH ROW EXECUTE FUNCTION public.vanish();
                     INSERT INTO public.dated VALUES (300, '2026-02-01', 5)""")
    await erp.watch(table="public.dated", columns=["n", "day"], events=ALL)
    await erp.run("""SET DateStyle = 'German';
                     BEGIN; UPDATE public.dated SET day = '2026-09-01', n = -1 WHERE id = 300;
                     INSERT INTO public.dated VALUES (301, '2026-02-01', 7); COMMIT;
                     UPDATE public.dated SET day = '2026-09-01'; RESET DateStyle""")
    assert [(op, key) for op, key, _, _ in await erp.captured()] == [
        ("delete", "300/2026-02-01"),
        ("insert", "301/2026-02-01"),
        ("update", "301/2026-09-02"),
    ]


async def test_a_move_under_a_key_that_is_generated(erp: Erp) -> None:
    await erp.run("""CREATE TABLE public.bill (id int, state int, PRIMARY KEY (id, state),
                                               code text GENERATED ALWAYS AS ('HD' || id::text) STORED)
                         PARTITION BY LIST (state);
                     CREATE TABLE public.bill_1 PARTITION OF public.bill FOR VALUES IN (1);
                     CREATE TABLE public.bill_2 PARTITION OF public.bill FOR VALUES IN (2);
                     INSERT INTO public.bill VALUES (1, 1)""")
    await erp.watch(table="public.bill", columns=["state"], key=["code"], events=ALL)
    await erp.run("UPDATE public.bill SET state = 2")
    assert [(op, key) for op, key, _, _ in await erp.captured()] == [("update", "HD1")]


async def test_a_row_that_gets_another_key_on_its_way_is_not_taken_for_the_same(erp: Erp) -> None:
    await watch(erp, events=ALL)
    await erp.run("""CREATE FUNCTION public.renumber() RETURNS trigger LANGUAGE plpgsql AS
                         $$BEGIN NEW.id = NEW.id + 100; RETURN NEW; END$$;
                     CREATE TRIGGER renumber BEFORE INSERT ON public.orders_paid
                         FOR EACH ROW EXECUTE FUNCTION public.renumber();
                     UPDATE public.orders SET status = 'paid' WHERE id = 1""")
    assert sorted((op, key) for op, key, _, _ in await erp.captured()) == [("delete", "1"), ("insert", "101")]


async def test_of_several_rows_each_vanishes_or_moves_by_itself(erp: Erp) -> None:
    await watch(erp, events=ALL)
    await watch(erp, "updated")
    await watch(erp, "deleted", events=["delete"], where="OLD.amount % 4 = 0")
    await watch(erp, "deleted_simply", events=["delete"], where="OLD.amount > 18")
    await erp.run(VANISHING)
    await erp.run("""INSERT INTO public.orders (id, status, amount) SELECT n, 'new', n FROM generate_series(10, 20) n;
                     DELETE FROM listener.outbox;
                     UPDATE public.orders SET status = 'paid', amount = CASE WHEN id % 3 = 0 THEN id ELSE -1 END
                      WHERE id >= 10""")
    found = await erp.captured_by_watch()
    stayed, gone = ["12", "15", "18"], ["10", "11", "13", "14", "16", "17", "19", "20"]
    assert sorted((op, key) for name, op, key, _, _ in found if name == "w") == sorted(
        [("update", key) for key in stayed] + [("delete", key) for key in gone]
    )
    assert all(old == row(int(key), "new", int(key)) for _, _, key, old, _ in found)
    assert [key for name, _, key, _, _ in found if name == "updated"] == stayed
    assert [key for name, _, key, _, _ in found if name == "deleted"] == ["16", "20"]
    assert [key for name, _, key, _, _ in found if name == "deleted_simply"] == ["19", "20"]


@pytest.mark.parametrize("table", ["orders", "orders_new"])
@pytest.mark.parametrize("end", ["", "ROLLBACK TO s;"])
async def test_a_move_that_is_refused_leaves_nothing_behind(erp: Erp, table: str, end: str) -> None:
    await watch(erp, events=ALL)
    await erp.run(REFUSING.format(amount=10))
    await erp.run(f"""BEGIN; SAVEPOINT s; UPDATE public.{table} SET status = 'paid' WHERE id = 1; {end}
                      DELETE FROM public.{table} WHERE id = 1; {ADD_4};
                      UPDATE public.orders SET status = 'paid' WHERE id = 2; COMMIT""")
    assert await erp.captured() == [
        ("delete", "1", row(1, "new", 10), None),
        ("insert", "4", None, row(4, "new", 40)),
        ("update", "2", row(2, "new", 20), row(2, "paid", 20)),
    ]


async def test_moves_of_one_partition_into_another_below_it(erp: Erp) -> None:
    await watch(erp, events=ALL)
    await erp.run(VANISHING.replace("< 0", "= 77"))
    await erp.run(f"""BEGIN; UPDATE public.orders_rest SET amount = 1000 WHERE id = 3;
                      UPDATE public.orders_rest SET amount = 77 WHERE id = 3; {ADD_4};
                      INSERT INTO public.orders_rest (id, status, amount) VALUES (5, 'sent', 1);
                      UPDATE public.orders_rest SET amount = 500 WHERE id = 5;
                      UPDATE public.orders_rest SET amount = 77 WHERE id = 5; COMMIT""")
    assert [(op, key) for op, key, _, _ in await erp.captured()] == [
        ("update", "3"),
        ("delete", "3"),
        ("insert", "4"),
        ("insert", "5"),
        ("update", "5"),
        ("delete", "5"),
    ]


@pytest.mark.parametrize("timing", ["AFTER DELETE", "BEFORE DELETE", "BEFORE INSERT", "AFTER INSERT", "BEFORE UPDATE"])
@pytest.mark.parametrize("amount", [60, -1])
async def test_what_the_erps_own_triggers_do_during_a_move(erp: Erp, timing: str, amount: int) -> None:
    """Each adds, moves, deletes and loses rows of the same table in the middle of a move of row 1."""
    await watch(erp, events=ALL)
    await erp.run(VANISHING)
    await erp.run(f"""INSERT INTO public.orders (id, status, amount) VALUES (6, 'new', 6), (7, 'new', 7);
                      CREATE FUNCTION public.more() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN
                          IF TG_OP <> 'DELETE' AND NEW.id <> 1 OR TG_OP = 'DELETE' AND OLD.id <> 1 THEN
                              RETURN coalesce(NEW, OLD); END IF;
                          {ADD_4};
                          UPDATE public.orders SET status = 'paid' WHERE id = 2;
                          UPDATE public.orders SET status = 'paid', amount = -1 WHERE id = 6;
                          DELETE FROM public.orders WHERE id = 7;
                          RETURN coalesce(NEW, OLD); END$$;
                      CREATE TRIGGER zz_more {timing} ON public.orders FOR EACH ROW EXECUTE FUNCTION public.more();
                      DELETE FROM listener.outbox""")
    await erp.run(f"UPDATE public.orders SET status = 'paid', amount = {amount} WHERE id = 1")
    found = await erp.captured()
    assert all(key == str((old or new or {})["id"]) == str((new or old or {})["id"]) for _, key, old, new in found)
    expected = [("update" if amount > 0 else "delete", "1")]
    if amount > 0 or "INSERT" not in timing:
        expected += [("insert", "4"), ("update", "2"), ("delete", "6"), ("delete", "7")]
    assert sorted((op, key) for op, key, _, _ in found) == sorted(expected)
    assert await erp.failures() == 0


async def test_moves_in_a_loop_with_a_failing_turn(erp: Erp) -> None:
    await watch(erp, events=ALL)
    await erp.run(VANISHING + REFUSING.format(amount=30))
    await erp.run(f"""DO $$ DECLARE n int; BEGIN
                          FOR n IN 1..3 LOOP
                              BEGIN
                                  UPDATE public.orders SET status = 'paid', amount = 10 - 10 * id WHERE id = n;
                                  IF n = 1 THEN RAISE 'no'; END IF;
                              EXCEPTION WHEN raise_exception THEN NULL; END;
                          END LOOP;
                          {ADD_4};
                          DELETE FROM public.orders WHERE id IN (1, 3);
                      END $$""")
    assert [(op, key) for op, key, _, _ in await erp.captured()] == [
        ("delete", "2"),
        ("insert", "4"),
        ("delete", "1"),
        ("delete", "3"),
    ]


async def test_one_statement_that_moves_adds_and_deletes(erp: Erp) -> None:
    await watch(erp, events=ALL)
    await erp.run(VANISHING)
    await erp.run("""WITH moved AS (UPDATE public.orders SET status = 'paid', amount = 43 - 22 * (3 - id)
                                     WHERE id < 3 RETURNING id),
                          gone AS (DELETE FROM public.orders WHERE id = 3)
                     INSERT INTO public.orders (id, status, amount) VALUES (4, 'new', 40)""")
    assert sorted((op, key) for op, key, _, _ in await erp.captured()) == [
        ("delete", "1"),
        ("delete", "3"),
        ("insert", "4"),
        ("update", "2"),
    ]


async def test_a_merge_that_moves_loses_and_adds_rows(erp: Erp) -> None:
    if erp.db.info.server_version < 150000:
        pytest.skip("MERGE came with PostgreSQL 15")
    await watch(erp, events=ALL)
    await erp.run(VANISHING)
    await erp.run("""MERGE INTO public.orders o
                     USING (VALUES (1, -1), (4, 40), (2, 21), (5, 50), (3, 0)) AS s (id, amount) ON o.id = s.id
                      WHEN MATCHED AND s.amount = 0 THEN DELETE
                      WHEN MATCHED THEN UPDATE SET status = 'paid', amount = s.amount
                      WHEN NOT MATCHED THEN INSERT (id, status, amount) VALUES (s.id, 'new', s.amount)""")
    found = await erp.captured()
    assert sorted((op, key) for op, key, _, _ in found) == [
        ("delete", "1"),
        ("delete", "3"),
        ("insert", "4"),
        ("insert", "5"),
        ("update", "2"),
    ]
    assert ("update", "2", row(2, "new", 20), row(2, "paid", 21)) in found


async def test_a_new_row_under_the_key_of_one_whose_move_was_refused(erp: Erp) -> None:
    if erp.db.info.server_version < 150000:
        pytest.skip("MERGE came with PostgreSQL 15")
    await watch(erp, events=ALL)
    await erp.run(REFUSING.format(amount=10))
    await erp.run("""MERGE INTO public.orders o USING (VALUES (1, 'paid'), (1, 'none')) AS s (id, status)
                        ON o.id = s.id AND s.status = 'paid'
                      WHEN MATCHED THEN UPDATE SET status = s.status
                      WHEN NOT MATCHED THEN INSERT (id, status, amount) VALUES (s.id, 'new', 70)""")
    assert await erp.captured() == [("insert", "1", None, row(1, "new", 70))]


@pytest.mark.parametrize("amount", [20, -1])
async def test_rows_that_a_foreign_key_moves(erp: Erp, amount: int) -> None:
    await erp.run("""CREATE TABLE public.state (status text PRIMARY KEY);
                     INSERT INTO public.state VALUES ('new'), ('sent');
                     ALTER TABLE public.orders ADD FOREIGN KEY (status) REFERENCES public.state ON UPDATE CASCADE""")
    await watch(erp, events=ALL)
    await erp.run(VANISHING)
    await erp.run(f"UPDATE public.orders_new SET amount = {amount} WHERE id = 2; DELETE FROM listener.outbox")
    await erp.run(f"""BEGIN; UPDATE public.state SET status = 'paid' WHERE status = 'new';
                      DELETE FROM public.orders WHERE id = 1;
                      INSERT INTO public.state VALUES ('new'); {ADD_4}; COMMIT""")
    assert await erp.captured() == [
        ("update", "1", row(1, "new", 10), row(1, "paid", 10)),
        ("update", "2", row(2, "new", 20), row(2, "paid", 20))
        if amount > 0
        else ("delete", "2", row(2, "new", -1), None),
        ("delete", "1", row(1, "paid", 10), None),
        ("insert", "4", None, row(4, "new", 40)),
    ]


async def test_a_row_upserted_beside_moves(erp: Erp) -> None:
    await erp.run("CREATE UNIQUE INDEX ON public.orders_new (id)")
    await watch(erp, events=ALL)
    await erp.run(VANISHING)
    await erp.run("""BEGIN; UPDATE public.orders SET status = 'paid', amount = -1 WHERE id = 1;
                     INSERT INTO public.orders_new (id, status, amount) VALUES (2, 'new', 22), (8, 'new', 8)
                         ON CONFLICT (id) DO UPDATE SET amount = excluded.amount; COMMIT""")
    assert [(op, key) for op, key, _, _ in await erp.captured()] == [("delete", "1"), ("update", "2"), ("insert", "8")]


async def test_a_row_that_vanished_and_could_not_be_captured_takes_no_other_with_it(erp: Erp) -> None:
    await watch(erp, events=ALL)
    await erp.run(VANISHING)
    await erp.run("ALTER TABLE listener.outbox ADD CONSTRAINT broken CHECK (key <> '1')")
    await erp.run("UPDATE public.orders SET status = 'paid', amount = CASE id WHEN 1 THEN -1 ELSE 21 END WHERE id < 3")
    assert await erp.captured() == [("update", "2", row(2, "new", 20), row(2, "paid", 21))]
    assert await erp.failures() == 1


@pytest.mark.parametrize("key", ["1", "2"])
async def test_a_half_that_could_not_be_captured_is_not_joined_to_the_next(erp: Erp, key: str) -> None:
    await watch(erp, events=ALL)
    await erp.run(VANISHING)
    await erp.run(f"ALTER TABLE listener.outbox ADD CONSTRAINT broken CHECK (key <> '{key}')")
    await erp.run(f"""BEGIN; UPDATE public.orders SET status = 'paid' WHERE id = 1;
                      UPDATE public.orders SET status = 'paid', amount = -1 WHERE id = 2;
                      {ADD_4}; DELETE FROM public.orders WHERE id = 3; COMMIT""")
    halves = [("delete", "2")] if key == "1" else [("update", "1")]
    assert [(op, key) for op, key, _, _ in await erp.captured()] == [*halves, ("insert", "4"), ("delete", "3")]
    assert await erp.failures() == 1


async def test_the_triggers_of_statements_are_verified_and_taken_away(erp: Erp) -> None:
    await watch(erp)
    ours = "SELECT count(*) FROM pg_trigger WHERE tgname ~ '^.listener_w_(begin|vanished|end)$'"
    assert await erp.value(ours) == 6  # on orders and on orders_rest
    await erp.run("""DROP TRIGGER "+listener_w_begin" ON public.orders_rest;
                     ALTER TABLE public.orders DISABLE TRIGGER "+listener_w_vanished";
                     COMMENT ON TRIGGER "+listener_w_end" ON public.orders IS 'x'""")
    assert {(step.step.value, step.what, step.watch) for step in await erp.differences()} == {
        ("create", "trigger +listener_w_begin on public.orders_rest", "w"),
        ("replace", "trigger +listener_w_end on public.orders", "w"),
        ("enable", "trigger +listener_w_vanished on public.orders", "w"),
    }
    erp.captures.clear()
    steps = await erp.differences()
    assert {step.watch for step in steps} == {"w"}
    await capture.apply(erp.db, steps, lambda _: None)
    assert await erp.value("SELECT count(*) FROM pg_trigger WHERE tgname LIKE '%listener%'") == 0


async def test_a_table_without_partitions_gets_none_of_them(erp: Erp) -> None:
    await erp.run("CREATE TABLE public.plain (id int PRIMARY KEY, v int)")
    made = await erp.watch(table="public.plain", columns=["v"], events=ALL)
    assert [trigger.name for trigger in made.triggers] == [
        "+listener_w_delete",
        "+listener_w_insert",
        "+listener_w_update",
    ]
    assert "left_" not in made.function_sql


async def test_partitions_of_later_are_captured_and_a_disabled_one_is_named(erp: Erp) -> None:
    await watch(erp)
    await erp.run("""CREATE TABLE public.orders_void PARTITION OF public.orders FOR VALUES IN ('void');
                     UPDATE public.orders SET status = 'void' WHERE id = 1;
                     UPDATE public.orders SET amount = 7 WHERE id = 1""")
    assert len(await erp.captured()) == 2
    await erp.run('ALTER TABLE public.orders_void DISABLE TRIGGER "+listener_w_update"')
    (step,) = await erp.differences()
    assert (step.step, step.what) == ("enable", "trigger +listener_w_update on public.orders_void")
    await erp.run(step.statement)
    assert await erp.differences() == []


async def test_the_tables_owner_adds_partitions_though_somebody_else_installed(erp: Erp) -> None:
    async with erp.session("partition_owner") as owner:
        await erp.run("""ALTER TABLE public.orders OWNER TO partition_owner;
                         ALTER TABLE public.orders_rest OWNER TO partition_owner;
                         GRANT CREATE ON SCHEMA public TO partition_owner""")
        await watch(erp)
        await owner.execute("CREATE TABLE public.orders_void PARTITION OF public.orders FOR VALUES IN ('void')")
        await owner.execute(
            """CREATE TABLE public.orders_back (LIKE public.orders INCLUDING ALL);
               ALTER TABLE public.orders ATTACH PARTITION public.orders_back FOR VALUES IN ('back')"""
        )
        await owner.execute("UPDATE public.orders SET status = CASE id WHEN 1 THEN 'void' ELSE 'back' END WHERE id < 3")
    assert [(op, new["status"]) for op, _, _, new in await erp.captured()] == [("update", "void"), ("update", "back")]
    # Who owns the table is asked anew, and what its owner needs is not taken for a right too many.
    async with erp.session("next_partition_owner"):
        await erp.run("""ALTER TABLE public.orders OWNER TO next_partition_owner;
                         GRANT USAGE ON SCHEMA listener TO next_partition_owner""")
    steps = await erp.differences()
    assert {(step.step, step.what.split(",")[0]) for step in steps} == {
        ("grant", f"EXECUTE on {function}() to next_partition_owner") for function in ("capture_w", "mark_move")
    }
    await capture.apply(erp.db, steps, lambda _: None)
    assert await erp.differences() == []
    revoked = [step.what for step in await rights.own_steps(erp.db, rights.Roles()) if step.step == "revoke"]
    assert [what for what in revoked if "next_partition_owner" in what] == []


async def test_a_table_that_others_inherit_from_is_captured_with_them(erp: Erp) -> None:
    await erp.run("""CREATE TABLE public.base (id int PRIMARY KEY, v int);
                     CREATE TABLE public.child (extra int) INHERITS (public.base);
                     CREATE TABLE public."Grand child" () INHERITS (public.child);
                     INSERT INTO public.base VALUES (1, 0); INSERT INTO public.child VALUES (2, 0, 0);
                     INSERT INTO public."Grand child" VALUES (3, 0, 0)""")
    await erp.watch(table="public.base", columns=["v"])
    await erp.run("UPDATE public.base SET v = 1")
    assert sorted(key for _, key, _, _ in await erp.captured()) == ["1", "2", "3"]

    await erp.run("CREATE TABLE public.late () INHERITS (public.base)")
    del erp.captures["w"]
    assert {step.step for step in await erp.differences()} == {"drop"}
    await erp.watch(table="public.base", columns=["v"])
    await erp.run("INSERT INTO public.late VALUES (4, 0); UPDATE public.base SET v = 2 WHERE id = 4")
    assert [key for _, key, _, _ in await erp.captured()] == ["4"]


async def test_a_table_that_a_subscription_fills_is_warned_of() -> None:
    orders = """CREATE TABLE public.orders (id int PRIMARY KEY, status text) PARTITION BY RANGE (id);
                CREATE TABLE public.orders_1 PARTITION OF public.orders FOR VALUES FROM (0) TO (10)"""
    with Server(settings={"wal_level": "logical"}) as server:
        source, target = server.create_database("source"), server.create_database("target")
        with psycopg.connect(source, autocommit=True) as publisher:
            publisher.execute(orders.encode())
            publisher.execute("CREATE PUBLICATION erp FOR TABLE public.orders")
            # by itself CREATE SUBSCRIPTION would wait for its own transaction, the server being one
            publisher.execute("SELECT pg_create_logical_replication_slot('erp', 'pgoutput')")
        async with open_erp(target) as erp:
            await erp.run(migrations.script(migrations.migrations()))
            await erp.run(orders)
            await watch(erp, columns=["status"])
            captures = list(erp.captures.values())
            before = await capture.warnings(erp.db, captures, doorbell=False)
            await erp.run(f"CREATE SUBSCRIPTION erp CONNECTION '{source}' PUBLICATION erp WITH (create_slot = false)")
            said = set(await capture.warnings(erp.db, captures, doorbell=False)) - set(before)
            assert [line.split(", and")[0] for line in said] == ["watch w: public.orders is filled by a subscription"]
            with psycopg.connect(source, autocommit=True) as publisher:
                publisher.execute("INSERT INTO public.orders VALUES (1, 'new')")
                publisher.execute("UPDATE public.orders SET status = 'paid'")
            async with asyncio.timeout(PATIENCE):
                while await erp.value("SELECT count(*) FROM public.orders WHERE status = 'paid'") == 0:
                    await asyncio.sleep(0.01)
            assert await erp.captured() == [], "as PostgreSQL does it"
