"""F79: every page in both languages, on desk and phone, in light and dark: photographed, judged, used by a person."""

import asyncio

import pytest
from playwright.async_api import Route, expect

from listener.simulator.gateway import Break, Fault, Moment
from listener.web.app import SESSION_COOKIE
from tests.pages.conftest import Visit, visit
from tests.support.browser import ADMIN, VIEW
from tests.support.proxy import Mode, Proxy
from tests.support.world import World, open_world, rules_text

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)> {{7*7}} javascript:alert(3) " + "W" * 300
SERVICE = {"admin_token": ADMIN, "view_token": VIEW}


async def business(world: World) -> None:
    """Something of each kind to show: sent, rejected, unclear, held, paused, and what a stranger might write."""
    world.gateway.add_fault(Fault(action=Break(moment=Moment.BEFORE_ANSWER), content="lost", times=1))
    await world.notes([(f"DH{1000 + n}", f"ACME: Don DH{1000 + n} da duoc xac nhan. LH 19001234") for n in range(30)])
    await world.note("DH2001", "ACME: Don DH2001 da giao xong (lost)", phone="0912345678")
    await world.note("DH2002", "ACME: Đơn DH2002 đang giao. LH 19001234", phone="024 3825 1234")
    await world.note("DH2003", HOSTILE, phone="0903000003")
    await world.settled()


async def number(world: World, words: str) -> int:
    return int((await world.one("SELECT id FROM listener.messages WHERE text LIKE %s", f"%{words}%"))["id"])


@pytest.mark.faults
@pytest.mark.parametrize(
    ("screen", "scheme", "language"),
    [("desktop", "light", "vi"), ("phone", "dark", "en")],
)
async def test_every_page_fits_is_accessible_and_asks_nobody_else(
    erp_database: str, screen: str, scheme: str, language: str
) -> None:
    async with open_world(erp_database) as world, world.service(**SERVICE) as service:
        await business(world)
        async with visit(service.address, screen, scheme, language) as seen:
            await seen.open("/login")
            wrong = await seen.faults()
            await seen.photograph(f"login-{language}-{scheme}")
            await seen.login()
            await seen.page.wait_for_selector("#needs")
            unclear, bad, hostile = [await number(world, w) for w in ("lost", "DH2002", "<script>")]
            for name, path in (
                ("overview", "/"),
                ("messages", "/messages"),
                ("search", "/messages?q=0912345678"),
                ("nothing", "/messages?q=khong-co"),
                ("unclear", f"/messages/{unclear}"),
                ("rejected", f"/messages/{bad}"),
                ("hostile", f"/messages/{hostile}"),
                ("story", f"/messages/{unclear}/story"),
                ("rules", "/rules"),
                ("rule", "/rules/note"),
                ("interventions", "/interventions"),
                ("audit", "/audit"),
                ("absent", "/nothing"),
            ):
                await seen.open(path)
                if name == "rule":
                    await seen.page.wait_for_selector("#result .bubble")
                await seen.photograph(f"{name}-{language}-{scheme}")
                wrong += [f"{name}: {fault}" for fault in await seen.faults()]
            # that a page is absent is said by its status, which a browser tells its console
            seen.wrong[:] = [w for w in seen.wrong if "404" not in w]
            assert wrong == []


async def test_a_person_finds_an_unclear_message_and_sends_it_again(erp_database: str) -> None:
    async with open_world(erp_database) as world, world.service(**SERVICE) as service:
        await business(world)
        async with visit(service.address) as seen:
            await seen.login()
            page = seen.page
            await page.click(".needs a[href*='state=unknown']")
            await page.click(".list a.row")
            await page.click("summary:has-text('Chưa tới khách')")
            await page.fill("details[open] [name=reason]", "khách báo chưa nhận")
            await page.click("details[open] button")
            await page.wait_for_selector(".note.good")
            await page.wait_for_selector(".st-accepted")
            # what cannot be done any more goes by itself
            assert await page.locator(".deed").count() == 0
            await seen.photograph("sent-again")
            assert len([text for text in world.arrived() if "lost" in text]) == 2
            await page.click("nav a[href='/audit']")
            assert "page/Lan" in await page.inner_text("main")


