"""Hostile names in rules (F73), and look-alikes that an ERP role puts in the way of the capture trigger (F74)."""

import re
from contextlib import suppress
from typing import Any

import psycopg
import pytest
from psycopg import sql

from listener import capture
from listener.errors import ListenerError
from listener.lookups import batched
from listener.rights import statement_needs
from listener.rules import Watch
from tests.support.erp import Erp, open_erp

# -- F73: names in rules

EVIL = 'x"; DROP TABLE public.victims; --'
LONG = "dài" * 21
NAMES = [EVIL, "a.b", "it's", "two  spaces", "SELECT", '""', "%s %(x)s {0}", LONG[:46], "$listener$", "\\'"]


@pytest.mark.parametrize("name", NAMES)
async def test_whatever_a_table_is_called_only_our_statements_run(listener_database: str, name: str) -> None:
    """Every statement that the server is given is checked by what it did: nobody dropped or made anything else."""
    async with open_erp(listener_database) as erp:
        quoted = sql.Identifier(name).as_string(erp.db)
        await erp.run("CREATE TABLE public.victims (id int)")
        await erp.run(f"CREATE SCHEMA {quoted}; CREATE TABLE {quoted}.{quoted} ({quoted} text PRIMARY KEY, other int)")
        await erp.watch(
            table=f"{quoted}.{quoted}", columns=["other"], key=[name], events=["insert", "update", "delete"]
        )
        await erp.run(f"""INSERT INTO {quoted}.{quoted} VALUES ('''"; --', 1)""")
        assert await erp.captured() == [("insert", "'\"; --", None, {name: "'\"; --", "other": 1})]
        wanted = erp.captures["w"]
        row = await (await erp.db.execute(capture.current_row(wanted), {"key": "'\"; --"})).fetchone()
        assert row == {"row": {name: "'\"; --", "other": 1}}
        assert await erp.value("SELECT count(*) FROM public.victims") == 0
        for what in (f"public.{EVIL}", name + "; DROP TABLE public.victims", "public.victims; SELECT 1"):
            with pytest.raises(ListenerError, match=r"there is no table|is not a table"):
                await capture.find_table(erp.db, what)
        assert await erp.value("SELECT count(*) FROM public.victims") == 0


# SQL that a rules file may hold, hidden from a look at its brackets and quotes: `a$x$` is one name to PostgreSQL.
SMUGGLED = "SELECT 1 AS a$x$; DROP TABLE public.victims; SELECT 2 AS b$x$"


async def test_no_second_statement_gets_in_behind_the_rules_own(listener_database: str) -> None:
    """`check --db`, `install` and lookups ask PostgreSQL about SQL of the file: one statement at a time."""
    async with open_erp(listener_database) as erp:
        await erp.run("CREATE TABLE public.victims (id int PRIMARY KEY, a$x$ int)")
        with pytest.raises(psycopg.errors.SyntaxError):
            await batched(erp.db, SMUGGLED)
        for writes in (False, True):
            assert (await statement_needs(erp.db, (), "lookup", SMUGGLED, writes=writes)).fault
        where = "NEW.a$x$ IS NULL); DROP TABLE public.victims; SELECT (SELECT 1 AS b$x$"
        with pytest.raises(ListenerError, match="where: "):
            await capture.wanted(erp.db, "w", Watch(table="public.victims", columns=("id",), where=where), ["id"])
        assert await erp.value("SELECT count(*) FROM public.victims") == 0


# -- F74: look-alikes in the way of the capture trigger

