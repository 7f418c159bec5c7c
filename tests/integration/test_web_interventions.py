"""Pauses, brakes and the audit, by the page."""

import html
import re

import pytest

from tests.support.browser import VIEW, page_of
from tests.support.verbs import verb
from tests.support.world import PHONE, open_world, rules_text


@pytest.mark.parametrize("target", ["all", "account:main", "rule:note", "phone"])
async def test_what_is_paused_is_not_sent_until_somebody_resumes(erp_database: str, target: str) -> None:
    form = {"target": target, "phone": "+84 980 000 000", "reason": "wrong text, ask 0912345678", "span": "2h"}
    async with open_world(erp_database) as world, page_of(world) as somebody:
        await world.note("z", "first")
        await world.settled()
        done = await somebody.post("/interventions/pause", form)
        # those of an account wait on: none of them is held, which is not to say that none is stopped
        held = "0" if target in ("rule:note", "phone") else ""
        assert (done.status, done.headers["Location"]) == (303, f"/interventions?paused={held}")
        said = "0 tin được giữ lại" if held else "Đã xong."
        assert said in (await somebody.get(done.headers["Location"])).text
        await world.note("a", "one")
        await world.until("SELECT count(*) = 1 FROM listener.message WHERE state IN ('waiting', 'held')")
        shown = await somebody.get("/interventions")
        assert "wrong text" in shown.text
        assert "091***678" in shown.text
        assert "0912345678" not in shown.text
        assert world.arrived() == ["first"]
        assert (await somebody.post("/interventions/resume", form)).status == 303
        await world.settled()
        assert world.arrived() == ["first", "one"]
        audit = (await somebody.get("/audit")).text
        assert audit.count("page/Lan") == 2
        assert "0980000000" not in audit


async def test_what_cannot_be_paused_is_said_and_the_form_keeps_its_words(erp_database: str) -> None:
    async with open_world(erp_database) as world, page_of(world) as somebody:
        for form, said in (
            ({"target": "rule:nots", "reason": "kept words"}, "kept words"),
            ({"target": "rule:nots", "reason": "x"}, "note"),
            ({"target": "phone", "phone": "123", "reason": "x"}, "10 chữ số"),
            ({"target": "all", "reason": " "}, "Hãy ghi lý do"),
            ({"target": "all", "reason": "x", "until": "2020-01-01T00:00"}, "đã qua"),
            ({"target": "all", "reason": "x", "until": "junk"}, "Không đọc được"),
            ({"target": "all", "reason": "x", "until": "9999-12-31T23:59-12:00"}, "quá xa"),
            ({"target": "junk", "reason": "x"}, "Hãy chọn"),
            ({"target": "rule:", "reason": "x"}, "Hãy chọn"),
        ):
            answer = await somebody.post("/interventions/pause", form)
            assert answer.status == 400, form
            assert said in html.unescape(answer.text), form
        assert await world.rows("SELECT * FROM listener.pause") == []
        assert (await somebody.get("/interventions/pause")).status == 405


async def test_a_page_that_answers_a_form_is_found_again(erp_database: str) -> None:
    async with open_world(erp_database) as world, page_of(world) as somebody:
        await world.note("a", "one")
        await world.settled()
        for path, form, code, back in (
            ("/interventions/pause", {"target": "phone", "phone": "123", "reason": "x"}, 400, "/interventions"),
            ("/messages/1/cancel", {"reason": "x"}, 409, "/messages/1"),
            ("/rules/note/try", {"text": "x"}, 200, "/rules/note"),
            ("/messages/bulk/cancel?state=waiting", {"after": 0, "upto": 1, "count": 1}, 400, None),
            ("/interventions/seen", {}, 400, "/"),
            ("/login", {"token": "wrong"}, 403, None),
        ):
            answer = await somebody.post(path, form)
            assert answer.status == code, path
            # where the choice of the language leads back to, and what the live part asks for
            addresses = re.findall(r' name="back" value="([^"]*)"|<div id="live" hx-get="([^"]*)"', answer.text)
            assert {"".join(found) for found in addresses} == {back or path}
            assert (await somebody.get(back or path)).status in (200, 302)


