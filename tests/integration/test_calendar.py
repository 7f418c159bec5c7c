"""Watches by date: once a day, made up for after an outage, nothing for what was before."""

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from listener import overview
from tests.support.world import World, open_world

VIETNAM = ZoneInfo("Asia/Ho_Chi_Minh")
SCHEMA = """
CREATE TABLE public.bills (no integer PRIMARY KEY, due date NOT NULL, phone text DEFAULT '0980000000', secret text);
INSERT INTO public.bills SELECT n, (now() AT TIME ZONE 'Asia/Ho_Chi_Minh')::date - 3 + n FROM generate_series(1, 4) n
"""


def rules(select: str, *, before: str = "") -> str:
    """A reminder that was due five minutes ago; `before` is a query of another watch that comes first."""
    moment = datetime.now(VIETNAM) - timedelta(minutes=5)
    other = f'  other: {{every: "{moment:%H:%M}", key: no, catch_up: 50h, select: "{before}"}}' if before else ""
    return f"""
version: 1
accounts:
  main: {{domain: acme, token_file: TOKEN_FILE, service_id: 12, rate: 500/s}}
watch:
{other}
  bill: {{every: "{moment:%H:%M}", key: no, catch_up: 50h, select: "{select}"}}
rules:
  reminder: {{on: bill, to: new.phone, text: "bill {{{{ key }}}} is due {{{{ new.due | date }}}}"}}
"""


EACH_QUERY = "SELECT no, due, phone, secret FROM public.bills WHERE due = %(day)s"
EACH = rules(EACH_QUERY)
NEWEST = rules("SELECT no, due, phone, secret FROM public.bills WHERE due <= CURRENT_DATE")


async def days_ago(world: World, days: int) -> None:
    """As if the last run had been so many days before the newest."""
    await world.db.execute("UPDATE listener.calendar SET last_day = last_day - %s::integer", [days])


async def test_a_new_watch_owes_nothing_and_a_missed_day_is_made_up_for_once(database: str) -> None:
    async with open_world(database, rules=EACH, schema=SCHEMA) as world:
        await world.once()
        assert world.arrived() == []
        await days_ago(world, 1)
        async with world.service(), world.service(), world.service():
            await world.until("SELECT count(*) = 1 FROM listener.finished")
            await world.settled()
        assert [text.split(" is ")[0] for text in world.arrived()] == ["bill 3"]
        await world.once()
        assert len(world.arrived()) == 1
        # Only what rules use is written down.
        assert set((await world.one("SELECT new FROM listener.change"))["new"]) == {"no", "due", "phone"}


async def test_each_missed_day_within_catch_up_is_asked_about(database: str) -> None:
    async with open_world(database, rules=EACH, schema=SCHEMA) as world:
        await world.once()
        await days_ago(world, 30)
        await world.once()
        # of bills that go side by side, in any order
        assert sorted(text.split(" is ")[0] for text in world.arrived()) == ["bill 1", "bill 2", "bill 3"]


async def test_what_a_query_found_is_late_without_a_row_to_read_again(database: str) -> None:
    rechecked = EACH.replace("watch:", "defaults: {recheck: true}\nwatch:")
    async with open_world(database, rules=rechecked, schema=SCHEMA) as world:
        await world.once()
        await days_ago(world, 1)
        world.gateway.block(60)
        await world.once()
        world.gateway.block(0)
        await world.db.execute(
            "UPDATE listener.account SET paused_at = NULL, paused_until = NULL, pause_kind = NULL, streak = 0"
        )
        await world.db.execute("UPDATE listener.message SET created_at = created_at - interval '2 min'")
        await world.once()
        assert [text.split(" is ")[0] for text in world.arrived()] == ["bill 3"]


async def test_a_query_that_does_not_ask_for_the_day_runs_once_for_all(database: str) -> None:
    async with open_world(database, rules=NEWEST, schema=SCHEMA) as world:
        await world.once()
        await days_ago(world, 30)
        await world.once()
        assert len(world.arrived()) == len(set(world.arrived())) <= 4


@pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "Pacific/Pago_Pago"])
async def test_today_in_a_query_is_today_where_the_rules_are(database: str, zone: str) -> None:
    # They are 25 hours apart, so in one of them it is never the day that it is in UTC.
    asked = "SELECT no, due, phone FROM public.bills WHERE CURRENT_DATE = (now() AT TIME ZONE '{zone}')::date"
    there = rules(asked.format(zone=zone)).replace("watch:", f"defaults: {{time_zone: {zone}}}\nwatch:", 1)
    async with open_world(database, rules=there, schema=SCHEMA) as world:
        await world.once()
        await days_ago(world, 1)
        await world.once()
        assert len(world.arrived()) > 0


