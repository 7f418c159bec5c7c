"""The first screen says what is wrong, in a sentence, while it is wrong."""

import asyncio
import html
import re
from typing import LiteralString

import pytest

from listener.model import Mode
from listener.simulator.gateway import Port
from listener.web import overview_page, store
from tests.support.browser import ADMIN, Person, page_of, person
from tests.support.world import PATIENCE, open_world


@pytest.fixture(autouse=True)
def figures_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overview_page, "_FRESH", 0.0)
    monkeypatch.setattr(overview_page, "_GAPS_FRESH", 0.0)


async def says(somebody: Person, words: str) -> str:
    """Waits until the sentence holds `words`; returns its colour. Raises TimeoutError."""
    async with asyncio.timeout(PATIENCE):
        while True:
            text = (await somebody.get("/")).text
            level, said = re.search(r'class="verdict (\w+)"', text), re.search(r'class="sentence">([^<]*)<', text)
            assert level and said, text
            if words in html.unescape(said[1]):
                return level[1]
            await asyncio.sleep(0.1)


async def shows(somebody: Person, words: str) -> None:
    """Waits until the page holds `words`: its figures may be a second old. Raises TimeoutError."""
    async with asyncio.timeout(PATIENCE):
        while words not in html.unescape((await somebody.get("/")).text):
            await asyncio.sleep(0.1)


async def test_each_fault_is_the_sentence_until_it_is_over(erp_database: str) -> None:
    async with open_world(erp_database) as world, page_of(world) as somebody:
        assert await says(somebody, "Sẵn sàng: đang chờ thay đổi đầu tiên") == "good"
        await world.note("a", "zero")
        assert await says(somebody, "Mọi thứ hoạt động tốt") == "good"

        world.gateway.refuse(Port.PRIMARY)
        await world.note("a", "one")
        assert await says(somebody, "Tài khoản main đang không gửi được: không kết nối được") == "bad"
        await world.gateway.reopen(Port.PRIMARY)
        assert await says(somebody, "Mọi thứ hoạt động tốt") == "good"
        await world.settled()

        form = {"target": "all", "reason": "wait"}
        await somebody.post("/interventions/pause", form)
        assert await says(somebody, "tạm dừng tất cả, không SMS nào được gửi (page/Lan: wait)") == "bad"
        await world.notes([(f"t{n}", f"n{n}") for n in range(3)])
        await world.until("SELECT count(*) = 3 FROM listener.message")
        await shows(somebody, "<b>3</b>")
        await shows(somebody, "chưa biết khi nào gửi hết")
        await somebody.post("/interventions/resume", form)
        await world.settled()

        good = world.settings.rules.read_text()
        world.use_rules(good.replace("to: new.phone", "too: new.phone"))
        assert await says(somebody, "Tệp quy tắc có") == "bad"
        world.use_rules(good)
        assert await says(somebody, "Mọi thứ hoạt động tốt") == "good"

        for n in (1, 2):
            await world.db.execute("SELECT nextval('listener.capture_failures')")
            assert await says(somebody, "1 lần ghi nhận") == "bad"
            # whoever looked into it says so; what comes later is told again
            await shows(somebody, f'name="capture_failures" value="{n}"')
            assert (await somebody.post("/interventions/seen", {"capture_failures": n})).status == 303
            assert await says(somebody, "Mọi thứ hoạt động tốt") == "good"
        assert "lỗi ghi nhận 2" in html.unescape((await somebody.get("/audit")).text)
        assert (await somebody.post("/interventions/seen", {"capture_failures": "x"})).status == 400

        # what has yet to fail is not taken note of, whatever a form says
        assert (await somebody.post("/interventions/seen", {"capture_failures": 999})).status == 303
        await world.db.execute("SELECT nextval('listener.capture_failures')")
        assert await says(somebody, "1 lần ghi nhận") == "bad"


async def test_a_trigger_that_is_gone_is_named(erp_database: str) -> None:
    async with open_world(erp_database) as world, page_of(world) as somebody:
        assert await says(somebody, "Sẵn sàng") == "good"
        await world.db.execute("ALTER TABLE public.notes DISABLE TRIGGER ALL")
        assert await says(somebody, "enable trigger +listener_note_insert on public.notes") == "bad"
        await world.db.execute("ALTER TABLE public.notes RENAME TO memos")
        assert await says(somebody, "public.notes") == "bad"
        await world.db.execute("ALTER TABLE public.memos RENAME TO notes")
        await world.db.execute("ALTER TABLE public.notes ENABLE TRIGGER ALL")
        assert await says(somebody, "Sẵn sàng") == "good"


async def test_shadow_mode_is_said(erp_database: str) -> None:
    shadow = {"admin_token": ADMIN, "mode": Mode.SHADOW}
    async with open_world(erp_database) as world, world.service(**shadow) as on, person(on.address) as somebody:
        assert await says(somebody, "chế độ thử") == "good"
        await world.note("a", "one")
        await world.until("SELECT state = 'shadow' FROM listener.messages")
        assert "chạy thử" in (await somebody.get("/messages")).text


@pytest.mark.parametrize(
    "happens",
    [
        "INSERT INTO listener.muted (watch, op, key, reason) VALUES ('note', 'insert', 'a', 'import')",
        """INSERT INTO listener.calendar (watch, last_day, failing_since, failure)
           VALUES ('birthday', current_date, now(), 'UndefinedTable 42P01')""",
    ],
)
async def test_what_no_message_tells_of_moves_the_page_too(erp_database: str, happens: LiteralString) -> None:
    async with open_world(erp_database) as world:
        before = await store.first(world.db, "pulse")
        assert await store.first(world.db, "pulse") == before
        await world.db.execute(happens)
        assert await store.first(world.db, "pulse") != before