@pytest.mark.faults
async def test_lists_move_by_themselves_and_leave_a_person_in_peace(erp_database: str) -> None:
    async with open_world(erp_database) as world, world.service(**SERVICE) as service:
        await business(world)
        async with visit(service.address) as seen:
            await seen.login()
            page = seen.page
            await page.click("summary")
            await world.note("DH2999", "ACME: tin truoc")
            await page.wait_for_selector(".tile:first-child b:has-text('32')")
            assert await page.locator("details[open] table").is_visible()
            await seen.open("/messages")
            await page.fill("[name=q]", "half a wor")
            await page.focus(".list li:nth-child(12) a")
            await page.evaluate("window.scrollTo(0, 400)")
            before = await page.evaluate("document.activeElement.closest('li').id")
            top = await page.evaluate("document.activeElement.getBoundingClientRect().top")
            await world.note("DH3000", "ACME: tin moi")
            await page.wait_for_selector(".said:has-text('tin moi')")
            await page.wait_for_selector(".list li:first-child .st-accepted")
            assert await page.evaluate("document.activeElement.closest('li').id") == before
            assert abs(await page.evaluate("document.activeElement.getBoundingClientRect().top") - top) < 5
            assert await page.input_value("[name=q]") == "half a wor"
            # nor does what somebody reads move who has put the focus nowhere
            await page.evaluate("document.activeElement.blur()")
            place = "document.getElementById(%r).getBoundingClientRect().top"
            top = await page.evaluate(place % before)
            await world.note("DH3002", "ACME: tin nua")
            await page.wait_for_selector(".said:has-text('tin nua')")
            assert abs(await page.evaluate(place % before) - top) < 5
            # whoever marks words to copy them keeps them; what was missed comes when they let go
            await page.evaluate("document.getSelection().selectAllChildren(document.querySelector('.list .said'))")
            await world.note("DH3001", "ACME: tin sau")
            await world.settled()
            await asyncio.sleep(1.5)
            assert await page.evaluate("document.getSelection().toString()") == "ACME: tin nua"
            await page.evaluate("document.getSelection().removeAllRanges()")
            await page.wait_for_selector(".said:has-text('tin sau')")


@pytest.mark.faults
async def test_a_long_name_of_a_rule_pushes_no_figure_out_of_sight(erp_database: str) -> None:
    rules = rules_text().replace("  note:\n    on:", f"  {'n' * 40}:\n    on:")
    async with open_world(erp_database, rules=rules) as world, world.service(**SERVICE) as service:
        await world.note("DH1", "ACME: Don DH1 da giao", phone="024 3825 1234")
        await world.settled()
        async with visit(service.address) as seen:
            await seen.login()
            table = seen.page.locator("[aria-labelledby=rules_title].wide")
            assert await table.evaluate("one => one.scrollWidth - one.clientWidth") == 0


async def test_a_key_that_is_written_backwards_turns_no_ticket_round(erp_database: str) -> None:
    async with open_world(erp_database) as world, world.service(**SERVICE) as service:
        await world.note("DH \u202enguoc", "ACME: tin", ticket=1234)
        await world.settled()
        async with visit(service.address) as seen:
            await seen.login()
            await seen.open("/messages")
            # where the ticket's first and last signs are on the screen
            first, last = await seen.page.evaluate(
                """() => {
                  const text = document.querySelector('.list .meta').lastChild, place = document.createRange();
                  const left = (n) => {
                    place.setStart(text, n);
                    place.setEnd(text, n + 1);
                    return place.getBoundingClientRect().left;
                  };
                  const from = text.data.indexOf('#');
                  return [left(from), left(text.data.trimEnd().length - 1)];
                }"""
            )
            assert first < last


