"""Capture on tables as real ERPs have them: any name, any type, any key, any size."""

from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any
from unicodedata import normalize

import psycopg
import pytest

from listener.capture import current_row, find_table
from listener.errors import ListenerError
from tests.support.erp import Erp, open_erp


@pytest.fixture
async def erp(listener_database: str) -> AsyncIterator[Erp]:
    async with open_erp(listener_database) as erp:
        yield erp


TYPES = """
CREATE TYPE public.mood AS ENUM ('sad', 'glad', 'glum');
CREATE DOMAIN public.vnd AS numeric(20, 4) NOT NULL CHECK (VALUE >= 0);
CREATE DOMAIN public.temper AS public.mood CHECK (VALUE <> 'glum');
CREATE DOMAIN public.moods AS public.mood[];
CREATE DOMAIN public.cash AS money;
CREATE DOMAIN public.code AS char(4);
CREATE DOMAIN public.short_code AS public.code CHECK (VALUE <> 'bad');
CREATE DOMAIN public.codes AS char(3)[];
CREATE TYPE public.pair AS (a int, b json);
CREATE TYPE public.plain_pair AS (a int, b text);
CREATE TYPE public.span AS RANGE (subtype = float8);
CREATE SCHEMA ext;
CREATE TYPE ext.own AS ENUM ('x', 'y');
"""


