"""What people do to the tables and to ours, by accident or on purpose: the ERP's writes work on, and it is told (F22 to
F24, F36, F40)."""

import asyncio
import os
import re
from collections.abc import AsyncIterator
from pathlib import Path
from time import monotonic
from typing import Any

import psycopg
import pytest

from listener import capture
from listener.capture import Step
from listener.errors import ListenerError
from listener.rules import Watch
from tests.support.erp import Erp, open_erp

TABLE = """
CREATE TABLE public.orders (id int PRIMARY KEY, status text, amount numeric, phone text);
INSERT INTO public.orders VALUES (1, 'new', 1, '0980000000'), (2, 'new', 2, '0980000000');
"""
PAY = "UPDATE public.orders SET status = status || '+' WHERE id = 1"


@pytest.fixture
async def erp(listener_database: str) -> AsyncIterator[Erp]:
    async with open_erp(listener_database) as erp:
        await erp.run(TABLE)
        await watch(erp)
        yield erp


async def watch(erp: Erp) -> None:
    await erp.watch(table="public.orders", columns=["status"], used=["status", "phone"])


# -- DDL behind our back


@pytest.mark.parametrize("gone", ["RENAME phone TO mobile", "DROP phone"])
async def test_a_used_column_that_goes_away_fails_no_write_and_loses_no_row(erp: Erp, gone: str) -> None:
    await erp.run(f"ALTER TABLE public.orders {gone}")
    await erp.run(PAY)
    assert await erp.value("SELECT status FROM public.orders WHERE id = 1") == "new+"
    assert await erp.failures() == 1
    ((reason, op, key, old, new),) = await erp.muted()
    assert (op, key) == ("update", "1") and "column" in reason
    assert old is not None and new is not None and (old["status"], new["status"]) == ("new", "new+")
    with pytest.raises(ListenerError, match=r"public\.orders has no column phone"):
        await watch(erp)


async def test_a_column_whose_new_type_is_written_another_way_loses_no_row(erp: Erp) -> None:
    await erp.run("ALTER TABLE public.orders ADD paid_at timestamptz DEFAULT '2026-11-22 10:00+07', ADD mark bytea")
    await erp.watch(table="public.orders", columns=["status"], used=["status", "paid_at", "mark"])
    await erp.run("SET TimeZone = 'Asia/Ho_Chi_Minh'; ALTER TABLE public.orders ALTER paid_at TYPE timestamp")
    await erp.run(PAY)
    ((_, _, _, new),) = await erp.captured()
    assert new is not None and new["paid_at"] == "2026-11-22T03:00:00+00:00"
    assert await erp.failures() == 0
    await erp.run("ALTER TABLE public.orders ALTER mark TYPE text")
    await erp.run(PAY)
    ((reason, op, key, _, new),) = await erp.muted()
    assert (reason, op, key) == ("a column that rules use has another type", "update", "1")
    assert new is not None and new["status"] == "new++"
    assert (await erp.captured(), await erp.failures()) == ([], 1)


async def test_a_row_whose_where_looks_into_a_table_that_is_gone_is_kept(erp: Erp) -> None:
    await erp.run("CREATE TABLE public.vips (id int); INSERT INTO public.vips VALUES (1)")
    where = "EXISTS (SELECT FROM public.vips WHERE id = NEW.id)"
    await erp.watch(table="public.orders", columns=["status"], used=["status"], where=where)
    await erp.run(PAY)
    assert len(await erp.captured()) == 1
    await erp.run("ALTER TABLE public.vips RENAME TO members")
    await erp.run(PAY)
    ((reason, op, key, old, new),) = await erp.muted()
    assert (reason, op, key) == ("`where` looks into a table that is not there", "update", "1")
    assert old is not None and new is not None and (old["status"], new["status"]) == ("new+", "new++")
    assert (await erp.captured(), await erp.failures()) == ([], 1)


