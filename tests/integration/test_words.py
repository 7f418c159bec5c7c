"""The words that keep customers' trust, through a real daemon: coalesce, supersedes, quiet hours, cap, brake, modes."""

import asyncio
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from listener import messages, pauses
from listener.pauses import Scope, Target
from listener.simulator.gateway.faults import Answer, Fault
from tests.support.stock import RULES, SCHEMA, reasons, rule, set_amount
from tests.support.verbs import verb
from tests.support.world import open_world

VIETNAM = ZoneInfo("Asia/Ho_Chi_Minh")
ALL = Target(scope=Scope.ALL)


async def test_many_changes_close_together_are_one_message_with_the_last_value(database: str) -> None:
    async with open_world(database, rules=RULES + rule("coalesce: {wait: 1s, max_wait: 60s}"), schema=SCHEMA) as world:
        await set_amount(world, "A", 0)
        async with world.service():
            await world.settled()
            before = len(world.arrived())
            for amount in range(1, 101):
                await set_amount(world, "A", amount)
            await world.settled()
        assert world.arrived()[before:] == ["told A 100"]
        assert len((await reasons(world))["superseded"]) == 99


async def test_changes_of_a_batch_join_those_that_wait_already(database: str) -> None:
    async with open_world(
        database, rules=RULES + rule("coalesce: {wait: 1h}\n    expires: 2h"), schema=SCHEMA
    ) as world:
        await set_amount(world, "A", 5)
        assert await world.once() == 0
        for amount in (6, 7, 8):
            await set_amount(world, "A", amount)
        await set_amount(world, "B", 1)
        await world.once()
        assert {m["text"]: m["state"] for m in await world.messages() if m["state"] == "waiting"} == {
            "told A 8": "waiting",
            "told B 1": "waiting",
        }
        thread = await world.one(
            "SELECT next_at > now() + interval '50 min' AS later FROM listener.thread WHERE name = 'stock:A'"
        )
        assert thread["later"]


async def test_back_to_where_it_began_is_silence_and_says_so(database: str) -> None:
    async with open_world(
        database, rules=RULES + rule("coalesce: {wait: 1h}\n    expires: 2h"), schema=SCHEMA
    ) as world:
        await world.db.execute("ALTER TABLE public.stock DISABLE TRIGGER USER")
        await set_amount(world, "A", 5)
        await world.db.execute("ALTER TABLE public.stock ENABLE TRIGGER USER")
        await set_amount(world, "A", 9)
        await world.once()
        await set_amount(world, "A", 5)
        await world.once()
        assert await reasons(world) == {"superseded": ["back to where it began: nothing to tell"]}
        thread = await world.one("SELECT next_at FROM listener.thread")
        assert thread["next_at"] is None


async def test_a_coalesced_condition_is_judged_on_the_net_change(database: str) -> None:
    body = "change: {amount: {crosses_below: 100}}\n    coalesce: {wait: 1h}\n    expires: 2h"
    async with open_world(database, rules=RULES + rule(body), schema=SCHEMA) as world:
        for amount in (150, 90, 120):
            await set_amount(world, "A", amount)
        for amount in (150, 130, 80):
            await set_amount(world, "B", amount)
        await world.once()
        assert {m["text"]: m["state"] for m in await world.messages()} == {
            "told A 90": "superseded",
            "told B 80": "waiting",
        }


async def test_a_group_lasts_no_longer_than_max_wait(database: str) -> None:
    rules = RULES + rule("coalesce: {wait: 10s, max_wait: 30s}")
    async with open_world(database, rules=rules, schema=SCHEMA) as world:
        await set_amount(world, "A", 1)
        await world.once()
        await world.db.execute(
            """UPDATE listener.message SET joins = jsonb_set(joins, '{since}', to_jsonb(now() - interval '25 s'))"""
        )
        await set_amount(world, "A", 2)
        await world.once()
        row = await world.one(
            """SELECT extract(epoch FROM due_at - clock_timestamp()) AS s, joins FROM listener.message"""
        )
        assert 0 < row["s"] <= 5.1


