"""A person's pauses: of everything, an account, a rule, a phone; and the audit of what people do by hand.

When `pause` returns, nothing that it stops is begun any more; what was on its way then is settled as usual. Accounts
are stopped on their own row, which taking permits locks anyway; messages of a rule or phone are put to `held`, and a
trigger keeps others of them from waiting, so that taking permits asks nobody.
"""

import getpass
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import MAXYEAR, UTC, datetime
from enum import StrEnum
from time import monotonic
from typing import Any

from listener import accounts, messages, phones
from listener.database import Connection
from listener.errors import ListenerError
from listener.queries import load
from listener.words import did_you_mean, mask_numbers

SQL = load("interventions")

# of what a pause held, so many messages are let go of in one transaction
AT_ONCE = 2000
# seconds of a round of upkeep that may go into that
_LETTING_GO = 4.0


class Scope(StrEnum):
    """What a pause stops."""

    ALL = "all"
    ACCOUNT = "account"
    RULE = "rule"
    PHONE = "phone"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One scope and, but for `all`, which account, rule or phone (`0` and nine digits)."""

    scope: Scope
    value: str = ""

    def __str__(self) -> str:
        """For people and the audit; a phone masked."""
        match self.scope:
            case Scope.ALL:
                return "everything"
            case Scope.PHONE:
                return f"phone {phones.mask_phone(self.value)}"
            case _:
                return f"{self.scope.value} {self.value}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """A pause that holds now; `until` None means until somebody resumes."""

    target: Target
    reason: str
    until: datetime | None
    since: datetime
    who: str


async def who(conn: Connection) -> str:
    """The user of the operating system and the database's role, as the audit names them."""
    row = await (await conn.execute(SQL["who"], {})).fetchone()
    assert row is not None
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = "unknown"
    return f"{user}/{row['role']}"


async def audit(conn: Connection, by: str, verb: str, what: Mapping[str, Any], count: int, reason: str | None) -> None:
    """One row in the record of what people did; `what` has no whole phone, long numbers in `reason` are masked."""
    args = {
        "who": by,
        "verb": verb,
        "what": json.dumps(what),
        "count": count,
        "reason": reason and mask_numbers(reason),
    }
    await conn.execute(SQL["audit"], args)


async def revealed(conn: Connection, verb: str, what: Mapping[str, Any], count: int) -> None:
    """Writes down that a person saw whole numbers by a verb, before they are shown."""
    await audit(conn, await who(conn), "reveal", {"by": verb, **what}, count, None)


# as it stands on the accounts' rows
ENDLESS = datetime(MAXYEAR, 12, 31, tzinfo=UTC)


def endless(until: datetime) -> bool:
    """Whether a pause ends only when somebody resumes: on the accounts' rows that is the last year there is."""
    return until.year == MAXYEAR


async def known(conn: Connection, target: Target, rules: Mapping[str, object] | None) -> None:
    """Raises `ListenerError` for an account or rule that does not exist; `rules` are those in force, if known.

    Before the first start nothing is known, and anything may be paused.
    """
    if target.scope is Scope.ACCOUNT:
        names = [row["name"] for row in await accounts.all_accounts(conn)]
    elif target.scope is Scope.RULE and rules is not None:
        names = list(rules)
    else:
        return
    if names and target.value not in names:
        raise ListenerError(f"there is no {target}{did_you_mean(target.value, names)}")


async def pause(conn: Connection, target: Target, *, reason: str, until: datetime | None, by: str) -> int:
    """Stops `target`, or changes why and until when it is stopped; returns how many messages are held by it.

    Raises `ListenerError` for an end in the calendar's last year, part of which PostgreSQL has and Python has not.
    """
    if until is not None and endless(until):
        raise ListenerError("that end is too far away; a pause without an end lasts until somebody resumes")
    args: dict[str, Any] = {"target": target.scope, "value": target.value, "reason": mask_numbers(reason)}
    async with conn.transaction():
        await conn.execute(SQL["my_turn"], {})
        held = 0
        if target.scope in (Scope.RULE, Scope.PHONE):
            await conn.execute(SQL["lock_matcher"], {})
            number = await _id(conn, "pause", {**args, "until": until, "who": by})
            await conn.execute(SQL["lock_paused_threads"], args)
            rows = await (await conn.execute(SQL["hold"], {**args, "pause": number})).fetchall()
            held = len(rows)
            await messages.requeue(conn, sorted({row["thread_id"] for row in rows}))
        else:
            await _id(conn, "pause", {**args, "until": until, "who": by})
            await _stop_accounts(conn)
        what = {"target": str(target), "until": until.isoformat() if until else None}
        await audit(conn, by, "pause", what, held, reason)
    return held