async def test_the_key_of_a_row_whose_column_is_gone_is_as_it_always_was(erp: Erp) -> None:
    await erp.run("""CREATE TABLE public.bills (no char(8), branch int, st text, gone text, PRIMARY KEY (no, branch));
                     INSERT INTO public.bills VALUES ('HD/1', 2, 'a')""")
    await erp.watch("bill", table="public.bills", columns=["st"], used=["st", "gone"])
    await erp.run("UPDATE public.bills SET st = 'b'")
    ((_, key, _, _),) = await erp.captured()
    await erp.run("ALTER TABLE public.bills DROP gone; UPDATE public.bills SET st = 'c'")
    assert [lost for _, _, lost, _, _ in await erp.muted()] == [key] == [r"HD\/1/2"]


async def test_what_is_muted_keeps_its_reason_when_a_column_is_gone_too(erp: Erp) -> None:
    await erp.run("ALTER TABLE public.orders DROP phone")
    await erp.run(f"BEGIN; SET LOCAL listener.mute = 'import'; {PAY}; COMMIT")
    assert [reason for reason, *_ in await erp.muted()] == ["import"]


async def test_after_the_rules_are_mended_a_renamed_column_is_captured_again(erp: Erp) -> None:
    await erp.run("ALTER TABLE public.orders RENAME status TO state")
    await erp.run("UPDATE public.orders SET state = 'x' WHERE id = 1")
    assert await erp.failures() == 1
    await erp.watch(table="public.orders", columns=["state"], used=["state"])
    await erp.run("UPDATE public.orders SET state = 'y' WHERE id = 1")
    assert await erp.captured() == [("update", "1", {"id": 1, "state": "x"}, {"id": 1, "state": "y"})]


@pytest.mark.parametrize("change", ["DROP status", "ALTER status TYPE varchar(9)"])
async def test_postgresql_refuses_to_drop_or_retype_a_watched_column_and_names_the_trigger(
    erp: Erp, change: str
) -> None:
    """The ERP's upgrade hears of it in time; with CASCADE it goes through and `verify` says what is missing."""
    with pytest.raises(psycopg.Error) as refused:
        await erp.run(f"ALTER TABLE public.orders {change}")
    assert "+listener_w_update" in f"{refused.value} {refused.value.diag.message_detail}"
    await erp.run("ALTER TABLE public.orders DROP status CASCADE")
    await erp.run("UPDATE public.orders SET amount = 9")
    assert [step.what for step in await erp.differences()] == ["trigger +listener_w_update on public.orders"]


async def test_a_used_column_may_change_its_type(erp: Erp) -> None:
    await erp.run("ALTER TABLE public.orders ALTER phone TYPE bigint USING phone::bigint, ADD more int")
    await erp.run(PAY)
    ((_, _, _, new),) = await erp.captured()
    assert new == {"id": 1, "status": "new+", "phone": 980000000}
    assert await erp.failures() == 0


async def test_a_renamed_table_goes_on_and_is_named(erp: Erp) -> None:
    await erp.run("ALTER TABLE public.orders RENAME TO sales")
    await erp.run("UPDATE public.sales SET status = 'x' WHERE id = 1")
    assert len(await erp.captured()) == 1
    with pytest.raises(ListenerError, match=r"there is no table public\.orders"):
        await watch(erp)


async def test_a_table_made_anew_is_named_and_mended(erp: Erp) -> None:
    await erp.run("DROP TABLE public.orders")
    await erp.run(TABLE)
    await erp.run(PAY)
    assert await erp.captured() == []
    wanted = await capture.wanted(erp.db, "w", Watch(table="public.orders", columns=("status",)), ["phone"])
    assert "trigger +listener_w_update on public.orders" in [
        step.what for step in await capture.differences(erp.db, [wanted]) if step.step is Step.CREATE
    ]
    await watch(erp)
    await erp.run(PAY)
    assert len(await erp.captured()) == 1


@pytest.mark.parametrize("which", ["ALL", "USER", '"+listener_w_update"'])
async def test_a_disabled_trigger_is_named_and_mended(erp: Erp, which: str) -> None:
    await erp.run(f"ALTER TABLE public.orders DISABLE TRIGGER {which}")
    await erp.run(PAY)
    assert await erp.captured() == []
    (step,) = await erp.differences()
    assert (step.step, step.what) == (Step.ENABLE, "trigger +listener_w_update on public.orders")
    await watch(erp)
    await erp.run(PAY)
    assert len(await erp.captured()) == 1


