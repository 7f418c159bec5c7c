"""Capture on partitioned tables and on tables that others inherit from, also of a row that an update moves."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.support.erp import Erp, open_erp

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


async def test_partitions_of_later_are_captured_and_a_disabled_one_is_named(erp: Erp) -> None:
    await watch(erp)
    await erp.run("""CREATE TABLE public.orders_void PARTITION OF public.orders FOR VALUES IN ('void');
                     UPDATE public.orders SET status = 'void' WHERE id = 1;
                     UPDATE public.orders SET amount = 7 WHERE id = 1""")
    assert len(await erp.captured()) == 2
    await erp.run("ALTER TABLE public.orders_void DISABLE TRIGGER listener_w_update")
    (step,) = await erp.differences()
    assert (step.step, step.what) == ("enable", "trigger listener_w_update on public.orders_void")
    await erp.run(step.statement)
    assert await erp.differences() == []


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
