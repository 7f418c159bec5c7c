"""Pauses and brakes, and the record of what people did by hand."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from aiohttp import web

from listener import accounts, overview, pauses, phones
from listener.errors import ListenerError
from listener.interventions import Verb, act, candidates, muted, release_muted
from listener.pauses import Scope, Target
from listener.settings import Settings
from listener.web import forms
from listener.web.access import Session, operator
from listener.web.page import language, moment, render, shown_target
from listener.web.store import Store
from listener.web.texts import words
from listener.words import LOCAL, mask_phones

# how long a pause lasts, as the page offers it; None until somebody resumes
SPANS: Mapping[str, timedelta | None] = {
    "30m": timedelta(minutes=30),
    "2h": timedelta(hours=2),
    "8h": timedelta(hours=8),
    "24h": timedelta(hours=24),
    "open": None,
}
_AUDIT_PAGE = 100
# what a deed's number is of, as a word of the page: messages, but for these; None where it says nothing
_COUNTED = {
    "release muted": "audit_changes",
    "forget": "audit_rows",
    "export": "audit_rows",
    "seen": None,
    "unsuppress": None,
}
# of a long list, so many are named
_ITEMS = 20


class Interventions:
    """Answers `/interventions`, its deeds, and `/audit`."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self._settings = settings
        self._store = store

    async def page(self, request: web.Request) -> web.Response:
        return await self._show(request)

    async def pause(self, request: web.Request) -> web.StreamResponse:
        """Stops what the form names."""
        session, form = await _deed(request)
        t = words(language(request))
        try:
            target = _target(form, t)
            reason = forms.reason(form)
            if reason is None:
                raise ListenerError(t["reason_missing"])
            until = _end(form, datetime.now(UTC), t)
            async with self._store.acting() as conn:
                rules = await overview.rules_in_force(conn)
                await pauses.known(conn, target, rules.rules.rules if rules else None)
                held = await pauses.pause(conn, target, reason=reason, until=until, by=session.who)
        except ListenerError as error:
            return await self._show(request, fault=str(error), form=form)
        return _back(f"paused={_held(target, held)}")

    async def resume(self, request: web.Request) -> web.StreamResponse:
        """Ends the pause that the form names."""
        session, form = await _deed(request)
        try:
            target = _target(form, words(language(request)))
        except ListenerError as error:
            return await self._show(request, fault=str(error))
        reason = forms.reason(form)
        async with self._store.acting() as conn:
            released = await pauses.resume(conn, target, reason=reason, by=session.who)
        return _back(f"resumed={_held(target, released or 0)}")

    async def release(self, request: web.Request) -> web.StreamResponse:
        """Lets go of a rule's brake and of the messages that are held of it."""
        session, form = await _deed(request)
        filters = {"rule": form.get("rule", "")}
        async with self._store.acting() as conn:
            ids = [row["id"] for row in await candidates(conn, Verb.RELEASE, filters)]
            reason = forms.reason(form)
            deed = await act(conn, self._settings, Verb.RELEASE, ids, by=session.who, reason=reason, filters=filters)
        return _back(f"released={len(deed.done)}")

    async def release_muted(self, request: web.Request) -> web.StreamResponse:
        """Lets the changes of one watch go their way that were kept out for one reason."""
        session, form = await _deed(request)
        if "watch" not in form or "muted_for" not in form:
            raise web.HTTPBadRequest
        only, reason = {name: form[name] for name in ("watch", "muted_for")}, forms.reason(form)
        async with self._store.acting() as conn:
            released = await release_muted(conn, **only, by=session.who, reason=reason)
        return _back(f"unmuted={released}")

    async def seen(self, request: web.Request) -> web.StreamResponse:
        """A person has taken note of the captures that failed, up to the count that they were shown."""
        session, form = await _deed(request)
        shown = forms.number(form.get("capture_failures"))
        if shown is None:
            raise web.HTTPBadRequest
        async with self._store.acting() as conn:
            # nobody has seen what has yet to fail
            seen = min(shown, await overview.capture_failures(conn))
            await pauses.audit(conn, session.who, "seen", {"capture_failures": seen}, 0, forms.reason(form))
        return web.Response(status=303, headers={"Location": "/"})

    async def audit(self, request: web.Request) -> web.Response:
        before = request.query.get("before", "")
        upto = forms.number(before)
        args = {"before": 2**62 if upto is None else upto, "limit": _AUDIT_PAGE + 1}
        rows = await self._store.rows("audit", args)
        shown = [
            {**row, "what": _what(row["what"], language(request)), "counted": _COUNTED.get(row["verb"], "audit_count")}
            for row in rows[:_AUDIT_PAGE]
        ]
        older = rows[_AUDIT_PAGE - 1]["id"] if len(rows) > _AUDIT_PAGE else None
        return render(request, "audit.html", rows=shown, older=older, first=not before)

    async def _show(
        self, request: web.Request, *, fault: str | None = None, form: Mapping[str, str] | None = None
    ) -> web.Response:
        async with self._store.reading() as conn:
            now = await pauses.pauses(conn)
            brakes = await overview.brakes(conn)
            kept_out = await muted(conn)
            names = [row["name"] for row in await accounts.all_accounts(conn)]
            rules = await overview.rules_in_force(conn)
        done = next(
            ((k, request.query[k]) for k in ("paused", "resumed", "released", "unmuted") if k in request.query), None
        )
        return render(
            request,
            "interventions.html",
            code=400 if fault else 200,
            here="/interventions",
            pauses=now,
            brakes=brakes,
            muted=[{**kind, "shown": mask_phones(kind["reason"])} for kind in kept_out[:_ITEMS]],
            more_muted=len(kept_out) > _ITEMS,
            accounts=names,
            rules=sorted(rules.rules.rules) if rules else [],
            spans=list(SPANS),
            fault=fault,
            form=form or {},
            done=done if done is not None and (done[1].isdigit() or not done[1]) else None,
        )


