"""`forget` and `export`: complete over every table there is, by canaries that came in through the front door."""

import json
from typing import Any

import pytest

from listener import personal
from listener.database import Connection
from listener.simulator.gateway import Answer, Break, Fault, Moment
from tests.support.verbs import verb
from tests.support.world import World, open_world, rules_text

PHONE = "0912345678"
OTHER = "0980000000"
NAME = "Canary Nguyen"
# The row itself is captured whole, the thread is named by the phone, and a reason quotes what was wrong.
RULES = rules_text(
    ticket="{thread: new.phone, save: 'UPDATE public.notes SET saved_ticket = %(ticket_id)s WHERE id = %(id)s'}"
)


async def tables_with(world: World, *canaries: str) -> dict[str, int]:
    """How many rows of each table hold one of the canaries in any column."""
    names = await world.rows(
        "SELECT c.relname FROM pg_class c WHERE c.relnamespace = 'listener'::regnamespace AND c.relkind IN ('r', 'p') "
        "AND NOT c.relispartition ORDER BY 1"
    )
    found = {}
    for name in (row["relname"] for row in names):
        query = f'SELECT count(*) AS n FROM listener."{name}" AS t WHERE t::text ~ %s'
        row = await (await world.db.execute(query.encode(), ["|".join(canaries)])).fetchone()
        assert row is not None
        if row["n"]:
            found[name] = row["n"]
    return found


async def fill(world: World) -> None:
    """One message in every place where one can be, to the canary's phone written in several ways."""
    world.gateway.add_fault(Fault(action=Answer(status=400, message=f"no {PHONE} {NAME}"), content="refused"))
    world.gateway.add_fault(Fault(action=Break(moment=Moment.BEFORE_ANSWER), content="unclear"))
    await world.note("a", f"accepted {NAME}", phone="+84 912 345 678")
    await world.note("b", f"refused {NAME}", phone="0912.345.678")
    await world.note("c", f"unclear {NAME}", phone=PHONE)
    await world.note("d", f"bad {NAME} 0912 345 678", phone="call 0912345678 and 0912345679")
    await world.note("e", f"call {PHONE}", phone=OTHER)
    await world.note("j", "or call 0912.345.678", phone=OTHER)
    await world.note("f", "somebody else's", phone=OTHER)
    await world.db.execute("BEGIN")
    await world.db.execute("SET LOCAL listener.mute = 'import'")
    await world.note("g", f"muted {NAME}", phone=PHONE)
    await world.db.execute("COMMIT")


async def test_forget_leaves_nothing_of_a_person_in_any_table_and_says_what_stays(erp_database: str) -> None:
    async with open_world(erp_database, rules=RULES) as world:
        async with world.service():
            await fill(world)
            await world.until("SELECT NOT EXISTS (SELECT FROM listener.outbox)")
            await world.until("SELECT count(*) = 7 FROM listener.messages WHERE state NOT IN ('waiting', 'sending')")
            assert (await verb(world.environment(), "pause", "--reason", "x")).code == 0
            await world.note("h", f"waiting {NAME}", phone=PHONE)
            await world.until("SELECT EXISTS (SELECT FROM listener.message WHERE state = 'waiting')")
        await world.note("i", f"not matched {NAME}", phone=PHONE)
        await world.db.execute("INSERT INTO listener.suppression VALUES (%s, 'asked', now(), 'test')", [PHONE])
        before = await tables_with(world, PHONE, PHONE[1:], "345.678", NAME)
        assert {"change", "finished", "message", "muted", "outbox", "thread"} <= set(before)

        said = await verb(world.environment(), "export", "0912 345 678")
        exported = said.json
        assert exported["phone"] == PHONE
        told = json.dumps(exported, ensure_ascii=False)
        for word in ("accepted", "refused", "unclear", "bad", "waiting", "not matched", "muted"):
            assert f"{word} {NAME}" in told
        assert "somebody else's" not in told

        assert (await verb(world.environment(), "forget", PHONE)).code == 2
        forgotten = (await verb(world.environment(), "forget", PHONE, "--yes", "--reason", "asked", "-o", "json")).json
        assert forgotten["removed"]["outbox"] == 1
        assert forgotten["left"] == ["its place on the suppression list, so that no SMS is sent to it"]
        assert await tables_with(world, PHONE, PHONE[1:], "345.678", NAME) == {"suppression": 1}

        rows = await world.messages()
        assert [row["text"] for row in rows if row["text"]] == ["somebody else's"]
        assert sorted(row["state"] for row in rows) == sorted(
            ["accepted", "rejected", "cancelled", "rejected", "accepted", "accepted", "accepted", "cancelled"]
        )
        assert {row["phone"] for row in rows} == {None, OTHER}
        audit = await world.rows("SELECT verb, what FROM listener.audit ORDER BY id")
        assert [a["verb"] for a in audit] == ["pause", "export", "forget"]
        assert [a["what"].get("phone") for a in audit] == [None, "091***678", "091***678"]

        again = (await verb(world.environment(), "forget", PHONE, "--yes", "-o", "json")).json
        assert sum(again["removed"].values()) == 0
        assert (await verb(world.environment(), "resume")).code == 0
        async with world.service():
            await world.settled()
        assert not any("waiting" in text or "not matched" in text for text in world.arrived())