@pytest.mark.parametrize(
    ("kind", "old", "new", "captured"),
    [
        ("int", "1", "2", 2),
        ("numeric(20,4)", "1", "1234567890123456.7891", Decimal("1234567890123456.7891")),
        ("numeric", "1", "1e100", Decimal("1e100")),
        ("numeric", "1", "'NaN'", "NaN"),
        ("numeric", "1", "'-Infinity'", "-Infinity"),
        ("numeric", "1", "0.10", Decimal("0.10")),
        ("float8", "1", "'Infinity'", "Infinity"),
        ("float8", "'NaN'", "0.1", Decimal("0.1")),
        ("real", "1", "1.5", Decimal("1.5")),
        ("money", "1", "'1234.5'", Decimal("1234.50")),
        ("public.cash", "1", "'2'", Decimal("2.00")),
        ("boolean", "false", "true", True),
        ("text", "''", "'Đặng Thị Ướt  \"x\" \\ {} %s'", 'Đặng Thị Ướt  "x" \\ {} %s'),
        ("varchar(10)", "'a'", "'b'", "b"),
        ("char(3)", "'a'", "'b'", "b"),
        ("char(3)", "'a'", "''", ""),
        ("char(5)", "'a'", "' b c'", " b c"),
        ("bpchar", "'a'", "'b  '", "b"),
        ("public.code", "'a'", "'b'", "b"),
        ("public.short_code", "'a'", "'b'", "b"),
        ("char(3)[]", "'{a}'", "'{a,NULL,bc}'", ["a", None, "bc"]),
        ("public.codes", "'{a}'", "'{{a,b},{c,d}}'", [["a", "b"], ["c", "d"]]),
        ("varchar(10)", "'a'", "'b  '", "b  "),
        ('"char"', "'a'", "'b'", "b"),
        ("name", "'a'", "'b'", "b"),
        ("uuid", "gen_random_uuid()", "'00000000-0000-0000-0000-000000000001'", "00000000-0000-0000-0000-000000000001"),
        ("date", "'2026-01-01'", "'infinity'", "infinity"),
        ("date", "'2026-01-01'", "'0044-03-15 BC'", "0044-03-15 BC"),
        ("timestamp", "'2026-01-01'", "'2026-11-22 10:00'", "2026-11-22T10:00:00"),
        ("timestamptz", "'2026-01-01 00:00+00'", "'2026-11-22 10:00+07'", "2026-11-22T03:00:00+00:00"),
        ("timestamptz", "'-infinity'", "'infinity'", "infinity"),
        ("interval", "'1 day'", "'2 days'", "2 days"),
        ("public.mood", "'sad'", "'glad'", "glad"),
        ("public.temper", "'sad'", "'glad'", "glad"),
        ("public.temper[]", "'{sad}'", "'{glad,sad}'", ["glad", "sad"]),
        ("public.moods", "'{sad}'", "'{glad,sad}'", ["glad", "sad"]),
        ("ext.own", "'x'", "'y'", "y"),
        ("public.vnd", "0", "12.5", Decimal("12.5000")),
        ("int[]", "'{1}'", "'{1,NULL,3}'", [1, None, 3]),
        ("text[][]", "'{{a}}'", "'{{a,b},{c,d}}'", [["a", "b"], ["c", "d"]]),
        ("bytea", "'a'", r"'\x00ff'", r"\x00ff"),
        ("bit(3)", "B'000'", "B'101'", "101"),
        ("inet", "'::1'", "'10.0.0.1/8'", "10.0.0.1/8"),
        ("tsvector", "'a'", "'b'", "'b'"),
        ("int4range", "'[1,2)'", "'[1,5)'", "[1,5)"),
        ("public.span", "'[1,2)'", "'[1,5)'", "[1,5)"),
        ("jsonb", "'{}'", "'{\"a\": [1.50, null]}'", {"a": [Decimal("1.50"), None]}),
        # no equality, or one that fails
        ("json", "'{}'", "'{\"a\": 1}'", {"a": 1}),
        ("json[]", "ARRAY['{}'::json]", "ARRAY['[1]'::json]", [[1]]),
        ("point", "'(0,0)'", "'(1,2)'", "(1,2)"),
        ("polygon", "'((0,0),(1,1))'", "'((0,0),(2,2))'", "((0,0),(2,2))"),
        ("box", "'((0,0),(1,1))'", "'((0,0),(-1,-1))'", "(0,0),(-1,-1)"),
        ("xml", "'<a/>'", "'<b/>'", "<b/>"),
        ("public.pair", "ROW(1, '{}')", "ROW(1, '[]')", {"a": 1, "b": []}),
        ("public.pair[]", "ARRAY[ROW(1, '{}')::public.pair]", "ARRAY[ROW(2, '{}')::public.pair]", [{"a": 2, "b": {}}]),
        ("public.plain_pair", "ROW(1, 'x')", "ROW(2, 'y')", {"a": 2, "b": "y"}),
    ],
)
async def test_a_column_of_any_type_can_be_watched(erp: Erp, kind: str, old: str, new: str, captured: Any) -> None:
    await erp.run(TYPES)
    try:
        await erp.run(f"SELECT {new}::{kind}")
    except psycopg.errors.FeatureNotSupported:
        pytest.skip("this PostgreSQL was built without libxml")
    await erp.run(f"CREATE TABLE public.t (id int PRIMARY KEY, v {kind}, w int)")
    await erp.watch(table="public.t", columns=["v"], used=["v"])
    await erp.run(f"INSERT INTO public.t VALUES (1, {old}, 0)")
    await erp.run("UPDATE public.t SET w = 1")
    assert await erp.captured() == [], "the column did not change"
    await erp.run(f"UPDATE public.t SET v = {new}")
    ((op, key, before, after),) = await erp.captured()
    assert (op, key) == ("update", "1")
    assert after == {"id": 1, "v": captured}
    if isinstance(captured, Decimal):
        assert after is not None and format(after["v"], "f") == format(captured, "f"), "every digit as the ERP wrote it"
    assert before is not None and before["v"] != captured
    assert await erp.failures() == 0


NAMES = [
    ('"SoDu"', "SoDu"),
    ('"select"', "select"),
    ('"Số dư"', "Số dư"),
    ('"Заказ"', "Заказ"),
    ('"a""b"', 'a"b'),
    ('"\'; DROP TABLE x; --"', "'; DROP TABLE x; --"),
    ('"{brace} %s %(x)s $listener$"', "{brace} %s %(x)s $listener$"),
    ('"new"', "new"),
    ('"mute"', "mute"),
    ('"op"', "op"),
    (f'"{"x" * 63}"', "x" * 63),
    ("unquoted$1", "unquoted$1"),
]


