"""What a stranger may write, wherever it may come from, on every page in a real browser: words, and nothing else."""

import re
from urllib.parse import quote

import pytest
from psycopg.types.json import Jsonb

from listener.simulator.gateway import Answer, Fault
from tests.integration.test_web_routes import ROUTES
from tests.pages.conftest import Visit, visit
from tests.support.browser import ADMIN
from tests.support.world import World, open_world

HOSTILE = (
    '<script>window.ran=1</script><img src=x onerror="window.ran=2"><svg onload=window.ran=3>'
    '"\'><a href="javascript:window.ran=4">x</a> {{7*7}} ${7*7} </textarea></pre></option> ' + "W" * 300
)
# not for people's eyes: streams, files and parts of a page
NOT_PAGES = {"/live", "/messages.csv", "/metrics", "/static", "/rules/note/replay/x"}


@pytest.mark.faults
async def test_nothing_that_strangers_write_runs_on_any_page(erp_database: str) -> None:
    async with open_world(erp_database) as world:
        world.use_rules(world.settings.rules.read_text().replace('text: "{{ new.body }}"', f"text: {HOSTILE_RULE}"))
        world.gateway.add_fault(Fault(action=Answer(status=400, message=HOSTILE), times=1))
        await world.note(HOSTILE, HOSTILE, phone="0912345678")
        async with world.service(admin_token=ADMIN) as service:
            await world.settled()
            await everywhere(world)
            number = int((await world.one("SELECT id FROM listener.messages"))["id"])
            pages = {path.replace("/1", f"/{number}") for method, path in ROUTES if method == "GET"} - NOT_PAGES
            pages |= {f"{path}?q={quote(HOSTILE)}" for path in ("/messages", "/story")}
            pages |= {f"/messages/bulk/cancel?q={quote(HOSTILE)}", "/messages?q=%3Cscript%3E&as=key&state=held"}
            async with visit(service.address, "phone") as seen:
                await seen.login(name=HOSTILE)
                for path in sorted(pages - {"/login", "/messages/bulk/cancel"}):
                    await harmless(seen, path)
                # htmx swaps parts into the page: those too
                await seen.open("/rules/note")
                await seen.page.wait_for_selector("#result .bubble")
                await seen.page.fill("[name=text]", HOSTILE)
                await seen.page.fill("[name=key]", HOSTILE)
                await seen.page.wait_for_selector("#result .note.bad, #result .bubble")
                await nothing_ran(seen)
                # statuses that say no are told to the console
                seen.wrong[:] = [w for w in seen.wrong if not re.search("status of (404|400)", w)]


HOSTILE_RULE = '"<script>window.ran=5</script><img src=x onerror=window.ran=6> {{ new.body }}"'


async def everywhere(world: World) -> None:
    """Hostile words in every place that the page reads and that is not checked when it is written."""
    for query in (
        "INSERT INTO listener.pause (target, value, reason, who) VALUES ('rule', %(x)s, %(x)s, %(x)s)",
        "INSERT INTO listener.brake (rule, reason) VALUES (%(x)s, %(x)s)",
        "INSERT INTO listener.audit (who, verb, what, count, reason) VALUES (%(x)s, %(x)s, %(json)s, 1, %(x)s)",
        "UPDATE listener.replica SET version = %(x)s",
        """UPDATE listener.account SET pause_reason = %(x)s, pause_kind = 'rate', streak = 1, paused_at = now(),
                                      paused_until = now() + interval '1 h'""",
        "UPDATE listener.fleet SET faults = %(faults)s",
        "INSERT INTO listener.tally VALUES (date_trunc('hour', now()), %(x)s, 'accepted', 1, 1)",
        """INSERT INTO listener.muted (watch, op, key, old, new, at, reason)
           VALUES (%(x)s, 'insert', %(x)s, NULL, %(json)s, now(), %(x)s)""",
    ):
        fault = {"file": HOSTILE, "line": 1, "col": 1, "message": HOSTILE, "hint": HOSTILE}
        args = {"x": HOSTILE, "json": Jsonb({HOSTILE: HOSTILE, "ids": [HOSTILE]}), "faults": Jsonb([fault])}
        await world.db.execute(query.encode(), args)


async def harmless(seen: Visit, path: str) -> None:
    await seen.open(path)
    await nothing_ran(seen)
    await seen.photograph(f"hostile{re.sub('[^a-z]+', '-', path)[:30].rstrip('-')}")


async def nothing_ran(seen: Visit) -> None:
    page = seen.page
    assert await page.evaluate("window.ran") is None, page.url
    assert await page.evaluate("document.querySelectorAll('main script, main img, main svg[onload]').length") == 0
    assert await page.evaluate("document.querySelectorAll('a[href^=\"javascript:\" i]').length") == 0, page.url
    on = "[...document.querySelectorAll('*')].filter(e => [...e.attributes].some(a => a.name.startsWith('on'))).length"
    assert await page.evaluate(on) == 0, page.url
