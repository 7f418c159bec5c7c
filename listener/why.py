"""Everything known about one phone or one key, in the order in which it happened: what `why` tells.

Facts alone, in no language; `listener.sentences` puts them into words. Rules that made no message are judged again by
the rules that were in force: only lookups cannot be repeated for the past, but a rule whose `change` held and that left
no message can only have stopped at its `when`.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any
from zoneinfo import ZoneInfo

from listener import overview, phones
from listener.database import Connection, dumps_exact, loads_exact
from listener.errors import RulesError
from listener.model import Change, Mode
from listener.queries import load
from listener.rules import Rule, parse
from listener.rules.judging import CompiledRule
from listener.rules.ruleset import RuleSet, compile_rules
from listener.templates import Missing
from listener.words import mask_phones

SQL = load("why")
# changes; older ones are left out
LIMIT = 200
# in JSON
_TEXT = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"')
# a pause that began shortly before the first change still explains it
_BEFORE = timedelta(days=1)


class Kind(StrEnum):
    """What an entry of the timeline is."""

    CHANGE = "change"
    VERDICT = "verdict"
    MESSAGE = "message"
    ATTEMPT = "attempt"
    PAUSE = "pause"
    SUPPRESSION = "suppression"


class Fate(StrEnum):
    """Where a change stands on its way."""

    MATCHED = "matched"
    WAITING = "waiting"
    MUTED = "muted"


class Silence(StrEnum):
    """How sure it is why a rule made no message."""

    SAID = "said"
    # the lookups of that moment are gone
    BY_LOOKUP = "by_lookup"
    # the rule applies, yet no message is kept
    GONE = "gone"


class WaitsFor(StrEnum):
    """What keeps a waiting message."""

    QUIET = "quiet"
    JOINING = "joining"
    RETRY = "retry"
    ACCOUNT = "account"
    NO_ACCOUNT = "no_account"
    TICKET = "ticket"
    TURN = "turn"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One thing that happened. `facts` by kind: the row of the database, and what is reckoned from it."""

    at: datetime
    kind: Kind
    facts: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """All entries, oldest first; `cut` when there are older changes than those shown."""

    phone: str | None
    key: str
    entries: tuple[Entry, ...]
    cut: bool = False


async def why(conn: Connection, asked: str, *, reveal: bool = False) -> Timeline:
    """The timeline of a phone in any form, and of a key that is written just so; phones masked unless `reveal`."""
    number = phones.normalise(asked, migrate_old=True)
    phone = number.number if isinstance(number, phones.Phone) else None
    ids = [r["change_id"] for r in await _rows(conn, "changes_of_phone", {"phone": phone, "limit": LIMIT})]
    of_phone = await _rows(conn, "changes", {"ids": ids}) if phone is not None and ids else []
    args = {"key": asked, "limit": LIMIT}
    of_key = await _rows(conn, "changes_of_key", args)
    changes = {row["id"]: row for row in (*of_phone, *of_key)}
    entries = [_change(row, Fate.WAITING, reveal) for row in await _rows(conn, "unmatched_of_key", args)]
    entries += [_change(row, Fate.MUTED, reveal) for row in await _rows(conn, "muted_of_key", args)]
    messages = await _rows(conn, "messages", {"ids": sorted({*changes, *ids})})
    versions = {row["rules_version"] for row in (*changes.values(), *messages)} - {None}
    rules = await _rules(conn, versions)
    entries += [_change(row, Fate.MATCHED, reveal) for row in changes.values()]
    entries += [e for row in changes.values() for e in _verdicts(row, messages, rules)]
    keys = {row["id"] for row in of_key}
    shown = [m for m in messages if m["change_id"] in keys or (phone is not None and m["phone"] == phone)]
    accounts = {row["name"]: row for row in await _rows(conn, "accounts", {})}
    in_force = await overview.rules_in_force(conn)
    known = in_force.rules.accounts.keys() if in_force is not None else {m["account"] for m in shown}
    entries += [_message(m, rules, accounts, known, reveal) for m in shown]
    attempts = await _rows(conn, "attempts", {"ids": [m["id"] for m in shown]})
    entries += [Entry(at=row["leased_at"], kind=Kind.ATTEMPT, facts=row) for row in attempts]
    entries += await _stops(conn, shown, phone, entries)
    order = list(Kind)
    entries.sort(key=lambda e: (e.at, e.facts.get("change_id", 0), order.index(e.kind)))
    return Timeline(
        phone=(phone if reveal else phones.mask_phone(phone)) if phone else None,
        key=asked if reveal else mask_phones(asked) if phone is None else phones.mask_phone(asked),
        entries=tuple(entries if reveal else map(_discreet, entries)),
        cut=len(of_key) == LIMIT or len(ids) == LIMIT,
    )


