"""A person's hand on messages: retry, cancel, release, or an unclear one that is known to have arrived; and on muted
changes, which are released. Each is one conditional change of state, audited.

Messages are named by id, so that what was shown and confirmed is what is done; what has moved on meanwhile, and what is
being sent right now, is left alone and reported. Deeds take their turns and lock threads by id before messages, as the
daemon does, so a race with a running delivery has one of two ends: the request was begun first (left alone), or it
never is. An answer that comes after a deed is still kept: accepted is accepted.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

from listener import messages, overview, planning
from listener.database import Connection
from listener.lookups import Lookups
from listener.model import Change, State
from listener.pauses import audit
from listener.planning import PlannedRow
from listener.queries import load
from listener.rules.judging import Found, Planned
from listener.rules.ruleset import RuleSet
from listener.settings import Settings
from listener.words import mask_numbers, mask_phones

SQL = load("interventions")


class Verb(StrEnum):
    """What a person may do to messages."""

    RETRY = "retry"
    CANCEL = "cancel"
    RELEASE = "release"


# the states that each verb can change
FROM: Mapping[Verb, frozenset[State]] = {
    Verb.RETRY: frozenset({State.REJECTED, State.UNKNOWN, State.EXPIRED, State.HELD}),
    Verb.CANCEL: frozenset({State.WAITING, State.HELD, State.UNKNOWN}),
    Verb.RELEASE: frozenset({State.HELD}),
}
_DONE: Mapping[Verb, str] = {
    Verb.RETRY: "to be sent again",
    Verb.CANCEL: "cancelled",
    Verb.RELEASE: "released",
}


@dataclass(slots=True, kw_only=True)
class Deed:
    """What became of the messages: the ids changed, with the state they are in now; why the others are as they were."""

    verb: Verb
    done: dict[int, State] = field(default_factory=dict)
    skipped: dict[int, str] = field(default_factory=dict)


async def candidates(conn: Connection, verb: Verb, filters: Mapping[str, object]) -> list[dict[str, Any]]:
    """`{id, state}` of the messages that fit the filters of `overview.messages` and that `verb` is about.

    Those that are being sent are among them, to be reported as left alone.
    """
    rows = await overview.ids(conn, filters)
    wanted = FROM[verb] | {State.SENDING}
    return [row for row in rows if row["state"] in wanted]


async def act(
    conn: Connection,
    settings: Settings,
    verb: Verb,
    ids: Sequence[int],
    *,
    by: str,
    reason: str | None,
    filters: Mapping[str, Any] | None = None,
) -> Deed:
    """Does `verb` to these messages; `filters` is how they were chosen, for the audit."""
    deed = Deed(verb=verb)
    words = mask_numbers(reason or "")
    note = f"{_DONE[verb]} by {by}" + (f": {words}" if words else "")
    args: dict[str, Any] = {"ids": list(ids), "note": note}
    rules = await overview.rules_in_force(conn) if verb is Verb.RETRY else None
    # Whoever releases a rule's messages lets go of its brake too, or the next one is held again.
    braked = filters.get("rule") if verb is Verb.RELEASE and filters else None
    async with conn.transaction():
        await conn.execute(SQL["my_turn"], {})
        if braked:
            await conn.execute(SQL["lock_matcher"], {})
            await conn.execute(SQL["release_brakes"], {"rule": braked})
        if verb is Verb.RETRY:
            await conn.execute(SQL["threads_again"], args)
        rows = await (await conn.execute(SQL["lock_threads"], args)).fetchall()
        threads = [row["id"] for row in rows]
        match verb:
            case Verb.RETRY:
                lives = {name: r.expires.total_seconds() for name, r in rules.rules.rules.items()} if rules else {}
                for query in ("retry", "retry_finished"):
                    await _do(conn, query, {**args, "lives": json.dumps(lives)}, deed)
                await _judge_anew(conn, settings, rules, args, deed)
            case Verb.CANCEL:
                await _do(conn, "cancel", args, deed)
            case Verb.RELEASE:
                await _do(conn, "release", args, deed)
                await _part_from_too_old(conn, threads, deed)
        if verb is not Verb.RELEASE:
            await conn.execute(SQL["end_ticket_wait"], {"threads": threads})
        await messages.requeue(conn, threads)
        await _explain(conn, verb, ids, deed)
        what = overview.masked_filters(filters) if filters else {"ids": list(ids)[:1000]}
        await audit(conn, by, verb.value, what, len(deed.done), reason)
    return deed


async def arrived(conn: Connection, number: int, *, by: str, reason: str | None) -> bool:
    """Closes an unclear message that did arrive, as a person knows: it is accepted and never sent again.

    False when it is not unclear any more.
    """
    words = mask_numbers(reason or "")
    args = {"ids": [number], "note": f"it did arrive, says {by}" + (f": {words}" if words else "")}
    async with conn.transaction():
        await conn.execute(SQL["my_turn"], {})
        threads = [row["id"] for row in await (await conn.execute(SQL["lock_threads"], args)).fetchall()]
        rows = await (await conn.execute(SQL["arrived"], args)).fetchall()
        await conn.execute(SQL["end_ticket_wait"], {"threads": threads})
        await messages.requeue(conn, threads)
        await audit(conn, by, "arrived", {"ids": [number]}, len(rows), reason)
    return bool(rows)


async def muted(conn: Connection, *, watch: str | None = None, muted_for: str | None = None) -> list[dict[str, Any]]:
    """`{watch, reason, n, since}` of the changes that were kept out of the normal flow, by `listener.mute` or because
    they could not be captured otherwise; the most first."""
    return await (await conn.execute(SQL["muted"], {"watch": watch, "muted_for": muted_for})).fetchall()


async def release_muted(
    conn: Connection, *, watch: str | None, muted_for: str | None, by: str, reason: str | None
) -> int:
    """Lets muted changes go their normal way, with the time they were made at; those past `expires` make no SMS."""
    only = {"watch": watch, "muted_for": muted_for}
    async with conn.transaction():
        released = (await conn.execute(SQL["release_muted"], only)).rowcount
        await audit(
            conn, by, "release muted", {k: mask_phones(v) for k, v in only.items() if v is not None}, released, reason
        )
    return released


async def _do(conn: Connection, query: str, args: Mapping[str, Any], deed: Deed) -> None:
    for row in await (await conn.execute(SQL[query], args)).fetchall():
        deed.done[row["id"]] = State(row["state"])


async def _part_from_too_old(conn: Connection, threads: Sequence[int], deed: Deed) -> None:
    """What was released only to expire is told apart."""
    await messages.spare(conn, threads)
    for row in await (await conn.execute(SQL["too_old"], {"ids": list(deed.done)})).fetchall():
        del deed.done[row["id"]]
        deed.skipped[row["id"]] = "it grew too old while it was held and expires; `listener retry` sends it now"


async def _judge_anew(
    conn: Connection, settings: Settings, rules: RuleSet | None, args: Mapping[str, Any], deed: Deed
) -> None:
    """Messages that were rejected before any request: what was wrong with row, text or phone may be mended by now."""
    rows = await (await conn.execute(SQL["unsent"], args)).fetchall()
    if not rows:
        return
    lookups = Lookups(settings)
    try:
        for row in rows:
            why = await _judge(conn, lookups, settings, rules, row, args["note"], deed)
            if why is not None:
                deed.skipped[row["id"]] = why
    finally:
        await lookups.close()


async def _judge(
    conn: Connection,
    lookups: Lookups,
    settings: Settings,
    rules: RuleSet | None,
    row: Mapping[str, Any],
    note: str,
    deed: Deed,
) -> str | None:
    """Why one rejected message stays rejected; None when messages took its place, the first of them under its id."""
    if row["change_id"] is None:
        return "the change that it came of is no longer kept"
    if rules is None or row["rule"] not in rules.rules.rules or rules.watch(row["watch"]) is None:
        return "its rule is not in the rules in force"
    change = Change.of(row, id_column="change_id")
    planned, why = await _plan(conn, lookups, settings, rules, row["rule"], change)
    fit = [p for p in planned if p.state is State.WAITING and (row["phone"] is None or p.phone == row["phone"])]
    mine = {"id": row["id"], "rule": row["rule"], "change": change.id, "phones": [p.phone for p in fit], "note": note}
    had = {r["phone"] for r in await (await conn.execute(SQL["had"], mine)).fetchall()}
    fit = [p for p in fit if p.phone not in had]
    if not fit:
        return why or "the rules in force make no other message of its change"
    if not await (await conn.execute(SQL["drop_rejected"], mine)).fetchall():
        return None
    threads = {(p.account, p.thread) for p in fit}
    await messages.lock_threads(conn, threads)
    await messages.insert(conn, rules.version, planning.message_rows(PlannedRow(change, p, p.state, note) for p in fit))
    kept = await (await conn.execute(SQL["keep_id"], {**mine, "phone": fit[0].phone})).fetchall()
    await messages.wake_threads(conn, threads)
    deed.done |= {r["id"]: State(r["state"]) for r in kept}
    return None


async def _plan(
    conn: Connection, lookups: Lookups, settings: Settings, rules: RuleSet, rule: str, change: Change
) -> tuple[list[Planned], str | None]:
    """What the rule makes of the change now, its time to live begun anew, and why that is nothing, if it is."""
    watch = rules.watch(change.watch)
    assert watch is not None
    found: Found = (await lookups.find(watch, [change], zone=rules.zone, patient=False))[0] if watch.lookup else {}
    clock = await (await conn.execute(SQL["clock"], {})).fetchone()
    assert clock is not None
    now: datetime = clock["now"]
    verdict = next(iter(rules.only(rule).verdicts(change, found, now, settings.mode)))
    life = rules.rules.rules[rule].expires
    planned = [
        replace(m, state=State.WAITING, expires_at=(m.due_at or now) + life, group=None)
        if m.state in (State.WAITING, State.EXPIRED)
        else m
        for m in verdict.messages
    ]
    reasons: Iterable[str | None] = (m.reason for m in verdict.messages if m.state is not State.EXPIRED)
    why = verdict.reason or next((reason for reason in reasons if reason), None)
    return planned, f"judged anew: {why}" if why else None


async def _explain(conn: Connection, verb: Verb, ids: Sequence[int], deed: Deed) -> None:
    """A reason for each message that was left as it was. (One that a pause holds from now on was not: it goes then.)"""
    rows = await (await conn.execute(SQL["standing"], {"ids": list(ids)})).fetchall()
    standing = {row["id"]: row for row in rows}
    for number in ids:
        row = standing.get(number)
        if row is None:
            deed.skipped.setdefault(number, "there is no such message")
        elif number not in deed.done:
            paused = row["paused"] and verb is not Verb.CANCEL
            stays = _why_not(verb, State(row["state"]), whole=row["whole"])
            deed.skipped.setdefault(number, "a pause holds it: `listener resume` lets it go" if paused else stays)


def _why_not(verb: Verb, state: State, *, whole: bool) -> str:
    match state:
        case State.SENDING:
            return "it is being sent right now"
        case State.WAITING:
            return "it waits to be sent already"
        case State.ACCEPTED:
            return "CareSoft has accepted it"
        case _ if state in FROM[verb] and not whole:
            return "its phone and text are no longer kept"
        case _ if state in FROM[verb]:
            return "its phone is on the suppression list, or another message took its place"
        case _:
            return f"`{verb.value}` does nothing to a message in the state {state.value}"