@pytest.mark.faults
async def test_a_form_that_is_open_stays_beside_what_it_is_about(erp_database: str) -> None:
    async def muted(why: str, many: int) -> None:
        async with world.db.transaction():
            await world.db.execute("SELECT set_config('listener.mute', %s, true)", [why])
            await world.notes([(f"{why} {n}", f"{why} {n}") for n in range(many)])

    async with open_world(erp_database) as world, world.service(**SERVICE) as service:
        await muted("second", 1)
        for rule in ("a", "c"):
            await world.db.execute("INSERT INTO listener.brake (rule, reason) VALUES (%s, 'too many')", [rule])
            await world.db.execute(
                "INSERT INTO listener.pause (target, value, reason, who) VALUES ('rule', %s, 'why', 'Lan')", [rule]
            )
        async with visit(service.address, language="en") as seen:
            await seen.login()
            for title, mine, change in (
                ("muted_title", "second", lambda: muted("first", 2)),
                ("now_title", "c", lambda: world.rows("DELETE FROM listener.pause WHERE value = 'a' RETURNING 1")),
                ("brakes_title", "c", lambda: world.rows("DELETE FROM listener.brake WHERE rule = 'a' RETURNING 1")),
            ):
                await seen.open("/interventions")
                items = seen.page.locator(f"[aria-labelledby={title}] li")
                before = await items.count()
                await items.last.locator("summary").click()
                await items.last.locator("[name=reason]").fill("half a wor")
                await change()
                await expect(items).not_to_have_count(before, timeout=15_000)
                form = items.filter(has=seen.page.locator("details[open]"))
                await expect(form).to_have_count(1)
                assert mine in await form.locator("> span:not(.dot)").inner_text()
                values = await form.locator("input[type=hidden]").evaluate_all("all => all.map(one => one.value)")
                assert any(value.endswith(mine) for value in values)
                assert await form.locator("[name=reason]").input_value() == "half a wor"


@pytest.mark.faults
async def test_works_when_the_stream_is_cut_and_says_so(erp_database: str) -> None:
    async with open_world(erp_database) as world, world.service(**SERVICE) as service:
        await business(world)
        async with visit(service.address) as seen:
            await seen.page.route("**/live", lambda route: route.abort())
            await seen.login()
            await seen.page.wait_for_selector("#cut:visible")
            await world.note("DH3000", "ACME: tin moi")
            await seen.open("/messages")
            await world.note("DH3001", "ACME: tin sau")
            await seen.page.wait_for_selector(".said:has-text('tin sau')", timeout=20_000)
            await seen.page.unroute("**/live")
            await seen.page.wait_for_selector("#cut", state="hidden", timeout=20_000)
            # htmx tells the console of every cut
            seen.wrong[:] = [w for w in seen.wrong if not w.startswith("console:")]


@pytest.mark.faults
async def test_figures_of_a_database_that_is_gone_are_not_taken_for_new(erp_database: str) -> None:
    async with (
        Proxy.to_database(erp_database) as proxy,
        open_world(erp_database) as world,
        world.service(**SERVICE, database_url=proxy.dsn) as service,
        visit(service.address) as seen,
    ):
        await business(world)
        await seen.login()
        proxy.switch(Mode.RESET)
        await seen.page.wait_for_selector("#stale:has-text('Cơ sở dữ liệu không trả lời')", timeout=30_000)
        assert await seen.page.locator("#live.stale").count() == 1
        await seen.photograph("stale")
        await seen.open("/messages")
        await seen.photograph("without-database")
        assert "Không SMS nào được gửi" in await seen.page.inner_text("main")
        proxy.switch(Mode.PASS)
        # the page comes back by itself
        await seen.page.wait_for_selector(".list", timeout=30_000)
        seen.wrong[:] = [w for w in seen.wrong if "503" not in w]


