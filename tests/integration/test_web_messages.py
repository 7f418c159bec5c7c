"""The list of messages and one of them: what is found, paged, shown and exported, and what a person can do."""

import asyncio
import csv
import html
import io
import re

import pytest

from listener.simulator.gateway import Answer, Break, Fault, Moment
from tests.support.browser import VIEW, page_of, person
from tests.support.browser import Answer as Page
from tests.support.world import World, open_world, rules_text

LOST = Fault(action=Break(moment=Moment.BEFORE_ANSWER))
HOSTILE = "<script>alert(1)</script> {{7*7}} <img src=x onerror=alert(2)> javascript:alert(3)"


def texts(answer: Page) -> list[str]:
    """The messages of a list, as they are shown."""
    assert answer.status == 200, answer.text
    return [html.unescape(t) for t in re.findall(r'<span class="said">(.*?)(?:<small>|</span>)', answer.text)]


async def number(world: World, text: str) -> int:
    return int((await world.one("SELECT id FROM listener.messages WHERE text = %s", text))["id"])


async def state(world: World, text: str) -> str:
    return str((await world.one("SELECT state FROM listener.messages WHERE text = %s", text))["state"])


async def test_one_box_finds_by_phone_key_ticket_rule_and_number(erp_database: str) -> None:
    async with open_world(erp_database) as world:
        await world.note("DH1", "to Lan", phone="0912345678")
        await world.note("DH2", "to Ba", phone="0980000002")
        await world.note("0980000003", "key is a phone", phone="0980000004")
        async with page_of(world) as somebody:
            await world.settled()
            ba = await number(world, "to Ba")
            for q, expected in (
                ("0912345678", ["to Lan"]),
                ("+84 912 345 678", ["to Lan"]),
                ("84912345678", ["to Lan"]),
                ("DH2", ["to Ba"]),
                (" DH2 ", ["to Ba"]),
                ("0980000003", ["key is a phone"]),
                (str(ba), ["to Ba"]),
                ("note", ["key is a phone", "to Ba", "to Lan"]),
                ("nothing like it", []),
                ("'; DROP TABLE listener.message; --", []),
                ("", ["key is a phone", "to Ba", "to Lan"]),
            ):
                async with somebody.http.get(f"{somebody.address}/messages", params={"q": q}) as response:
                    found = Page(status=response.status, text=await response.text(), headers={})
                assert texts(found) == expected, q
            ticket = (await world.one("SELECT ticket_id FROM listener.messages WHERE id = %s", ba))["ticket_id"]
            assert texts(await somebody.get(f"/messages?q={ticket}")) == ["to Ba"]
            assert texts(await somebody.get("/messages?state=rejected")) == []
            assert len(texts(await somebody.get("/messages?state=rejected&state=accepted&range=24h"))) == 3
            assert texts(await somebody.get("/messages?range=own&from=2020-01-01T00:00&to=2020-01-02T00:00")) == []
            assert len(texts(await somebody.get("/messages?range=own&from=junk&before=junk&state=junk&as=junk"))) == 3
            # the ends of the calendar, which another zone has not
            for at in ("0001-01-01T00:00%2B14:00", "9999-12-31T23:59-12:00"):
                assert len(texts(await somebody.get(f"/messages?range=own&from={at}&to={at}"))) == 3


async def test_pages_follow_each_other_without_gap_or_repeat_and_keep_the_filter(erp_database: str) -> None:
    async with open_world(erp_database) as world:
        await world.notes([(f"t{n}", f"text {n}") for n in range(120)])
        async with page_of(world) as somebody:
            await world.settled()
            seen: list[str] = []
            path = "/messages?q=note&state=accepted"
            while path:
                answer = await somebody.get(path)
                seen += texts(answer)
                older = re.search(r'rel="next" href="([^"]+)"', answer.text)
                path = html.unescape(older[1]) if older else ""
                assert not path or ("q=note" in path and "state=accepted" in path)
            ids = [
                r["text"]
                for r in await world.rows("SELECT text FROM listener.messages ORDER BY created_at DESC, id DESC")
            ]
            assert seen == ids


async def test_chips_count_what_fits(erp_database: str) -> None:
    async with open_world(erp_database) as world:
        await world.notes([("a", "one"), ("b", "two")])
        await world.note("c", "bad", phone="123")
        async with page_of(world) as somebody:
            await world.settled()
            for path, sent, rejected in (("/messages", 2, 1), ("/messages?q=note", 2, 1), ("/messages?q=a", 1, None)):
                shown = dict(re.findall(r'id="chip-(\w+)".*?<b>(\d+)</b>', (await somebody.get(path)).text))
                assert shown.get("accepted") == str(sent), path
                assert shown.get("rejected") == (str(rejected) if rejected else None), path