@pytest.mark.parametrize(
    "spoil",
    [
        'DROP TRIGGER "+listener_w_update" ON public.orders',
        "DROP FUNCTION listener.capture_w CASCADE",
        """CREATE OR REPLACE FUNCTION listener.capture_w() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
           SET search_path = pg_catalog, pg_temp SET lock_timeout = '200ms' AS 'BEGIN RETURN NULL; END'""",
        "ALTER FUNCTION listener.capture_w() SECURITY INVOKER",
        "ALTER FUNCTION listener.capture_w() SET search_path = public",
        "ALTER FUNCTION listener.capture_w() RESET lock_timeout",
        """COMMENT ON TRIGGER "+listener_w_update" ON public.orders IS 'mine'""",
        "ALTER TABLE listener.outbox ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
        "ALTER SEQUENCE listener.outbox_id_seq CACHE 50",
    ],
)
async def test_whatever_is_done_to_what_is_ours_is_found_and_mended(erp: Erp, spoil: str) -> None:
    await erp.run(spoil)
    assert await erp.differences() != []
    await watch(erp)
    await erp.run(PAY)
    assert len(await erp.captured()) == 1


@pytest.mark.parametrize("words", [{"events": ["update"]}, {"table": "public.returns"}], ids=["events", "table"])
async def test_while_the_table_is_busy_a_watch_stays_what_it_was(
    erp: Erp, monkeypatch: pytest.MonkeyPatch, words: dict[str, Any]
) -> None:
    """Its old triggers would run its new function, and write down an insert as the update of a row of NULLs."""
    await erp.run("CREATE TABLE public.returns (LIKE public.orders INCLUDING ALL)")
    before = {"table": "public.orders", "columns": ["status"], "events": ["insert", "update"]}
    await erp.watch(**before)
    monkeypatch.setattr("listener.capture.install._TRIES", 1)
    async with erp.session() as busy:
        await busy.execute("BEGIN; LOCK TABLE public.orders IN ROW EXCLUSIVE MODE")
        with pytest.raises(ListenerError, match="the table is locked by others"):
            await erp.watch(**{**before, **words})
        await busy.execute("""INSERT INTO public.orders (id, status) VALUES (8, 'new');
                              INSERT INTO public.returns (id, status) VALUES (8, 'new'); COMMIT""")
    assert [(op, key, old) for op, key, old, _ in await erp.captured()] == [("insert", "8", None)]
    await erp.watch(**{**before, **words})
    await erp.run("INSERT INTO public.orders (id, status) VALUES (9, 'new')")
    assert await erp.captured() == []


async def test_a_trigger_under_the_name_that_it_once_had_gives_way(erp: Erp) -> None:
    await erp.run('ALTER TRIGGER "+listener_w_update" ON public.orders RENAME TO listener_w_update')
    assert [(step.step, step.what) for step in await erp.differences()] == [
        (Step.DROP, "trigger listener_w_update on public.orders"),
        (Step.CREATE, "trigger +listener_w_update on public.orders"),
    ]
    await watch(erp)
    await erp.run(PAY)
    assert len(await erp.captured()) == 1


async def test_a_replicas_role_runs_no_trigger(erp: Erp) -> None:
    """Documented: such sessions are replication or a restore, and are not seen."""
    await erp.run(f"SET session_replication_role = replica; {PAY}; RESET session_replication_role")
    assert await erp.captured() == []
    await erp.run(PAY)
    assert len(await erp.captured()) == 1


# -- locks and a full disk


