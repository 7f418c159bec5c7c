"""Pages from templates: one Jinja environment of its own, everything escaped, words in the reader's language."""

import hashlib
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from aiohttp import web
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from listener import phones, reasons
from listener.pauses import endless
from listener.web.access import SESSION, Session
from listener.web.concerns import Concern
from listener.web.texts import DEFAULT, LANGUAGES, words
from listener.words import LOCAL
from listener.words import moment as in_full

HERE = Path(__file__).parent
LANGUAGE_COOKIE = "listener_lang"


@cache
def _environment() -> Environment:
    env = Environment(
        loader=FileSystemLoader(HERE / "pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    env.filters.update(moment=moment, clock=clock, number=number, spell=spell, reason=shown_reason, field=field)
    env.filters.update(phone=shown_phone, key=shown_key, target=shown_target, said=said, body=shown_body, why=shown_why)
    env.tests.update(endless=endless)
    env.globals.update(asset=asset, languages=LANGUAGES)
    return env


@cache
def asset(path: str) -> str:
    """The address of a static file, with its digest, so that a browser may keep it for good."""
    digest = hashlib.sha256((HERE / "static" / path).read_bytes()).hexdigest()[:12]
    return f"/static/{path}?v={digest}"


def language(request: web.Request) -> str:
    """The reader's language: the cookie's, else Vietnamese."""
    chosen = request.cookies.get(LANGUAGE_COOKIE, DEFAULT)
    return chosen if chosen in LANGUAGES else DEFAULT


def wants_part(request: web.Request) -> bool:
    """Whether only the live part of the page is asked for."""
    return request.headers.get("HX-Request") == "true"


def render(request: web.Request, template: str, *, code: int = 200, **values: Any) -> web.Response:
    """A page, or its live part alone (`_{template}`) when htmx asks."""
    lang = language(request)
    session = request.get(SESSION)
    part = wants_part(request) and f"_{template}" in _environment().list_templates()
    text = (
        _environment()
        .get_template(f"_{template}" if part else template)
        .render(
            t=SimpleNamespace(**words(lang)),
            lang=lang,
            session=session,
            **{"here": _address(request), "path": request.path, **values},
        )
    )
    return web.Response(text=text, content_type="text/html", status=code)


def _address(request: web.Request) -> str:
    """Where a page is found again: for one that only a form leads to, the first screen."""
    resource = request.match_info.route.resource
    looked_at = resource is not None and any(route.method == "GET" for route in resource)
    return request.path_qs if looked_at or request.method != "POST" else "/"


def moment(value: datetime | None) -> str:
    """A time for people: `22/11/2026 10:00:05`, `-` for none or for one that never comes."""
    if value is None or endless(value):
        return "-"
    return in_full(value)


def clock(value: datetime | None) -> str:
    """Only the time of the day for today, day and time for others, with the year for those of another one."""
    if value is None or endless(value):
        return "-"
    local = value.astimezone(LOCAL)
    today = datetime.now(LOCAL).date()
    if local.date() == today:
        return local.strftime("%H:%M:%S")
    return local.strftime("%d/%m %H:%M" if local.year == today.year else "%d/%m/%Y %H:%M")


def field(value: datetime | None) -> str:
    """As a `datetime-local` field takes it; nothing for none."""
    return value.astimezone(LOCAL).strftime("%Y-%m-%dT%H:%M") if value is not None else ""


def number(value: float | None) -> str:
    """1.234.567 as Vietnam writes it; `-` for none."""
    return "-" if value is None else f"{value:,.0f}".replace(",", ".")


def spell(seconds: float | None, lang: str) -> str:
    """A length of time in one or two units."""
    t = words(lang)
    if seconds is None:
        return "-"
    if seconds < 90:
        return f"{seconds:.0f} {t['second']}"
    minutes = timedelta(seconds=seconds) // timedelta(minutes=1)
    if minutes < 90:
        return f"{minutes} {t['minute']}"
    hours, rest = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} {t['hour']}" + (f" {rest} {t['minute']}" if rest else "")
    return f"{hours // 24} {t['day']}"


def shown_phone(value: str | None) -> str:
    """A phone, masked for everybody: whoever needs the whole number asks for it, and that is written down."""
    return phones.mask_phone(value) if value else "-"


def shown_key(value: str) -> str:
    """The key of an order or account; masked where it is somebody's phone, or holds one."""
    return phones.mask_value(value)


def sees_texts(session: Session | None) -> bool:
    """Whether somebody may read what customers are told: names, balances, phones in a text. Not who may only look."""
    return session is not None and session.operates


def shown_body(value: str | None, session: Session | None, lang: str) -> str:
    """The text of a message, or why it is not shown."""
    t = words(lang)
    if not value:
        return t["no_text"]
    return value if sees_texts(session) else t["hidden_text"]


def shown_reason(value: str | None, lang: str) -> str:
    """A reason as it was written down, in the reader's language as far as it is one of ours."""
    if not value:
        return ""
    return reasons.in_vietnamese(value) if lang == "vi" else value


def shown_why(value: str | None, lang: str, session: Session | None) -> str:
    """The same of one message: without the values and foreign words in it for those who may not read texts."""
    if not value or sees_texts(session):
        return shown_reason(value, lang)
    return reasons.without_values(value, lang == "vi")


def shown_target(value: str, lang: str) -> str:
    """What a pause stops, as `pauses.Target` writes it, in the reader's language."""
    scope, _, name = value.partition(" ")
    word = words(lang)[f"target_{'all' if scope == 'everything' else scope}"]
    return f"{word} {name}" if name else word


def said(concern: Concern, lang: str, whole: bool = True) -> str:
    """A concern as a sentence; unless `whole`, without foreign words in its reason."""
    shown = dict(concern.values)
    shown["s"] = "" if shown.get("n") == 1 else "s"
    for name, value in shown.items():
        match name:
            case "reason":
                shown[name] = shown_reason(value, lang) if whole else reasons.without_values(value, lang == "vi")
            case "seconds":
                shown[name] = spell(value, lang)
            case "at":
                shown[name] = clock(value)
            case "n":
                shown[name] = number(value)
            case "first":
                first = said(value, lang, whole)
                shown[name] = first[:1].lower() + first[1:]
            case "what":
                shown[name] = shown_target(value, lang)
    return words(lang)[concern.text].format(**shown)