# What the functions of capture might take for PostgreSQL's own, if they did not say whose they mean: every operator and
# function by the names that stand in them, for these types; and domains called as types are, whose checks run.
TYPES = (
    *(
        "bool",
        "int2",
        "int4",
        "int8",
        "float8",
        "numeric",
        "text",
        "varchar",
        "bpchar",
        "name",
        "jsonb",
        "json",
        "date",
    ),
    *("timestamp", "timestamptz", "interval", "money", "bytea", "oid", "tid", "regclass", "mood"),
)
UNMAKEABLE = (
    psycopg.errors.DuplicateFunction,
    psycopg.errors.InvalidFunctionDefinition,
    psycopg.errors.InvalidObjectDefinition,
)
HOSTILE = """
CREATE SCHEMA evil; GRANT USAGE ON SCHEMA evil TO PUBLIC; CREATE SEQUENCE evil.hits; GRANT ALL ON evil.hits TO PUBLIC;
CREATE FUNCTION evil.hit() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN
    PERFORM pg_catalog.nextval('evil.hits'); RETURN true; END $$;
"""
FUNCTIONS = """
SELECT DISTINCT p.proname AS name, p.prorettype::regtype::text AS result,
       array_to_string(CASE WHEN p.provariadic <> 0 OR p.proargtypes::regtype[]::text[] && '{anyelement,any}'
                            THEN array_fill(t.kind::regtype, ARRAY[p.pronargs::int]) ELSE p.proargtypes::regtype[] END,
                       ',') AS args
  FROM pg_proc p, unnest(%(types)s::text[]) AS t(kind)
 WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.proname = ANY(%(names)s) AND p.prokind = 'f'
"""
OPERATORS = """
WITH kinds AS (SELECT t::regtype AS kind FROM unnest(%(types)s::text[]) AS t)
SELECT oprname AS name, oprleft::regtype::text AS l, oprright::regtype::text AS r, oprresult::regtype::text AS result
  FROM pg_operator
 WHERE oprnamespace = 'pg_catalog'::regnamespace AND oprkind = 'b'
   AND oprleft IN (SELECT kind FROM kinds) AND oprright IN (SELECT kind FROM kinds)
 UNION
SELECT o, l, r, 'boolean' FROM unnest('{=,<>,<,>,<=,>=}'::text[]) AS o,
       (SELECT 'mood' AS l, 'mood' AS r UNION
        SELECT a, b FROM unnest('{text,varchar,bpchar,name}'::text[]) AS a,
                         unnest('{text,varchar,bpchar,name}'::text[]) AS b) AS k
"""
TABLES = """
CREATE TYPE public.mood AS ENUM ('sad', 'glad');
CREATE TABLE public.things (id int, day date, at timestamptz, amount money, raw bytea, doc json, data jsonb, mood mood,
    many int[], status text, short varchar(9), price numeric, PRIMARY KEY (id, day, at));
CREATE TABLE public.parts (id int, day date, status text, price numeric, PRIMARY KEY (id, day))
    PARTITION BY RANGE (day);
CREATE TABLE public.parts_1 PARTITION OF public.parts FOR VALUES FROM ('2026-01-01') TO ('2026-07-01');
CREATE TABLE public.parts_2 PARTITION OF public.parts FOR VALUES FROM ('2026-07-01') TO ('2027-01-01');
CREATE TABLE public.lost (id int PRIMARY KEY, status text, gone text);
GRANT ALL ON public.things, public.parts, public.lost TO PUBLIC;
"""
WRITES = """
INSERT INTO public.things
    VALUES (1, '2026-01-01', '2026-01-01 00:00+00', '1.50', 'x', '{}', '{}', 'sad', '{1}', 'a', 'b', 1);
UPDATE public.things SET status = 'x', amount = '2.50', raw = 'y', doc = '[]', data = '[]', mood = 'glad', many = '{2}',
    short = 'c', price = 2;
DELETE FROM public.things;
INSERT INTO public.parts VALUES (1, '2026-02-01', 'a', 1);
UPDATE public.parts SET status = 'b';
UPDATE public.parts SET day = '2026-08-01', status = 'c';
DELETE FROM public.parts;
INSERT INTO public.lost VALUES (1, 'a');
UPDATE public.lost SET status = 'b';
BEGIN; SET LOCAL listener.mute = 'import'; INSERT INTO public.lost VALUES (2, 'a'); COMMIT;
"""


