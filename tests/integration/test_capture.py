"""What the triggers capture of what an ERP does: each committed change once, and nothing else (F32 to F34)."""

from collections.abc import AsyncIterator
from time import process_time
from typing import Any

import psycopg
import pytest

from listener.database import Connection
from listener.errors import ListenerError
from tests.support.erp import Captured, Erp, open_erp

TABLE = """
CREATE TABLE public.orders (
    id int PRIMARY KEY, status text, amount numeric(12, 2), note text,
    total numeric GENERATED ALWAYS AS (amount * 2) STORED
);
INSERT INTO public.orders VALUES (1, 'new', 10, 'a'), (2, 'new', 20, 'b'), (3, NULL, NULL, NULL);
"""


@pytest.fixture
async def erp(listener_database: str) -> AsyncIterator[Erp]:
    async with open_erp(listener_database) as erp:
        await erp.run(TABLE)
        yield erp


def row(number: int, status: str | None) -> dict[str, object]:
    return {"id": number, "status": status}


async def watch_status(erp: Erp, **words: Any) -> None:
    await erp.watch(used=["id", "status"], table="public.orders", **{"columns": ["status"], **words})


async def test_only_used_columns_of_a_real_change_are_captured(erp: Erp) -> None:
    await watch_status(erp)
    await erp.run("UPDATE public.orders SET status = 'paid' WHERE id = 1")
    assert await erp.captured() == [("update", "1", row(1, "new"), row(1, "paid"))]


async def test_the_first_capture_of_a_connection_reads_no_list_of_operators(erp: Erp) -> None:
    await watch_status(erp, doorbell=True)
    # a sign of life a second ago: then triggers ring
    await erp.run("SELECT setval('listener.promise', (extract(epoch FROM clock_timestamp()) * 1000)::bigint - 1000)")
    async with erp.session() as conn:
        await conn.execute("UPDATE public.orders SET status = 'paid' WHERE id = 1")
        for operator in "*-+><":
            before = await _catalog_cache(conn)
            # no operator is for just these types, so that now all of its name are read
            await conn.execute(f"SELECT 1::float8 {operator} 1::int2".encode())
            assert await _catalog_cache(conn) - before > 8_192, f"the capture had read all {operator}"
    assert len(await erp.captured()) == 1


async def _catalog_cache(conn: Connection) -> int:
    """Bytes of what this connection keeps of the catalog."""
    query = "SELECT used_bytes AS n FROM pg_backend_memory_contexts WHERE name = 'CacheMemoryContext'"
    row = await (await conn.execute(query)).fetchone()
    assert row is not None
    return int(row["n"])


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE public.orders SET note = 'x'",
        "UPDATE public.orders SET status = status",
        "UPDATE public.orders SET id = id, amount = 7",
        "INSERT INTO public.orders VALUES (9, 'new')",
        "DELETE FROM public.orders",
        "INSERT INTO public.orders VALUES (1, 'new') ON CONFLICT (id) DO UPDATE SET status = EXCLUDED.status",
        "INSERT INTO public.orders VALUES (1, 'x') ON CONFLICT DO NOTHING",
        "TRUNCATE public.orders",
    ],
)
async def test_what_does_not_concern_the_watch_is_not_captured(erp: Erp, statement: str) -> None:
    await watch_status(erp)
    await erp.run(statement)
    assert await erp.captured() == []


PAID: list[Captured] = [("update", "1", row(1, "new"), row(1, "paid"))]