async def resume(conn: Connection, target: Target, *, reason: str | None, by: str) -> int | None:
    """Ends a pause and lets go of exactly what it held; returns how many messages, None if there was no such pause.

    Should it break off once the pause is over, `end_pauses` goes on.
    """
    async with conn.transaction():
        await conn.execute(SQL["my_turn"], {})
        row = await (await conn.execute(SQL["resume"], {"target": target.scope, "value": target.value})).fetchone()
        if row is None:
            return None
        released = await _will_wait(conn, [row["id"]])
        await _stop_accounts(conn)
        await audit(conn, by, "resume", {"target": str(target)}, released, reason)
    while await _let_on(conn):
        pass
    return released


async def end_pauses(conn: Connection) -> None:
    """Ends those whose time is over, and lets go, for a few seconds, of what they and others that are over held."""
    async with conn.transaction():
        await conn.execute(SQL["my_turn"], {})
        over = await (await conn.execute(SQL["ended_pauses"], {})).fetchall()
        await _stop_accounts(conn)
        names = [str(Target(scope=Scope(r["target"]), value=r["value"])) for r in over]
        if names:
            released = await _will_wait(conn, [r["id"] for r in over])
            await audit(conn, "listener", "resume", {"targets": names}, released, "the pause's time was over")
    end = monotonic() + _LETTING_GO
    while await _let_on(conn) and monotonic() < end:
        pass


async def let_go_left_behind(conn: Connection) -> None:
    """Lets go of what a pause holds that is gone: it came to it in a transaction that ended after the pause did."""
    if gone := await (await conn.execute(SQL["gone_pauses"], {})).fetchall():
        async with conn.transaction():
            await conn.execute(SQL["my_turn"], {})
            await _let_go(conn, [row["id"] for row in gone])


async def pauses(conn: Connection) -> list[Pause]:
    """All that hold now."""
    return [
        Pause(
            target=Target(scope=Scope(r["target"]), value=r["value"]),
            reason=r["reason"],
            until=r["until"],
            since=r["since"],
            who=r["who"],
        )
        for r in await (await conn.execute(SQL["pauses"], {})).fetchall()
    ]


async def _id(conn: Connection, query: str, args: Mapping[str, Any]) -> int:
    row = await (await conn.execute(SQL[query], args)).fetchone()
    assert row is not None
    return int(row["id"])


async def _will_wait(conn: Connection, numbers: list[int]) -> int:
    """How many messages these ended pauses hold that no other one stops."""
    row = await (await conn.execute(SQL["will_wait"], {"pauses": numbers})).fetchone()
    assert row is not None
    return int(row["n"])


async def _let_on(conn: Connection) -> bool:
    """Lets go of a part of what ended pauses hold; returns whether there may be more.

    A transaction of all of it could last longer than any may. Until the last part the pauses stand for everybody else,
    so that what is new in a thread stays behind what is older.
    """
    async with conn.transaction():
        await conn.execute(SQL["my_turn"], {})
        over = [row["id"] for row in await (await conn.execute(SQL["lift"], {})).fetchall()]
        more = await _let_go(conn, over)
        await conn.execute(SQL["stand_on" if more else "be_gone"], {"pauses": over})
    return more


async def _let_go(conn: Connection, numbers: list[int]) -> bool:
    """Lets go of what these pauses hold, so many messages at once, oldest first; returns whether there may be more."""
    args: dict[str, Any] = {"pauses": numbers, "limit": AT_ONCE}
    args["ids"] = [row["id"] for row in await (await conn.execute(SQL["still_held"], args)).fetchall()]
    threads = [row["id"] for row in await (await conn.execute(SQL["lock_threads"], args)).fetchall()]
    await conn.execute(SQL["let_on"], args)
    await messages.requeue(conn, threads)
    return len(args["ids"]) == AT_ONCE


async def _stop_accounts(conn: Connection) -> None:
    """Waits for the permits that are being taken: those locks are taken in the order of names, as everywhere."""
    await conn.execute(SQL["lock_accounts"], {})
    await conn.execute(SQL["stop_accounts"], {})