async def test_a_lock_on_our_table_holds_an_erp_write_for_a_fifth_of_a_second(erp: Erp) -> None:
    async with erp.session() as locker, erp.session() as writer:
        await locker.execute("BEGIN; LOCK TABLE listener.outbox IN ACCESS EXCLUSIVE MODE")
        waits = []
        for _ in range(5):
            began = monotonic()
            await writer.execute(PAY.encode())
            waits.append(monotonic() - began)
        # However many rows a transaction writes, it waits once; and what it wrote is kept.
        began = monotonic()
        await writer.execute("BEGIN; UPDATE public.orders SET status = status || '-'; COMMIT")
        waits.append(monotonic() - began)
        await locker.execute("ROLLBACK")
        await writer.execute(PAY.encode())
        assert (await (await writer.execute("SHOW lock_timeout")).fetchone()) == {"lock_timeout": "0"}
    assert await erp.value("SELECT status FROM public.orders WHERE id = 1") == "new+++++-+"
    rows = await erp.value("SELECT count(*) FROM public.orders")
    assert rows > 1
    assert await erp.failures() == 6
    assert await erp.value("SELECT count(*) FROM listener.muted WHERE reason = 'the outbox was locked'") == 5 + rows
    assert len(await erp.captured()) == 1
    assert min(waits) >= 0.19 and sorted(waits)[3] < 0.5, waits


async def test_two_erp_transactions_on_the_same_rows_meet_no_lock_of_ours(erp: Erp) -> None:
    """All that capture locks is its own new row: whoever waits, waits for the ERP's rows."""
    async with erp.session() as one, erp.session() as two:
        await one.execute(f"BEGIN; {PAY}".encode())
        await two.execute("BEGIN; UPDATE public.orders SET status = 'x' WHERE id = 2")
        await two.execute("SET lock_timeout = '100ms'")
        with pytest.raises(psycopg.errors.LockNotAvailable) as waited:
            await two.execute(PAY.encode())
        assert "orders" in str(waited.value.diag.context)
        await one.execute("COMMIT")
        await two.execute("ROLLBACK")
    assert len(await erp.captured()) == 1


@pytest.mark.parametrize("on_capture_error", ["count", "abort"])
async def test_a_full_disk_under_the_outbox(erp: Erp, small_disk: Path, on_capture_error: str) -> None:
    owner = os.stat(await erp.value("SHOW data_directory"))  # noqa: PTH116
    os.chown(small_disk, owner.st_uid, owner.st_gid)
    name = f"small_{os.getpid()}"
    await erp.run(f"CREATE TABLESPACE {name} LOCATION '{small_disk}'")
    try:
        await erp.run(f"ALTER TABLE listener.outbox SET TABLESPACE {name}")
        await erp.run("CREATE TABLE public.docs (id int PRIMARY KEY, body text)")
        await erp.watch("docs", table="public.docs", events=["insert"], on_capture_error=on_capture_error)
        refused = 0
        async with erp.session() as conn:
            for n in range(0, 3000, 20):
                statement = f"""INSERT INTO public.docs
                    SELECT n, (SELECT string_agg(md5(n::text || i), '') FROM generate_series(1, 100) i)
                      FROM generate_series({n}, {n + 19}) n"""
                try:
                    await conn.execute(statement.encode())
                except psycopg.errors.DiskFull:
                    refused += 20
        rows = await erp.value("SELECT count(*) FROM public.docs")
        captured = await erp.value("SELECT count(*) FROM listener.outbox")
        assert 0 < captured < 3000, "the disk did get full"
        if on_capture_error == "abort":
            assert (rows, refused) == (captured, 3000 - captured)
        else:
            assert (rows, refused) == (3000, 0)
            assert captured + await erp.failures() == 3000
    finally:
        await erp.run("ALTER TABLE listener.outbox SET TABLESPACE pg_default")
        await erp.run(f"DROP TABLESPACE {name}")


async def test_a_statement_time_out_inside_the_trigger_ends_the_erps_statement(erp: Erp) -> None:
    """PostgreSQL lets no function swallow this: a known limit, which the trigger's own 200 ms keep far away."""
    async with erp.session() as locker, erp.session() as writer:
        await locker.execute("BEGIN; LOCK TABLE listener.outbox IN ACCESS EXCLUSIVE MODE")
        await writer.execute("SET statement_timeout = '50ms'")
        with pytest.raises(psycopg.errors.QueryCanceled):
            await writer.execute(PAY.encode())
        await locker.execute("ROLLBACK")


# -- other people's roles