@pytest.mark.parametrize(
    ("before", "statement"),
    [
        pytest.param("", "UPDATE public.orders SET status = 'paid' WHERE id = 1", id="update"),
        pytest.param(
            "",
            "INSERT INTO public.orders VALUES (1, 'paid') ON CONFLICT (id) DO UPDATE SET status = EXCLUDED.status",
            id="upsert",
        ),
        pytest.param(
            "",
            """MERGE INTO public.orders o USING (VALUES (1, 'paid')) AS v(id, status) ON o.id = v.id
               WHEN MATCHED THEN UPDATE SET status = v.status""",
            id="merge",
        ),
        pytest.param(
            """CREATE FUNCTION public.pays() RETURNS trigger LANGUAGE plpgsql AS
                   $$BEGIN NEW.status := 'paid'; RETURN NEW; END$$;
               CREATE TRIGGER zz BEFORE UPDATE ON public.orders FOR EACH ROW EXECUTE FUNCTION public.pays()""",
            "UPDATE public.orders SET note = 'touched' WHERE id = 1",
            id="the ERP's own BEFORE trigger sets the column",
        ),
        pytest.param(
            "CREATE VIEW public.v AS SELECT * FROM public.orders",
            "UPDATE public.v SET status = 'paid' WHERE id = 1",
            id="through a view",
        ),
        pytest.param(
            """CREATE TABLE public.states (code text PRIMARY KEY); INSERT INTO public.states VALUES ('new');
               UPDATE public.orders SET status = NULL WHERE id = 2;
               ALTER TABLE public.orders ADD FOREIGN KEY (status) REFERENCES public.states ON UPDATE CASCADE""",
            "UPDATE public.states SET code = 'paid'",
            id="ON UPDATE CASCADE",
        ),
        pytest.param(
            "", "DO $$BEGIN UPDATE public.orders SET status = 'paid' WHERE id = 1; END$$", id="inside a function"
        ),
        pytest.param(
            "", "WITH x AS (UPDATE public.orders SET status = 'paid' WHERE id = 1 RETURNING 1) TABLE x", id="in a WITH"
        ),
        pytest.param(
            "ALTER TABLE public.orders ADD CONSTRAINT u UNIQUE (amount) DEFERRABLE INITIALLY DEFERRED",
            "BEGIN; UPDATE public.orders SET status = 'paid', amount = 20 WHERE id = 1; "
            "UPDATE public.orders SET amount = 21 WHERE id = 2; COMMIT",
            id="under a deferred constraint",
        ),
    ],
)
async def test_a_change_is_captured_once_whichever_way_it_is_made(erp: Erp, before: str, statement: str) -> None:
    if statement.startswith("MERGE") and erp.db.info.server_version < 150000:
        pytest.skip("MERGE came with PostgreSQL 15")
    await erp.run(before)
    await watch_status(erp)
    await erp.run(statement)
    assert await erp.captured() == PAID


async def test_inserts_and_deletes(erp: Erp) -> None:
    await watch_status(erp, events=["insert", "update", "delete"])
    async with erp.session() as conn:
        await conn.execute("INSERT INTO public.orders VALUES (4, 'new')")
        async with conn.cursor() as cursor, cursor.copy("COPY public.orders (id, status) FROM STDIN") as copy:
            await copy.write("5\tcopied\n")
        await conn.execute("UPDATE public.orders SET status = 'gone' WHERE id = 5")
        await conn.execute("DELETE FROM public.orders WHERE id = 5")
    assert await erp.captured() == [
        ("insert", "4", None, row(4, "new")),
        ("insert", "5", None, row(5, "copied")),
        ("update", "5", row(5, "copied"), row(5, "gone")),
        ("delete", "5", row(5, "gone"), None),
    ]


async def test_a_cascaded_delete_is_captured(erp: Erp) -> None:
    await erp.run("""CREATE TABLE public.customers (id int PRIMARY KEY); INSERT INTO public.customers VALUES (7);
                     ALTER TABLE public.orders ADD customer int REFERENCES public.customers ON DELETE CASCADE;
                     UPDATE public.orders SET customer = 7 WHERE id = 2""")
    await watch_status(erp, events=["delete"], columns=["status"])
    await erp.run("DELETE FROM public.customers")
    assert await erp.captured() == [("delete", "2", row(2, "new"), None)]


async def test_a_generated_column_can_be_watched(erp: Erp) -> None:
    await erp.watch(used=["total"], table="public.orders", columns=["total"])
    await erp.run("UPDATE public.orders SET amount = 11 WHERE id = 1")
    assert await erp.captured() == [("update", "1", {"id": 1, "total": 20}, {"id": 1, "total": 22})]


async def test_from_and_to_null_is_a_change(erp: Erp) -> None:
    await watch_status(erp)
    await erp.run(
        "UPDATE public.orders SET status = 'new' WHERE id = 3; UPDATE public.orders SET status = NULL WHERE id = 3"
    )
    assert await erp.captured() == [
        ("update", "3", row(3, None), row(3, "new")),
        ("update", "3", row(3, "new"), row(3, None)),
    ]


async def test_each_step_of_a_transaction_is_a_change_also_there_and_back(erp: Erp) -> None:
    """Net effect is decided by matching, which also knows about time."""
    await watch_status(erp)
    await erp.run("""BEGIN; UPDATE public.orders SET status = 'paid' WHERE id = 1;
                     UPDATE public.orders SET status = 'new' WHERE id = 1; COMMIT""")
    assert [(op, new) for op, _, _, new in await erp.captured()] == [
        ("update", row(1, "paid")),
        ("update", row(1, "new")),
    ]


