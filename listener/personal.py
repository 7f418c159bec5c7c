"""All that is kept about one phone: shown whole (`export`) or removed (`forget`), over every table; and phones that
want no SMS (`suppress`).

What stays after `forget` are numbers, states, times, ticket ids and keys such as an order's number, without which
nobody could account for what was sent; and, said each time, a place on the suppression list or a pause of this phone,
which exist so that no SMS is sent to it. CareSoft's own tickets and backups of the database are not reached from here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from listener import messages, phones
from listener.database import Connection
from listener.pauses import audit
from listener.queries import load
from listener.words import GAP, mask_numbers

SQL = load("personal")
DEEDS = load("interventions")

_SOUGHT = ("messages", "threads", "changes")


@dataclass(slots=True, kw_only=True)
class Forgotten:
    """Rows removed or blanked by table, what is left and why; `again` when a message is on its way just now."""

    removed: dict[str, int] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)
    again: bool = False


async def export(conn: Connection, phone: str, *, by: str, reason: str | None) -> dict[str, Any]:
    """Everything about `phone` (`0` and nine digits), whole; that somebody looked is written down."""
    args = await _find(conn, phone)
    found: dict[str, Any] = {"phone": phone}
    for name in ("messages", "attempts", "changes", "outbox", "muted", "saves", "threads", "pauses", "suppression"):
        found[name] = [row["it"] for row in await _rows(conn, f"export_{name}", args)]
    count = sum(len(rows) for rows in found.values() if isinstance(rows, list))
    await audit(conn, by, "export", {"phone": phones.mask_phone(phone)}, count, reason)
    return found


async def forget(conn: Connection, phone: str, *, by: str, reason: str | None) -> Forgotten:
    """Removes everything about `phone`. What is not sent yet is cancelled; doing it again does no harm."""
    args = await _find(conn, phone)
    done = Forgotten()
    async with conn.transaction():
        await conn.execute(DEEDS["my_turn"], {})
        await conn.execute(DEEDS["lock_matcher"], {})
        # Once more, now that nothing new is made: what has come since, for a look at all would hold up the matcher.
        for what in _SOUGHT:
            args[what] = sorted({*args[what], *await _ids(conn, what, args)})
        threads = await _ids(conn, "lock_threads", args)
        theirs = await _ids(conn, "theirs", args)
        note = f"forgotten by {by}"
        await conn.execute(DEEDS["cancel"], {"ids": theirs, "note": note})
        for table in ("changes", "outbox", "muted", "messages", "attempts", "saves", "threads"):
            cursor = await conn.execute(SQL[f"forget_{table}"], args)
            done.removed[table] = cursor.rowcount
        await messages.requeue(conn, threads)
        await _left(conn, args, done)
        count = sum(done.removed.values())
        await audit(conn, by, "forget", {"phone": phones.mask_phone(phone)}, count, reason)
    return done


async def suppress(conn: Connection, phone: str, *, by: str, reason: str) -> int:
    """No SMS goes to `phone` any more, and what waits is cancelled; returns how many messages that were."""
    async with conn.transaction():
        await conn.execute(DEEDS["my_turn"], {})
        await conn.execute(DEEDS["lock_matcher"], {})
        await conn.execute(SQL["suppress"], {"phone": phone, "who": by, "reason": mask_numbers(reason)})
        args = {"phone": phone, "note": f"the phone is on the suppression list, says {by}"}
        # Those of a message that is being sent, too: whoever puts it back sees the list, or was there before.
        paused = {"target": "phone", "value": phone}
        threads = [row["id"] for row in await _rows_of(conn, DEEDS["lock_paused_threads"], paused)]
        ids = await _ids(conn, "not_sent_yet", args)
        cancelled = await _rows_of(conn, DEEDS["cancel"], {**args, "ids": ids})
        await messages.requeue(conn, threads)
        await audit(conn, by, "suppress", {"phone": phones.mask_phone(phone)}, len(cancelled), reason)
    return len(cancelled)


async def unsuppress(conn: Connection, phone: str, *, by: str, reason: str | None) -> bool:
    """SMS may go to `phone` again, those of changes from now on; False if it was not on the list."""
    async with conn.transaction():
        done = (await conn.execute(SQL["unsuppress"], {"phone": phone})).rowcount
        if done:
            await audit(conn, by, "unsuppress", {"phone": phones.mask_phone(phone)}, done, reason)
    return bool(done)


async def _left(conn: Connection, args: Mapping[str, Any], done: Forgotten) -> None:
    states = [row["state"] for row in await _rows(conn, "left_messages", args)]
    done.again = "sending" in states
    if states:
        done.left.append(f"{len(states)} unfinished messages that are being sent or go to others and name this phone")
    if await _rows(conn, "export_pauses", args):
        done.left.append("a pause of this phone, which keeps SMS from it; `listener resume --phone` ends it")
    if await _rows(conn, "export_suppression", args):
        done.left.append("its place on the suppression list, so that no SMS is sent to it")


async def _find(conn: Connection, phone: str) -> dict[str, Any]:
    """Ids of messages, threads and changes about `phone`, and what is to be looked at once more for those that came
    since. Reads whole tables, so it takes its time and holds no lock."""
    forms = phones.forms(phone)
    args: dict[str, Any] = {
        "phone": phone,
        "digits": "|".join(forms),
        "written": "|".join(f"{GAP}*".join(digits) for digits in forms),
    }
    await conn.execute(SQL["no_limit"], {})
    (before,) = await _rows(conn, "before", {})
    everything = {"made_after": "-infinity", "threads_after": 0}
    for what in _SOUGHT:
        args[what] = await _ids(conn, what, args | everything)
    await conn.execute(SQL["limit"], {})
    return args | before


async def _ids(conn: Connection, query: str, args: Mapping[str, Any]) -> list[int]:
    return [row["id"] for row in await _rows(conn, query, args)]


async def _rows(conn: Connection, query: str, args: Mapping[str, Any]) -> list[dict[str, Any]]:
    return await _rows_of(conn, SQL[query], args)


async def _rows_of(conn: Connection, statement: bytes, args: Mapping[str, Any]) -> list[dict[str, Any]]:
    return await (await conn.execute(statement, args)).fetchall()