@pytest.mark.parametrize(("written", "name"), NAMES, ids=[name for _, name in NAMES])
async def test_any_name_of_schema_table_column_and_key(erp: Erp, written: str, name: str) -> None:
    schema = written if name != "new" else '"old"'
    await erp.run(f"""CREATE SCHEMA {schema}; CREATE TYPE {schema}.{written} AS ENUM ('a', 'b', '{{c}} %');
                      CREATE TABLE {schema}."{"T" + name.replace('"', '""')[:60]}" (
                          id int, {written} {schema}.{written}, "Key/1" text, PRIMARY KEY (id, "Key/1"))""")
    table = f'{schema}."{"T" + name.replace(chr(34), chr(34) * 2)[:60]}"'
    where = "NEW." + (written if written.startswith('"') else f'"{name}"') + " <> 'b'"
    await erp.watch(table=table, columns=[name], where=where)
    await erp.run(f"INSERT INTO {table} VALUES (1, 'a', 'x/y')")
    await erp.run(f"UPDATE {table} SET {written} = 'b'")
    await erp.run(f"UPDATE {table} SET {written} = '{{c}} %'")
    ((op, key, old, new),) = await erp.captured()
    assert (op, key) == ("update", r"1/x\/y")
    assert old == {"id": 1, name: "b", "Key/1": "x/y"}
    assert new == {"id": 1, name: "{c} %", "Key/1": "x/y"}
    assert await erp.failures() == 0


@pytest.mark.parametrize(
    ("columns", "key", "values", "text"),
    [
        ("id uuid", "id", "'0f0e0d0c-0000-4000-8000-000000000001'", "0f0e0d0c-0000-4000-8000-000000000001"),
        ("a text, b text", "a, b", "'x/y', 'z'", r"x\/y/z"),
        ("a text, b text", "a, b", "'x', 'y/z'", r"x/y\/z"),
        ("a text, b text", "b, a", r"'x\', '/y'", r"\/y/x\\"),
        ("a text, b int, c date", "a, b, c", "'', 7, '2026-01-02'", "/7/2026-01-02"),
        ("a timestamptz", "a", "'2026-01-02 03:04:05.6+07'", "2026-01-01T20:04:05.6Z"),
        ("a timestamp", "a", "'2026-01-02 03:04:05'", "2026-01-02T03:04:05"),
        ("a money", "a", "'1234.5'", "1234.50"),
        ("a bytea", "a", r"'\x00ff'", r"\x00ff"),
        ("a numeric(8,3)", "a", "1.5", "1.500"),
        ("a boolean", "a", "true", "true"),
        ("a char(4)", "a", "'x'", "x"),
        ("a char(4), b char(2)", "a, b", "'x/', ''", r"x\//"),
        ("a bigint GENERATED ALWAYS AS IDENTITY", "a", "DEFAULT", "1"),
        ("a daterange", "a", "'[01/02/2026,03/04/2026)'", "[2026-02-01,2026-04-03)"),
        ("a tstzrange", "a", "'[2026-01-02 03:04+07,)'", '["2026-01-01 20:04:00+00",)'),
        ("a interval", "a", "'1 month 2 days'", "1 mon 2 days"),
        ("a date[]", "a", "'{31/12/2026}'", "{2026-12-31}"),
        ("a real", "a", "1234567", "1.234567e+06"),
        ("a float8", "a", "0.1::float8 + 0.2", "0.30000000000000004"),
    ],
)
async def test_a_key_is_the_same_text_in_every_session(
    erp: Erp, columns: str, key: str, values: str, text: str
) -> None:
    await erp.run(f"CREATE TABLE public.t ({columns}, v int, PRIMARY KEY ({key}))")
    capture = await erp.watch(table="public.t", columns=["v"], events=["insert", "update", "delete"])
    async with erp.session() as conn:
        await conn.execute("""SET DateStyle = 'SQL, DMY'; SET TimeZone = 'Asia/Ho_Chi_Minh';
                              SET bytea_output = 'escape'; SET IntervalStyle = 'sql_standard';
                              SET extra_float_digits = 0""")
        await conn.execute(f"INSERT INTO public.t VALUES ({values}, 1)".encode())
        await conn.execute("UPDATE public.t SET v = 2")
        found = await (await erp.db.execute(current_row(capture), {"key": text})).fetchone()
        await conn.execute("DELETE FROM public.t")
    inserted, updated, deleted = await erp.captured()
    assert [inserted[1], updated[1], deleted[1]] == [text] * 3
    assert found is not None, "found again by its key, as preview does"
    assert updated[3] == found["row"]