async def test_a_brake_is_released_with_what_it_held(erp_database: str) -> None:
    async with open_world(erp_database, rules=rules_text(defaults="brake: 2/h")) as world, page_of(world) as somebody:
        await world.notes([(f"t{n}", f"n{n}") for n in range(5)])
        await world.until("SELECT count(*) > 0 FROM listener.message WHERE state = 'held'")
        await world.until("SELECT count(*) = 0 FROM listener.outbox")
        shown = html.unescape((await somebody.get("/interventions")).text)
        assert "Mở phanh" in shown
        assert (await somebody.post("/interventions/release", {"rule": "note", "reason": "meant so"})).status == 303
        await world.settled()
        assert sorted(world.arrived()) == [f"n{n}" for n in range(5)]
        assert await world.rows("SELECT * FROM listener.brake") == []
        assert "meant so" in (await somebody.get("/audit")).text


async def test_muted_changes_are_let_go(erp_database: str) -> None:
    async with open_world(erp_database) as world, page_of(world) as somebody:
        async with world.db.transaction():
            await world.db.execute("SET LOCAL listener.mute = 'import of 0912345678'")
            await world.note("a", "one")
        async with world.db.transaction():
            await world.db.execute("SET LOCAL listener.mute = 'the outbox was locked'")
            await world.note("b", "two")
        shown = html.unescape((await somebody.get("/interventions")).text)
        assert "1 thay đổi" in shown
        assert ": import of 091***678" in shown
        assert "hộp chờ (outbox) bị khóa" in shown
        assert world.arrived() == []
        # not that all of them are sent: those that are too old make no SMS
        assert "lâu hơn `expires`" in shown
        assert (await somebody.post("/interventions/release-muted", {"reason": "which?"})).status == 400
        for muted_for, arrived in (("the outbox was locked", ["two"]), ("import of 0912345678", ["two", "one"])):
            form = {"watch": "note", "muted_for": muted_for, "reason": "meant so"}
            done = await somebody.post("/interventions/release-muted", form)
            assert done.headers["Location"] == "/interventions?unmuted=1"
            await world.settled()
            assert world.arrived() == arrived
        assert "cho thay đổi tắt tiếng đi tiếp" in html.unescape((await somebody.get("/audit")).text)
        assert "tắt tiếng" not in html.unescape((await somebody.get("/interventions")).text)


async def test_those_who_may_only_look_can_pause_nothing(erp_database: str) -> None:
    async with open_world(erp_database) as world, page_of(world, VIEW) as somebody:
        await world.db.execute(
            "INSERT INTO listener.pause (target, value, reason, who) VALUES ('phone', '0912345678', 'x', 'y')"
        )
        shown = (await somebody.get("/interventions")).text
        assert "0912345678" not in shown
        assert "/interventions/resume" not in shown
        for verb in ("pause", "resume", "release"):
            form = {"target": "all", "reason": "x", "rule": "note"}
            assert (await somebody.post(f"/interventions/{verb}", form)).status == 403
        assert len(await world.rows("SELECT * FROM listener.pause")) == 1
        await world.note("a", "one")
        await world.settled()
        assert await world.states() == {"one": "accepted"}


async def test_the_audit_says_what_a_number_is_of(erp_database: str) -> None:
    async with open_world(erp_database) as world, page_of(world) as somebody:
        async with world.db.transaction():
            await world.db.execute("SET LOCAL listener.mute = 'import'")
            await world.note("a", "one")
        await somebody.post("/interventions/release-muted", {"watch": "note", "muted_for": "import"})
        for words in (("export", PHONE), ("suppress", PHONE, "--reason", "x"), ("suppress", PHONE, "--remove")):
            assert (await verb(world.environment(), *words)).code == 0
        deeds = re.findall(r'class="kind">([^<]+)<.*?<small>(.*?)<', (await somebody.get("/audit")).text)
        assert deeds[0] == ("cho gửi tin lại", "")
        assert deeds[1][0] == "không gửi tin"
        assert deeds[1][1].startswith(("0 tin", "1 tin"))
        assert deeds[2][0] == "xuất dữ liệu"
        assert deeds[2][1].endswith(" dòng dữ liệu")
        assert deeds[3] == ("cho thay đổi tắt tiếng đi tiếp", "1 thay đổi")