async def test_pauses_and_resumes_by_keyboard_alone(erp_database: str) -> None:
    async with (
        open_world(erp_database) as world,
        world.service(**SERVICE) as service,
        visit(service.address, language="en") as seen,
    ):
        page, keys = seen.page, seen.page.keyboard
        await seen.open("/login")
        await page.wait_for_selector("[name=token]:focus")
        await keys.type(ADMIN)
        await keys.press("Enter")
        await page.wait_for_selector(".verdict")
        await keys.press("Tab")
        assert await page.evaluate("document.activeElement.className") == "skip"
        await tab_to(seen, "a[href='/interventions']")
        await keys.press("Enter")
        await page.wait_for_selector("[name=target]")
        await tab_to(seen, "[name=target]")
        await keys.type("Everything")
        await tab_to(seen, "[name=reason]")
        await keys.type("by keyboard")
        await keys.press("Enter")
        await page.wait_for_selector(".needs summary")
        assert len(await world.rows("SELECT * FROM listener.pause WHERE target = 'all'")) == 1
        await seen.photograph("paused")
        await tab_to(seen, ".needs summary")
        await keys.press("Enter")
        await tab_to(seen, "details[open] [name=reason]")
        await keys.type("by keyboard again")
        await keys.press("Enter")
        await page.wait_for_selector(".note.good")
        assert await world.rows("SELECT * FROM listener.pause") == []


async def tab_to(seen: Visit, selector: str) -> None:
    """Presses Tab until the element has the focus, which must be visible."""
    page = seen.page
    for _ in range(60):
        await page.keyboard.press("Tab")
        if await page.evaluate("s => document.activeElement.matches(s)", selector):
            assert await page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
            return
    raise AssertionError(f"Tab never reaches {selector}")


async def test_the_playground_answers_as_one_types_and_replays(erp_database: str) -> None:
    async with open_world(erp_database) as world, world.service(**SERVICE) as service:
        await business(world)
        async with visit(service.address) as seen:
            await seen.login()
            page = seen.page
            await seen.open("/rules/note")
            await page.wait_for_selector("#result .bubble")
            await page.fill("[name=key]", "DH2001")
            await page.fill("[name=text]", "Xin chào {{ new.topic }}")
            await page.wait_for_selector("#result .bubble:has-text('DH2001')")
            await page.fill("[name=text]", "Xin chào {{ new.topik }}")
            await page.wait_for_selector("#result .note.bad, #result .st-rejected")
            await page.fill("[name=text]", "{{ new.body }}")
            await page.fill("[name=when]", "new.topic != 'DH1000'")
            # opened when the answer has come, which replaces what stood there
            lines = '#lines:has-text("when: \\"new.topic != \'DH1000\'\\"")'
            await page.wait_for_selector(lines, state="attached")
            await page.click("details:has(#lines) summary")
            await page.wait_for_selector(lines)
            await page.click("button:has-text('Chạy lại')")
            await page.wait_for_selector("#replayed table")
            await seen.photograph("playground")
            assert not await page.is_visible("#outdated")
            # who replays before the answer to their typing has come gets both
            replaying = asyncio.Event()

            async def slow(route: Route) -> None:
                await replaying.wait()
                await route.continue_()

            await page.route("**/try", slow)
            async with page.expect_request("**/try"):
                await page.fill("[name=text]", "Chao {{ new.topic }}")
            async with page.expect_response("**/replay"):
                await page.click("button:has-text('Chạy lại')")
            replaying.set()
            await page.wait_for_selector("#result .bubble:has-text('Chao')")
            await page.unroute("**/try")
            await page.fill("[name=when]", "new.topic == 'DH1000'")
            await page.wait_for_selector("#outdated:visible")
            await page.click("button:has-text('Chạy lại')")
            await page.wait_for_selector("#outdated", state="hidden")


