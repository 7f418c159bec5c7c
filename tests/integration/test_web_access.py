"""F78: the page's door: closed without a token, no change without a form of ours, the same headers on every answer."""

import asyncio
import socket

import pytest
from yarl import URL

from tests.support.browser import ADMIN, VIEW, person
from tests.support.world import open_world

PAGES = ("/",)
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
}


def tokens() -> dict[str, str]:
    return {"admin_token": ADMIN, "view_token": VIEW}


async def test_without_a_token_there_is_only_a_page_that_says_how_to_set_one(erp_database: str) -> None:
    async with open_world(erp_database) as world, world.service() as service, person(service.address, None) as somebody:
        for path in (*PAGES, "/live", "/login", "/anything"):
            answer = await somebody.get(path)
            assert answer.status == 403, path
            assert "LISTENER_ADMIN_TOKEN" in answer.text
        assert (await somebody.login("")).status == 403
        assert (await somebody.get("/healthz")).status == 200


async def test_refuses_whoever_has_no_session(erp_database: str) -> None:
    async with open_world(erp_database) as world:
        await world.note("a", "canary text")
        async with world.service(**tokens()) as service, person(service.address, None) as somebody:
            await world.settled()
            for path in (*PAGES, "/live", f"/?token={ADMIN}", "/anything"):
                answer = await somebody.get(path)
                assert (answer.status, answer.headers["Location"]) == (302, "/login"), path
                assert "canary" not in answer.text
            live = await somebody.get("/", **{"HX-Request": "true"})
            assert (live.status, live.headers["HX-Redirect"]) == (401, "/login")
            for method in ("POST", "PUT", "DELETE", "PATCH", "TRACE"):
                async with somebody.http.request(method, f"{service.address}/", allow_redirects=False) as response:
                    assert response.status in (302, 403, 405), method
            assert (await somebody.login("wrong")).status == 403
            forged = await somebody.get("/", Cookie="listener_session=eyJyb2xlIjoib3BlcmF0ZSJ9.00")
            assert forged.status == 302
            assert (await somebody.get("/static/../app.py")).status in (302, 403, 404)
            assert "def make_app" not in (await somebody.get("/static/..%2f..%2fapp.py")).text
            assert "root:" not in (await somebody.get("/static/%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd")).text


async def test_a_login_leads_back_to_the_page_that_was_wanted(erp_database: str) -> None:
    async with (
        open_world(erp_database) as world,
        world.service(**tokens()) as service,
        person(service.address, None) as somebody,
    ):
        wanted = "/messages?q=th\u1ebb+12&state=waiting"
        sent = await somebody.get(wanted, Accept="text/html,*/*")
        # what is looked for may be a phone, and an address is written into logs
        assert sent.headers["Location"] == "/login"
        assert (await somebody.login("wrong")).status == 403
        back = await somebody.login()
        assert (back.status, (await somebody.get(back.headers["Location"])).status) == (303, 200)
        assert URL(back.headers["Location"]) == URL(wanted)
        # once only
        assert (await somebody.login()).headers["Location"] == "/"


async def test_an_open_page_whose_session_ends_comes_back_after_the_login(erp_database: str) -> None:
    async with (
        open_world(erp_database) as world,
        world.service(**tokens()) as service,
        person(service.address, None) as somebody,
    ):
        for shown, led_to in (
            (f"{service.address}/rules?x=1", "/rules?x=1"),
            (f"{service.address}//evil.example/", "/"),
            ("http://evil.example/rules", "/"),
            ("http://[", "/"),
        ):
            part = await somebody.get("/rules", **{"HX-Request": "true", "HX-Current-URL": shown})
            assert part.headers["HX-Redirect"] == "/login"
            assert (await somebody.login()).headers["Location"] == led_to, shown
            await somebody.post("/logout")
        # what a program asks for beside a page is no page, nor is what a form was sent to
        await somebody.get("/favicon.ico", Accept="image/*")
        await somebody.post("/messages/1/retry", Accept="text/html")
        assert (await somebody.login()).headers["Location"] == "/"


async def test_a_session_sees_the_page_with_safe_headers(erp_database: str) -> None:
    async with (
        open_world(erp_database) as world,
        world.service(**tokens()) as service,
        person(service.address, None) as somebody,
    ):
        login = await somebody.login(VIEW)
        cookie = login.headers["Set-Cookie"]
        assert login.status == 303
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        for path in (*PAGES, "/login", "/nothing", "/healthz", "/static/page.css", "/static/nothing"):
            answer = await somebody.get(path)
            assert HEADERS.items() <= dict(answer.headers).items(), path
            policy = answer.headers["Content-Security-Policy"]
            assert "frame-ancestors 'none'" in policy
            assert "unsafe" not in policy
            assert "Server" not in answer.headers