async def test_what_is_rolled_back_is_not_captured(erp: Erp) -> None:
    await erp.run("ALTER TABLE public.orders ADD CONSTRAINT u UNIQUE (note) DEFERRABLE INITIALLY DEFERRED")
    await watch_status(erp)
    async with erp.session() as conn:
        await conn.execute("BEGIN; UPDATE public.orders SET status = 'x'; ROLLBACK")
        await conn.execute("""BEGIN; SAVEPOINT s; UPDATE public.orders SET status = 'x' WHERE id = 1;
                              ROLLBACK TO s; UPDATE public.orders SET status = 'paid' WHERE id = 1; COMMIT""")
        with pytest.raises(psycopg.errors.NotNullViolation):
            await conn.execute("UPDATE public.orders SET status = 'x', id = NULL")
        await conn.execute("BEGIN; UPDATE public.orders SET status = 'x', note = 'same'")
        with pytest.raises(psycopg.errors.UniqueViolation):
            await conn.execute("COMMIT")
    assert await erp.captured() == PAID
    assert await erp.failures() == 0


# -- triggers of the ERP


@pytest.mark.parametrize("name", ["a_ship", "zz_ship", '"00 Ship"'])
async def test_what_the_erps_own_trigger_adds_to_a_change_comes_after_it(erp: Erp, name: str) -> None:
    await watch_status(erp)
    await erp.run(f"""CREATE FUNCTION public.ship() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN
                          UPDATE public.orders SET status = 'sent' WHERE id = NEW.id; RETURN NULL; END$$;
                      CREATE TRIGGER {name} AFTER UPDATE ON public.orders
                          FOR EACH ROW WHEN (NEW.status = 'paid') EXECUTE FUNCTION public.ship();
                      UPDATE public.orders SET status = 'paid' WHERE id = 1""")
    assert await erp.captured() == [*PAID, ("update", "1", row(1, "paid"), row(1, "sent"))]


# -- where


@pytest.mark.parametrize(
    "where",
    [
        pytest.param("NEW.status = 'paid'", id="in WHEN"),
        pytest.param("NEW.status IN ('paid', 'sent') AND OLD.status <> NEW.status AND NOT (NEW.id > 1)", id="longer"),
        pytest.param("lower(NEW.status) = 'paid'", id="in the function"),
        pytest.param("EXISTS (SELECT FROM public.orders o WHERE o.status = 'paid' AND o.id = NEW.id)", id="a query"),
    ],
)
async def test_where_filters(erp: Erp, where: str) -> None:
    await watch_status(erp, where=where)
    await erp.run("UPDATE public.orders SET status = 'paid' WHERE id = 1; UPDATE public.orders SET status = 'other'")
    assert await erp.captured() == PAID
    assert await erp.failures() == 0


async def test_a_where_with_wide_blanks_and_long_numbers_is_read_in_no_time(erp: Erp) -> None:
    began = process_time()
    await watch_status(erp, where=f"NEW.id <> 100000000 {' ' * 12} AND lower(NEW.status) = 'paid'")
    assert process_time() - began < 1
    await erp.run("UPDATE public.orders SET status = 'paid' WHERE id = 1; UPDATE public.orders SET status = 'other'")
    assert await erp.captured() == PAID


@pytest.mark.parametrize("where", [r"NEW.status <> '\'", r"strpos(NEW.status, '\') = 0"])
async def test_a_where_means_the_same_in_a_session_that_takes_a_backslash_for_an_escape(erp: Erp, where: str) -> None:
    await watch_status(erp, where=where)
    async with erp.session() as old:
        await old.execute("SET standard_conforming_strings = off")
        await old.execute("UPDATE public.orders SET status = 'paid' WHERE id = 1")
        await old.execute(r"UPDATE public.orders SET status = E'\\' WHERE id = 1")
    assert await erp.captured() == PAID
    assert await erp.failures() == 0


