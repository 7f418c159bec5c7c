"""`recheck`: a late message whose row says something else by now is dropped, one whose row cannot be read waits."""

from decimal import Decimal

import pytest

from listener import database as connections
from listener.backoff import Backoff
from listener.database import Connection, connect
from listener.errors import OutOfReachError
from listener.settings import Settings
from tests.support.roles import DAEMON, install_roles, settings_of
from tests.support.stock import RULES, SCHEMA, reasons, rule, set_amount
from tests.support.world import World, open_world


async def tell_late(world: World, **amounts: int | Decimal) -> None:
    """Changes of these items whose messages the gateway did not take, and that are late by now."""
    world.gateway.block(60)
    for item, amount in amounts.items():
        await set_amount(world, item, amount)
    await world.once()
    world.gateway.block(0)
    await world.db.execute(
        """UPDATE listener.account SET paused_at = NULL, paused_until = NULL, pause_kind = NULL, streak = 0"""
    )
    await world.db.execute("UPDATE listener.message SET created_at = created_at - interval '2 min'")


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row that cannot be read is asked for again at once."""
    monkeypatch.setattr("listener.settling.UNCHECKED_BACKOFF", Backoff(first=0.2, longest=0.2))


async def test_a_late_message_is_dropped_when_its_row_has_moved_on(database: str) -> None:
    async with open_world(database, rules=RULES + rule("recheck: true"), schema=SCHEMA) as world:
        await tell_late(world, A=1, B=1, C=1)
        await world.db.execute("ALTER TABLE public.stock DISABLE TRIGGER USER")
        await set_amount(world, "A", 2)
        await world.db.execute("DELETE FROM public.stock WHERE item = 'B'")
        await world.once()
        assert world.arrived() == ["told C 1"]
        assert (await reasons(world))["superseded"] == ["recheck: amount changed since", "recheck: the row is gone"]


async def test_a_message_whose_change_waited_for_a_daemon_is_late(database: str) -> None:
    async with open_world(database, rules=RULES + rule("recheck: true"), schema=SCHEMA) as world:
        await set_amount(world, "A", 1)
        await set_amount(world, "C", 1)
        await world.db.execute("UPDATE listener.outbox SET at = at - interval '2 min'")
        await world.db.execute("UPDATE public.stock SET phone = '0912345678' WHERE item = 'A'")
        await world.once()
        assert world.arrived() == ["told C 1"]
        assert (await reasons(world))["superseded"] == ["recheck: phone changed since"]


async def test_a_late_message_is_dropped_when_what_it_says_or_whom_it_tells_is_another(database: str) -> None:
    """The columns that the rule reads count, watched or not."""
    async with open_world(database, rules=RULES + rule("recheck: true"), schema=SCHEMA) as world:
        await tell_late(world, A=1, C=1)
        await world.db.execute("UPDATE public.stock SET phone = '0912345678' WHERE item = 'A'")
        await world.once()
        assert world.arrived() == ["told C 1"]
        assert (await reasons(world))["superseded"] == ["recheck: phone changed since"]


async def test_a_late_message_is_dropped_when_it_was_looked_up_by_a_column_that_is_another(database: str) -> None:
    rules = RULES.replace("[insert, update]", '[insert, update], lookup: {by: "SELECT %(owner)s AS phone"}')
    rules += rule("recheck: true").replace("new.phone", "by.phone")
    async with open_world(database, rules=rules, schema=SCHEMA.replace("phone", "owner")) as world:
        await tell_late(world, A=1, C=1)
        await world.db.execute("UPDATE public.stock SET owner = '0912345678' WHERE item = 'A'")
        await world.once()
        assert world.arrived() == ["told C 1"]
        assert (await reasons(world))["superseded"] == ["recheck: owner changed since"]


async def test_a_late_message_of_the_whole_row_is_dropped_when_any_column_is_another(database: str) -> None:
    text = '"{% set row = new %}told {{ key }} {{ row.amount }}"'
    rules = RULES + rule("recheck: true").replace('"told {{ key }} {{ new.amount }}"', text)
    async with open_world(database, rules=rules, schema=SCHEMA.replace("note text", "note text, spot text")) as world:
        await tell_late(world, A=1, C=1)
        await world.db.execute("UPDATE public.stock SET spot = 'B2' WHERE item = 'A'")
        await world.once()
        assert world.arrived() == ["told C 1"]
        assert (await reasons(world))["superseded"] == ["recheck: spot changed since"]


async def test_an_amount_that_no_float_holds_is_the_same_when_it_is_read_again(database: str) -> None:
    exact = "12345678901234.5678"
    async with open_world(database, rules=RULES + rule("recheck: true"), schema=SCHEMA) as world:
        await tell_late(world, A=Decimal(exact))
        await world.once()
        assert await world.states() == {f"told A {exact}": "accepted"}


@pytest.mark.usefixtures("soon")
async def test_a_database_without_a_free_connection_is_no_proof_that_a_late_message_is_stale(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That by which rows are read again is made when it is needed, and the others are there already."""
    full = True

    async def connect_if_there_is_room(settings: Settings, purpose: str, **session: str) -> Connection:
        if full and purpose == "recheck":
            raise OutOfReachError("the database is out of reach: too many connections for role")
        return await connect(settings, purpose, **session)

    async with open_world(database, rules=RULES + rule("recheck: true"), schema=SCHEMA) as world:
        await tell_late(world, A=1)
        monkeypatch.setattr(connections, "connect", connect_if_there_is_room)
        async with world.service():
            await world.until("SELECT EXISTS (SELECT FROM listener.attempt WHERE detail LIKE 'the row could not be%%')")
            full = False
            await world.settled()
        assert await world.states() == {"told A 1": "accepted"}