async def test_changes_need_a_form_of_ours_from_our_own_page(erp_database: str) -> None:
    async with (
        open_world(erp_database) as world,
        world.service(**tokens()) as service,
        person(service.address) as somebody,
    ):
        right = somebody.csrf
        for csrf in ("", "0" * 64, right[:-1] + "é"):
            somebody.csrf = csrf
            assert (await somebody.post("/logout")).status == 403
        somebody.csrf = right
        assert (await somebody.post("/logout", **{"Sec-Fetch-Site": "cross-site"})).status == 403
        assert (await somebody.post("/logout", Origin="https://evil.example")).status == 403
        assert (await somebody.get("/")).status == 200
        assert (await somebody.post("/logout", **{"Sec-Fetch-Site": "same-origin"})).status == 303
        assert (await somebody.get("/")).status == 302


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"--x", "multipart/form-data"),
        (b"--x\r\nContent-Type: text/plain\r\n\r\nv\r\n--x--\r\n", "multipart/form-data; boundary=x"),
        (b"reason=%ff", "application/x-www-form-urlencoded; charset=nonsense"),
        (b"\xff\xfe=1", "application/x-www-form-urlencoded"),
        (b"reason=a%00b&token=a%00b", "application/x-www-form-urlencoded"),
    ],
)
async def test_what_is_no_form_is_refused_and_no_fault(erp_database: str, body: bytes, kind: str) -> None:
    async with (
        open_world(erp_database) as world,
        world.service(**tokens()) as service,
        person(service.address) as somebody,
    ):
        headers = {"X-CSRF-Token": somebody.csrf, "Content-Type": kind}
        for path in ("/login", "/language", "/interventions/pause", "/messages/1/retry", "/rules/note/try"):
            async with somebody.http.post(f"{somebody.address}{path}", data=body, headers=headers) as answer:
                assert answer.status == 400, path


async def test_wrong_logins_are_slowed(erp_database: str) -> None:
    async with (
        open_world(erp_database) as world,
        world.service(**tokens()) as service,
        person(service.address, None) as somebody,
    ):
        answers = [await somebody.login("wrong") for _ in range(20)]
        assert [a.status for a in answers].count(403) < 12
        assert answers[-1].status == 429
        assert int(answers[-1].headers["Retry-After"]) > 0
        assert (await somebody.login(ADMIN)).status == 429


@pytest.mark.parametrize(
    "back",
    [
        "//evil.example/",
        "https://evil.example",
        "/\\evil.example",
        "javascript:alert(1)",
        "/\n/evil.example",
        "/\t/evil.example",
    ],
)
async def test_the_language_is_kept_and_leads_nowhere_else(erp_database: str, back: str) -> None:
    async with (
        open_world(erp_database) as world,
        world.service(**tokens()) as service,
        person(service.address) as somebody,
    ):
        assert 'lang="vi"' in (await somebody.get("/")).text
        answer = await somebody.post("/language", {"language": "en", "back": back})
        assert (answer.status, answer.headers["Location"]) == (303, "/")
        assert 'lang="en"' in (await somebody.get("/")).text
        await somebody.post("/language", {"language": "xx", "back": "/"})
        assert 'lang="en"' in (await somebody.get("/")).text


async def live_stream(address: str, cookie: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """The live stream, read past its head."""
    host, port = address.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port), family=socket.AF_INET)
    writer.write(f"GET /live HTTP/1.1\r\nHost: {host}:{port}\r\nCookie: {cookie}\r\n\r\n".encode())
    await reader.readuntil(b"retry:")
    return reader, writer


async def test_a_page_that_was_drawn_as_something_moved_is_told_when_its_stream_opens(
    erp_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever looked already was told, and who comes next was asked for before that."""
    monkeypatch.setattr("listener.web.live._EVERY", 3600.0)
    async with (
        open_world(erp_database) as world,
        world.service(**tokens()) as service,
        person(service.address) as somebody,
        asyncio.timeout(10),
    ):
        for _ in range(2):
            async with somebody.http.get(f"{service.address}/live") as response:
                await response.content.readuntil(b"event: moved")


async def test_the_live_stream_tells_of_a_new_message_and_ends_with_the_service(erp_database: str) -> None:
    async with open_world(erp_database) as world:
        async with world.service(**tokens()) as service, person(service.address) as somebody:
            assert service.address is not None
            jar = {c.key: c.value for c in somebody.http.cookie_jar}
            reader, writer = await live_stream(service.address, f"listener_session={jar['listener_session']}")
            await reader.readuntil(b"event: moved")
            # a browser's other requests need connections too
            more = [await somebody.http.get(f"{service.address}/live") for _ in range(5)]
            assert [response.status for response in more] == [200, 200, 200, 204, 204]
            for response in more:
                response.close()
            # windows that are closed make room at once
            for _ in range(10):
                async with somebody.http.get(f"{service.address}/live") as response:
                    assert response.status == 200
                    await response.content.readuntil(b"\n\n")
                    response.close()
            await world.note("a", "one")
            async with asyncio.timeout(10):
                await reader.readuntil(b"event: moved")
        async with asyncio.timeout(5):
            await reader.read()
        writer.close()
