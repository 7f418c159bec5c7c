"""The rules and the playground: what another text would send, told while it is typed; nothing is sent or written."""

import asyncio
import html
import re

import pytest

from listener.model import Mode
from listener.web import rules_page
from tests.support.browser import ADMIN, VIEW, Person, page_of, person
from tests.support.world import NOTES, PATIENCE, open_world, rules_text

HTMX = {"HX-Request": "true"}


async def test_the_playground_shows_what_would_be_sent_and_sends_nothing(erp_database: str) -> None:
    async with open_world(erp_database) as world, page_of(world) as somebody:
        await world.note("DH1", "it is here", phone="0912 345 678")
        await world.settled()
        before = world.settings.rules.read_text()
        page = html.unescape((await somebody.get("/rules/note")).text)
        assert "{{ new.body }}" in page
        assert "DH1" in page
        for form, said in (
            ({"key": "DH1", "text": "{{ new.body }}!"}, ("sẽ gửi", "091***678", "it is here!", "GSM-7")),
            ({"key": "DH1", "text": "x", "when": "new.body == 'no'"}, ("không gửi", "when: \"new.body == 'no'\"")),
            (
                {"row": '{"topic": "a", "body": "b", "phone": "12", "ticket_id": null}', "text": "x"},
                ("sẽ không gửi được", "10 chữ số"),
            ),
            ({"key": "DH1", "text": "{{ new.nothing }}"}, ("nothing",)),
            ({"key": "DH1", "text": "{{ 7 *"}, ("note bad", "còn thiếu ở cuối")),
            ({"key": "DH1", "text": "{{ ''.__class__ }}"}, ("note bad",)),
            ({"key": "absent", "text": "x"}, ("absent",)),
            ({"row": "{", "text": "x"}, ("JSON",)),
            ({"key": "DH1", "text": "dấu 😀"}, ("Ký tự bị bỏ", "😀")),
            ({"text": "x"}, ("Chọn một mã",)),
        ):
            answer = await somebody.post("/rules/note/try", {"when": "", **form})
            assert answer.status == 200, form
            for words in said:
                assert words in html.unescape(answer.text), (form, words)
        assert world.arrived() == ["it is here"]
        assert world.settings.rules.read_text() == before
        assert (await somebody.post("/rules/absent/try", {"text": "x"})).status == 404
        assert (await somebody.get("/rules/absent")).status == 404


async def test_a_condition_of_several_lines_is_edited_on_them(erp_database: str) -> None:
    lines = "    to: new.phone\n    when: |\n      new.body != 'a'\n      and new.body != 'b'\n"
    rules = rules_text().replace("    to: new.phone\n", lines)
    async with open_world(erp_database, rules=rules) as world, page_of(world) as somebody:
        shown = html.unescape((await somebody.get("/rules/note")).text)
        # a field of one line would lose the ends of the others
        assert ">new.body != 'a'\nand new.body != 'b'</textarea>" in shown


async def test_without_a_script_a_trial_answers_with_the_whole_page_and_keeps_what_was_typed(erp_database: str) -> None:
    async with open_world(erp_database) as world, page_of(world) as somebody:
        await world.note("DH1", "it is here", phone="0912345678")
        await world.settled()
        untried = await somebody.get("/rules/note")
        assert "Chọn một mã" not in untried.text
        row = '{"topic": "a", "body": "typed", "phone": "0912345678", "ticket_id": null}'
        form = {"key": "DH7", "row": row, "text": "</textarea>{{ new.body }}!", "when": "new.body != 'no'"}
        page = await somebody.post("/rules/note/try", form)
        assert page.text.startswith("<!doctype html>")
        assert page.text.count('id="lines"') == 1
        assert "hx-swap-oob" not in page.text
        assert "</textarea>{{" not in page.text
        shown = html.unescape(page.text)
        assert '<p class="bubble"></textarea>typed!</p>' in shown
        for kept in ('value="DH7"', f">{row}<", "{{ new.body }}!", ">new.body != 'no'<"):
            assert kept in shown
        part = await somebody.post("/rules/note/try", form, **HTMX)
        assert "<!doctype" not in part.text
        assert "hx-swap-oob" in part.text


async def test_a_rule_on_one_line_is_tried_as_it_stands(erp_database: str) -> None:
    head, _, _ = rules_text().partition("rules:")
    one_line = head + "rules:\n  note: {on: note, to: new.phone, text: 'ACME: {{ new.body }}'}\n"
    async with open_world(erp_database, rules=one_line) as world, page_of(world) as somebody:
        await world.note("DH1", "it is here", phone="0912345678")
        await world.settled()
        page = html.unescape((await somebody.get("/rules/note")).text)
        assert "quy tắc này được viết trên một dòng; hãy sửa trong tệp" in page
        form = {"key": "DH1", "text": "ACME: {{ new.body }}", "when": ""}
        answer = await somebody.post("/rules/note/try", form, **HTMX)
        assert '<p class="bubble">ACME: it is here</p>' in answer.text