async def test_no_look_alike_of_an_erp_role_is_called_by_capture(listener_database: str) -> None:
    async with open_erp(listener_database) as erp:
        await erp.run(TABLES)
        every = ["insert", "update", "delete"]
        of_things = ["status", "amount", "raw", "doc", "data", "mood", "many", "short", "price"]
        await erp.watch("plain", table="public.things", columns=of_things, events=every, doorbell=True)
        simple = "NEW.status <> 'q' AND NEW.price >= 0 AND NEW.mood <> 'sad' OR NEW.id IN (1, 2)"
        await erp.watch("simple", table="public.things", columns=["status"], events=every, where=simple, doorbell=True)
        guard = "upper(NEW.status) <> 'Q' AND abs(NEW.price) >= 0"
        await erp.watch("guarded", table="public.things", columns=["status"], events=every, where=guard)
        await erp.watch("moved", table="public.parts", columns=["status", "price"], events=every, doorbell=True)
        await erp.watch("lost", table="public.lost", columns=["status"], events=["insert", "update"], doorbell=True)
        await erp.run("ALTER TABLE public.lost RENAME gone TO went; SELECT setval('listener.promise', 1)")
        await erp.run("SELECT setval('listener.promise', (extract(epoch FROM clock_timestamp()) * 1000)::bigint)")
        async with erp.session("mallory") as mallory:
            await _look_alikes(erp, mallory)
            await mallory.execute(WRITES.encode())
            hits = await erp.value("SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM evil.hits")
            assert hits == 0
            # The trap does work: the same path catches a statement of the role's own.
            await mallory.execute("SELECT 'a' || lower('B'::pg_catalog.text)")
            assert await erp.value("SELECT last_value FROM evil.hits") > 0
        seen = [(watch, op) for watch, op, _, _, _ in await erp.captured_by_watch()]
        for watch in ("plain", "simple", "guarded"):
            assert [op for w, op in seen if w == watch] == every, watch
        assert [op for w, op in seen if w == "moved"] == ["insert", "update", "update", "delete"]


async def _look_alikes(erp: Erp, mallory: "psycopg.AsyncConnection[Any]") -> None:
    """Puts a trap under every name that the bodies of our functions use, on a path that begins with the traps."""
    bodies = await erp.value(
        """SELECT string_agg(prosrc, ' ') FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
            WHERE pronamespace = 'listener'::regnamespace AND l.lanname = 'plpgsql'"""
    )
    names = sorted(set(re.findall(r"\b([a-z_]+)\(", bodies)))
    assert {"jsonb_build_object", "current_setting", "pg_notify", "lower"} <= set(names)
    await erp.run(HOSTILE)
    functions = await (await erp.db.execute(FUNCTIONS, {"types": list(TYPES), "names": names})).fetchall()
    for f in functions:
        await _trap(erp, f"CREATE FUNCTION evil.{f['name']}({f['args']}) RETURNS {f['result']}")
    operators = await (await erp.db.execute(OPERATORS, {"types": list(TYPES)})).fetchall()
    for n, o in enumerate(operators):
        await _trap(erp, f"CREATE FUNCTION evil.o{n}({o['l']}, {o['r']}) RETURNS {o['result']}")
        await _quietly(
            erp, f"CREATE OPERATOR evil.{o['name']} (LEFTARG = {o['l']}, RIGHTARG = {o['r']}, FUNCTION = evil.o{n})"
        )
    assert len(functions) > 50 and len(operators) > 200
    for name in ("text", "jsonb", "json", "date", "tid", "regclass", "oid"):
        await mallory.execute(f"CREATE DOMAIN pg_temp.{name} AS pg_catalog.{name} CHECK (evil.hit())".encode())
    for name in ("outbox", "muted", "promise", "things", "pg_class", "pg_proc"):
        await mallory.execute(f"CREATE TEMPORARY TABLE {name} (id int)".encode())
    await mallory.execute("SET search_path = pg_temp, evil, public, pg_catalog")


async def _trap(erp: Erp, head: str) -> None:
    kind = head.rpartition(" RETURNS ")[2]
    result = "RETURN" if kind == "void" else "RETURN NULL"
    await _quietly(erp, f"{head} LANGUAGE plpgsql AS $$ BEGIN PERFORM evil.hit(); {result}; END $$")


async def _quietly(erp: Erp, statement: str) -> None:
    """What PostgreSQL lets nobody make is no danger."""
    with suppress(*UNMAKEABLE):
        await erp.run(statement)
