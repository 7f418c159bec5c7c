"""The page's application: routes, and what holds for every request and every answer."""

import time
from collections.abc import Awaitable, Callable
from time import monotonic
from urllib.parse import quote, unquote

import psycopg
import structlog
from aiohttp import hdrs, web
from aiohttp.typedefs import Middleware

from listener.database import LOST
from listener.errors import ListenerError, OutOfReachError, describe
from listener.settings import Settings
from listener.web.access import SESSION, SESSION_S, Access, Throttle, same_origin
from listener.web.bulk_page import Bulk
from listener.web.health import Health
from listener.web.interventions_page import Interventions
from listener.web.live import Live
from listener.web.message_page import OneMessage
from listener.web.messages_page import Messages
from listener.web.metrics import Metrics
from listener.web.overview_page import Overview
from listener.web.page import HERE, LANGUAGE_COOKIE, render, wants_part
from listener.web.rules_page import RulePages
from listener.web.store import Store
from listener.web.texts import LANGUAGES

log = structlog.get_logger()

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

SESSION_COOKIE = "listener_session"
# the page that somebody asked for before they logged in; in no address, for what is looked for may be a phone
BACK_COOKIE = "listener_back"
_BACK_S = 600
# served to anybody: nothing personal is in them
_OPEN = frozenset({"/healthz", "/readyz", "/metrics", "/login", "/language"})
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # not "no-referrer", which would hide from us whether a form came from our own page
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_MOST = 64 * 1024
# the database is there, but gave up what was asked: it waited for a lock, or took too long
_IN_VAIN = (psycopg.errors.LockNotAvailable, psycopg.errors.QueryCanceled)


def make_app(settings: Settings, health: Health | None = None) -> web.Application:
    """The page, and `/metrics` with what `health` knows; it opens a connection only when somebody looks."""

    def access() -> Access:
        """Anew for every request, as tokens in files may be."""
        return Access(settings.fresh("admin_token"), settings.fresh("view_token"))

    store = Store(settings)
    overview = Overview(settings, store, health)
    app = web.Application(middlewares=[_faults, _gate(access)], client_max_size=_MOST)
    app.on_response_prepare.append(_head)

    async def close(_app: web.Application) -> None:
        await store.close()

    app.on_cleanup.append(close)
    live = Live(store)
    app.cleanup_ctx.append(live.run)
    app.on_shutdown.append(live.close)
    app.router.add_get("/live", live.stream, allow_head=False)
    logins = _Logins(access)
    app.router.add_get("/", overview.page)
    app.router.add_get("/login", logins.form)
    app.router.add_post("/login", logins.login)
    app.router.add_post("/logout", _logout)
    app.router.add_post("/language", _language)
    messages, message = Messages(store), OneMessage(settings, store)
    app.router.add_get("/messages", messages.page)
    app.router.add_get("/messages.csv", messages.export, allow_head=False)
    bulk = Bulk(settings, store)
    app.router.add_get("/messages/bulk/{verb}", bulk.ask)
    app.router.add_post("/messages/bulk/{verb}", bulk.do)
    app.router.add_get(r"/messages/{id:\d{1,19}}", message.page)
    app.router.add_get(r"/messages/{id:\d{1,19}}/story", message.story)
    app.router.add_post(r"/messages/{id:\d{1,19}}/{verb}", message.do)
    app.router.add_get("/story", message.story)
    hand = Interventions(settings, store)
    app.router.add_get("/interventions", hand.page)
    app.router.add_get("/audit", hand.audit)
    for verb, deed in (
        ("pause", hand.pause),
        ("resume", hand.resume),
        ("release", hand.release),
        ("release-muted", hand.release_muted),
        ("seen", hand.seen),
    ):
        app.router.add_post(f"/interventions/{verb}", deed)
    rules = RulePages(settings, store)
    app.router.add_get("/rules", rules.page)
    app.router.add_get("/rules/{name}", rules.one)
    app.router.add_post("/rules/{name}/try", rules.try_out)
    app.router.add_post("/rules/{name}/replay", rules.replay)
    app.router.add_get(r"/rules/{name}/replay/{number:\w+}", rules.replaying)
    app.router.add_post(r"/rules/{name}/replay/{number:\w+}/cancel", rules.cancel)
    app.on_shutdown.append(rules.close)
    metrics = Metrics(store, overview, settings.mode, health)
    app.on_shutdown.append(metrics.close)
    app.router.add_get("/metrics", metrics.page)
    app.router.add_static("/static", HERE / "static")
    return app


async def _head(request: web.Request, response: web.StreamResponse) -> None:
    """On every answer, whoever made it."""
    for name, value in _HEADERS.items():
        response.headers[name] = value
    keep = request.path.startswith("/static/") and "v" in request.query and response.status == 200
    response.headers["Cache-Control"] = "public, max-age=31536000, immutable" if keep else "no-store"
    response.headers.popall(hdrs.SERVER, None)