async def test_forget_finds_a_phone_that_is_the_key_of_what_goes_to_others_or_has_no_text(erp_database: str) -> None:
    rules = RULES.replace("to: new.phone", f"to: \"'{OTHER}'\"").replace("key: topic", "key: phone")
    broken = rules.replace("new.body }}", "new.body | vnd }}")
    later = rules.replace("max_block: 10m", "quiet_hours: {from: 00:01, to: 00:00}")
    async with open_world(erp_database, rules=rules) as world:
        for number, text in enumerate((rules, broken, later)):
            world.use_rules(text)
            await world.note("a", f"{NAME} {number}", phone="0912\u00a0345\u2011678")
            await world.once()
        forgotten = (await verb(world.environment(), "forget", PHONE, "--yes", "-o", "json")).json
        # until it is sent it keeps what its text was made of
        assert forgotten["left"] == [
            "1 unfinished messages that are being sent or go to others and name this phone",
        ]
        assert set(await tables_with(world, NAME, "345.678")) == {"message"}
        assert (await verb(world.environment(), "cancel", "--state", "waiting", "--yes")).code == 0
        assert (await verb(world.environment(), "forget", PHONE, "--yes", "-o", "json")).json["left"] == []
        assert await tables_with(world, NAME, "345.678") == {}


