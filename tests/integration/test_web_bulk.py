"""One deed on all that a list shows: the number first, a person's word, then what was shown and nothing else."""

import html
import re

import pytest

from listener.interventions import Verb
from listener.simulator.gateway import Answer, Break, Fault, Moment
from listener.web.bulk_page import MOST
from tests.support.browser import VIEW, Person, page_of, person
from tests.support.world import World, open_world, rules_text


def hidden(text: str) -> dict[str, str]:
    """The form's own fields: up to which message, and how many were shown."""
    return dict(re.findall(r'name="(after|upto|count)" value="(\d+)"', text))


async def ask(somebody: Person, path: str, *words: str) -> dict[str, str]:
    answer = await somebody.get(path)
    assert answer.status == 200
    for word in words:
        assert word in html.unescape(answer.text), word
    return hidden(answer.text)


async def braked(world: World) -> None:
    await world.notes([(f"t{n}", f"n{n}") for n in range(9)])
    await world.until("SELECT count(*) = 6 FROM listener.message WHERE state = 'held'")
    await world.settled()


async def test_a_brakes_messages_are_released_and_the_audit_says_by_whom(erp_database: str) -> None:
    async with open_world(erp_database, rules=rules_text(defaults="brake: 3/h")) as world, page_of(world) as somebody:
        await braked(world)
        assert "/messages/bulk/release?state=held" in (await somebody.get("/messages?state=held")).text
        form = await ask(
            somebody,
            "/messages/bulk/release?q=note&state=held",
            "Cho gửi 6 tin?",
            "Phanh của quy tắc này",
            "n7",
            "note",
        )
        done = await somebody.post("/messages/bulk/release?q=note&state=held", {**form, "reason": "meant so"})
        assert "Đã cho gửi 6 tin" in html.unescape(done.text)
        await world.settled()
        assert sorted(world.arrived()) == [f"n{n}" for n in range(9)]
        assert await world.rows("SELECT * FROM listener.brake") == []
        deed = await world.one("SELECT * FROM listener.audit")
        assert (deed["who"], deed["verb"], deed["count"], deed["reason"]) == ("page/Lan", "release", 6, "meant so")
        assert deed["what"] == {"state": ["held"], "rule": "note"}


async def test_what_a_mistake_made_is_cancelled_at_once(erp_database: str) -> None:
    async with open_world(erp_database, rules=rules_text(defaults="brake: 3/h")) as world, page_of(world) as somebody:
        await braked(world)
        form = await ask(somebody, "/messages/bulk/cancel?state=held", "Hủy 6 tin?")
        assert (
            await somebody.post("/messages/bulk/cancel?state=held", {**form, "reason": "wrong import"})
        ).status == 200
        assert sorted((await world.states()).values()) == ["accepted"] * 3 + ["cancelled"] * 6
        again = await somebody.get("/messages/bulk/cancel?state=held")
        assert "Không còn tin nào như vậy" in html.unescape(again.text)


async def test_those_that_were_refused_or_unclear_are_sent_again(erp_database: str) -> None:
    async with open_world(erp_database) as world, page_of(world) as somebody:
        world.gateway.add_fault(Fault(action=Answer(status=400, message="no credit"), content="bad", times=2))
        world.gateway.add_fault(Fault(action=Break(moment=Moment.BEFORE_ANSWER), content="lost", times=1))
        await world.notes([("a", "bad 1"), ("b", "bad 2"), ("c", "lost"), ("d", "fine")])
        await world.note("e", "landline", phone="024 3825 1234")
        await world.settled()
        form = await ask(somebody, "/messages/bulk/retry?range=24h", "Gửi lại 4 tin?", "có thể nhận hai tin")
        done = await somebody.post("/messages/bulk/retry?range=24h", {**form, "reason": "credit is there"})
        assert "Đã cho gửi lại 3 tin" in html.unescape(done.text)
        assert "1 × xét lại: đây là số máy bàn" in html.unescape(done.text)
        await world.settled()
        assert {t: s for t, s in (await world.states()).items() if s != "accepted"} == {"landline": "rejected"}