async def test_a_message_on_its_way_is_not_joined_but_followed(database: str) -> None:
    async with open_world(database, rules=RULES + rule("coalesce: {wait: 1m}"), schema=SCHEMA) as world:
        await set_amount(world, "A", 1)
        await world.once()
        await world.db.execute(
            "UPDATE listener.message SET state = 'sending', permits = 1, lease = 7, lease_until = 'infinity'"
        )
        await set_amount(world, "A", 2)
        await world.once()
        assert {m["text"]: m["state"] for m in await world.messages()} == {"told A 1": "sending", "told A 2": "waiting"}


async def test_a_newer_message_supersedes_unsent_ones_of_other_rules(database: str) -> None:
    rules = (
        RULES
        + rule("change: {amount: {to: 1}}\n    quiet_hours: {from: 00:00, to: 23:59}\n    expires: 3d", "reminder")
        + rule("change: {amount: {to: 2}}\n    supersedes: [reminder]", "paid")
    )
    async with open_world(database, rules=rules, schema=SCHEMA) as world:
        for item, amount in (("A", 1), ("B", 1), ("A", 2)):
            await set_amount(world, item, amount)
        await world.once()
        states = await world.states()
        # Between 23:59 and 24:00 there is no quiet, and the reminders go out.
        assert states["paid A 2"] == "accepted"
        assert (states["reminder A 1"], states["reminder B 1"]) in [
            ("superseded", "waiting"),
            ("superseded", "accepted"),
        ]


async def test_only_what_its_rule_names_and_the_gateway_cannot_have_is_superseded(database: str) -> None:
    rules = (
        RULES
        + rule("change: {amount: {to: 1}}", "reminder")
        + rule("change: {amount: {to: 1}}", "other")
        + rule("change: {amount: {to: 2}}\n    supersedes: [reminder]", "paid")
    )
    async with open_world(database, rules=rules, schema=SCHEMA) as world:
        await pauses.pause(world.db, ALL, reason="to be looked at", until=None, by="test")
        for item in ("sent", "held", "unsure"):
            await set_amount(world, item, 1)
        await world.once()
        await world.db.execute("UPDATE listener.message SET state = 'held' WHERE key = 'held'")
        await world.db.execute("UPDATE listener.message SET unsure = 1 WHERE key = 'unsure'")
        for item, amount in (("sent", 2), ("held", 2), ("unsure", 2), ("sent", 1)):
            await set_amount(world, item, amount)
        await world.once()
        found = sorted((m["key"], m["rule"], m["state"]) for m in await world.messages())
        assert found == [
            ("held", "other", "held"),
            ("held", "paid", "waiting"),
            ("held", "reminder", "superseded"),
            ("sent", "other", "waiting"),
            ("sent", "other", "waiting"),
            ("sent", "paid", "waiting"),
            ("sent", "reminder", "superseded"),
            # it is newer than what would supersede it
            ("sent", "reminder", "waiting"),
            ("unsure", "other", "waiting"),
            ("unsure", "paid", "waiting"),
            ("unsure", "reminder", "waiting"),
        ]


