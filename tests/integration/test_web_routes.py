"""F78: every address of the page, as the application lists them: who may open it; and looking changes nothing."""

import re
from collections.abc import Iterator

import aiohttp
import pytest

from listener.settings import Settings
from listener.web.app import make_app
from tests.integration.test_web_access import HEADERS
from tests.support.browser import ADMIN, VIEW, person
from tests.support.world import World, open_world

OPEN = {"/login", "/language", "/healthz", "/readyz", "/metrics", "/static"}
# a stream that does not end, tried in test_web_access.py
ENDLESS = "/live"
PARTS = {"id": "1", "name": "note", "verb": "cancel", "number": "x"}
# what those who may only look may send: their own language and leave, and a text to be tried on a row they type
OWN = {"/logout", "/language", "/login", "/rules/note/try"}


def routes() -> Iterator[tuple[str, str]]:
    """Method and path of every route, its parts filled in."""
    for route in make_app(Settings(admin_token=ADMIN)).router.routes():
        path = route.resource.canonical if route.resource is not None else ""
        if route.method in ("GET", "POST"):
            yield route.method, re.sub(r"\{(\w+)[^}]*\}", lambda found: PARTS[found[1]], path)


ROUTES = sorted(set(routes()))


def test_the_list_is_whole() -> None:
    assert len(ROUTES) > 25
    paths = {path for _, path in ROUTES}
    for path in (
        "/",
        "/messages",
        "/messages/1",
        "/messages/1/cancel",
        "/rules/note",
        "/interventions/pause",
        "/audit",
    ):
        assert path in paths


async def test_nobody_without_a_session_gets_past_the_door(erp_database: str) -> None:
    async with open_world(erp_database) as world:
        await world.note("a", "canary text", phone="0912345678")
        async with (
            world.service(admin_token=ADMIN, view_token=VIEW) as service,
            person(service.address, None) as nobody,
        ):
            await world.settled()
            before = await everything(world)
            for method, path in ROUTES:
                if path in OPEN:
                    continue
                for query, headers in (
                    ("", {}),
                    (f"?token={ADMIN}", {}),
                    ("", {"Authorization": f"Bearer {ADMIN}"}),
                    ("", {"Cookie": f"listener_session={ADMIN}"}),
                    ("", {"X-HTTP-Method-Override": "GET", "X-Forwarded-For": "127.0.0.1", "X-Original-URL": "/login"}),
                ):
                    ask = nobody.get if method == "GET" else nobody.post
                    answer = await ask(path + query, **headers)
                    assert answer.status in (302, 403), (method, path, headers)
                    assert "canary" not in answer.text
                    assert HEADERS.items() <= dict(answer.headers).items(), path
            assert await everything(world) == before


async def test_looking_changes_nothing_and_says_so_to_caches_and_frames(erp_database: str) -> None:
    async with open_world(erp_database) as world:
        await world.note("a", "one")
        async with world.service(admin_token=ADMIN) as service, person(service.address) as boss:
            await world.settled()
            before = await everything(world)
            for method, path in ROUTES:
                if path in (ENDLESS, "/static"):
                    continue
                for verb in {method, "GET", "HEAD"} - {"POST"}:
                    async with boss.http.request(verb, boss.address + path, allow_redirects=False) as answer:
                        assert answer.status in (200, 302, 303, 404, 405), (verb, path)
                        assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
                        assert answer.headers["Cache-Control"] == "no-store"
                        assert HEADERS.items() <= dict(answer.headers).items(), path
            # a CSV holds whole numbers, and that somebody took one is written down
            assert await everything(world) - before == {("audit", "reveal")}


async def test_those_who_may_only_look_and_other_sites_forms_do_nothing(erp_database: str) -> None:
    form = {"reason": "x", "target": "all", "rule": "note", "upto": 99, "count": 99, "capture_failures": 1, "text": "x"}
    async with open_world(erp_database) as world, world.service(admin_token=ADMIN, view_token=VIEW) as service:
        await world.note("a", "one")
        await world.settled()
        before = await everything(world)
        async with person(service.address, VIEW) as somebody, person(service.address) as boss:
            for path in (path for method, path in ROUTES if method == "POST"):
                if path not in OWN:
                    assert (await somebody.post(path, form)).status == 403, path
                for headers in (
                    {"Origin": "https://evil.example"},
                    {"Sec-Fetch-Site": "cross-site"},
                    {"Origin": "null"},
                ):
                    assert (await boss.post(path, form, **headers)).status == 403, (path, headers)
                if path not in OPEN:
                    async with boss.http.post(boss.address + path, data=form) as answer:
                        assert answer.status == 403, path
        assert await everything(world) == before


async def everything(world: World) -> set[tuple[str, str]]:
    """What people could have changed."""
    rows = await world.rows(
        """SELECT 'message' AS what, id || state AS how FROM listener.messages UNION ALL
           SELECT 'pause', target || value FROM listener.pause UNION ALL
           SELECT 'audit', verb FROM listener.audit UNION ALL
           SELECT 'brake', rule FROM listener.brake"""
    )
    return {(row["what"], row["how"]) for row in rows}


@pytest.mark.parametrize(
    "path",
    ["/static/../app.py", "/static/..%2f..%2fapp.py", "/static/%2e%2e/%2e%2e/app.py", "/static/....//app.py",
     "/static//etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/static/vendor/../../store.py", "/static/\\..\\app.py"],
)  # fmt: skip
async def test_no_path_leads_out_of_the_static_files(erp_database: str, path: str) -> None:
    async with (
        open_world(erp_database) as world,
        world.service(admin_token=ADMIN) as service,
        aiohttp.ClientSession() as anybody,
        anybody.get(aiohttp.client.URL(f"{service.address}{path}", encoded=True), allow_redirects=False) as answer,
    ):
        assert answer.status in (302, 400, 403, 404)
        text = await answer.text()
        assert "import" not in text
        assert "root:" not in text