def _discreet(entry: Entry) -> Entry:
    """Without phones in the reason, which may quote a value of the row or be a person's own words."""
    facts = entry.facts
    return replace(entry, facts={**facts, "reason": _shown(facts["reason"], False)}) if facts.get("reason") else entry


async def _rows(conn: Connection, query: str, args: Mapping[str, Any]) -> list[dict[str, Any]]:
    return await (await conn.execute(SQL[query], args)).fetchall()


async def _rules(conn: Connection, versions: Iterable[int]) -> dict[int, RuleSet]:
    """The rules of these versions, as far as this listener still reads them."""
    found: dict[int, RuleSet] = {}
    for row in await _rows(conn, "sources", {"versions": sorted(versions)}):
        try:
            found[row["version"]] = compile_rules(parse(row["source"], f"version {row['version']}"), row["version"])
        except RulesError:
            continue
    return found


def _change(row: Mapping[str, Any], fate: Fate, reveal: bool) -> Entry:
    old, new = row["old"] or {}, row["new"] or {}
    differences = [
        (column, _shown(old.get(column), reveal), _shown(new.get(column), reveal))
        for column in dict.fromkeys((*old, *new))
        if row["old"] is None or row["new"] is None or old.get(column) != new.get(column)
    ]
    facts = {
        "change_id": row["id"],
        "watch": row["watch"],
        "op": row["op"],
        "key": _shown(row["key"], reveal),
        "differences": differences,
        "fate": fate,
        "reason": row.get("reason") if fate is Fate.MUTED else row.get("note"),
    }
    return Entry(at=row["at"], kind=Kind.CHANGE, facts=facts)


def _shown(value: Any, reveal: bool) -> Any:
    """A value of the row; phone numbers in its texts are masked, also inside arrays and jsonb."""
    match value:
        case _ if reveal:
            return value
        case str():
            return phones.mask_value(value)
        case list() | dict():
            # By its JSON: it may be nested deeper than this could call itself.
            masked = _TEXT.sub(lambda m: dumps_exact(_shown(loads_exact(m[0]), reveal)), dumps_exact(value))
            return loads_exact(masked)
        case _:
            return value


def _verdicts(
    row: Mapping[str, Any], messages: Sequence[Mapping[str, Any]], rules: Mapping[int, RuleSet]
) -> Iterator[Entry]:
    """What each rule without a message of this change says to it."""
    answered = {m["rule"] for m in messages if m["change_id"] == row["id"]}
    versions = [row["rules_version"], *(m["rules_version"] for m in messages if m["change_id"] == row["id"])]
    version = next((v for v in versions if v in rules), None)
    if version is None:
        return
    ruleset = rules[version]
    watch = ruleset.watch(row["watch"])
    if watch is None:
        return
    change = Change.of(row)
    found = {name: Missing(f"lookup {name} cannot be repeated for the past") for name in watch.lookup}
    compiled = {c.rule.name: c for c in ruleset.by_watch.get(row["watch"], ())}
    for verdict in ruleset.verdicts(change, found, row["matched_at"], Mode.LIVE):
        if verdict.rule in answered:
            continue
        silence, reason = _silence(compiled[verdict.rule], verdict.reason, watch.lookup.keys())
        facts = {"change_id": row["id"], "rule": verdict.rule, "silence": silence, "reason": reason}
        # beside its change, not among what was matched in the same breath
        yield Entry(at=row["at"], kind=Kind.VERDICT, facts=facts)