async def test_quiet_hours_hold_also_what_is_late(database: str) -> None:
    now = datetime.now(VIETNAM)
    soon, end = now + timedelta(hours=2), now + timedelta(hours=5)
    body = f"quiet_hours: {{from: {soon:%H:%M}, to: {end:%H:%M}}}\n    expires: 2d"
    async with open_world(database, rules=RULES + rule(body), schema=SCHEMA) as world:
        world.gateway.block(60)
        await set_amount(world, "A", 1)
        await world.once()
        row = await world.one("SELECT state, quiet_at, quiet_until FROM listener.message")
        assert row["state"] == "waiting"
        assert row["quiet_at"] == soon.replace(second=0, microsecond=0)
        assert row["quiet_until"] == end.replace(second=0, microsecond=0)
        # The pause ends in the middle of the quiet hours.
        world.gateway.block(0)
        await world.db.execute(
            """UPDATE listener.account SET paused_at = NULL, paused_until = NULL, pause_kind = NULL, streak = 0;
               UPDATE listener.message SET quiet_at = now() - interval '1 h', quiet_until = now() + interval '1 h'"""
        )
        await world.once()
        row = await world.one(
            """SELECT state, due_at > now() + interval '59 min' AS held, quiet_at > now() + interval '22 h' AS tomorrow
                 FROM listener.message"""
        )
        assert row == {"state": "waiting", "held": True, "tomorrow": True}
        assert world.arrived() == []
        # The quiet is over.
        await world.db.execute("UPDATE listener.message SET due_at = now(); UPDATE listener.thread SET next_at = now()")
        await world.once()
        assert world.arrived() == ["told A 1"]


async def test_what_a_person_retries_in_the_quiet_hours_is_sent_at_their_end(database: str) -> None:
    body = (
        f"quiet_hours: {{from: {datetime.now(VIETNAM) + timedelta(hours=2):%H:%M}, to: {datetime.now(VIETNAM):%H:%M}}}"
    )
    async with open_world(database, rules=RULES + rule(body), schema=SCHEMA) as world:
        world.gateway.add_fault(Fault(action=Answer(status=500), times=1))
        await set_amount(world, "A", 1)
        await world.once()
        assert await world.states() == {"told A 1": "unknown"}
        # It is night by now.
        await world.db.execute(
            "UPDATE listener.message SET quiet_at = now() - interval '1 h', quiet_until = now() + interval '9 h'"
        )
        asked = await verb(world.environment(), "retry", 1)
        assert asked.code == 0, asked.err
        await world.once()
        row = await world.one(
            """SELECT state, due_at > now() + interval '8 h 59 min' AS put_off,
                      expires_at - due_at > interval '59 min' AS in_time FROM listener.message"""
        )
        assert row == {"state": "waiting", "put_off": True, "in_time": True}


@pytest.mark.parametrize(
    ("hours", "state"),
    [
        # from its change, the beginning and the end of the quiet and its end as it was, to now
        ((-7, -5, +5, -1), "waiting"),
        ((-14, -13, -3, -8), "accepted"),
        ((-17, -13, -3, -14), "expired"),
        ((-20, -15, -5, -14), "expired"),
        # and when two nights were quiet
        ((-38, -37, -27, -18), "accepted"),
        ((-38, -37, -27, -24), "expired"),
    ],
)
async def test_what_nobody_could_send_does_not_grow_older_in_the_quiet_hours(
    database: str, hours: tuple[int, ...], state: str
) -> None:
    now = datetime.now(VIETNAM)
    body = f"quiet_hours: {{from: {now + timedelta(hours=2):%H:%M}, to: {now:%H:%M}}}"
    async with open_world(database, rules=RULES + rule(body), schema=SCHEMA) as world:
        await verb(world.environment(), "pause", "--account", "main", "--reason", "CareSoft is away")
        await set_amount(world, "A", 1)
        await world.once()
        await world.db.execute(
            """UPDATE listener.message
                  SET due_at = now() + %s * interval '1 h', quiet_at = now() + %s * interval '1 h',
                      quiet_until = now() + %s * interval '1 h', expires_at = now() + %s * interval '1 h'""",
            hours,
        )
        await messages.expire(world.db)
        await verb(world.environment(), "resume", "--account", "main")
        await world.once()
        assert await world.states() == {"told A 1": state}
        if state == "waiting":
            left = "SELECT expires_at - due_at = interval '4 h' AS left, due_at > now() AS later FROM listener.message"
            assert await world.one(left) == {"left": True, "later": True}