async def test_a_where_may_look_into_a_table_whose_columns_are_named_as_our_variables(erp: Erp) -> None:
    await erp.run("""CREATE TABLE public.parcels (id int PRIMARY KEY, found boolean, op text);
                     INSERT INTO public.parcels VALUES (1, true, 'kept'), (2, false, 'kept'), (3, true, 'lost');
                     CREATE TABLE public.moved (id int, area text, PRIMARY KEY (id, area)) PARTITION BY LIST (area);
                     CREATE TABLE public.moved_a PARTITION OF public.moved FOR VALUES IN ('a');
                     CREATE TABLE public.moved_b PARTITION OF public.moved FOR VALUES IN ('b');
                     INSERT INTO public.moved VALUES (1, 'a'), (2, 'a'), (3, 'a')""")
    where = "EXISTS (SELECT FROM public.parcels WHERE id = NEW.id AND found AND op = 'kept')"
    await watch_status(erp, where=where)
    await erp.run("UPDATE public.orders SET status = 'paid'")
    assert await erp.captured() == PAID
    await erp.watch("moved", table="public.moved", columns=["area"], key=["id"], where=where)
    await erp.run("UPDATE public.moved SET area = 'b'")
    assert [(op, key) for op, key, _, _ in await erp.captured()] == [("update", "1")]
    assert await erp.failures() == 0


async def test_a_where_may_ask_who_made_the_change(erp: Erp) -> None:
    await watch_status(erp, where="session_user = current_setting('listener.who') AND NEW.note IS NOT NULL")
    await erp.run("SET listener.who = 'nobody'; UPDATE public.orders SET status = 'one'")
    await erp.run("SELECT set_config('listener.who', session_user, false); UPDATE public.orders SET status = 'two'")
    assert [(key, new and new["status"]) for _, key, _, new in await erp.captured()] == [("1", "two"), ("2", "two")]


async def test_a_simple_where_costs_an_unrelated_change_nothing(erp: Erp) -> None:
    """It stands in WHEN, so that the function is not even called."""
    await watch_status(erp, where="NEW.status = 'paid'")
    definition = "SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE tgname = '+listener_w_update'"
    assert "'paid'" in await erp.value(definition)
    await watch_status(erp, where="upper(NEW.status) = 'PAID'")
    assert "paid" not in (await erp.value(definition)).lower()


@pytest.mark.parametrize("where", ["NEW.amount > 5", "coalesce(NEW.amount, 0) > 5"])
async def test_where_of_a_deleted_row_is_about_the_row_that_was(erp: Erp, where: str) -> None:
    await watch_status(erp, where=where, events=["insert", "update", "delete"])
    await erp.run("DELETE FROM public.orders; INSERT INTO public.orders VALUES (4, 'NEW.x', 1), (5, 'NEW.x', 6)")
    assert [(op, key) for op, key, _, _ in await erp.captured()] == [("delete", "1"), ("delete", "2"), ("insert", "5")]


async def test_old_is_nothing_in_the_where_of_an_insert(erp: Erp) -> None:
    await watch_status(erp, where="OLD.status IS NULL AND NEW.note <> 'OLD.status'", events=["insert", "update"])
    await erp.run("""INSERT INTO public.orders VALUES (4, 'in', 1, 'x'), (5, 'in', 1, 'OLD.status');
                     UPDATE public.orders SET status = 'up', note = 'y' WHERE id IN (1, 3)""")
    assert [(op, key) for op, key, _, _ in await erp.captured()] == [("insert", "4"), ("update", "3")]


async def test_a_where_that_fails_on_a_row_does_not_fail_the_erp(erp: Erp) -> None:
    await watch_status(erp, where="10 / (NEW.id - 1) > 0")
    await erp.run("UPDATE public.orders SET status = 'paid'")
    assert [key for _, key, _, _ in await erp.captured()] == ["2", "3"]
    assert await erp.failures() == 1


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("NEW.statuss = 'paid'", "no column statuss; did you mean status?"),
        ("status = 'paid'", r"ambiguous \(columns need NEW. or OLD. in front\)$"),
        ("no_such_function(NEW.status)", r"no_such_function.* \(functions and tables need their schema in front\)$"),
        ("NEW.amount", "must be type boolean, not type numeric$"),
        ("NEW.amount > 'ten'", "invalid input syntax"),
        ("NEW.status = = 1", "syntax error"),
        ("NEW.note <> 'current_user' AND Current_User = 'erp'", "current_user is here whoever installed the trigger"),
        ("user = 'erp'", "write session_user"),
        ("NEW.note <> '$1' AND NEW.id > $1", r"there is no parameter \$1; name a column as NEW.column"),
    ],
)
async def test_a_where_that_cannot_work_is_refused_at_install(erp: Erp, where: str, said: str) -> None:
    with pytest.raises(Exception, match=said):
        await watch_status(erp, where=where)


