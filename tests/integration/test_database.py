"""Links: connections that are made when needed and do not outstay it."""

import asyncio
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from listener import database as connections
from listener.database import BY_INDEX, Connection, Link, connect, together
from listener.errors import ListenerError
from listener.settings import Settings, read_settings
from tests.support.proxy import COMMITTED, Direction, Proxy
from tests.support.world import PATIENCE, open_world

MANY = """
INSERT INTO listener.message (change_id, rule, rules_version, watch, key, account, thread_id, thread, phone, text,
                              state, expires_at)
SELECT n, 'note', 1, 'note', 'k', 'main', n, 't', '0980000000', 'x', 'waiting', 'infinity'
  FROM generate_series(1, 5000) n
"""


async def plan(conn: Connection) -> str:
    row = await (await conn.execute("EXPLAIN (FORMAT JSON) EXECUTE by_id('{1,2}')", prepare=False)).fetchone()
    assert row is not None
    return str(row["QUERY PLAN"])


READY = b"Z\0\0\0\5"


async def pid(link: Link) -> int:
    async with link.use() as conn:
        return conn.info.backend_pid


async def test_a_link_that_rests_closes_its_connection_and_makes_another_when_needed(database: str) -> None:
    settings = Settings(database_url=database)
    watcher, link = Link(settings, "watcher"), Link(settings, "resting", None, 0.05)
    try:
        first = await pid(link)
        async with asyncio.timeout(PATIENCE), watcher.use(PATIENCE) as conn:
            while (await conn.execute("SELECT FROM pg_stat_activity WHERE pid = %s", [first])).rowcount:
                await asyncio.sleep(0.01)
        assert await pid(link) != first
    finally:
        await link.close()
        await watcher.close()


async def test_time_outs_that_a_dba_has_set_do_not_cut_a_connection_that_is_at_work(database: str) -> None:
    limits = ["statement_timeout", "idle_in_transaction_session_timeout", "idle_session_timeout"]
    with psycopg.connect(database, autocommit=True) as dba:
        if dba.info.server_version >= 170000:
            limits.append("transaction_timeout")
        for limit in limits:
            dba.execute(f"ALTER DATABASE {dba.info.dbname} SET {limit} = '20ms'".encode())
    async with await connect(Settings(database_url=database), "at work") as conn:
        await conn.execute("SELECT pg_sleep(0.05)")
        async with conn.transaction():
            await asyncio.sleep(0.05)
            await conn.execute("SELECT")


async def test_a_backslash_in_the_rules_means_itself_whatever_the_database_says(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as dba:
        dba.execute(f"ALTER DATABASE {dba.info.dbname} SET standard_conforming_strings = off".encode())
    async with await connect(Settings(database_url=database), "old") as conn:
        row = await (await conn.execute(rb"SELECT '\d' AS said")).fetchone()
        assert row == {"said": r"\d"}


async def test_a_new_password_in_its_file_needs_no_restart(database: str, tmp_path: Path) -> None:
    """Two roles stand for two passwords: this server trusts whoever comes by its socket."""
    file = tmp_path / "url"
    file.write_text(database)
    settings = read_settings({"LISTENER_DATABASE_URL_FILE": str(file)})
    link = Link(settings, "rotated")
    try:
        async with link.use() as conn:
            await conn.execute("DROP ROLE IF EXISTS rotated")
            await conn.execute("CREATE ROLE rotated LOGIN")
        file.write_text(make_conninfo(database, user="rotated") + "\n")
        await link.close()
        async with link.use() as conn:
            assert conn.info.user == "rotated"
    finally:
        await link.close()
        with psycopg.connect(database, autocommit=True) as owner:
            owner.execute("DROP ROLE IF EXISTS rotated")


async def test_the_clients_encoding_is_ours_whatever_the_environment_says(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGCLIENTENCODING", "SQL_ASCII")
    async with await connect(Settings(database_url=database), "test") as conn:
        row = await (await conn.execute("SELECT current_database()::text || ' Ước' AS name")).fetchone()
    assert row is not None and row["name"].endswith(" Ước")


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "WIN1258"])
async def test_a_database_that_is_not_in_utf_8_is_refused_by_name(database: str, encoding: str) -> None:
    with psycopg.connect(database, autocommit=True) as owner:
        made = f"CREATE DATABASE other_encoding TEMPLATE template0 ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C'"
        owner.execute(made.encode())
        try:
            with pytest.raises(ListenerError, match=f"keeps its texts as {encoding}, .* ENCODING 'UTF8'"):
                await connect(Settings(database_url=make_conninfo(database, dbname="other_encoding")), "test")
        finally:
            owner.execute("DROP DATABASE other_encoding WITH (FORCE)")