async def test_a_key_of_our_own_choice_need_not_be_unique_or_filled(erp: Erp) -> None:
    await erp.run("CREATE TABLE public.t (customer text, v int); INSERT INTO public.t VALUES ('c1', 1), (NULL, 1)")
    await erp.watch(table="public.t", key=["customer"], columns=["v"])
    await erp.run("UPDATE public.t SET v = 2")
    assert sorted(key for _, key, _, _ in await erp.captured()) == ["", "c1"]


async def test_a_key_of_8001_bytes_and_a_row_of_a_megabyte(erp: Erp) -> None:
    await erp.run("CREATE TABLE public.t (id text, v text, big text)")
    await erp.watch(table="public.t", key=["id"], columns=["v"], doorbell=True)
    await erp.run("SELECT setval('listener.promise', (extract(epoch FROM clock_timestamp()) * 1000)::bigint)")
    await erp.run("INSERT INTO public.t VALUES (repeat('ữ', 2667), 'a', repeat('Ướt ', 250000))")
    await erp.run("UPDATE public.t SET v = 'b'")
    ((_, key, _, new),) = await erp.captured()
    assert len(key.encode()) == 8001
    assert new is not None and len(new["big"]) == 1_000_000
    assert await erp.failures() == 0


async def test_more_columns_than_one_call_takes_arguments(erp: Erp) -> None:
    columns = [f"c{n}" for n in range(180)]
    await erp.run(f"CREATE TABLE public.wide (id int PRIMARY KEY, {', '.join(f'{c} int DEFAULT 0' for c in columns)})")
    await erp.watch(table="public.wide", columns=columns)
    await erp.run("INSERT INTO public.wide VALUES (1); UPDATE public.wide SET c179 = 1")
    ((_, _, old, new),) = await erp.captured()
    assert new == {"id": 1, **dict.fromkeys(columns, 0), "c179": 1}
    assert old is not None and list(old).count("c0") == 1


async def test_dropped_columns_leave_no_trace(erp: Erp) -> None:
    await erp.run("""CREATE TABLE public.t (gone int, id int PRIMARY KEY, v int, gone2 int);
                     ALTER TABLE public.t DROP gone, DROP gone2; INSERT INTO public.t VALUES (1, 1)""")
    await erp.watch(table="public.t", columns=["v"])
    await erp.run("UPDATE public.t SET v = 2")
    assert await erp.captured() == [("update", "1", {"id": 1, "v": 1}, {"id": 1, "v": 2})]


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("public.ordesr", "there is no table public.ordesr; did you mean public.orders?"),
        ("public.seen", "is not a table"),
        ("scratch", "is a temporary table"),
        ("listener.message", "listener.message is listener's own; a watch is for tables of the ERP"),
        ("nowhere.orders", "there is no table nowhere.orders"),
    ],
)
async def test_what_is_no_table_is_said_so(erp: Erp, table: str, said: str) -> None:
    await erp.run("""CREATE TABLE public.orders (id int PRIMARY KEY); CREATE VIEW public.seen AS SELECT 1 AS id;
                     CREATE TEMP TABLE scratch (id int PRIMARY KEY)""")
    with pytest.raises(ListenerError, match=said.replace("?", r"\?")):
        await find_table(erp.db, table)


async def test_a_table_whose_accents_are_put_together_otherwise_is_told_apart(erp: Erp) -> None:
    await erp.run('CREATE TABLE public."LịchHẹn" (id int PRIMARY KEY)')
    with pytest.raises(ListenerError, match=r'put together otherwise there: .*, public\."LịchHẹn"'):
        await find_table(erp.db, normalize("NFD", 'public."LịchHẹn"'))


async def test_a_table_without_a_key_needs_one_named(erp: Erp) -> None:
    await erp.run("CREATE TABLE public.log (line text)")
    with pytest.raises(ListenerError, match="no primary key; name the columns"):
        await erp.watch(table="public.log", columns=["line"])
    with pytest.raises(ListenerError, match=r"no column lines; did you mean line\?"):
        await erp.watch(table="public.log", key=["line"], columns=["lines"])