async def test_a_where_does_not_pass_over_the_equality_of_a_columns_own_type(erp: Erp) -> None:
    # as the extension citext makes one
    await erp.run("""CREATE SCHEMA shop; CREATE TYPE shop.tier AS ENUM ('VIP', 'basic');
                     CREATE CAST (shop.tier AS text) WITH INOUT AS IMPLICIT;
                     CREATE FUNCTION shop.same(shop.tier, text) RETURNS boolean LANGUAGE sql
                         RETURN lower($1::text) = lower($2);
                     CREATE OPERATOR shop.= (LEFTARG = shop.tier, RIGHTARG = text, FUNCTION = shop.same);
                     CREATE TABLE public.members (id int PRIMARY KEY, n int, tier shop.tier);
                     INSERT INTO public.members VALUES (1, 0, 'VIP'), (2, 0, 'basic')""")
    members: dict[str, Any] = {"table": "public.members", "columns": ["n"]}
    with pytest.raises(ListenerError, match=r"^where: .* the schema shop has another for this type"):
        await erp.watch("w", **members, where="NEW.tier = 'vip'::text")
    for where, keys in (("NEW.tier OPERATOR(shop.=) 'vip'::text", ["1"]), ("NEW.tier::text = 'vip'::text", [])):
        await erp.watch("w", **members, where=where)
        await erp.run("UPDATE public.members SET n = n + 1")
        assert [key for _, key, _, _ in await erp.captured()] == keys
    assert await erp.failures() == 0


# -- when capture fails


BROKEN = "ALTER TABLE listener.outbox ADD CONSTRAINT broken CHECK (key <> '1')"


async def test_a_failed_capture_is_counted_and_the_erp_goes_on(erp: Erp) -> None:
    await watch_status(erp)
    await erp.run(BROKEN)
    await erp.run("UPDATE public.orders SET status = 'paid'")
    assert await erp.value("SELECT count(*) FROM public.orders WHERE status = 'paid'") == 3
    assert [key for _, key, _, _ in await erp.captured()] == ["2", "3"]
    assert await erp.failures() == 1


async def test_the_count_survives_a_roll_back(erp: Erp) -> None:
    await watch_status(erp)
    await erp.run(BROKEN)
    await erp.run("BEGIN; UPDATE public.orders SET status = 'paid'; ROLLBACK")
    assert await erp.failures() == 1


async def test_on_capture_error_abort_fails_the_statement_instead(erp: Erp) -> None:
    await watch_status(erp, on_capture_error="abort")
    await erp.run(BROKEN)
    with pytest.raises(psycopg.errors.CheckViolation):
        await erp.run("UPDATE public.orders SET status = 'paid'")
    assert await erp.value("SELECT count(*) FROM public.orders WHERE status = 'paid'") == 0
    assert await erp.captured() == []
    assert await erp.failures() == 0


# -- mute


async def test_a_muted_transaction_is_kept_aside_and_the_next_one_is_not_muted(erp: Erp) -> None:
    await watch_status(erp)
    async with erp.session() as conn:
        for statement in (
            "BEGIN; SET LOCAL listener.mute = 'import'; UPDATE public.orders SET status = 'sent' WHERE id = 2; COMMIT",
            "UPDATE public.orders SET status = 'paid' WHERE id = 1",
            "BEGIN; SET LOCAL listener.mute = 'undone'; UPDATE public.orders SET status = 'x' WHERE id = 2; ROLLBACK",
        ):
            await conn.execute(statement.encode())
    assert await erp.captured() == PAID
    assert await erp.muted() == [("import", "update", "2", row(2, "new"), row(2, "sent"))]


async def test_a_mute_can_end_inside_the_transaction(erp: Erp) -> None:
    await watch_status(erp)
    await erp.run("""BEGIN; SET LOCAL listener.mute = 'fix'; UPDATE public.orders SET status = 'x' WHERE id = 2;
                     SET LOCAL listener.mute = ''; UPDATE public.orders SET status = 'paid' WHERE id = 1; COMMIT""")
    assert await erp.captured() == PAID
    assert len(await erp.muted()) == 1


# -- several watches


async def test_two_watches_of_one_table_do_not_mix(erp: Erp) -> None:
    await erp.watch("status", used=["status"], table="public.orders", columns=["status"])
    await erp.watch("amount", used=["amount"], table="public.orders", columns=["amount"])
    await erp.run(
        "UPDATE public.orders SET status = 'paid', amount = 11 WHERE id = 1; UPDATE public.orders SET amount = 0"
    )
    found = [(watch, key) for watch, _, key, _, _ in await erp.captured_by_watch()]
    assert found[:2] == [("amount", "1"), ("status", "1")]
    assert sorted(found[2:]) == [("amount", "1"), ("amount", "2"), ("amount", "3")]
