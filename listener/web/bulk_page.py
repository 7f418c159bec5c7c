"""One deed on all messages that a list shows: how many and which first, then a person's word, then it is done."""

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from listener import overview
from listener.database import Connection
from listener.interventions import FROM, Verb, act
from listener.model import State
from listener.settings import Settings
from listener.web import forms, search
from listener.web.access import Session, operator
from listener.web.page import language, moment, render, shown_key
from listener.web.search import Filter, Found, Meaning, read_filter, understand
from listener.web.store import Store
from listener.web.texts import words

# What a rejected message would be now is judged one by one, which takes its time; the others are one statement.
MOST: Mapping[Verb, int] = {Verb.RETRY: 2_000, Verb.CANCEL: 100_000, Verb.RELEASE: 100_000}
_SHOWN = 5


class Bulk:
    """Answers `/messages/bulk/{verb}` with the query of the list: the question, and the deed."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self._settings = settings
        self._store = store

    async def ask(self, request: web.Request) -> web.Response:
        """What would be done to how many."""
        _, verb = _who_and_what(request)
        after = _number(request.query.get("after", "0"))
        async with self._store.reading() as conn:
            f, found = await asked(conn, request)
            rows = await search.chosen(conn, f, found, states(verb, f), MOST[verb] + 1, after=after)
        return self._question(request, verb, f, found, rows, after)

    async def do(self, request: web.Request) -> web.Response:
        """Does it to what was shown, less what has moved on since; asks again if there is more than was shown."""
        session, verb = _who_and_what(request)
        form = await request.post()
        after, upto, shown = (_number(form.get(name)) for name in ("after", "upto", "count"))
        reason = forms.reason(form)
        async with self._store.acting() as conn:
            f, found = await asked(conn, request)
            rows = await search.chosen(conn, f, found, states(verb, f), MOST[verb] + 1, after=after, upto=upto)
            picked = rows[: MOST[verb]]
            if len(picked) > shown or not reason:
                fault = "bulk_changed" if reason else "reason_missing"
                return self._question(request, verb, f, found, rows, after, fault=fault, reason=reason)
            ids = [row["id"] for row in picked]
            deed = await act(
                conn, self._settings, verb, ids, by=session.who, reason=reason, filters=_for_audit(f, found, verb)
            )
        why = Counter(deed.skipped.values()).most_common(_SHOWN)
        return render(
            request, "bulk_done.html", verb=verb.value, f=f, done=len(deed.done), skipped=len(deed.skipped), why=why,
            # what was left alone here is not asked about again
            after=ids[-1] if len(rows) > len(picked) else None,
        )  # fmt: skip

    def _question(
        self,
        request: web.Request,
        verb: Verb,
        f: Filter,
        found: Found,
        rows: list[dict[str, Any]],
        after: int,
        *,
        fault: str | None = None,
        reason: str | None = None,
    ) -> web.Response:
        picked = rows[: MOST[verb]]
        return render(
            request,
            "bulk.html",
            code=409 if fault == "bulk_changed" else 400 if fault else 200,
            verb=verb.value,
            f=f,
            filters=_in_words(f, found, words(language(request))),
            count=len(picked),
            more=len(rows) > len(picked),
            by_state=Counter(row["state"] for row in picked),
            after=after,
            upto=max((row["id"] for row in rows), default=0),
            sample=picked[:_SHOWN],
            brake=verb is Verb.RELEASE and found.meaning is Meaning.RULE,
            fault=fault,
            reason=reason or "",
        )


def states(verb: Verb, f: Filter) -> frozenset[State]:
    """The states of the list that the deed is about; what is held is released, not sent again."""
    can = FROM[verb] - ({State.HELD} if verb is Verb.RETRY else set())
    return can & frozenset(f.states) if f.states else can


def offered(f: Filter, counts: Mapping[str, int]) -> list[str]:
    """The deeds that the list offers: none for a list of everything."""
    if not (f.q or f.states or f.since or f.until):
        return []
    return [
        verb.value
        for verb in (Verb.RELEASE, Verb.RETRY, Verb.CANCEL)
        if any(counts.get(state.value) for state in states(verb, f))
    ]


async def asked(conn: Connection, request: web.Request) -> tuple[Filter, Found]:
    """The filter that the address says, and what its words mean."""
    f = read_filter(request.query, request.query.getall("state", []), datetime.now(UTC))
    rules = await overview.rules_in_force(conn)
    return f, await understand(conn, f, list(rules.rules.rules) if rules else [])


def _who_and_what(request: web.Request) -> tuple[Session, Verb]:
    session, name = operator(request), request.match_info["verb"]
    if name not in set(Verb):
        raise web.HTTPNotFound
    return session, Verb(name)


def _number(text: object) -> int:
    found = forms.number(text)
    if found is None:
        raise web.HTTPBadRequest
    return found


def _for_audit(f: Filter, found: Found, verb: Verb) -> dict[str, Any]:
    """How the messages were chosen, as the audit keeps it: no whole phone."""
    kept: dict[str, Any] = {"state": sorted(state.value for state in states(verb, f))}
    if found.meaning is Meaning.KEY:
        kept["key"] = shown_key(str(found.value))
    elif found.meaning is not None:
        kept[found.meaning.value] = found.value
    return kept | {name: str(at) for name, at in (("since", f.since), ("until", f.until)) if at is not None}


def _in_words(f: Filter, found: Found, t: Mapping[str, str]) -> list[tuple[str, str]]:
    """The filter for people: pairs of a word and what it must be."""
    names = {
        Meaning.RULE: t["rule"],
        Meaning.PHONE: t["to_phone"],
        Meaning.KEY: t["key"],
        Meaning.TICKET: t["ticket"],
        Meaning.ID: t["message_number"],
    }
    said = [(names[found.meaning], shown_key(str(found.value)))] if found.meaning is not None else []
    if f.range == "own":
        return said + [(t[word], moment(at)) for word, at in (("from", f.since), ("to", f.until)) if at is not None]
    return said + ([(t["range"], t[f"range_{f.range}"])] if f.range != "all" else [])
