"""What an outcome means for its message, its thread and its account: one `match`, no I/O; and the transaction that
writes it down."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, assert_never

import structlog
from psycopg import AsyncCursor
from psycopg.rows import DictRow

from listener import accounts
from listener.accounts import Pause, PauseKind
from listener.backoff import Backoff
from listener.database import Connection, together
from listener.messages import SQL, to_json
from listener.model import (
    Accepted,
    Lease,
    LockedOut,
    Misconfigured,
    NotSent,
    Outcome,
    RateLimited,
    Rejected,
    Stale,
    State,
    TicketRefused,
    Unauthorized,
    Unchecked,
    Unknown,
    Unreachable,
)

log = structlog.get_logger()

# 429: a second's quota is back at once, an hour's only after long; five in a row take minutes, twenty take hours
RATE_BACKOFF = Backoff(first=2, longest=900, factor=4, jitter=0.5)
# what a gateway may ask for in Retry-After at most
RETRY_AFTER_LIMIT = 3600.0
UNREACHABLE_BACKOFF = Backoff(first=5, longest=15)
# each probe may be swallowed too; but half a minute after the end of a black hole all is to go on
UNSURE_BACKOFF = Backoff(first=5, longest=20)
# seconds between probes while a token or an address is wrong
CONFIG_PROBE = 60.0
# seconds on top of the minutes that a lock-out states
LOCK_OUT_MARGIN = 30.0
# a rule that prefers a second SMS to none sends it this long after the unclear answer
RESEND_BACKOFF = Backoff(first=5, longest=5, jitter=1)
# while a row cannot be read again, or the mode stands in the way
UNCHECKED_BACKOFF = Backoff(first=2, longest=300)
# how long followers wait for the ticket that an unanswered message may have made
TICKET_WAIT = 300.0
# unclear answers in a row after which an account is probed instead of fed: by chance a gateway that swallows one answer
# in ten gives three in a row every minute or two, five in hours
UNSURE_LIMIT = 5
# outcomes that show an account to be as it should
_ANSWERED = Accepted | Rejected | TicketRefused


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A permit and what came of it, `ms` after the request began; None when nobody saw it end."""

    lease: Lease
    outcome: Outcome
    ms: int | None = None
    # tells which token was refused
    token_print: str | None = None


def settlement(result: Result, uniform: Callable[[], float] = random.random) -> dict[str, Any]:
    """The row for the settle statements: what becomes of the message, the attempt and the thread."""
    lease = result.lease
    row: dict[str, Any] = {
        "id": lease.message_id,
        "n": lease.permit,
        "lease": lease.lease,
        "leased_at": lease.leased_at,
        "thread_id": lease.thread_id,
        "ticket_sent": lease.ticket,
        "ticket_received": None,
        "ticket_refused": False,
        "http_status": getattr(result.outcome, "status", None),
        "ms": result.ms,
        "no_ticket": False,
        "retry_s": 0.0,
        # whether the attempt is one that people count
        "counts": True,
    }

    def becomes(state: State, outcome: str, reason: str | None, **more: object) -> dict[str, Any]:
        return row | {"state": state, "outcome": outcome, "reason": reason, "detail": reason} | more

    def again(outcome: str, reason: str, retry_s: float = 0.0) -> dict[str, Any]:
        return becomes(State.WAITING, outcome, reason, counts=False, retry_s=retry_s)

    match result.outcome:
        case Accepted(ticket=ticket, note=note):
            differs = lease.ticket is not None and ticket != lease.ticket
            reason = f"the gateway used ticket {ticket} instead of {lease.ticket}" if differs else note
            return becomes(State.ACCEPTED, "accepted", reason, ticket_received=ticket)
        case Rejected(reason=reason):
            return becomes(State.REJECTED, "rejected", f"refused by the gateway: {reason}")
        case TicketRefused(reason=reason):
            why = f"ticket {lease.ticket} refused ({reason}): sent without it"
            return becomes(State.WAITING, "ticket_refused", why, no_ticket=True, ticket_refused=True)
        case Stale(reason=reason):
            return becomes(State.SUPERSEDED, "not_sent", reason, counts=False)
        case NotSent(cause=cause):
            return again("not_sent", cause)
        case Unchecked(cause=cause):
            return again("not_sent", cause, retry_s=UNCHECKED_BACKOFF.delay(lease.permit, uniform))
        case Unreachable(cause=cause):
            return again("unreachable", cause)
        case RateLimited():
            return again("rate_limited", "too many requests (429)")
        case LockedOut(minutes=minutes):
            return again("locked_out", f"the gateway locked the account out for {minutes} min")
        case Unauthorized(status=status):
            return again("unauthorized", f"the token was refused ({status})")
        case Misconfigured(reason=reason):
            return again("misconfigured", reason)
        case Unknown(cause=cause):
            retry = RESEND_BACKOFF.delay(1, uniform)
            return becomes(State.UNKNOWN, "unknown", f"perhaps sent: {cause}", retry_s=retry)
        case _:
            assert_never(result.outcome)