async def test_a_link_in_use_does_not_rest(database: str) -> None:
    link = Link(Settings(database_url=database), "resting", None, 0.05)
    try:
        first = await pid(link)
        async with link.use() as conn:
            await conn.execute("SELECT pg_sleep(0.2)")
            assert conn.info.backend_pid == first
    finally:
        await link.close()


async def test_a_plan_made_for_empty_tables_is_made_anew_when_they_have_grown(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Vacuumed while it is empty, a table's every index seems as good as the right one, and so does the whole of it."""
    monkeypatch.setattr(connections, "_MEASURE", 0.0)
    async with open_world(database) as world:
        # so that nothing else has it planned anew
        await world.db.execute("ALTER TABLE listener.message SET (autovacuum_enabled = off)")
        await world.db.execute("VACUUM ANALYZE listener.message")
        link = Link(world.settings, "planner", **BY_INDEX)
        try:
            async with link.use() as conn:
                await conn.execute("PREPARE by_id AS SELECT * FROM listener.message WHERE id = ANY($1::bigint[])")
                first = await plan(conn)
            await world.db.execute(MANY)
            async with link.use() as conn:
                assert first == await plan(conn), "it is seen when somebody has used the connection"
            async with link.use() as conn:
                assert first != (then := await plan(conn))
                assert "message_pkey" in then
        finally:
            await link.close()


async def test_what_is_sent_together_is_one_exchange_with_the_server(database: str) -> None:
    async with Proxy.to_database(database) as proxy:
        answers: list[bytes] = []
        proxy.watch(lambda _, way, data: answers.append(data) if way is Direction.DOWN else None)
        link = Link(Settings(database_url=proxy.dsn), "together")
        try:
            for _ in range(3):
                async with link.use() as conn:
                    answers.clear()
                    async with together(conn):
                        first = await conn.execute("SELECT 1 AS n")
                        second = await conn.execute("SELECT 2 AS n")
                    assert [await cursor.fetchall() for cursor in (first, second)] == [[{"n": 1}], [{"n": 2}]]
                    said = b"".join(answers)
                    assert (said.count(READY), said.count(COMMITTED)) == (1, 1)
        finally:
            await link.close()


@pytest.mark.parametrize("seen", ["in it", "at its end"])
async def test_what_is_sent_together_is_done_whole_or_not_at_all(database: str, seen: str) -> None:
    link = Link(Settings(database_url=database), "together")
    try:
        first = await pid(link)
        async with link.use() as conn:
            await conn.execute("CREATE TABLE public.done (n integer)")
        with pytest.raises(psycopg.errors.DivisionByZero):
            async with link.use() as conn, together(conn):
                await conn.execute("INSERT INTO public.done VALUES (1)")
                failing = await conn.execute("SELECT 1 / 0")
                if seen == "in it":
                    await failing.fetchall()
                await conn.execute("INSERT INTO public.done VALUES (2)")
        async with link.use() as conn:
            assert await (await conn.execute("SELECT n FROM public.done")).fetchall() == []
            assert conn.info.backend_pid != first
    finally:
        await link.close()