async def test_a_cap_is_per_rule_and_phone_and_time(database: str) -> None:
    rules = RULES + rule("cap: 2/day") + rule("cap: 9/day", "other")
    async with open_world(database, rules=rules, schema=SCHEMA) as world:

        async def told() -> list[str]:
            await world.once()
            return [text for text in world.arrived() if text.startswith("told")]

        # what waits counts,
        await pauses.pause(world.db, ALL, reason="to be looked at", until=None, by="test")
        for item in "ABC":
            await set_amount(world, item, 1)
            assert await told() == []
        await pauses.resume(world.db, ALL, reason=None, by="test")
        # and what was sent; each for its own phone
        await set_amount(world, "D", 1)
        await world.db.execute("INSERT INTO public.stock (item, amount, phone) VALUES ('E', 1, '0912345678')")
        assert sorted(await told()) == ["told A 1", "told B 1", "told E 1"]
        assert (await reasons(world))["suppressed"] == ["cap: this phone has had 2/day of this rule"] * 2
        # until a day has gone by
        await world.db.execute(
            "UPDATE listener.finished SET created_at = created_at - interval '25 h' WHERE text = 'told A 1'"
        )
        for item in "FG":
            await set_amount(world, item, 1)
        assert sorted(await told()) == ["told A 1", "told B 1", "told E 1", "told F 1"]
        assert len((await reasons(world))["suppressed"]) == 3


async def test_a_message_that_gives_way_does_not_count_for_the_cap(database: str) -> None:
    body = "coalesce: {wait: 1h}\n    expires: 2h\n    cap: 1/day"
    async with open_world(database, rules=RULES + rule(body), schema=SCHEMA) as world:
        for amount in (5, 6):
            await set_amount(world, "A", amount)
            await world.once()
        assert await world.states() == {"told A 5": "superseded", "told A 6": "waiting"}


async def test_a_brake_holds_the_rule_alone_until_a_person_releases_it(database: str) -> None:
    rules = RULES + rule("brake: 3/h") + rule("", "other")
    async with open_world(database, rules=rules, schema=SCHEMA) as world:
        for item in "ABCDE":
            await set_amount(world, item, 1)
        await world.once()
        await set_amount(world, "F", 1)
        await world.once()
        states = await world.states()
        assert [states[f"told {item} 1"] for item in "ABCDEF"] == ["accepted"] * 3 + ["held"] * 3
        assert [states[f"other {item} 1"] for item in "ABCDEF"] == ["accepted"] * 6
        assert (await world.one("SELECT rule FROM listener.brake"))["rule"] == "told"
        released = await verb(world.environment(), "release", "--rule", "told", "--yes")
        assert released.code == 0, released.err
        # What was let go is not counted again.
        for item in "GHIJ":
            await set_amount(world, item, 1)
        await world.once()
        states = await world.states()
        assert [states[f"told {item} 1"] for item in "ABCDEFGHIJ"] == ["accepted"] * 9 + ["held"]


async def test_a_brake_counts_an_hour_of_its_own_rule_and_holds_for_longer(database: str) -> None:
    rules = RULES + rule("brake: 2/h") + rule("brake: 9/h", "other")
    an_hour_later = "UPDATE listener.rule_minute SET minute = minute - interval '61 min'"
    async with open_world(database, rules=rules, schema=SCHEMA) as world:
        await set_amount(world, "A", 1)
        await world.once()
        await world.db.execute(an_hour_later)
        for item in "BCD":
            await set_amount(world, item, 1)
            await world.once()
        await world.db.execute(an_hour_later)
        await set_amount(world, "E", 1)
        await world.once()
        states = await world.states()
        assert [states[f"told {item} 1"] for item in "ABCDE"] == ["accepted"] * 3 + ["held"] * 2
        assert [states[f"other {item} 1"] for item in "ABCDE"] == ["accepted"] * 5