@pytest.mark.faults
async def test_a_trial_that_is_not_answered_leaves_no_old_result_to_be_taken_for_its_own(erp_database: str) -> None:
    async with open_world(erp_database) as world, world.service(**SERVICE) as service:
        await business(world)
        async with visit(service.address) as seen:
            await seen.login()
            page = seen.page
            await seen.open("/rules/note")
            await page.wait_for_selector("#result .bubble")
            await page.route("**/try", lambda route: route.abort())
            await page.fill("[name=text]", "never tried")
            await page.wait_for_selector("#stale:has-text('listener không trả lời')")
            assert await page.locator("#result.stale").count() == 1
            await page.unroute("**/try")
            await page.fill("[name=text]", "tried")
            await page.wait_for_selector("#result .bubble:has-text('tried')")
            assert not await page.is_visible("#stale")
            assert await page.locator("#result.stale").count() == 0
            await page.fill("[name=text]", "x" * 70_000)
            await page.wait_for_selector("#result:has-text('quá dài')")
            assert await page.locator("#result .bubble").count() == 0
            # nor is what was written lost when the session ends meanwhile
            await seen.context.clear_cookies(name=SESSION_COOKIE)
            await page.fill("[name=text]", "an hour's work")
            await page.wait_for_selector("#result:has-text('Phiên đăng nhập đã hết')")
            assert await page.input_value("[name=text]") == "an hour's work"
            seen.wrong[:] = [w for w in seen.wrong if not w.startswith("console:")]


async def test_a_brake_is_released_and_the_language_switched(erp_database: str) -> None:
    rules = rules_text(defaults="brake: 3/h")
    async with open_world(erp_database, rules=rules) as world, world.service(**SERVICE) as service:
        await world.notes([(f"t{n}", f"n{n}") for n in range(9)])
        await world.until("SELECT count(*) = 9 FROM listener.messages")
        async with visit(service.address, "phone") as seen:
            await seen.login()
            await seen.photograph("braked")
            await seen.page.click("button[lang=en]")
            await seen.page.wait_for_selector("html[lang=en]")
            await seen.page.click(".needs a[href='/interventions']")
            await seen.page.click("summary:has-text('Release')")
            await seen.photograph("brake")
            await seen.page.click("details[open] button")
            await seen.page.wait_for_selector(".note.good")
            await world.settled()
            assert len(world.arrived()) == 9


async def test_all_that_a_list_shows_is_cancelled_by_keyboard_alone(erp_database: str) -> None:
    rules = rules_text(defaults="brake: 3/h")
    async with open_world(erp_database, rules=rules) as world, world.service(**SERVICE) as service:
        await world.notes([(f"t{n}", f"ACME: Don DH{n} da duoc xac nhan. LH 19001234") for n in range(9)])
        await world.until("SELECT count(*) = 9 FROM listener.messages")
        async with visit(service.address, "phone", "dark") as seen:
            await seen.login()
            page, keys = seen.page, seen.page.keyboard
            await seen.open("/messages?state=held")
            await seen.photograph("held")
            await tab_to(seen, "#bulk-cancel")
            await keys.press("Enter")
            await page.wait_for_selector("h1:has-text('Hủy 6 tin?')")
            await page.wait_for_selector("[name=reason]:focus")
            await seen.photograph("bulk")
            assert await seen.faults() == []
            await keys.type("nhập nhầm")
            await keys.press("Enter")
            await page.wait_for_selector(".note.good:has-text('Đã hủy 6 tin')")
            await seen.photograph("bulk-done")
            assert sorted((await world.states()).values()) == ["accepted"] * 3 + ["cancelled"] * 6


async def test_those_who_may_only_look_see_no_buttons(erp_database: str) -> None:
    async with open_world(erp_database) as world, world.service(**SERVICE) as service:
        await business(world)
        async with visit(service.address) as seen:
            await seen.login(VIEW)
            await seen.open(f"/messages/{await number(world, 'lost')}")
            assert await seen.page.locator("main form").count() == 0
            await seen.open("/interventions")
            assert await seen.page.locator("main form").count() == 0
            await seen.photograph("view-only")


async def test_the_closed_page_says_how_to_open_it(erp_database: str) -> None:
    async with open_world(erp_database) as world, world.service() as service, visit(service.address) as seen:
        await seen.open("/")
        assert "LISTENER_ADMIN_TOKEN" in await seen.page.inner_text("main")
        await seen.photograph("closed")
        seen.wrong[:] = [w for w in seen.wrong if "403" not in w]