def pause_for(outcome: Outcome, streak: int, unsure: int, uniform: Callable[[], float]) -> Pause | None:
    """Whether this outcome stops its account, after `streak` refusals and `unsure` unclear answers in a row."""
    match outcome:
        case RateLimited(retry_after=asked):
            seconds = max(RATE_BACKOFF.delay(streak + 1, uniform), min(asked or 0.0, RETRY_AFTER_LIMIT))
            return Pause(kind=PauseKind.RATE, seconds=seconds, reason="CareSoft answered 429: too many requests")
        case LockedOut(minutes=minutes):
            why = f"CareSoft locked the account out for {minutes} minutes (too many requests)"
            return Pause(kind=PauseKind.LOCKOUT, seconds=minutes * 60 + LOCK_OUT_MARGIN, reason=why)
        case Unauthorized(status=status):
            why = f"CareSoft refused the token ({status}); put a valid one in its place"
            return Pause(kind=PauseKind.TOKEN, seconds=CONFIG_PROBE, reason=why)
        case Misconfigured(reason=reason, status=status):
            why = f"CareSoft answered {status} ({reason}); check `domain` and the address"
            return Pause(kind=PauseKind.CONFIG, seconds=CONFIG_PROBE, reason=why)
        case Unreachable(cause=cause):
            seconds = UNREACHABLE_BACKOFF.delay(streak + 1, uniform)
            return Pause(kind=PauseKind.UNREACHABLE, seconds=seconds, reason=cause)
        case Unknown(cause=cause) if streak > 0 or unsure + 1 >= UNSURE_LIMIT:
            seconds = UNSURE_BACKOFF.delay(streak + 1, uniform)
            return Pause(kind=PauseKind.UNSURE, seconds=seconds, reason=f"no clear answers from CareSoft: {cause}")
        case _:
            return None


async def settle(conn: Connection, results: Sequence[Result], uniform: Callable[[], float]) -> bool:
    """Writes outcomes down, durably; returns whether there may be more to send because of them.

    Doing it twice changes nothing, so it may be repeated when the COMMIT's answer is lost; an answer that was seen is
    kept even when the permit had run out meanwhile.
    """
    by_account = {name: [r for r in results if r.lease.account == name] for name in {r.lease.account for r in results}}
    # Then nothing need be read in between, and all goes to the server at once.
    all_answered = all(isinstance(result.outcome, _ANSWERED) for result in results)
    freed: list[AsyncCursor[DictRow]] = []
    resumed: list[AsyncCursor[DictRow]] = []
    async with together(conn):
        # Lock, then look: the statements below see whatever a matcher added before it let go of these threads.
        threads = sorted({result.lease.thread_id for result in results})
        await conn.execute(SQL["lock_threads"], {"threads": threads})
        for wave in _waves(results):
            rows = [settlement(r, uniform) for r in wave]
            args = {"results": to_json(rows), "ticket_wait": TICKET_WAIT}
            await conn.execute(SQL["record"], args)
            await conn.execute(SQL["finish"], args)
            if any(row["state"] is not State.ACCEPTED for row in rows):
                await conn.execute(SQL["put_back"], args)
            freed.append(await conn.execute(SQL["free_threads"], args))
        for account, theirs in sorted(by_account.items()):
            if all_answered:
                resumed.append(await accounts.answered(conn, account, [r.lease.lease for r in theirs]))
            else:
                await _settle_account(conn, account, theirs, uniform)
    if not all_answered:
        return True
    following = [row["more"] for cursor in freed for row in await cursor.fetchall()]
    return any(following) or any(cursor.rowcount for cursor in resumed)


def _waves(results: Sequence[Result]) -> list[list[Result]]:
    """One result per thread at a time: a permit given up by the sweep and then answered comes twice."""
    waves: list[dict[int, Result]] = []
    for result in results:
        thread = result.lease.thread_id
        wave = next((wave for wave in waves if thread not in wave), None)
        if wave is None:
            waves.append(wave := {})
        wave[thread] = result
    return [list(wave.values()) for wave in waves]


async def _settle_account(
    conn: Connection, account: str, results: Sequence[Result], uniform: Callable[[], float]
) -> None:
    """`results` in the order of their answers."""
    good = {place: r.lease.lease for place, r in enumerate(results) if isinstance(r.outcome, _ANSWERED)}
    if good:
        await accounts.answered(conn, account, list(good.values()))
    for place, result in enumerate(results):
        match result.outcome:
            case Accepted() | Rejected() | TicketRefused():
                pass
            case NotSent() | Stale() | Unchecked():
                await accounts.probe_again(conn, account, result.lease.lease)
            case Unknown() if result.ms is None:
                # Whoever sent it is gone, which says nothing of the account.
                pass
            case outcome:
                standing = await accounts.standing(conn, account)
                news = standing.is_news(result.lease.lease, result.lease.leased_at)
                if not news and not isinstance(outcome, LockedOut):
                    continue
                if isinstance(outcome, Unknown):
                    if standing.streak == 0 and place < max(good, default=0):
                        # A clear answer came after it: no unclear ones in a row.
                        continue
                    await accounts.unsure(conn, account)
                if why := pause_for(outcome, standing.streak, standing.unsure, uniform):
                    # not the reason, which may be in the gateway's words
                    log.warning("account_paused", account=account, kind=why.kind.value)
                    await accounts.pause(conn, account, why, result.lease.lease, result.token_print)
