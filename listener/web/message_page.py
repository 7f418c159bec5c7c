"""One message: what the customer sees, how it came about, what happened to it, what a person can do about it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from aiohttp import web

from listener import overview
from listener.database import Connection
from listener.errors import RulesError
from listener.interventions import FROM, Verb, act, arrived
from listener.model import State
from listener.pauses import audit
from listener.phones import mask_phone
from listener.rules import load
from listener.sentences import Language, sentence
from listener.settings import Settings
from listener.web import forms, store
from listener.web.access import SESSION, operator
from listener.web.page import language, render, sees_texts, shown_why
from listener.web.store import Store
from listener.why import Entry, Kind, why

# the deed on an unclear message that `retry` is the other answer to
ARRIVED = "arrived"
# shows the whole number, and is written down
REVEAL = "reveal"
_MOVED_ON = "it is not unclear any more"


class OneMessage:
    """Answers `/messages/{id}`, its deeds, and the story of its phone."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self._settings = settings
        self._store = store

    async def page(self, request: web.Request) -> web.Response:
        return await self._show(request, revealed=False)

    async def _show(self, request: web.Request, *, revealed: bool) -> web.Response:
        number = _number(request)
        async with self._store.reading() as conn:
            row = await overview.message(conn, number, reveal=True)
            if row is None:
                raise web.HTTPNotFound
            told = await why(conn, row["key"], reveal=revealed)
            deeds = await store.rows(conn, "deeds_on", {"id": number})
            rule = await _rule_then(conn, row["rules_version"], row["rule"])
        return render(
            request,
            "message.html",
            here=f"/messages/{number}",
            m=row,
            revealed=revealed,
            length=len(row["text"] or ""),
            entries=_said(request, [e for e in told.entries if _about(e, row)]),
            deeds=deeds,
            rule=rule,
            may=may(State(row["state"])),
            told=request.query.get("done"),
        )

    async def story(self, request: web.Request) -> web.Response:
        """Everything about the phone of a message, or about what was searched for."""
        async with self._store.reading() as conn:
            asked = request.query.get("q", "").strip()[:200].replace("\0", "")
            if "id" in request.match_info:
                row = await overview.message(conn, _number(request), reveal=True)
                if row is None:
                    raise web.HTTPNotFound
                asked = row["phone"] or row["key"]
            told = await why(conn, asked)
        entries = _said(request, told.entries)
        return render(request, "story.html", what=told.phone or told.key, entries=entries, cut=told.cut)

    async def do(self, request: web.Request) -> web.StreamResponse:
        """A deed on one message, by whoever operates; the audit has their name and reason."""
        number, name = _number(request), request.match_info["verb"]
        session = operator(request)
        if name == REVEAL:
            async with self._store.acting() as conn:
                await audit(conn, session.who, REVEAL, {"ids": [number]}, 1, None)
            return await self._show(request, revealed=True)
        if name != ARRIVED and name not in set(Verb):
            raise web.HTTPNotFound
        given = forms.reason(await request.post())
        async with self._store.acting() as conn:
            if name == ARRIVED:
                why_not = None if await arrived(conn, number, by=session.who, reason=given) else _MOVED_ON
            else:
                deed = await act(conn, self._settings, Verb(name), [number], by=session.who, reason=given)
                why_not = deed.skipped.get(number)
        if why_not is not None:
            return render(request, "not_done.html", code=409, here=f"/messages/{number}", number=number, why=why_not)
        return web.Response(status=303, headers={"Location": f"/messages/{number}?done=1"})


def may(state: State) -> list[str]:
    """What a person can do to a message in this state, the likeliest first."""
    verbs = [verb.value for verb in (Verb.RELEASE, Verb.RETRY, Verb.CANCEL) if state in FROM[verb]]
    if state is State.HELD:
        # released, a held message is sent; `retry` would do the same
        verbs.remove(Verb.RETRY)
    if state is State.UNKNOWN:
        return [ARRIVED, Verb.RETRY]
    return verbs


def _number(request: web.Request) -> int:
    number = int(request.match_info["id"])
    if not 0 < number < 2**63:
        raise web.HTTPNotFound
    return number


def _about(entry: Entry, row: Mapping[str, Any]) -> bool:
    """Whether an entry of the key's story is about this message."""
    facts = entry.facts
    match entry.kind:
        case Kind.CHANGE:
            return bool(facts["change_id"] == row["change_id"])
        case Kind.MESSAGE:
            return bool(facts["id"] == row["id"])
        case Kind.ATTEMPT:
            return bool(facts["message_id"] == row["id"])
        case Kind.VERDICT | Kind.SUPPRESSION:
            return False
        case Kind.PAUSE:
            stopped_by = {"everything", f"account {row['account']}", f"rule {row['rule']}"}
            if row["phone"]:
                stopped_by.add(f"phone {mask_phone(row['phone'])}")
            over = row["settled_at"] is not None and row["settled_at"] < entry.at
            return row["created_at"] <= entry.at and not over and not stopped_by.isdisjoint(facts["targets"])


def _said(request: web.Request, entries: Sequence[Entry]) -> list[tuple[Entry, str]]:
    lang = language(request)
    shown = entries if sees_texts(request[SESSION]) else [_veiled(entry, lang) for entry in entries]
    return [(entry, sentence(entry, Language(lang))) for entry in shown]


def _veiled(entry: Entry, lang: str) -> Entry:
    """What happened, without what is told to customers: no value of a row, no text, nobody's own words."""
    facts = {**entry.facts}
    for name in ("reason", "detail"):
        if facts.get(name):
            facts[name] = shown_why(facts[name], lang, None)
    if "differences" in facts:
        facts["differences"] = [(column, "…", "…") for column, _, _ in facts["differences"]]
    return replace(entry, facts=facts)


async def _rule_then(conn: Connection, version: int, name: str) -> str | None:
    """The rule as its file had it when the message was made, without the lines around it."""
    found = await store.rows(conn, "rule_source", {"version": version})
    if not found:
        return None
    source: str = found[0]["source"]
    try:
        document = load(source, "rules.yaml")
    except RulesError:
        return None
    line, col = document.position(("rules", name), key=True)
    lines = source.splitlines()
    if not lines[line - 1].lstrip(" \"'").startswith(name):
        return None
    taken = [lines[line - 1]]
    for text in lines[line:]:
        if text.strip() and len(text) - len(text.lstrip()) < col:
            break
        taken.append(text)
    return "\n".join(text[col - 1 :] for text in taken).rstrip()