async def test_an_erp_role_needs_no_right_to_anything_of_ours(erp: Erp) -> None:
    async with erp.session("clerk") as clerk:
        await erp.run("GRANT SELECT, INSERT, UPDATE, DELETE ON public.orders TO clerk")
        await clerk.execute(PAY.encode())
        for theft in (
            "SELECT * FROM listener.outbox",
            "SELECT * FROM listener.messages",
            "INSERT INTO listener.outbox (watch, op, key) VALUES ('w', 'update', '1')",
            "DELETE FROM listener.muted",
            "SELECT nextval('listener.capture_failures')",
            "SELECT setval('listener.promise', 1)",
            "SELECT listener.make_days()",
            'ALTER TABLE public.orders DISABLE TRIGGER "+listener_w_update"',
            """CREATE TEMP TABLE t (id int, status text, phone text);
               CREATE TRIGGER fake AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION listener.capture_w()""",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                await clerk.execute(theft.encode())
    assert len(await erp.captured()) == 1


async def test_a_hostile_search_path_and_look_alikes_get_nothing(erp: Erp) -> None:
    await erp.watch("w2", table="public.orders", columns=["status"], where="upper(NEW.status) <> 'X'", doorbell=True)
    await erp.run("SELECT setval('listener.promise', (extract(epoch FROM clock_timestamp()) * 1000)::bigint)")
    async with erp.session("mallory") as mallory:
        await erp.run(f"""GRANT SELECT, UPDATE ON public.orders TO mallory;
                          GRANT CREATE, TEMP ON DATABASE {mallory.info.dbname} TO mallory""")
        await mallory.execute("""
            CREATE SCHEMA evil; CREATE TEMP TABLE stolen (what text);
            CREATE TEMP TABLE outbox (LIKE pg_class); CREATE TEMP TABLE muted (LIKE pg_class);
            CREATE FUNCTION evil.steal(text) RETURNS text LANGUAGE plpgsql AS
                $$BEGIN INSERT INTO stolen VALUES (current_user); RETURN ''; END$$;
            CREATE FUNCTION evil.lower(text) RETURNS text LANGUAGE sql AS 'SELECT evil.steal($1)';
            CREATE FUNCTION evil.upper(text) RETURNS text LANGUAGE sql AS 'SELECT evil.steal($1)';
            CREATE FUNCTION evil.current_setting(text, boolean) RETURNS text LANGUAGE sql AS 'SELECT evil.steal($1)';
            CREATE FUNCTION evil.differ(text, text) RETURNS boolean LANGUAGE plpgsql AS
                $$BEGIN INSERT INTO stolen VALUES (current_user); RETURN true; END$$;
            CREATE OPERATOR evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.differ);
            CREATE OPERATOR evil.<> (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.differ);
            SET search_path = evil, pg_temp, public, pg_catalog""")
        await mallory.execute("UPDATE public.orders SET status = 'paid' WHERE id OPERATOR(pg_catalog.=) 1")
        stolen = await (await mallory.execute("SELECT * FROM stolen")).fetchall()
        assert stolen == []
    assert len(await erp.captured()) == 2
    assert await erp.failures() == 0


SHADOWS = """
CREATE SCHEMA evil; GRANT USAGE ON SCHEMA evil TO PUBLIC;
CREATE FUNCTION evil.jsonb_build_object(text, date, text, text) RETURNS jsonb LANGUAGE plpgsql AS
    'BEGIN RAISE EXCEPTION $x$stolen$x$; END';
DO $$
DECLARE each record;
BEGIN
    FOR each IN SELECT typname FROM pg_type WHERE typname IN ('text', 'int8', 'numeric', 'timestamptz') LOOP
        EXECUTE format('CREATE TYPE evil.%I AS (stolen int)', each.typname);
    END LOOP;
    FOR each IN SELECT proname, pg_get_function_identity_arguments(oid) AS arguments, prorettype::regtype AS result
                  FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace AND proname = ANY(%(names)s)
                   AND prokind = 'f' AND NOT proargtypes::oid[] && ARRAY['internal'::regtype, '"any"'::regtype]::oid[]
    LOOP
        EXECUTE format('CREATE FUNCTION evil.%I(%s) RETURNS %s LANGUAGE plpgsql AS %L',
                       each.proname, each.arguments, each.result, 'BEGIN RAISE EXCEPTION $x$stolen$x$; END');
    END LOOP;
    FOR each IN SELECT oprname, oprleft::regtype AS l, oprright::regtype AS r, oprresult::regtype AS result, oid
                  FROM pg_operator WHERE oprnamespace = 'pg_catalog'::regnamespace AND oprleft <> 0
                   AND oprname IN ('=', '<>', '<', '<=', '>', '>=', '+', '-', '*', '||', '->>', '#>>')
    LOOP
        EXECUTE format('CREATE FUNCTION evil.%I(%s, %s) RETURNS %s LANGUAGE plpgsql AS %L',
                       'operator_' || each.oid, each.l, each.r, each.result, 'BEGIN RAISE EXCEPTION $x$stolen$x$; END');
        EXECUTE format('CREATE OPERATOR evil.%s (LEFTARG = %s, RIGHTARG = %s, FUNCTION = evil.%I)',
                       each.oprname, each.l, each.r, 'operator_' || each.oid);
    END LOOP;
END $$
"""


async def test_a_body_without_a_pinned_path_looks_up_nothing_by_it(erp: Erp) -> None:
    await erp.run("""CREATE TABLE public.odd (day date, seen timestamptz, name text, price money, raw bytea,
                         PRIMARY KEY (day, seen, name))""")
    every = ["insert", "update", "delete"]
    odd = await erp.watch("odd", table="public.odd", columns=["price", "raw"], events=every, doorbell=True)
    assert not any(setting.startswith("search_path") for setting in odd.config)
    names = [name for name in set(re.findall(r"(\w+)\(", odd.body)) if name != "jsonb_build_object"]
    await erp.run("SELECT setval('listener.promise', (extract(epoch FROM clock_timestamp()) * 1000)::bigint)")
    await erp.run(psycopg.sql.SQL(SHADOWS.replace("%(names)s", "{}")).format(names).as_string(erp.db))
    async with erp.session("mallory") as mallory:
        await erp.run("GRANT ALL ON public.odd TO mallory")
        await mallory.execute("SET search_path = evil, pg_temp, public, pg_catalog")
        await mallory.execute("SET standard_conforming_strings = off")
        with pytest.raises(psycopg.errors.RaiseException, match="stolen"):
            await mallory.execute("SELECT lower('x'::pg_catalog.text)")
        await mallory.execute("INSERT INTO public.odd VALUES ('2026-11-22', '2026-11-22 10:00+07', 'a/b', 5, 'x')")
        await mallory.execute("UPDATE public.odd SET price = 6")
        await mallory.execute("SET listener.mute = 'import'")
        await mallory.execute("DELETE FROM public.odd")
    key = r"2026-11-22/2026-11-22T03:00:00Z/a\/b"
    assert [(op, at) for op, at, _, _ in await erp.captured()] == [("insert", key), ("update", key)]
    assert [(op, at) for _, op, at, _, _ in await erp.muted()] == [("delete", key)]
    assert await erp.failures() == 0


async def test_row_level_security_of_the_erps_table_and_of_ours(erp: Erp) -> None:
    await erp.run("""ALTER TABLE public.orders ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
                     ALTER TABLE listener.outbox ENABLE ROW LEVEL SECURITY""")
    async with erp.session("teller") as teller:
        await erp.run("""GRANT SELECT, UPDATE ON public.orders TO teller;
                         CREATE POLICY own ON public.orders TO teller USING (id = 1)""")
        await teller.execute("UPDATE public.orders SET status = 'paid'")
    assert [key for _, key, _, _ in await erp.captured()] == ["1"]
    assert await erp.failures() == 0


async def test_many_sessions_at_once_are_captured_once_each(erp: Erp) -> None:
    await erp.run("INSERT INTO public.orders SELECT n, 'new' FROM generate_series(3, 200) n")

    async def work(part: int) -> None:
        async with erp.session() as conn:
            for n in range(part, 201, 8):
                end = "ROLLBACK" if n % 5 == 0 else "COMMIT"
                await conn.execute(f"BEGIN; UPDATE public.orders SET status = 'x' WHERE id = {n}; {end}".encode())

    await asyncio.gather(*(work(part) for part in range(1, 9)))
    keys = sorted(int(key) for _, key, _, _ in await erp.captured())
    assert keys == [n for n in range(1, 201) if n % 5 != 0]