async def test_a_query_that_fails_harms_nothing_else(database: str) -> None:
    async with open_world(database, rules=EACH, schema=SCHEMA) as world:
        await world.once()
        await days_ago(world, 1)
        await world.db.execute("ALTER TABLE public.bills RENAME TO invoices")
        await world.once()
        assert world.arrived() == []
        (failing,) = (await overview.status(world.db, world.settings))["failing_selects"]
        assert (failing["watch"], failing["reason"]) == ("bill", "UndefinedTable 42P01")
        await world.db.execute("ALTER TABLE public.invoices RENAME TO bills")
        await world.once()
        assert [text.split(" is ")[0] for text in world.arrived()] == ["bill 3"]
        assert (await overview.status(world.db, world.settings))["failing_selects"] == []


async def test_rows_with_the_key_of_another_one_are_told_of(database: str) -> None:
    twice = rules("SELECT due AS no, due, phone FROM public.bills UNION ALL SELECT NULL, due, phone FROM public.bills")
    async with open_world(database, rules=twice.replace("key: no", "key: due"), schema=SCHEMA) as world:
        await world.once()
        await days_ago(world, 1)
        await world.once()
        assert len(await world.messages()) == 4
        (failing,) = (await overview.status(world.db, world.settings))["failing_selects"]
        assert failing["reason"] == "rows left out because another one has their key: 4"


async def test_rows_whose_composite_keys_look_alike_are_two(database: str) -> None:
    parts = rules(
        "SELECT 'a/b' AS no, 'c' AS part, due, phone FROM public.bills WHERE due = %(day)s"
        " UNION ALL SELECT 'a', 'b/c', due, phone FROM public.bills WHERE due = %(day)s"
    )
    async with open_world(database, rules=parts.replace("key: no", "key: [no, part]"), schema=SCHEMA) as world:
        await world.once()
        await days_ago(world, 1)
        await world.once()
        assert sorted(m["key"] for m in await world.messages()) == [r"a/b\/c", r"a\/b/c"]


async def test_a_query_that_is_given_up_keeps_no_other_watch_from_its_turn(database: str) -> None:
    # As when it takes longer than `statement_timeout`, but at once: PostgreSQL ends the statement, not the connection.
    given_up = "SELECT no FROM public.bills WHERE due = %(day)s AND pg_cancel_backend(pg_backend_pid())"
    async with open_world(database, rules=rules(EACH_QUERY, before=given_up), schema=SCHEMA) as world:
        await world.once()
        await days_ago(world, 1)
        await world.once()
        assert [text.split(" is ")[0] for text in world.arrived()] == ["bill 3"]


async def test_rows_are_written_down_as_a_trigger_writes_them(database: str) -> None:
    schema = """
    CREATE DOMAIN public.code AS char(8);
    CREATE TABLE public.bills (no integer PRIMARY KEY, due date NOT NULL, phone char(15), code public.code,
                               codes char(4)[], owed money, seal bytea);
    INSERT INTO public.bills VALUES (1, current_date, '0980000000', 'ab', '{cd,ef}', 1500000, '\\xbeef')"""
    query = "SELECT no, due, phone, code, codes, owed, seal, owed * 2 AS twice FROM public.bills"
    text = "[{{ new.code }}] {{ new.codes | length }} {{ new.owed | vnd }} {{ new.twice | vnd }} {{ new.seal }}"
    written = rules(query).replace("bill {{ key }} is due {{ new.due | date }}", text)
    async with open_world(database, rules=written, schema=schema) as world:
        await world.once()
        await days_ago(world, 1)
        await world.once()
        assert (await world.one("SELECT new FROM listener.change"))["new"] == {
            "no": 1,
            "phone": "0980000000",
            "code": "ab",
            "codes": ["cd", "ef"],
            "owed": 1500000,
            "twice": 3000000,
            "seal": "\\xbeef",
        }
        assert world.arrived() == ["[ab] 2 1.500.000 VND 3.000.000 VND \\xbeef"]


async def test_a_column_may_have_a_percent_sign_in_its_name(database: str) -> None:
    schema = """CREATE TABLE public.bills (no integer PRIMARY KEY, phone text, "% off" numeric);
                INSERT INTO public.bills VALUES (1, '0980000000', 5)"""
    query = r"SELECT no AS \"no %%\", phone, \"%% off\" FROM public.bills"
    written = rules(query).replace("key: no", 'key: "no %"').replace("{{ new.due | date }}", "{{ new['% off'] }}")
    async with open_world(database, rules=written, schema=schema) as world:
        await world.once()
        await days_ago(world, 1)
        await world.once()
        assert world.arrived() == ["bill 1 is due 5"]