def _silence(compiled: CompiledRule, reason: str | None, lookups: Iterable[str]) -> tuple[Silence, str | None]:
    when = compiled.when
    if when is not None and {name[0] for name in when.names} & {*lookups} and (reason or "`when`").startswith("`when`"):
        return Silence.BY_LOOKUP, f"`when` is not true: {compiled.rule.when}"
    return (Silence.GONE, None) if reason is None else (Silence.SAID, reason)


def _message(
    row: Mapping[str, Any],
    rules: Mapping[int, RuleSet],
    accounts: Mapping[str, Mapping[str, Any]],
    known: Collection[str],
    reveal: bool,
) -> Entry:
    facts = {name: value for name, value in row.items() if name not in ("now", "ticket_wait")}
    if not reveal:
        facts["thread"] = phones.mask_thread(row["thread"])
        facts["phone"] = phones.mask_phone(row["phone"]) if row["phone"] else None
    facts["redirected"] = _redirected(row, _rule(row, rules))
    if row["state"] == "waiting":
        waits_for = _waits_for(row, rules, accounts)
        facts["waits_for"] = waits_for if row["account"] in known else WaitsFor.NO_ACCOUNT
        if facts["waits_for"] is WaitsFor.ACCOUNT:
            facts |= {"paused_until": accounts[row["account"]]["until"], "reason": accounts[row["account"]]["reason"]}
        if facts["waits_for"] is WaitsFor.TICKET:
            facts["paused_until"] = row["ticket_wait"]
    return Entry(at=row["created_at"], kind=Kind.MESSAGE, facts=facts)


def _rule(row: Mapping[str, Any], rules: Mapping[int, RuleSet]) -> Rule | None:
    """The rule that made a message, as it was then."""
    ruleset = rules.get(row["rules_version"])
    return ruleset.rules.rules.get(row["rule"]) if ruleset is not None else None


def _redirected(row: Mapping[str, Any], rule: Rule | None) -> bool:
    """Whether a message goes where `mode: redirect` sends all, be it the rule's mode or the daemon's."""
    target = phones.normalise(rule.redirect_to) if rule is not None and rule.redirect_to is not None else None
    return isinstance(target, phones.Phone) and target.number == row["phone"]


def _waits_for(
    row: Mapping[str, Any], rules: Mapping[int, RuleSet], accounts: Mapping[str, Mapping[str, Any]]
) -> WaitsFor:
    if row["due_at"] > row["now"]:
        rule = _rule(row, rules)
        if rule is not None and rule.quiet_hours is not None:
            local = row["due_at"].astimezone(ZoneInfo(rule.time_zone))
            if (local.hour, local.minute) == (rule.quiet_hours.end.hour, rule.quiet_hours.end.minute):
                return WaitsFor.QUIET
        if row["reason"]:
            return WaitsFor.RETRY
        if row["joins"]:
            return WaitsFor.JOINING
    if row["account"] in accounts:
        return WaitsFor.ACCOUNT
    return WaitsFor.TURN if row["ticket_wait"] is None else WaitsFor.TICKET


async def _stops(
    conn: Connection, messages: Sequence[Mapping[str, Any]], phone: str | None, entries: Sequence[Entry]
) -> list[Entry]:
    """Pauses by people that touched these messages, and the suppression of the phone."""
    numbers = {m["phone"] for m in messages if m["phone"]} | ({phone} if phone else set())
    found: list[Entry] = []
    if phone is not None:
        masked = {"phone": phones.mask_phone(phone)}
        rows = await _rows(conn, "suppression", {"phone": phone})
        found = [Entry(at=row["since"], kind=Kind.SUPPRESSION, facts={**row, **masked}) for row in rows]
    if not messages:
        return found
    targets = {"everything", *(f"account {m['account']}" for m in messages), *(f"rule {m['rule']}" for m in messages)}
    targets |= {f"phone {phones.mask_phone(number)}" for number in numbers}
    begin = min(e.at for e in entries) - _BEFORE
    end = max((m["settled_at"] or m["now"]) for m in messages)
    args = {"since": begin, "until": end, "targets": sorted(targets), "limit": LIMIT}
    found += [Entry(at=row["at"], kind=Kind.PAUSE, facts=row) for row in await _rows(conn, "pauses", args)]
    return found