@pytest.mark.parametrize(
    ("break_it", "mend_it", "why"),
    [
        ("ALTER TABLE public.stock RENAME TO new_stock", "ALTER TABLE public.new_stock RENAME TO stock", "no table"),
        ("ALTER TABLE public.stock RENAME phone TO tel", "ALTER TABLE public.stock RENAME tel TO phone", "no column"),
        (
            "REVOKE SELECT ON public.stock FROM {role}",
            "GRANT SELECT ON public.stock TO {role}",
            "InsufficientPrivilege",
        ),
    ],
)
@pytest.mark.usefixtures("soon")
async def test_a_late_message_whose_row_cannot_be_read_waits_for_somebody_to_mend_it(
    database: str, break_it: str, mend_it: str, why: str
) -> None:
    async with open_world(database, rules=RULES + rule("recheck: true"), schema=SCHEMA) as world:
        await tell_late(world, A=1)
        await install_roles(world)
        world.settings = settings_of(world.settings, DAEMON)
        await world.db.execute(break_it.format(role=DAEMON).encode())
        async with world.service():
            await world.until("SELECT EXISTS (SELECT FROM listener.attempt WHERE detail LIKE %s)", f"%{why}%")
            assert (await reasons(world)).keys() == {"waiting"}
            await world.db.execute(mend_it.format(role=DAEMON).encode())
            await world.settled()
        assert await world.states() == {"told A 1": "accepted"}


async def test_a_value_that_the_erps_session_writes_its_own_way_is_the_same_when_it_is_read_again(
    database: str,
) -> None:
    schema = (
        SCHEMA
        + """;
        ALTER TABLE public.stock ADD since timestamptz DEFAULT now(), ADD lasts interval DEFAULT '1 month',
            ADD days daterange DEFAULT '[2026-11-22,2026-12-01)', ADD price real DEFAULT 1234567"""
    )
    reads = "recheck: true\n    when: new.since and new.lasts and new.days and new.price"
    async with open_world(database, rules=RULES + rule(reads), schema=schema) as world:
        await world.db.execute("SET TimeZone = 'Asia/Ho_Chi_Minh'; SET IntervalStyle = 'iso_8601'")
        await world.db.execute("SET extra_float_digits = 0")
        await tell_late(world, A=1)
        await world.once()
        assert await world.states() == {"told A 1": "accepted"}


@pytest.mark.usefixtures("soon")
async def test_a_server_in_trouble_is_no_proof_that_a_late_message_is_stale(database: str) -> None:
    # Whatever it takes to read the column fails, as where PostgreSQL's catalogue changes under a query (XX000).
    cast = "CREATE OR REPLACE FUNCTION public.read(public.shown) RETURNS json LANGUAGE plpgsql AS $$ BEGIN {} END $$;"
    trouble = """
        DROP TRIGGER "+listener_stock_update" ON public.stock;
        CREATE TYPE public.shown AS ENUM ('1');
        ALTER TABLE public.stock ALTER amount TYPE public.shown USING '1';
        {}
        CREATE CAST (public.shown AS json) WITH FUNCTION public.read(public.shown)"""
    async with open_world(database, rules=RULES + rule("recheck: true"), schema=SCHEMA) as world:
        world.gateway.block(60)
        await set_amount(world, "A", 1)
        await world.once()
        world.gateway.block(0)
        failing = cast.format("RAISE 'cache lookup failed' USING ERRCODE = 'XX000';")
        await world.db.execute(trouble.format(failing).encode())
        await world.db.execute("UPDATE listener.message SET created_at = created_at - interval '2 min'")
        async with world.service():
            await world.db.execute(
                """UPDATE listener.account SET paused_at = NULL, paused_until = NULL, pause_kind = NULL, streak = 0"""
            )
            await world.until("SELECT reason = 'the row could not be read again' FROM listener.message")
            await world.db.execute(cast.format("RETURN '1';").encode())
            await world.settled()
        assert world.arrived() == ["told A 1"]
