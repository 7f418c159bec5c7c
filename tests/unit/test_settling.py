"""What each outcome means for its message and its account."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from listener.accounts import PauseKind, Standing
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
    TicketRefused,
    Unauthorized,
    Unchecked,
    Unknown,
    Unreachable,
)
from listener.settling import RETRY_AFTER_LIMIT, UNSURE_LIMIT, Result, _waves, pause_for, settlement

LEASE = Lease(
    message_id=1,
    permit=1,
    lease=77,
    leased_at=datetime(2026, 11, 22, tzinfo=UTC),
    thread_id=5,
    account="main",
    rule="r",
    phone="0980000000",
    text="canary text",
    ticket=9410022,
)
ALL: list[tuple[Outcome, str, str, bool]] = [
    (Accepted(ticket=9410022), "accepted", "accepted", True),
    (Rejected(reason="no", status=400), "rejected", "rejected", True),
    (TicketRefused(reason="gone", status=400), "waiting", "ticket_refused", True),
    (NotSent(cause="late"), "waiting", "not_sent", False),
    (Stale(reason="the row is gone"), "superseded", "not_sent", False),
    (Unchecked(cause="no right"), "waiting", "not_sent", False),
    (Unreachable(cause="down"), "waiting", "unreachable", False),
    (RateLimited(retry_after=None), "waiting", "rate_limited", False),
    (LockedOut(minutes=15), "waiting", "locked_out", False),
    (Unauthorized(status=401), "waiting", "unauthorized", False),
    (Misconfigured(reason="no such path", status=404), "waiting", "misconfigured", False),
    (Unknown(cause="no answer"), "unknown", "unknown", True),
]


@pytest.mark.parametrize(("outcome", "state", "word", "counts"), ALL, ids=[type(o).__name__ for o, *_ in ALL])
def test_what_becomes_of_the_message(outcome: Outcome, state: str, word: str, counts: bool) -> None:
    row = settlement(Result(lease=LEASE, outcome=outcome, ms=3))
    assert (row["state"], row["outcome"], row["counts"]) == (state, word, counts)
    assert (row["id"], row["n"], row["lease"], row["thread_id"]) == (1, 1, 77, 5)
    assert "canary" not in str(row)
    assert "0980000000" not in str(row)


def test_what_cannot_be_rechecked_is_tried_after_a_growing_pause() -> None:
    outcome = Unchecked(cause="no right")
    pauses = [
        settlement(Result(lease=replace(LEASE, permit=permit), outcome=outcome), lambda: 0.0)["retry_s"]
        for permit in (1, 2, 3, 100)
    ]
    assert pauses == [2, 4, 8, 300]


def test_another_ticket_than_the_one_sent_is_told() -> None:
    row = settlement(Result(lease=LEASE, outcome=Accepted(ticket=8)))
    assert (row["ticket_received"], row["reason"]) == (8, "the gateway used ticket 8 instead of 9410022")
    assert settlement(Result(lease=replace(LEASE, ticket=None), outcome=Accepted(ticket=8)))["reason"] is None


def test_refused_for_its_ticket_goes_without() -> None:
    row = settlement(Result(lease=LEASE, outcome=TicketRefused(reason="gone", status=400)))
    assert (row["no_ticket"], row["ticket_refused"], row["retry_s"]) == (True, True, 0.0)


def pause(outcome: Outcome, streak: int = 0, unsure: int = 0) -> tuple[str, float] | None:
    why = pause_for(outcome, streak, unsure, lambda: 0.0)
    return (why.kind, why.seconds) if why else None


@pytest.mark.parametrize(
    "outcome",
    [Accepted(ticket=1), Rejected(reason="", status=400), TicketRefused(reason="", status=400), NotSent(cause="")],
)
def test_what_is_about_one_message_stops_no_account(outcome: Outcome) -> None:
    assert pause(outcome, streak=3, unsure=9) is None


def test_429_grows_and_heeds_the_gateway_within_reason() -> None:
    assert [pause(RateLimited(retry_after=None), n) for n in range(3)] == [
        (PauseKind.RATE, 2),
        (PauseKind.RATE, 8),
        (PauseKind.RATE, 32),
    ]
    assert pause(RateLimited(retry_after=30.0)) == (PauseKind.RATE, 30)
    assert pause(RateLimited(retry_after=99999.0)) == (PauseKind.RATE, RETRY_AFTER_LIMIT)


def test_a_lock_out_lasts_as_said_and_a_little_longer() -> None:
    assert pause(LockedOut(minutes=15)) == (PauseKind.LOCKOUT, 930)
    assert pause(LockedOut(minutes=9999)) == (PauseKind.LOCKOUT, 599_970)


@pytest.mark.parametrize("streak", [0, 5])
def test_a_wrong_token_or_address_is_tried_once_a_minute(streak: int) -> None:
    assert pause(Unauthorized(status=401), streak) == (PauseKind.TOKEN, 60)
    assert pause(Misconfigured(reason="x", status=404), streak) == (PauseKind.CONFIG, 60)


def test_an_unreachable_gateway_is_tried_no_more_than_each_five_seconds() -> None:
    assert [pause(Unreachable(cause="x"), n) for n in range(3)] == [
        (PauseKind.UNREACHABLE, 5),
        (PauseKind.UNREACHABLE, 10),
        (PauseKind.UNREACHABLE, 15),
    ]


def test_unclear_answers_stop_the_account_only_in_a_row() -> None:
    unclear = Unknown(cause="x")
    assert pause(unclear, unsure=UNSURE_LIMIT - 2) is None
    assert pause(unclear, unsure=UNSURE_LIMIT - 1) == (PauseKind.UNSURE, 5)
    assert pause(unclear, streak=1) == (PauseKind.UNSURE, 10)
    # Half a minute after the end of whatever swallowed the answers everything goes on.
    longest = pause_for(unclear, 30, 0, lambda: 1.0)
    assert longest is not None and 20 <= longest.seconds < 27


@pytest.mark.parametrize(
    ("streak", "probe", "paused_s", "news"),
    [
        (0, None, None, True),
        (0, None, -1, True),
        (0, None, 1, False),
        (1, None, -1, False),
        (1, 78, -1, False),
        (1, 77, 1, True),
    ],
)
def test_only_what_began_after_the_last_stop_is_news(
    streak: int, probe: int | None, paused_s: int | None, news: bool
) -> None:
    paused_at = None if paused_s is None else LEASE.leased_at + timedelta(seconds=paused_s)
    standing = Standing(streak=streak, unsure=0, probe=probe, paused_at=paused_at)
    assert standing.is_news(LEASE.lease, LEASE.leased_at) is news


def test_two_results_of_one_thread_are_settled_one_after_the_other() -> None:
    given_up = Result(lease=LEASE, outcome=Unknown(cause="gone"))
    fact = Result(lease=LEASE, outcome=Accepted(ticket=1), ms=9)
    other = Result(lease=replace(LEASE, thread_id=6), outcome=NotSent(cause="late"))
    waves = _waves([given_up, other, fact])
    assert [[id(r) for r in wave] for wave in waves] == [[id(given_up), id(other)], [id(fact)]]
    assert _waves([]) == []
