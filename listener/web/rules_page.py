"""The rules in force, and a playground: what another text or condition would send. The file stays the truth: nothing
here writes it, the edited lines are there to be copied."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

from aiohttp import web

from listener import overview, pauses
from listener.database import Connection, connect
from listener.errors import ListenerError, RulesError
from listener.pauses import Scope
from listener.preview import Rows, preview, row_by_key, rows_of
from listener.replay import replay
from listener.rules import load, parse
from listener.rules.ruleset import RuleSet, compile_rules
from listener.settings import Settings
from listener.text import PLAIN, Accents, count, unaccent
from listener.web import store
from listener.web.access import SESSION, operator
from listener.web.page import language, render, sees_texts, shown_key
from listener.web.replays import Replay, Replays
from listener.web.rule_edit import BeyondEditError, edited, parts_of, snippet
from listener.web.store import Store
from listener.web.texts import words

_VERSIONS = 20
_FILE = "rules.yaml"
_REPLAY_DAYS = (1, 3, 7)
# seconds within which most replays are over
_AT_ONCE = 0.7


@dataclass(frozen=True, slots=True, kw_only=True)
class Changed:
    """When a rule became what it is; `version` None when it was so already in the oldest version looked at."""

    version: int | None
    at: datetime | None


class RulePages:
    """Answers `/rules`, `/rules/{name}` and its trials."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self._settings = settings
        self._store = store
        self._changed: tuple[int, Mapping[str, Changed]] = (0, {})
        self._replays = Replays()

    async def close(self, app: web.Application) -> None:
        """For `on_shutdown`."""
        await self._replays.close(app)

    async def page(self, request: web.Request) -> web.Response:
        since = datetime.now(UTC) - timedelta(hours=24)
        async with self._store.reading() as conn:
            rules = await overview.rules_in_force(conn)
            ended = await store.rows(conn, "by_rule", {"since": since})
            now = await store.rows(conn, "unfinished_by_rule")
            fleet = await store.first(conn, "fleet_rules")
            changed = await self._changes(conn, rules)
            paused = {p.target.value for p in await pauses.pauses(conn) if p.target.scope is Scope.RULE}
            braked = {row["rule"] for row in await overview.brakes(conn)}
        counts: dict[str, dict[str, int]] = {}
        for row in (*ended, *now):
            counts.setdefault(row["rule"], {})[row["state"]] = row["n"]
        return render(
            request,
            "rules.html",
            rules=list(rules.rules.rules.values()) if rules else [],
            counts=counts,
            changed=changed,
            fleet=fleet,
            daemon_mode=self._settings.mode,
            paused=paused,
            braked=braked,
        )

    async def one(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        async with self._store.reading() as conn:
            rules, source = await self._known(conn, name)
            shown = await _playground(conn, rules, source, name)
        shown["key"] = shown["keys"][0] if shown["keys"] else ""
        return render(request, "rule.html", tried=False, row="", **shown)

    async def try_out(self, request: web.Request) -> web.Response:
        """What the rule, as edited, would send for a row: a part of the page, and the whole where no script runs."""
        name, form = request.match_info["name"], await request.post()
        whole = sees_texts(request[SESSION])
        given = {part: str(form.get(part, "")).replace("\r\n", "\n") for part in ("key", "row", "text", "when")}
        async with self._store.reading() as conn:
            rules, source = await self._known(conn, name)
            shown: dict[str, Any] = {"faults": [], "said": None, "result": None, "dropped": ""}
            shown |= await _playground(conn, rules, source, name) | given
            try:
                # One that only a person can change is tried as it stands.
                new = rules
                if shown["beyond"] is None:
                    new, changed = await self._edited(source, name, form)
                    shown["source"] = snippet(changed, name)
                # Whoever may write a text over a real row, or a condition, can read what is in it.
                if whole and (rows := await _rows(conn, new, name, form)) is not None:
                    shown["result"] = await preview(
                        new,
                        name,
                        rows,
                        key=given["key"].strip() or None,
                        conn=conn,
                        settings=self._settings,
                    )
            except RulesError as error:
                shown["faults"] = error.faults
            except ListenerError as error:
                shown["said"] = str(error)
        for message in (shown["result"] or {}).get("messages", []):
            message |= _price(message["text"])
        text = given["text"]
        shown["dropped"] = "".join(sorted({c for c in text if c.isprintable() and not unaccent(c) and c != " "}))
        return render(request, "rule.html", here=f"/rules/{quote(name)}", tried=True, **shown)

    async def replay(self, request: web.Request) -> web.Response:
        """What the rule, as edited, would have sent of the last days, beside the rules in force."""
        operator(request)
        name, form = request.match_info["name"], await request.post()
        days = str(form.get("days", "1"))
        since = datetime.now(UTC) - timedelta(days=int(days) if days in map(str, _REPLAY_DAYS) else 1)
        async with self._store.reading() as conn:
            old, source = await self._known(conn, name)
        try:
            new, _ = await self._edited(source, name, form)
        except RulesError as error:
            return render(request, "replayed.html", report=None, said=error.faults[0].message)
        except ListenerError as error:
            return render(request, "replayed.html", report=None, said=str(error))

        async def work(progress: Callable[[int, int], None]) -> Mapping[str, Any]:
            return await _replayed(self._settings, new, old, name, since, progress)

        running = self._replays.start(name, work)
        assert running.thread is not None
        # Most are over before anybody has read that they began.
        await asyncio.wait([running.thread], timeout=_AT_ONCE)
        return self._replay(request, running)

    async def replaying(self, request: web.Request) -> web.Response:
        """How far a replay is, or what came of it; a part of the page that asks for itself again."""
        operator(request)
        return self._replay(request, self._replays.find(request.match_info["number"]))

    async def cancel(self, request: web.Request) -> web.Response:
        """Ends a replay."""
        operator(request)
        running = self._replays.find(request.match_info["number"])
        if running is not None and running.thread is not None:
            running.cancel()
            await asyncio.wait([running.thread], timeout=_AT_ONCE)
        return self._replay(request, running)

    def _replay(self, request: web.Request, running: Replay | None) -> web.Response:
        if running is not None and not running.over:
            return render(request, "replaying.html", running=running)
        t = words(language(request))
        if running is None:
            said: str | None = t["replay_gone"]
        elif running.fault is not None:
            said = t[running.fault] if isinstance(running.fault, str) else str(running.fault)
        else:
            said = None
        return render(request, "replayed.html", report=running.result if running else None, said=said)

    async def _known(self, conn: Connection, name: str) -> tuple[RuleSet, str]:
        """The rules in force and their text. Raises `HTTPNotFound` for a rule that is not among them."""
        rules = await overview.rules_in_force(conn)
        if rules is None or name not in rules.rules.rules:
            raise web.HTTPNotFound
        found = await store.first(conn, "rule_source", {"version": rules.version})
        return rules, found["source"]

    async def _edited(self, source: str, name: str, form: Mapping[str, Any]) -> tuple[RuleSet, str]:
        text, when = (str(form.get(part, "")).replace("\r\n", "\n") for part in ("text", "when"))
        new = edited(source, name, text, when.strip())
        return await asyncio.to_thread(_compiled, new), new

    async def _changes(self, conn: Connection, rules: RuleSet | None) -> Mapping[str, Changed]:
        if rules is None:
            return {}
        if self._changed[0] != rules.version:
            versions = await store.rows(conn, "versions", {"upto": rules.version, "limit": _VERSIONS})
            self._changed = rules.version, await asyncio.to_thread(last_changes, versions)
        return self._changed[1]


def last_changes(versions: "list[dict[str, Any]]") -> dict[str, Changed]:
    """For each rule of the newest version when it became what it is; `versions` newest first."""
    read: list[Mapping[str, Any]] = []
    for row in versions:
        try:
            found = load(row["source"], _FILE).data["rules"]
        except (RulesError, KeyError, TypeError):
            break
        read.append(found)
    changes: dict[str, Changed] = {}
    for name, rule in (read[0] if read else {}).items():
        same = next((n for n, older in enumerate(read) if older.get(name) != rule), None)
        known = same is not None or len(read) < _VERSIONS
        place = (same if same is not None else len(read)) - 1
        changes[name] = Changed(
            version=versions[place]["version"] if known else None, at=versions[place]["loaded_at"] if known else None
        )
    return changes


async def _playground(conn: Connection, rules: RuleSet, source: str, name: str) -> dict[str, Any]:
    """What stands in the form before anybody has edited it."""
    rule = rules.rules.rules[name]
    recent = await store.rows(conn, "recent_keys", {"watch": rule.on})
    shown: dict[str, Any] = {"rule": rule, "days": _REPLAY_DAYS, "beyond": None, "source": None}
    # masked, a key that is somebody's phone finds no row
    shown["keys"] = [row["key"] for row in recent if shown_key(row["key"]) == row["key"]]
    try:
        shown["text"], shown["when"] = parts_of(source, name)
        shown["source"] = snippet(source, name)
    except BeyondEditError as error:
        shown |= {"text": rule.text, "when": rule.when or "", "beyond": str(error)}
    return shown


async def _rows(conn: Connection, rules: RuleSet, name: str, form: Mapping[str, Any]) -> Rows | None:
    """The row that was typed, else the one of the key; None when neither was given. Raises `ListenerError`."""
    typed, key = str(form.get("row", "")).strip(), str(form.get("key", "")).strip()
    if typed:
        return rows_of(typed)
    return await row_by_key(conn, rules, rules.rules.rules[name].on, key) if key else None


def _compiled(source: str) -> RuleSet:
    return compile_rules(parse(source, _FILE))


def _price(text: str | None) -> dict[str, Any]:
    """What makes an SMS dear: its class, its length, and the characters that put it there."""
    if not text:
        return {"accented": False, "length": 0, "dear": ""}
    accented = count(text).accents is Accents.ACCENTED
    return {"accented": accented, "length": len(text), "dear": "".join(sorted(set(text) - PLAIN))}


async def _replayed(
    settings: Settings, new: RuleSet, old: RuleSet, name: str, since: datetime, progress: Callable[[int, int], None]
) -> Mapping[str, Any]:
    """The part of a replay's report that is about one rule. Raises `ListenerError`."""
    async with await connect(settings, "page replay") as conn:
        shape = (await replay(conn, settings, new, old, since, progress)).shape()
    nothing = {"sms": 0, "parts": 0, "people": 0, "unfit": 0, "reasons": {}}
    found: Mapping[str, Any] = shape["rules"].get(name, {"new": nothing, "in_force": nothing})
    return {"changes": shape["changes"], **found}