async def test_csv_holds_all_and_no_formula(erp_database: str) -> None:
    async with open_world(erp_database) as world:
        await world.notes([(f"t{n}", f"=cmd|' /C calc'!A{n}") for n in range(1200)])
        async with page_of(world, VIEW) as somebody:
            await world.until("SELECT count(*) = 1200 FROM listener.messages")
            answer = await somebody.get("/messages.csv?q=note")
            assert answer.headers["Content-Type"].startswith("text/csv")
            rows = list(csv.DictReader(io.StringIO(answer.text.removeprefix("\ufeff"))))
            assert len({row["id"] for row in rows}) == 1200
            assert {row["phone"] for row in rows} == {"098***000"}
            assert {row["text"] for row in rows} == {""}
        async with page_of(world) as somebody:
            rows = list(csv.DictReader(io.StringIO((await somebody.get("/messages.csv?q=note")).text)))
            assert len(rows) == 1200
            assert all(row["text"].startswith("'=") for row in rows)


async def test_those_who_may_only_look_see_no_whole_phone_and_no_text_and_can_do_nothing(erp_database: str) -> None:
    async with open_world(erp_database, rules=rules_text(ticket="{thread: new.topic}")) as world:
        world.gateway.add_fault(LOST)
        await world.note("0987654321", "so du cua Lan", phone="0912345678")
        async with page_of(world, VIEW) as somebody:
            await world.settled()
            one = await number(world, "so du cua Lan")
            async with person(somebody.address) as boss:
                form = {"target": "phone", "phone": "0912345678", "reason": "so du that of Lan"}
                assert (await boss.post("/interventions/pause", form)).status == 303
            paths = (
                "/",
                "/audit",
                "/interventions",
                "/messages",
                "/messages?q=0987654321",
                f"/messages/{one}",
                f"/messages/{one}/story",
                "/messages.csv",
            )
            for path in paths:
                answer = await somebody.get(path)
                assert answer.status == 200, path
                asked = answer.text.replace('value="0987654321"', "").replace("q=0987654321", "")
                assert "0912345678" not in asked, path
                assert "0987654321" not in asked, path
                assert "so du" not in asked, path
                assert "Lan" not in asked.replace("Lan · ", "").replace("page/Lan", ""), path
            for verb in ("retry", "cancel", "release", "arrived", "reveal"):
                assert (await somebody.post(f"/messages/{one}/{verb}")).status == 403
            assert await state(world, "so du cua Lan") == "unknown"


async def test_whoever_wants_a_whole_number_asks_for_it_and_that_is_written_down(erp_database: str) -> None:
    async with open_world(erp_database) as world:
        await world.note("0987654321", "so du", phone="0912345678")
        async with page_of(world) as somebody:
            await world.settled()
            one = await number(world, "so du")
            for path in ("/messages", f"/messages/{one}", f"/messages/{one}/story"):
                shown = await somebody.get(path)
                assert "091***678" in shown.text, path
                assert "0912345678" not in shown.text, path
            assert await world.rows("SELECT FROM listener.audit") == []
            revealed = await somebody.post(f"/messages/{one}/reveal")
            assert revealed.status == 200
            assert "0912345678" in revealed.text
            # what the page fetches by itself is masked; the number stands above it
            assert f'hx-get="/messages/{one}"' in revealed.text
            for asked in ("0912345678", "0912 345 678", "%2B84 912 345 678"):
                assert "0912345678" in (await somebody.get(f"/messages.csv?q={asked}")).text
            audit = await world.rows("SELECT who, verb, what, count FROM listener.audit ORDER BY id")
            assert [(a["who"], a["verb"], a["what"], a["count"]) for a in audit] == [
                ("page/Lan", "reveal", {"ids": [one]}, 1),
                ("page/Lan", "reveal", {"csv": "q=091***678"}, 1),
                ("page/Lan", "reveal", {"csv": "q=091***678"}, 1),
                ("page/Lan", "reveal", {"csv": "q=849***678"}, 1),
            ]
            assert "0912345678" not in (await somebody.get("/audit")).text


async def test_hostile_words_are_shown_as_words(erp_database: str) -> None:
    """F79: of texts, keys, rules, reasons and the gateway's answers. (In a browser: tests/pages.)"""
    async with open_world(erp_database) as world:
        world.gateway.add_fault(Fault(action=Answer(status=400, message=HOSTILE), times=1))
        await world.note(HOSTILE, HOSTILE)
        async with page_of(world) as somebody:
            await world.settled()
            one = await number(world, HOSTILE)
            await world.db.execute(
                "INSERT INTO listener.pause (target, value, reason, who) VALUES ('rule', %s, %s, %s)", [HOSTILE] * 3
            )
            for path in ("/", "/messages", f"/messages/{one}", f"/messages/{one}/story", "/messages?q=%3Cscript%3E"):
                answer = await somebody.get(path)
                assert answer.status == 200, path
                assert "<script>" not in answer.text, path
                assert "<img" not in answer.text, path
                assert " 49 " not in answer.text, path
            assert "&lt;script&gt;" in (await somebody.get(f"/messages/{one}")).text