@web.middleware
async def _faults(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every fault becomes a page that says what to do; nothing of its inside is shown."""
    try:
        try:
            return await handler(request)
        except _IN_VAIN:
            raise
        except LOST:
            # a connection that broke while nobody looked: the next one is new
            if request.method not in ("GET", "HEAD"):
                raise
            return await handler(request)
    except _IN_VAIN as error:
        log.warning("page_without_database", error=describe(error))
        return render(request, "fault.html", code=503, title="e_slow", why="e_slow_why")
    except (*LOST, OutOfReachError) as error:
        log.warning("page_without_database", error=describe(error))
        answer = render(request, "fault.html", code=503, title="e_database", why="e_database_why")
        if request.method == "GET":
            # the page comes back by itself, also where no script runs
            answer.headers["Refresh"] = "10"
        return answer
    except web.HTTPException as error:
        if error.status < 400 or error.headers.get("HX-Redirect"):
            raise
        known = {403: "e_forbidden", 404: "e_absent", 405: "e_method", 413: "e_large"}
        answer = render(
            request, "fault.html", code=error.status, title=known.get(error.status, "e_request"), why="e_back"
        )
        if "Allow" in error.headers:
            answer.headers["Allow"] = error.headers["Allow"]
        return answer
    except ListenerError as error:
        return render(request, "fault.html", code=400, title="e_request", why="e_back", said=str(error))
    except Exception as error:
        place = error.__traceback__
        while place is not None and place.tb_next is not None:
            place = place.tb_next
        where = f"{place.tb_frame.f_code.co_name}:{place.tb_lineno}" if place else ""
        log.error("page_failed", error=describe(error), where=where, path=request.path)
        return render(request, "fault.html", code=500, title="e_own", why="e_own_why")


def _gate(access_now: Callable[[], Access]) -> Middleware:
    @web.middleware
    async def gate(request: web.Request, handler: Handler) -> web.StreamResponse:
        """Nobody without a session, no change from elsewhere, no deed by those who may only look."""
        access = access_now()
        request[SESSION] = session = access.session(request.cookies.get(SESSION_COOKIE, ""), time.time())
        if request.method == "POST":
            if not same_origin(request.headers, request.host):
                raise web.HTTPForbidden
            await _read_form(request)
        if request.path in _OPEN or request.path.startswith("/static/"):
            return await handler(request)
        if not access.is_set:
            return render(request, "locked.html", code=403)
        if session is None:
            if wants_part(request) and request.method != "GET":
                # nobody is led away from what they are writing
                return render(request, "fault.html", code=401, title="e_session", why="e_session_why")
            raise _to_login(request)
        if request.method not in ("GET", "HEAD"):
            given = request.headers.get("X-CSRF-Token") or (await request.post()).get("csrf", "")
            if not (isinstance(given, str) and access.same(given, session.csrf)):
                raise web.HTTPForbidden
        return await handler(request)

    return gate


def _to_login(request: web.Request) -> web.HTTPException:
    """Leads to the way in, and notes the page that is shown or asked for, to be led back to."""
    answer: web.HTTPException
    if wants_part(request):
        answer = web.HTTPUnauthorized(headers={"HX-Redirect": "/login"})
        back = request.headers.get("HX-Current-URL", "").partition(request.host)[2]
    else:
        answer = web.HTTPFound("/login")
        asked = request.method == "GET" and "text/html" in request.headers.get("Accept", "")
        back = request.path_qs if asked else ""
    if back:
        answer.set_cookie(BACK_COOKIE, quote(back), max_age=_BACK_S, httponly=True, samesite="Strict", path="/login")
    return answer


async def _read_form(request: web.Request) -> None:
    """Reads what was sent, for the handlers to have. Raises `HTTPBadRequest` when it is no form, or when it holds the
    one character that PostgreSQL takes in no text."""
    try:
        form = await request.post()
    except (ValueError, LookupError):
        raise web.HTTPBadRequest from None
    if any("\0" in value for value in form.values() if isinstance(value, str)):
        raise web.HTTPBadRequest


class _Logins:
    """The way in."""

    def __init__(self, access: Callable[[], Access]) -> None:
        self._access = access
        self._throttle = Throttle()

    async def form(self, request: web.Request) -> web.StreamResponse:
        if not self._access().is_set:
            return render(request, "locked.html", code=403)
        if request[SESSION] is not None:
            raise web.HTTPFound("/")
        return render(request, "login.html", fault=None)

    async def login(self, request: web.Request) -> web.StreamResponse:
        if not self._access().is_set:
            return render(request, "locked.html", code=403)
        address = request.remote or ""
        wait = self._throttle.wait(address, monotonic())
        if wait > 0:
            answer = render(request, "login.html", code=429, fault="login_slow")
            answer.headers["Retry-After"] = str(int(wait) + 1)
            return answer
        given = await request.post()
        access = self._access()
        role = access.role_of(str(given.get("token", "")).strip())
        if role is None:
            log.warning("login_refused", address=address)
            return render(request, "login.html", code=403, fault="login_wrong")
        self._throttle.forget(address)
        back = request.cookies.get(BACK_COOKIE)
        answer = web.Response(status=303, headers={"Location": _ours(unquote(back or "/"))})
        answer.set_cookie(
            SESSION_COOKIE,
            access.cookie(role, str(given.get("name", "")), time.time()),
            max_age=SESSION_S,
            httponly=True,
            samesite="Strict",
            secure=request.secure or request.headers.get("X-Forwarded-Proto") == "https",
            path="/",
        )
        if back is not None:
            answer.del_cookie(BACK_COOKIE, path="/login")
        return answer


async def _logout(_request: web.Request) -> web.StreamResponse:
    answer = web.Response(status=303, headers={"Location": "/login"})
    answer.del_cookie(SESSION_COOKIE, path="/")
    return answer


async def _language(request: web.Request) -> web.StreamResponse:
    given = await request.post()
    chosen = given.get("language")
    answer = web.Response(status=303, headers={"Location": _ours(str(given.get("back", "/")))})
    if chosen in LANGUAGES:
        answer.set_cookie(LANGUAGE_COOKIE, str(chosen), max_age=365 * 86400, httponly=True, samesite="Strict", path="/")
    return answer


def _ours(back: str) -> str:
    """Where somebody is led back to: only to a page of ours. Browsers leave tabs and line ends out of an address."""
    return back if back.startswith("/") and not back.startswith(("//", "/\\")) and back.isprintable() else "/"