async def test_what_comes_while_it_is_sought_is_forgotten_too(
    erp_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The search reads whole tables and holds nobody up, so that there is much time for that."""
    async with open_world(erp_database, rules=RULES) as world:
        await world.note("a", f"before {NAME}", phone=PHONE)
        await world.once()
        find = personal._find

        async def slow(conn: Connection, phone: str) -> dict[str, Any]:
            found = await find(conn, phone)
            await world.note("b", f"meanwhile {NAME}", phone=PHONE)
            await world.note("c", f"call {PHONE}", phone=OTHER)
            await world.once()
            return found

        monkeypatch.setattr(personal, "_find", slow)
        done = await personal.forget(world.db, PHONE, by="test", reason=None)
        assert done.removed["changes"] == done.removed["messages"] == 3
        assert await tables_with(world, PHONE[1:], NAME) == {}


async def test_a_change_that_names_two_people_is_forgotten_of_both(erp_database: str) -> None:
    async with open_world(erp_database, rules=RULES) as world:
        await world.note(OTHER, f"call {PHONE}", phone="0350000004")
        await world.once()
        for phone in (PHONE, OTHER):
            assert (await verb(world.environment(), "forget", phone, "--yes")).code == 0
        assert await tables_with(world, PHONE, OTHER) == {}


async def test_a_number_of_before_2018_is_forgotten_by_either_form(erp_database: str) -> None:
    stored = [("0162.999.9999", "01629999999"), ("b", "０１６２９９９９９９９"), ("c", "0329999999")]
    async with open_world(erp_database, rules=RULES) as world:
        for asked in ("0162 999 9999", "0329999999"):
            for topic, phone in stored:
                await world.note(topic, f"{NAME} {asked} {phone}", phone=phone)
            await world.once()
            await world.note("d", f"{NAME} {asked}", phone="0162 999 9999")
            told = json.dumps((await verb(world.environment(), "export", asked)).json, ensure_ascii=False)
            assert "01629999999" in told
            forgotten = (await verb(world.environment(), "forget", asked, "--yes", "-o", "json")).json
            assert (forgotten["removed"]["outbox"], forgotten["left"]) == (1, [])
            assert await tables_with(world, NAME, "9999999", "999.?9999", "９") == {}


# Columns that hold nothing of a person, with the reason; in every other one `forget` must find it and `export` show it.
WORDS_OF_OURS = "our own words: a closed set, or a name out of the rules"
NOT_PERSONAL = {
    "account": "CareSoft accounts",
    "audit": "has whole numbers masked when it is written",
    "brake": WORDS_OF_OURS,
    "calendar": WORDS_OF_OURS,
    "fleet": "the rules file and the server",
    "given": "rights",
    "migration": "the schema",
    "replica": "our own processes",
    "rule_minute": WORDS_OF_OURS,
    "rules": "the rules file",
    "tally": "counts",
    "pause": "the phone's own pause stays, and is said",
    "suppression": "stays, and is said",
    "thread": "an account and a key, which goes where it is the phone",
    **{f"{table}.{column}": "names the order or account, and goes where it is the phone"
       for table in ("message", "finished", "change", "outbox", "muted") for column in ("key", "thread")},
    **{f"{table}.{column}": WORDS_OF_OURS
       for table in ("message", "finished", "change", "outbox", "muted", "ticket_save", "attempt")
       for column in ("rule", "watch", "account", "encoding", "state", "if_unsure", "op", "outcome")},
    "message.phone": "the phone itself",
    "finished.phone": "the phone itself",
}  # fmt: skip


async def test_no_column_is_forgotten(erp_database: str) -> None:
    """A column added tomorrow is either listed above or emptied by `forget` and shown by `export`."""
    async with open_world(erp_database, rules=RULES) as world:
        async with world.service():
            await fill(world)
            await world.until("SELECT NOT EXISTS (SELECT FROM listener.outbox)")
            await world.until("SELECT count(*) = 7 FROM listener.messages WHERE state NOT IN ('waiting', 'sending')")
        await world.note("i", f"not matched {NAME}", phone=PHONE)
        await world.db.execute(
            "INSERT INTO listener.ticket_save (message_id, rule, ticket_id, params) "
            "SELECT id, 'note', 1, '{}' FROM listener.finished WHERE phone = %s LIMIT 1 ON CONFLICT DO NOTHING",
            [PHONE],
        )
        columns = await world.rows(
            """SELECT table_name AS t, column_name AS c, data_type AS type FROM information_schema.columns
                WHERE table_schema = 'listener'
                  AND data_type IN ('text', 'jsonb', 'ARRAY', 'USER-DEFINED', 'json', 'bytea')
                  AND table_name !~ '_[0-9]{8}$' AND table_name NOT IN ('messages', 'tickets')"""
        )
        assert {"text", "jsonb"} == {row["type"] for row in columns}
        canaries = []
        for row in columns:
            table, column = row["t"], row["c"]
            if table in NOT_PERSONAL or f"{table}.{column}" in NOT_PERSONAL:
                continue
            canary = f"canary {table} {column}"
            canaries.append(canary)
            value = json.dumps({"phone": PHONE, "it": canary}) if row["type"] == "jsonb" else f"{canary} {PHONE}"
            theirs = {
                "message": f"WHERE phone = '{PHONE}'",
                "finished": f"WHERE phone = '{PHONE}'",
                "attempt": f"WHERE message_id IN (SELECT id FROM listener.messages WHERE phone = '{PHONE}')",
            }.get(table, "")
            done = await world.db.execute(f"UPDATE listener.{table} SET {column} = %s {theirs}".encode(), [value])
            assert done.rowcount > 0, f"nothing of the person is in {table}"
        assert len(canaries) >= 20
        told = json.dumps((await verb(world.environment(), "export", PHONE)).json, ensure_ascii=False)
        assert [canary for canary in canaries if canary not in told] == []
        assert (await verb(world.environment(), "forget", PHONE, "--yes")).code == 0
        assert await tables_with(world, "canary", PHONE, PHONE[1:]) == {}


async def test_whoever_sees_whole_numbers_by_a_verb_is_written_down(erp_database: str) -> None:
    async with open_world(erp_database) as world:
        await world.note("DH1", "one", phone=PHONE)
        await world.once()
        for words in (["messages"], ["message", 1], ["why", PHONE], ["why", "DH1"]):
            assert PHONE not in (await verb(world.environment(), *words)).out
        assert await world.rows("SELECT FROM listener.audit") == []
        await world.note(f"DH {PHONE}", "two", phone=PHONE)
        await world.note(PHONE, "three", phone=PHONE)
        await world.once()
        assert (await verb(world.environment(), "cancel", "--key", PHONE, "--yes")).code == 0
        for words in (
            ["messages", "--key", PHONE],
            ["messages", "--thread", PHONE],
            ["messages", "--phone", PHONE],
            ["message", 1],
            ["why", PHONE],
            ["why", "DH1"],
            ["why", f"DH {PHONE}"],
        ):
            assert PHONE in (await verb(world.environment(), *words, "--reveal")).out
        audit = await world.rows("SELECT verb, what, count FROM listener.audit ORDER BY id")
        assert [row["verb"] for row in audit] == ["cancel"] + ["reveal"] * (len(audit) - 1)
        assert [row["what"] for row in audit] == [
            {"key": "091***678"},
            {"by": "messages", "key": "091***678"},
            {"by": "messages", "thread": "091***678"},
            {"by": "messages", "phone": "091***678"},
            {"by": "message", "ids": [1]},
            {"by": "why", "of": "091***678"},
            {"by": "why", "of": "DH1"},
            {"by": "why", "of": "DH 091***678"},
        ]


async def test_nothing_goes_to_a_phone_that_wants_no_sms(erp_database: str) -> None:
    async with open_world(erp_database) as world:
        await verb(world.environment(), "pause", "--reason", "x")
        await world.note("a", "waits", phone=PHONE)
        await world.note("b", "somebody else's", phone=OTHER)
        await world.once()
        assert (await verb(world.environment(), "suppress", PHONE)).code == 2
        said = await verb(
            world.environment(), "suppress", "0912 345 678", "--reason", f"asked from {PHONE}", "-o", "json"
        )
        assert said.json == {"verb": "suppress", "removed": False, "cancelled": 1}
        await verb(world.environment(), "resume")
        await world.note("c", "comes later", phone=PHONE)
        await world.once()
        assert await world.states() == {
            "waits": "cancelled",
            "somebody else's": "accepted",
            "comes later": "suppressed",
        }
        assert (await verb(world.environment(), "suppress", PHONE, "--remove")).code == 0
        assert (await verb(world.environment(), "suppress", PHONE, "--remove")).code == 1
        await world.note("d", "wanted again", phone=PHONE)
        await world.once()
        assert world.arrived() == ["somebody else's", "wanted again"]
        audit = await world.rows("SELECT verb, what, reason FROM listener.audit WHERE verb ~ 'suppress' ORDER BY id")
        assert [(a["verb"], a["what"]["phone"]) for a in audit] == [
            ("suppress", "091***678"),
            ("unsuppress", "091***678"),
        ]
        assert PHONE not in str(audit)


async def test_a_phone_that_is_none_is_refused(erp_database: str) -> None:
    async with open_world(erp_database) as world:
        for word in ("forget", "export"):
            said = await verb(world.environment(), word, "024 3825 1234")
            assert said.code == 2
            assert "PHONE" in said.err