async def test_one_message_tells_its_whole_way(erp_database: str) -> None:
    async with open_world(erp_database) as world:
        await world.note("DH7", "it is on its way", phone="0912345678")
        async with page_of(world) as somebody:
            await world.settled()
            one = await world.one("SELECT id, ticket_id FROM listener.messages")
            answer = await somebody.get(f"/messages/{one['id']}")
            said = html.unescape(answer.text)
            for words in (
                "it is on its way",
                "091***678",
                str(one["ticket_id"]),
                'text: "{{ new.body }}"',
                "CareSoft đã nhận",
                "GSM-7",
            ):
                assert words in said, words
            for missing in ("/messages/999999", "/messages/0", "/messages/9999999999999999999", "/messages/x"):
                assert (await somebody.get(missing)).status == 404, missing


async def test_one_message_tells_of_its_own_pauses_alone(erp_database: str) -> None:
    async with open_world(erp_database) as world, page_of(world) as somebody:
        await somebody.get("/interventions")
        await somebody.post("/interventions/pause", {"target": "all", "reason": "all of them"})
        await world.note("DH1", "to one", phone="0912345678")
        await world.note("DH1", "to the other", phone="0903000003")
        await world.until("SELECT count(*) = 2 FROM listener.messages")
        for phone, reason in (("0912345678", "one asked"), ("0903000003", "the other asked")):
            await somebody.post("/interventions/pause", {"target": "phone", "phone": phone, "reason": reason})
        await somebody.post("/interventions/resume", {"target": "all", "reason": "go on"})
        one = await world.one("SELECT id FROM listener.messages WHERE text = 'to one'")
        shown = (await somebody.get(f"/messages/{one['id']}")).text
        assert ("one asked" in shown, "the other asked" in shown, "go on" in shown) == (True, False, True)


@pytest.mark.parametrize(
    ("verb", "ends", "arrivals"),
    [("retry", "accepted", 2), ("cancel", "cancelled", 1), ("arrived", "accepted", 1)],
)
async def test_an_unclear_message_is_decided_by_a_person(
    erp_database: str, verb: str, ends: str, arrivals: int
) -> None:
    async with open_world(erp_database) as world:
        world.gateway.add_fault(LOST)
        await world.note("a", "one")
        async with page_of(world) as somebody:
            await world.settled()
            one = await number(world, "one")
            assert await state(world, "one") == "unknown"
            assert f"/messages/{one}/{verb}" in (await somebody.get(f"/messages/{one}")).text or verb == "cancel"
            assert (await somebody.get(f"/messages/{one}/{verb}")).status == 405
            assert await state(world, "one") == "unknown"
            done = await somebody.post(f"/messages/{one}/{verb}", {"reason": "asked 0912345678"})
            assert (done.status, done.headers["Location"]) == (303, f"/messages/{one}?done=1")
            await world.settled()
            assert await state(world, "one") == ends
            assert world.arrived().count("one") == arrivals
            audit = await world.one("SELECT who, verb, reason FROM listener.audit")
            assert audit["who"] == "page/Lan"
            assert "0912345678" not in audit["reason"]
            shown = await somebody.get(f"/messages/{one}")
            assert "page/Lan" in shown.text
            again = await somebody.post(f"/messages/{one}/cancel")
            assert again.status == 409


async def test_the_database_away_is_a_page_that_says_so_and_comes_back(erp_database: str) -> None:
    async with open_world(erp_database) as world, page_of(world) as somebody:
        await world.db.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'listener page'"
        )
        assert (await somebody.get("/messages")).status == 200


async def test_a_rule_whose_name_stands_in_quotes_is_shown_as_it_was(erp_database: str) -> None:
    rules = rules_text().replace("rules:\n  note:\n", "rules:\n  'note':\n")
    async with open_world(erp_database, rules=rules) as world, page_of(world) as somebody:
        await world.note("a", "one")
        await world.settled()
        shown = html.unescape((await somebody.get("/messages/1")).text)
        assert "'note':\n  on: note\n" in shown


async def test_a_question_that_waits_for_a_lock_too_long_is_not_told_as_a_database_that_is_away(
    erp_database: str,
) -> None:
    waiting = "FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND application_name = 'listener page'"
    async with open_world(erp_database) as world, page_of(world) as somebody:
        async with world.db.transaction():
            await world.db.execute("LOCK TABLE listener.finished IN ACCESS EXCLUSIVE MODE")
            look = asyncio.create_task(somebody.get("/messages?q=a"))
            await world.until(f"SELECT count(*) > 0 {waiting}")
            # as its own limit would in five seconds
            await world.rows(f"SELECT pg_cancel_backend(pid) {waiting}")
            answer = await look
        assert answer.status == 503
        assert "chưa kịp trả lời" in answer.text
        assert "Không SMS nào được gửi" not in answer.text
        assert (await somebody.get("/messages?q=a")).status == 200
