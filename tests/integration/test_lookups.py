"""Lookups: one round trip for a batch, the ERP's own types, and one bad change that spoils no other."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from listener import lookups
from listener.database import LOST
from listener.lookups import Lookups, PassingLookupError
from listener.matching import PATIENCE
from listener.model import Change, Op
from listener.rules import Watch
from listener.templates import Environment, Missing, Row
from tests.integration.test_races import new_matcher
from tests.support.erp import Erp, open_erp
from tests.support.world import open_world, rules_text

PEOPLE = """
CREATE TABLE public.people (id int PRIMARY KEY, name text, rate numeric(8, 3), born date, code char(3), tags text[]);
INSERT INTO public.people VALUES (1, 'Đặng Thị Ướt', 1.5, '1988-03-08', 'a', '{x,"y z"}'),
    (2, 'Lý 100%', NULL, NULL, 'xyz', NULL), (3, 'O''Neil', 0, 'infinity', 'c', '{}');
"""


@pytest.fixture
async def erp(listener_database: str) -> AsyncIterator[Erp]:
    async with open_erp(listener_database) as erp:
        await erp.run(PEOPLE)
        yield erp


@pytest.fixture
async def finder(erp: Erp) -> AsyncIterator[Lookups]:
    finder = Lookups(erp.settings)
    yield finder
    await finder.close()


def change(number: int, **row: Any) -> Change:
    return Change(id=number, watch="w", op=Op.UPDATE, key=str(number), old=None, new=row, at=datetime.now(UTC))


async def find(
    finder: Lookups, query: str, rows: Sequence[Mapping[str, Any]], *, patient: bool = False
) -> list[Row | Missing]:
    watch = Watch(table="public.people", columns=("name",), lookup={"who": query})
    changes = [change(n, **row) for n, row in enumerate(rows)]
    found = await finder.find(watch, changes, zone="Asia/Ho_Chi_Minh", patient=patient)
    return [one["who"] for one in found]


def field(found: Row | Missing, name: str) -> Any:
    assert isinstance(found, Row), found
    return found._columns[name]


BY_ID = "SELECT name, rate FROM public.people WHERE id = %(id)s"


async def test_each_change_gets_its_own_row(finder: Lookups) -> None:
    found = await find(finder, BY_ID, [{"id": Decimal(n)} for n in (3, 1, 9, 2, 1)])
    names = [field(found[n], "name") for n in (0, 1, 3, 4)]
    assert names == ["O'Neil", "Đặng Thị Ướt", "Lý 100%", "Đặng Thị Ướt"]
    assert found[2] == Missing("lookup who found no row")
    assert [field(found[n], "rate") for n in (0, 1, 3)] == [Decimal("0.000"), Decimal("1.500"), None]


async def test_a_parameter_may_be_named_as_any_column(finder: Lookups) -> None:
    query = "SELECT name FROM public.people WHERE id = %(Mã KH)s OR id = %(a-b)s"
    assert [field(found, "name") for found in await find(finder, query, [{"Mã KH": 3, "a-b": 0}])] == ["O'Neil"]


async def test_a_batch_is_one_statement(finder: Lookups) -> None:
    query = "SELECT statement_timestamp() AS at, %(id)s::int AS id"
    found = await find(finder, query, [{"id": n} for n in range(300)])
    assert len({field(f, "at") for f in found}) == 1
    assert [field(f, "id") for f in found] == list(range(300))


async def test_a_lookup_runs_on_the_clocks_of_the_rules(finder: Lookups) -> None:
    query = "SELECT to_char(%(at)s::timestamptz, 'DD/MM HH24:MI') AS local FROM public.people LIMIT 1"
    (found,) = await find(finder, query, [{"at": "2026-11-30T17:30:00+00:00"}])
    assert field(found, "local") == "01/12 00:30"


@pytest.mark.parametrize(
    ("written", "seen"),
    [
        ("date 'infinity'", "infinity"),
        ("date '0044-03-15 BC'", "0044-03-15 BC"),
        ("timestamptz '-infinity'", "-infinity"),
        ("timestamptz '12000-01-01 00:00+00'", "12000-01-01 07:00:00+07"),
        ("time '24:00'", "24:00:00"),
        ("ARRAY[date 'infinity']", ["infinity"]),
        ("uuid '11111111-1111-1111-1111-111111111111'", "11111111-1111-1111-1111-111111111111"),
        ("inet '10.0.0.1'", "10.0.0.1"),
        ("interval '1 day 2 hours'", "1 day 02:00:00"),
        ("int4range(1, 3)", "[1,3)"),
        ("timetz '10:00+07'", "10:00:00+07"),
    ],
)
async def test_a_value_that_python_has_no_kind_for_is_the_text_that_a_trigger_writes(
    finder: Lookups, written: str, seen: object
) -> None:
    query = f"SELECT name, {written} AS value FROM public.people WHERE id = %(id)s"
    (found,) = await find(finder, query, [{"id": Decimal(2)}])
    assert (field(found, "name"), field(found, "value")) == ("Lý 100%", seen)


@pytest.mark.parametrize("kind", ["smallint", "int", "bigint", "real", "float8", "numeric"])
async def test_every_number_is_a_decimal_in_an_array_too(finder: Lookups, kind: str) -> None:
    query = f"SELECT 2::{kind} AS one, ARRAY[1, 2.0]::{kind}[] AS many FROM public.people WHERE id = %(id)s"
    (found,) = await find(finder, query, [{"id": Decimal(1)}])
    shown = Environment({}, ZoneInfo("UTC")).compile_text("{{ who.one | vnd }}, {{ who.many | sum | vnd }}")
    assert shown.render({"who": found}) == "2 VND, 3 VND"
    assert {type(value) for value in [field(found, "one"), *field(found, "many")]} == {Decimal}


@pytest.mark.parametrize(
    ("query", "row", "name"),
    [
        ("SELECT name FROM public.people WHERE code = %(code)s", {"code": "a  "}, "Đặng Thị Ướt"),
        ("SELECT name FROM public.people WHERE code = %(code)s", {"code": "xyz"}, "Lý 100%"),
        ("SELECT name FROM public.people WHERE code = ANY(%(codes)s)", {"codes": ["xyz", "no"]}, "Lý 100%"),
        ("SELECT name FROM public.people WHERE id = 1 AND B'101' = %(bits)s", {"bits": "101"}, "Đặng Thị Ướt"),
        ("SELECT name FROM public.people WHERE born = %(born)s", {"born": "1988-03-08"}, "Đặng Thị Ướt"),
        ("SELECT name FROM public.people WHERE born = %(born)s", {"born": "infinity"}, "O'Neil"),
        ("SELECT name FROM public.people WHERE rate = %(rate)s", {"rate": Decimal("1.500")}, "Đặng Thị Ướt"),
        ("SELECT name FROM public.people WHERE id = ANY(%(ids)s)", {"ids": [2]}, "Lý 100%"),
        ("SELECT name FROM public.people WHERE tags = %(tags)s", {"tags": ["x", "y z"]}, "Đặng Thị Ướt"),
        ("SELECT name FROM public.people WHERE name LIKE '%%100%%' AND id = %(id)s", {"id": 2}, "Lý 100%"),
        ("SELECT name FROM public.people WHERE id = %(id)s OR id = %(id)s + 0 -- a note", {"id": 3}, "O'Neil"),
        ("SELECT name FROM public.people WHERE id >= %(id)s ORDER BY id DESC LIMIT 1", {"id": 1}, "O'Neil"),
        ("SELECT max(name) AS name FROM public.people WHERE id = %(id)s", {"id": 2}, "Lý 100%"),
        ("WITH one AS (SELECT * FROM public.people WHERE id = %(id)s) SELECT name FROM one", {"id": 3}, "O'Neil"),
        ("SELECT 'a' AS name FROM public.people WHERE id = %(a)s UNION SELECT 'a' WHERE %(a)s > 1", {"a": 1}, "a"),
        ("(SELECT name, place.* FROM public.people, (SELECT 1) AS place WHERE id = %(id)s)", {"id": 3}, "O'Neil"),
        ("SELECT name FROM public.people WHERE id = (%(doc)s::jsonb ->> 'id')::int", {"doc": {"id": 2}}, "Lý 100%"),
        ("SELECT name FROM public.people WHERE to_jsonb(id) = %(doc)s::jsonb -> 0", {"doc": [Decimal(2)]}, "Lý 100%"),
        ("SELECT name FROM public.people WHERE (id = 3) = %(yes)s AND id > 2", {"yes": True}, "O'Neil"),
        ("SELECT 'nobody' AS name WHERE %(id)s::int IS NULL", {"id": None}, "nobody"),
        ("SELECT name FROM public.people WHERE id = 1", {}, "Đặng Thị Ướt"),
    ],
)
async def test_parameters_of_any_type(finder: Lookups, query: str, row: Mapping[str, Any], name: str) -> None:
    for found in await find(finder, query, [row, row]):
        assert field(found, "name") == name


@pytest.mark.parametrize(
    ("query", "row", "reason"),
    [
        (BY_ID, {"id": 77}, "lookup who found no row"),
        (BY_ID, {"id": None}, "lookup who found no row"),
        ("SELECT name FROM public.people WHERE id >= %(id)s", {"id": 1}, "lookup who found more than one row"),
        (BY_ID, {"other": 1}, "lookup who needs id, which was not captured"),
        (BY_ID, {"id": "not a number"}, "lookup who failed (InvalidTextRepresentation, 22P02)"),
        ("SELECT 1 / (%(id)s::int - 1) AS x", {"id": 1}, "lookup who failed (DivisionByZero, 22012)"),
        ("SELECT nextval('public.people_seq') + %(id)s::int AS x", {"id": 1}, "lookup who failed (ReadOnly"),
        ("SELECT name FROM public.gone WHERE id = %(id)s", {"id": 1}, "lookup who failed (UndefinedTable, 42P01)"),
        ("SELECT name FROM public.people WHERE id = $1", {"id": 1}, "lookup who failed (UndefinedParameter, 42P02)"),
    ],
)
async def test_what_is_missing_has_its_reason_and_spoils_no_other(
    erp: Erp, finder: Lookups, query: str, row: Mapping[str, Any], reason: str
) -> None:
    await erp.run("CREATE SEQUENCE public.people_seq")
    good = {"id": 2}
    found = await find(finder, query, [good, row, good])
    missing = found[1]
    assert isinstance(missing, Missing) and missing.reason.startswith(reason)
    if query == BY_ID:
        assert [field(f, "name") for f in (found[0], found[2])] == ["Lý 100%"] * 2


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("code", "a"),
        ("code::public.short_code", "a"),
        ("ARRAY[code, NULL]", ["a", None]),
        ("name::char(20)", "Đặng Thị Ướt"),
        ("code::varchar || '  '", "a  "),
    ],
)
async def test_the_padding_of_a_char_is_left_out(erp: Erp, finder: Lookups, expression: str, value: object) -> None:
    await erp.run("CREATE DOMAIN public.short_code AS char(5)")
    [found] = await find(finder, f"SELECT {expression} AS v FROM public.people WHERE id = %(id)s", [{"id": 1}])
    assert field(found, "v") == value


async def test_a_lookup_writes_nothing(erp: Erp, finder: Lookups) -> None:
    await erp.run("""CREATE FUNCTION public.evil(int) RETURNS int LANGUAGE sql AS
                     'DELETE FROM public.people WHERE id = $1 RETURNING id'""")
    (found,) = await find(finder, "SELECT public.evil(%(id)s) AS id", [{"id": 1}])
    assert isinstance(found, Missing) and "ReadOnly" in found.reason
    assert await erp.value("SELECT count(*) FROM public.people") == 3


async def test_a_table_that_changes_its_types_is_asked_for_them_again(erp: Erp, finder: Lookups) -> None:
    assert field((await find(finder, BY_ID, [{"id": 1}]))[0], "name") == "Đặng Thị Ướt"
    await erp.run("""ALTER TABLE public.people ALTER id TYPE text USING 'C' || id, ALTER rate TYPE int, ADD extra int;
                     ALTER TABLE public.people DROP born""")
    assert field((await find(finder, BY_ID, [{"id": "C1"}]))[0], "name") == "Đặng Thị Ướt"
    both = await find(finder, BY_ID, [{"id": "C2"}, {"id": "C3"}])
    assert [field(f, "name") for f in both] == ["Lý 100%", "O'Neil"]


async def test_a_slow_lookup_is_worth_another_try_and_then_missing(erp: Erp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookups, "TIMEOUT", "100")
    finder = Lookups(erp.settings)
    try:
        async with erp.session() as locker:
            await locker.execute("BEGIN; LOCK TABLE public.people IN ACCESS EXCLUSIVE MODE")
            with pytest.raises(PassingLookupError):
                await find(finder, BY_ID, [{"id": 1}], patient=True)
            (found,) = await find(finder, BY_ID, [{"id": 1}])
            assert isinstance(found, Missing)
            await locker.execute("ROLLBACK")
        with pytest.raises(PassingLookupError):
            await find(finder, "SELECT pg_sleep(%(id)s)::text AS x", [{"id": 5}], patient=True)
        assert field((await find(finder, BY_ID, [{"id": 1}], patient=True))[0], "name") == "Đặng Thị Ướt"
    finally:
        await finder.close()


async def test_a_server_in_trouble_is_worth_another_try(erp: Erp, finder: Lookups) -> None:
    trouble = """CREATE OR REPLACE FUNCTION public.trouble() RETURNS text LANGUAGE plpgsql AS $$
                 BEGIN RAISE 'cache lookup failed' USING ERRCODE = '{}'; END $$"""
    # a catalogue that changed; another server; a deadlock; no disk, memory or temporary files left; a disk that fails
    for state in ("XX000", "08001", "40P01", "53100", "53200", "53400", "58030"):
        await erp.run(trouble.format(state))
        with pytest.raises(PassingLookupError):
            await find(finder, "SELECT public.trouble() AS x", [{"id": 1}], patient=True)
    await erp.run(trouble.format("P0001"))
    (found,) = await find(finder, "SELECT public.trouble() AS x", [{"id": 1}], patient=True)
    assert isinstance(found, Missing)


async def test_a_lost_connection_is_raised_and_made_anew(erp: Erp, finder: Lookups) -> None:
    await find(finder, BY_ID, [{"id": 1}])
    await erp.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'listener lookup'")
    with pytest.raises(LOST):
        await find(finder, BY_ID, [{"id": 1}])
    assert field((await find(finder, BY_ID, [{"id": 1}]))[0], "name") == "Đặng Thị Ướt"


async def test_several_at_once_take_turns(finder: Lookups) -> None:
    found = await asyncio.gather(*(find(finder, BY_ID, [{"id": n % 3 + 1}]) for n in range(20)))
    assert all(isinstance(one, Row) for (one,) in found)


async def test_a_database_that_was_away_takes_no_patience_from_lookups(
    erp_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is slow because it has just come back is no reason to reject a message."""
    monkeypatch.setattr(lookups, "TIMEOUT", "100")
    slow = 'key: topic, lookup: {slow: "SELECT pg_sleep(5)::text AS x WHERE %(id)s > 0"}'
    rules = rules_text().replace("key: topic", slow)
    async with open_world(erp_database, rules=rules) as world, new_matcher(world) as matcher:
        await world.note("order", "text")
        for _ in range(PATIENCE + 1):
            matcher.failed()
        for _ in range(PATIENCE):
            with pytest.raises(PassingLookupError):
                await matcher.look()
            matcher.failed()
        assert await matcher.look() == 1