async def _deed(request: web.Request) -> tuple[Session, Mapping[str, str]]:
    """Who acts, and the form's fields. Raises `HTTPForbidden` for those who may only look."""
    return operator(request), {name: value for name, value in (await request.post()).items() if isinstance(value, str)}


def _held(target: Target, n: int) -> str:
    """How many messages a pause held; nothing for one that stops accounts, whose messages go on waiting."""
    return str(n) if target.scope in (Scope.RULE, Scope.PHONE) else ""


def _back(query: str) -> web.Response:
    return web.Response(status=303, headers={"Location": f"/interventions?{query}"})


def _target(form: Mapping[str, str], t: Mapping[str, str]) -> Target:
    """What a form names: `target` is `all`, `account:NAME`, `rule:NAME`, or `phone` beside `phone`.

    Raises `ListenerError`.
    """
    scope, _, value = form.get("target", "").partition(":")
    if scope not in set(Scope):
        raise ListenerError(t["target_missing"])
    if scope == Scope.PHONE:
        found = phones.normalise(form.get("phone", ""), migrate_old=True)
        if isinstance(found, phones.BadPhone):
            raise ListenerError(phones.reason_text(found))
        value = found.number
    elif (scope == Scope.ALL) != (value == ""):
        raise ListenerError(t["target_missing"])
    return Target(scope=Scope(scope), value=value)


def _end(form: Mapping[str, str], now: datetime, t: Mapping[str, str]) -> datetime | None:
    """When the pause is over: the time given, else the span chosen. Raises `ListenerError`."""
    if given := form.get("until", ""):
        try:
            until = datetime.fromisoformat(given)
        except ValueError:
            raise ListenerError(t["until_bad"]) from None
        until = until if until.tzinfo is not None else until.replace(tzinfo=LOCAL)
        if until <= now:
            raise ListenerError(t["until_over"])
        return until
    span = SPANS.get(form.get("span", "open"))
    return now + span if span else None


def _what(what: Mapping[str, Any], lang: str) -> str:
    """What a deed was about, in a line."""
    t = words(lang)
    said = []
    for name, value in what.items():
        if value is None:
            continue
        items = value if isinstance(value, list) else [value]
        shown = ", ".join(_item(name, item, lang) for item in items[:_ITEMS])
        more = f" … (+{len(items) - _ITEMS})" if len(items) > _ITEMS else ""
        # what a pause stops says itself what it is
        label = "" if name in ("target", "targets") else t.get(f"w_{name}", name) + " "
        said.append(f"{label}{shown}{more}")
    return "; ".join(said)


def _item(name: str, item: object, lang: str) -> str:
    match name:
        case "target" | "targets":
            return shown_target(str(item), lang)
        case "state":
            return words(lang).get(f"st_{item}", str(item))
        case "since" | "until":
            return moment(datetime.fromisoformat(str(item)))
        case _:
            return str(item)