async def test_changes_that_join_one_message_count_once_for_the_brake(database: str) -> None:
    body = "coalesce: {wait: 1h}\n    expires: 2h\n    brake: 2/h"
    async with open_world(database, rules=RULES + rule(body), schema=SCHEMA) as world:
        for amount in (5, 6, 7, 8):
            await set_amount(world, "A", amount)
            await world.once()
        # the last of A joins when the rule may make no more
        for item, amount in (("B", 1), ("A", 9), ("C", 1)):
            await set_amount(world, item, amount)
            await world.once()
        states = await world.states()
        assert [states[text] for text in ("told A 9", "told B 1", "told C 1")] == ["waiting", "waiting", "held"]


async def test_a_phone_on_the_suppression_list_and_no_other_gets_nothing(database: str) -> None:
    async with open_world(database, rules=RULES + rule(""), schema=SCHEMA) as world:
        await world.db.execute(
            "INSERT INTO listener.suppression (phone, reason, who) VALUES ('0980000000', 'asked', 'test')"
        )
        await set_amount(world, "A", 1)
        await world.db.execute("INSERT INTO public.stock (item, amount, phone) VALUES ('B', 1, '0912345678')")
        await world.once()
        assert await world.states() == {"told A 1": "suppressed", "told B 1": "accepted"}
        assert world.arrived() == ["told B 1"]


async def test_modes_send_where_they_say(database: str) -> None:
    rules = (
        RULES
        + rule("mode: shadow", "shadow")
        + rule('mode: redirect\n    redirect_to: "0912345678"', "redirected")
        + rule('mode: allowlist\n    allowlist: ["0912345678"]', "listed")
    )
    async with open_world(database, rules=rules, schema=SCHEMA) as world:
        await set_amount(world, "A", 1)
        await world.db.execute("INSERT INTO public.stock (item, amount, phone) VALUES ('B', 1, '0912 345 678')")
        await world.once()
        sent = sorted((entry.content, entry.phone) for entry in world.gateway.state.ledger)
        assert sent == [
            ("listed B 1", "0912345678"),
            ("redirected A 1", "0912345678"),
            ("redirected B 1", "0912345678"),
        ]
        assert await world.states() == {
            "shadow A 1": "shadow",
            "shadow B 1": "shadow",
            "redirected A 1": "accepted",
            "redirected B 1": "accepted",
            "listed A 1": "suppressed",
            "listed B 1": "accepted",
        }
        told = (await verb(world.environment(), "why", "A", "--lang", "en")).out
        assert "rule redirected to 091***678 (the rule's `redirect_to`) was accepted" in told


async def test_only_approved_wordings_go(database: str) -> None:
    rules = RULES + rule('approved: ["told {ma} {so}"]') + rule('approved: ["other B {so}"]', "other")
    async with open_world(database, rules=rules, schema=SCHEMA) as world:
        await set_amount(world, "A", 1)
        await world.once()
        assert await world.states() == {"told A 1": "accepted", "other A 1": "rejected"}


async def test_a_thousand_changes_at_once_with_three_replicas_are_one_message(database: str) -> None:
    async with open_world(database, rules=RULES + rule("coalesce: {wait: 2s, max_wait: 60s}"), schema=SCHEMA) as world:
        await world.db.execute("ALTER TABLE public.stock DISABLE TRIGGER USER")
        await set_amount(world, "A", 0)
        await world.db.execute("ALTER TABLE public.stock ENABLE TRIGGER USER")

        async def write(number: int) -> None:
            for _ in range(50):
                await connections[number].execute("UPDATE public.stock SET amount = amount + 1 WHERE item = 'A'")

        import psycopg

        connections = [
            await psycopg.AsyncConnection.connect(world.settings.database_url, autocommit=True) for _ in range(20)
        ]
        try:
            async with world.service(), world.service(), world.service():
                await asyncio.gather(*(write(n) for n in range(20)))
                await world.settled()
        finally:
            for conn in connections:
                await conn.close()
        assert world.arrived() == ["told A 1000"]