async def test_a_key_that_is_a_phone_is_not_offered_to_be_tried(erp_database: str) -> None:
    async with open_world(erp_database) as world, page_of(world, VIEW) as somebody:
        await world.note("0912 345 678", "one")
        await world.settled()
        assert "345 678" not in (await somebody.get("/rules/note")).text
        await world.note("DH1", "two")
        await world.settled()
        page = (await somebody.get("/rules/note")).text
        assert 'maxlength="200" value="DH1"' in page
        assert "345 678" not in page


async def test_a_replay_of_the_last_days_shows_both_sides(erp_database: str) -> None:
    async with open_world(erp_database) as world, page_of(world) as somebody:
        await world.notes([(f"t{n}", f"n{n}") for n in range(5)])
        await world.settled()
        form = {"text": "{{ new.body }}", "when": "new.body != 'n0'", "days": "1"}
        answer = html.unescape((await somebody.post("/rules/note/replay", form)).text)
        assert "5 thay đổi" in answer
        assert '<td class="n">5</td><td class="n">4</td>' in answer
        assert len(world.arrived()) == 5


async def test_a_long_replay_tells_how_far_it_is_and_can_be_cancelled(
    erp_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules_page, "_AT_ONCE", 0.05)
    rules = rules_text().replace("key: topic}", "key: topic, lookup: {gate: SELECT open FROM public.gate}}")
    schema = NOTES + "; CREATE TABLE public.gate AS SELECT true AS open"
    async with open_world(erp_database, rules=rules, schema=schema) as world, page_of(world) as somebody:
        await world.notes([(f"t{n}", f"n{n}") for n in range(40)])
        await world.settled()
        form = {"text": "{{ new.body }}!", "when": "", "days": "1"}

        async def begin() -> str:
            begun = await somebody.post("/rules/note/replay", form)
            address = re.search(r'hx-get="(/rules/note/replay/\w+)"', begun.text)
            assert address, begun.text
            assert "<progress" in begun.text
            return address[1]

        async with world.db.transaction():
            await world.db.execute("LOCK TABLE public.gate")
            address = await begin()
            # whoever asks for another one meanwhile is shown the one that runs
            assert await begin() == address
        await eventually(somebody, address, "40 thay đổi")
        assert "không còn" in html.unescape((await somebody.get("/rules/note/replay/0")).text)

        async with world.db.transaction():
            await world.db.execute("LOCK TABLE public.gate")
            address = await begin()
            await somebody.post(f"{address}/cancel")
            await eventually(somebody, address, "Đã dừng chạy lại")
        await world.until("SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'listener page replay'")
        somebody.csrf = "0" * 64
        assert (await somebody.post(f"{address}/cancel")).status == 403


async def eventually(somebody: Person, path: str, words: str) -> None:
    async with asyncio.timeout(PATIENCE):
        while words not in html.unescape((await somebody.get(path)).text):
            await asyncio.sleep(0.05)


async def test_rules_show_counts_last_change_and_the_files_faults(erp_database: str) -> None:
    async with open_world(erp_database) as world, page_of(world) as somebody:
        await world.note("a", "one")
        await world.note("b", "bad", phone="1")
        await world.settled()
        page = html.unescape((await somebody.get("/rules")).text)
        assert "<b>1</b> đã gửi, <b>1</b> không gửi được" in page
        assert "phiên bản 1" in page
        world.use_rules(world.settings.rules.read_text().replace("to: new.phone", "too: new.phone"))
        await world.until("SELECT faults <> '[]' FROM listener.fleet")
        page = html.unescape((await somebody.get("/rules")).text)
        assert "Tệp quy tắc có lỗi" in page
        assert "không có từ khóa `too` <em>(có phải ý bạn là to?)</em>" in page
        await eventually(somebody, "/", "không có từ khóa `too`")
        await somebody.post("/language", {"language": "en"})
        assert "unknown key `too` <em>(did you mean to?)</em>" in html.unescape((await somebody.get("/rules")).text)


async def test_rules_say_what_keeps_them_from_sending(erp_database: str) -> None:
    async with (
        open_world(erp_database) as world,
        world.service(admin_token=ADMIN, mode=Mode.SHADOW) as service,
        person(service.address) as somebody,
    ):
        await somebody.post("/interventions/pause", {"target": "rule:note", "reason": "wait"})
        await world.db.execute("INSERT INTO listener.brake (rule, reason) VALUES ('note', 'more than 1/h')")
        card = (await somebody.get("/rules")).text.split('id="r-1"')[1]
        for said in ("đang tạm dừng", "bị phanh", "thử, không gửi"):
            assert said in card


async def test_those_who_may_only_look_try_no_row_and_replay_nothing(erp_database: str) -> None:
    async with open_world(erp_database) as world, page_of(world, VIEW) as somebody:
        await world.note("DH1", "it is here", phone="0912345678")
        await world.settled()
        row = '{"topic": "a", "body": "b", "phone": "0912345678", "ticket_id": null}'
        for form in ({"key": "DH1"}, {"row": row}):
            tried = await somebody.post("/rules/note/try", {"text": "{{ new.phone }}", "when": "", **form}, **HTMX)
            assert "Chỉ người vận hành" in tried.text
            assert "678" not in tried.text
        tried = await somebody.post("/rules/note/try", {"key": "DH1", "text": "{{ 7 *", "when": ""})
        assert "note bad" in tried.text
        assert (await somebody.post("/rules/note/replay", {"text": "x", "when": ""})).status == 403