async def test_more_than_go_at_once_are_gone_through_one_batch_after_the_other(
    erp_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where nothing can be done for the oldest, which stay as they were."""
    monkeypatch.setitem(MOST, Verb.RETRY, 2)
    async with open_world(erp_database) as world, page_of(world) as somebody:
        for number in range(3):
            await world.note("a", f"landline {number}", phone="024 3825 1234")
        await world.settled()
        world.gateway.add_fault(Fault(action=Answer(status=400, message="no credit"), content="bad", times=1))
        await world.note("b", "bad")
        await world.settled()
        path, words = "/messages/bulk/retry?state=rejected", "Gửi lại 2 tin?"
        form = await ask(somebody, path, words, "Chỉ 2 tin cũ nhất")
        done = html.unescape((await somebody.post(path, {**form, "reason": "tried"})).text)
        assert "Đã cho gửi lại 0 tin" in done
        (following,) = re.findall(r'href="([^"]*after=\d+)"', done)
        form = await ask(somebody, following, words)
        done = html.unescape((await somebody.post(path, {**form, "reason": "tried"})).text)
        assert "Đã cho gửi lại 1 tin" in done
        assert "after=" not in done
        await world.settled()
        assert world.arrived() == ["bad"]


async def test_only_what_was_shown_is_done(erp_database: str) -> None:
    async with open_world(erp_database, rules=rules_text(defaults="brake: 3/h")) as world, page_of(world) as somebody:
        await braked(world)
        path = "/messages/bulk/cancel?state=held"
        form = await ask(somebody, path, "Hủy 6 tin?")
        # one that came after the question, and one that somebody else has dealt with
        await world.note("new", "later")
        await world.until("SELECT count(*) = 7 FROM listener.message WHERE state = 'held'")
        gone = (await world.one("SELECT min(id) AS id FROM listener.message WHERE state = 'held'"))["id"]
        assert (await somebody.post(f"/messages/{gone}/cancel")).status == 303
        for wrong, status in (
            ({**form, "reason": " "}, 400),
            ({**form, "count": "3", "reason": "x"}, 409),
            ({"upto": form["upto"], "reason": "x"}, 400),
            ({**form, "upto": "9" * 30, "reason": "x"}, 400),
        ):
            assert (await somebody.post(path, wrong)).status == status, wrong
        assert (await world.one("SELECT count(*) AS n FROM listener.message WHERE state = 'held'"))["n"] == 6
        assert "Đã hủy 5 tin" in html.unescape((await somebody.post(path, {**form, "reason": "x"})).text)
        assert (await world.one("SELECT text FROM listener.message WHERE state = 'held'"))["text"] == "later"


async def test_nobody_else_does_it_and_no_other_sites_form(erp_database: str) -> None:
    path, form = "/messages/bulk/cancel?state=held", {"upto": 99, "count": 99, "reason": "x"}
    async with open_world(erp_database, rules=rules_text(defaults="brake: 3/h")) as world, page_of(world) as boss:
        await braked(world)
        async with person(boss.address, VIEW) as somebody:
            assert "/messages/bulk/" not in (await somebody.get("/messages?state=held")).text
            assert (await somebody.get(path)).status == 403
            assert (await somebody.post(path, form)).status == 403
        right, boss.csrf = boss.csrf, "0" * 64
        assert (await boss.post(path, form)).status == 403
        boss.csrf = right
        assert (await boss.post(path, form, Origin="https://evil.example")).status == 403
        assert (await boss.get("/messages/bulk/forget?state=held")).status == 404
        assert "/messages/bulk/" not in (await boss.get("/messages")).text
        assert (await world.one("SELECT count(*) AS n FROM listener.message WHERE state = 'held'"))["n"] == 6


async def test_a_span_of_ones_own_is_named_before_it_is_acted_on(erp_database: str) -> None:
    async with open_world(erp_database) as world, page_of(world) as somebody:
        await world.note("a", "one", phone="no phone")
        await world.until("SELECT count(*) = 1 FROM listener.messages")
        span = "range=own&from=2026-01-02T10:00&to=2099-12-31T00:00"
        await ask(somebody, f"/messages/bulk/retry?{span}", "Gửi lại 1 tin?", "02/01/2026 10:00", "31/12/2099 00:00")
        assert "/messages/bulk/retry" in (await somebody.get(f"/messages?{span}")).text
        # without a time that can be read it is a list of everything
        assert "/messages/bulk/" not in (await somebody.get("/messages?range=own&from=junk")).text
